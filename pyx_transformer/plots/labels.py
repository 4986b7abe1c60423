"""Texts as a picture can show them: all of it seen, in lines of bounded length."""

from __future__ import annotations

import re
import unicodedata

LONGEST_LABEL = 30
# What is shown in digits: control characters, line breaks, marks of direction, half pairs.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # these shape the letters beside them
WIDE = "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff60"


def label(token: str) -> str:
    """A token as a label shows it: in one short line in which all of it can be seen."""
    return shortened(seen(token), LONGEST_LABEL) if token.strip() else repr(token)


def seen(text: str) -> str:
    """The text, with the codes of what cannot be seen in it."""
    return "".join(
        ascii(one)[1:-1] if unicodedata.category(one) in UNSEEN and one not in JOINERS else one
        for one in text
    )


def shortened(text: str, length: int) -> str:
    """The text, or its beginning, in so many characters at most."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def width(text: str) -> int:
    """How many columns of a terminal a text takes, which is about what it takes in a picture."""
    return sum(
        0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF")
        for one in text
    )


def wrapped(text: str, columns: int, most_lines: int = 3) -> str:
    """The text in lines of that width, broken between words, or anywhere in writing without
    spaces; what does not fit into most_lines is left out."""
    lines = [""]
    for part in re.findall(rf"\s+|[{WIDE}]|[^\s{WIDE}]{{1,{columns}}}", text):
        if lines[-1] and width(lines[-1] + part.rstrip()) > columns:
            lines.append("")
        lines[-1] += part if lines[-1] else part.lstrip()
    lines = [line.rstrip() for line in lines]
    if len(lines) > most_lines:
        lines[most_lines - 1 :] = [f"{lines[most_lines - 1]} …"]
    return "\n".join(lines)
