"""YAML as Marian writes it: scalars and lists of scalars by name, and no table in a table."""

from __future__ import annotations

import re
from typing import Any

from pyx_transformer._keys import shortened

ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[^xuU])|\\")
ESCAPED = {"0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
ESCAPED |= {"e": "\x1b", "N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029"}
ESCAPED |= {character: character for character in ' "/\\'}
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
WHOLE = re.compile(r"[-+]?[0-9]{1,18}")


def read_table(text: str) -> dict[str, Any]:
    """The values by name. Raises ValueError, saying the line, for what is no such table."""
    table: dict[str, Any] = {}
    name = None
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip()
        if not content or content.startswith("#") or line.startswith(("---", "...", "%")):
            continue
        try:
            if name is not None and (line[0].isspace() or content.startswith("- ")):
                if table[name] is None:
                    table[name] = []
                add_items(table[name], content)
                continue
            key, colon, value = content.partition(":")
            if not colon or value[:1].strip() or line[0].isspace():
                raise ValueError("it has no name")
            name = read_string(key.strip())
            if name in table:
                raise ValueError(f"{shortened(name)} is there twice")
            table[name] = read_value(value.strip())
        except ValueError as error:
            raise ValueError(f"line {number} is {shortened(repr(line))}: {error}") from error
    return table


def add_items(held: object, content: str) -> None:
    """Add what one more line of a list holds."""
    if not isinstance(held, list) or not content.startswith(("- ", "[")):
        raise ValueError("it is no item of a list")
    held += [read_scalar(content[2:].strip())] if content[0] == "-" else read_list(content)


def read_value(text: str) -> Any:
    """A scalar, or a list in one line."""
    return read_list(text) if text.startswith("[") else read_scalar(text)


def read_list(text: str) -> list[Any]:
    """A list in one line, of scalars without commas."""
    if not text.endswith("]"):
        raise ValueError("its list does not end")
    inner = text[1:-1].strip()
    return [read_scalar(one.strip()) for one in inner.split(",")] if inner else []


def read_scalar(text: str) -> Any:
    """None, a truth value, a whole number or, as all that is quoted, a string."""
    if text in WORDS:
        return WORDS[text]
    if WHOLE.fullmatch(text):
        return int(text)
    return read_string(text)


def read_string(text: str) -> str:
    """A string, without its quotes and escapes where it has some."""
    quote = text[:1]
    if quote not in ("'", '"') or not text:
        if quote in tuple("{[&*!|>%@`"):
            raise ValueError(f"{shortened(text)} is more than a scalar")
        return text
    if len(text) < 2 or not text.endswith(quote):
        raise ValueError(f"{shortened(text)} has no end")
    inner = text[1:-1]
    return inner.replace("''", "'") if quote == "'" else ESCAPE.sub(unescaped, inner)


def unescaped(found: re.Match[str]) -> str:
    """The character of an escape."""
    code = found[1]
    if code is not None and code[0] in "xuU":
        number = int(code[1:], 16)
        if number <= 0x10FFFF and not 0xD800 <= number < 0xE000:
            return chr(number)
    elif code in ESCAPED:
        return ESCAPED[code]
    raise ValueError(f"{found[0]} stands for no character")


def read_vocabulary(text: str) -> list[str]:
    """The tokens of lines `token: id`, in the order of their ids, which are 0, 1 and so on.

    Raises ValueError for anything else.
    """
    tokens: dict[int, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        content = line.rstrip("\r")
        if not content.strip():
            continue
        token, colon, value = content.rpartition(":")
        if not colon or not WHOLE.fullmatch(value.strip()) or int(value) in tokens:
            raise ValueError(f"line {number} is {shortened(repr(line))}, expected a token: its id")
        is_quoted = token[:1] in ("'", '"') and len(token) > 1
        tokens[int(value)] = read_string(token) if is_quoted else token
    if sorted(tokens) != list(range(len(tokens))):
        raise ValueError(f"it has {len(tokens)} tokens, expected the ids from 0 on")
    return [tokens[i] for i in range(len(tokens))]
