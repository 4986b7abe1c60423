"""Pages as wholes: one HTML file with its styles and scripts, and texts in several languages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from pyx_transformer._files import as_path, check_target

LANGUAGES = {"en": "English", "zh": "中文"}
# Nothing but what is in the page: a browser refuses all else.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
HEAD = """\
<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{styles}</style>
</head>
<body>
{body}
{scripts}</body>
</html>
"""


def document(
    title: str,
    body: str,
    styles: Iterable[str] = (),
    scripts: Iterable[str] = (),
    language: str = "en",
) -> str:
    """A page of a body, with `page.css` and the styles and scripts of this folder that have these
    names."""
    return HEAD.format(
        language=language,
        policy=POLICY,
        title=escape(title),
        styles="".join(asset(f"{name}.css") for name in ("page", *styles)),
        body=body,
        scripts="".join(f"<script>\n{asset(f'{name}.js')}</script>\n" for name in scripts),
    )


def asset(name: str) -> str:
    """The text of a file of this folder."""
    return (files("pyx_transformer.pages") / name).read_text("utf-8")


def data(value: Any) -> str:
    """A value as JSON that scripts read, in which no text can end the element it stands in."""
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" class="data">{text}</script>'


def said(texts: Mapping[str, str], languages: Iterable[str], tag: str = "span") -> str:
    """A text in each of the languages, of which `page.css` shows the one that is chosen; texts are
    HTML already."""
    languages = tuple(languages)
    if len(languages) == 1:
        return texts[languages[0]] if tag == "span" else f"<{tag}>{texts[languages[0]]}</{tag}>"
    return "".join(f'<{tag} lang="{code}">{texts[code]}</{tag}>' for code in languages)


def switch(chosen: str) -> str:
    """What chooses the language: two buttons, which need no script."""
    buttons = "".join(
        f'<label><input type="radio" name="language" value="{code}" id="language-{code}"'
        f'{" checked" if code == chosen else ""}><span lang="{code}" class="always">{name}</span>'
        "</label>"
        for code, name in LANGUAGES.items()
    )
    return f'<fieldset class="choice languages">{buttons}</fieldset>'


def check_page(function: str, path: str | os.PathLike[str]) -> Path:
    """Where a page can be written. Raises ValueError for an ending but .html, and OSError where it
    is a folder, or lies in none."""
    found = as_path(function, "path", path)
    if found.suffix.lower() != ".html":
        raise ValueError(
            f"{function}: path is {os.fspath(path)!r}, expected a name that ends in .html"
        )
    check_target(found, f"{function}: path")
    return found
