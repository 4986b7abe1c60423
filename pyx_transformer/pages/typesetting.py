"""Formulas and sentences of plain text as HTML: indices, exponents, roots, code."""

from __future__ import annotations

import re
from html import escape

# Python in a sentence: names of the package with what they are called with, keyword=value, and
# names_of_several words.
CODE = re.compile(
    r"(?<![\w.])(?:pt(?:\.\w+)+(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?|[a-z]+_[a-z]{3,}(?:=\w+)?)"
    r"(?![A-Za-z0-9_])",
    re.ASCII,
)
NOT_CODE = {"d_model"}
SIGNS = {"&lt;-": "←", " * ": " · ", " - ": " − ", "q.k": "q·k"}
GREEK = {"gamma": "γ", "beta": "β", "eps": "ε"}
# A line break is none between letters of Chinese, and beside its signs.
SIGN = "\u2018-\u201d\u3000-\u303f\uff00-\uff65"
LETTER = "\u3400-\u9fff"
BREAK = re.compile(rf"(?<=[{LETTER}])\n(?=[{LETTER}])|(?<=[{SIGN}])\n|\n(?=[{SIGN}])")


def sentence(text: str) -> str:
    """A paragraph that was broken into lines, as HTML."""
    text = BREAK.sub("", text).replace("\n", " ")
    parts, end = [], 0
    for found in CODE.finditer(text):
        if found[0] not in NOT_CODE:
            parts += [typeset(text[end : found.start()]), f"<code>{escape(found[0])}</code>"]
            end = found.end()
    return "".join([*parts, typeset(text[end:])])


def typeset(text: str) -> str:
    """A formula, or a text with formulas in it, as HTML."""
    text = escape(text, quote=False)
    # No line ends within a product.
    text = re.sub(r"(?<![A-Za-z])([A-Z]'?) (?=[A-Z(](?![a-z]))", "\\1\u00a0", text)
    text = re.sub(r"sqrt\((\w+)\)", r"√\1", text).replace("sqrt(", "√(")
    text = re.sub(r"(?<![A-Za-z])([A-Za-z]|head)_([A-Za-z0-9]+)", r"<i>\1</i><sub>\2</sub>", text)
    text = re.sub(r"\^(?:\(([^()]*)\)|([A-Za-z0-9]))", lambda m: f"<sup>{m[1] or m[2]}</sup>", text)
    text = re.sub(r"(?<![A-Za-z])(gamma|beta|eps)(?![A-Za-z])", lambda m: GREEK[m[1]], text)
    text = re.sub(r"(?<=\d) x (?=\d)", " × ", text)
    for plain, sign in SIGNS.items():
        text = text.replace(plain, sign)
    return re.sub(r"(?<=[A-Z])'", "′", text)
