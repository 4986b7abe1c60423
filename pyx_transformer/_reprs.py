"""How objects show themselves: in one line, without whole arrays, long lists or long texts.

A class says what there is to tell, and `called` puts it into words. `described` does all of it for
a dataclass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, replace
from typing import Any, TypeVar

import numpy as np

C = TypeVar("C", bound=type)

MOST_ITEMS = 6  # of a list
LONGEST_TEXT = 60
DIGITS = 6  # of a real number


def called(
    what: object, words: Iterable[str] = (), named: Mapping[str, object] | None = None
) -> str:
    """Name(word, word, name=value, ...), the name being that of the object's class."""
    shown_values = (f"{name}={shown(value)}" for name, value in (named or {}).items())
    return f"{type(what).__name__}({', '.join([*words, *shown_values])})"


def counted(count: int, noun: str) -> str:
    """1 layer, 126,528 parameters, 18.9 M parameters."""
    number = f"{count:,}"
    for size, letter in ((10**9, "B"), (10**6, "M")):
        if count >= size:
            number = f"{count / size:.1f} {letter}"
            break
    return f"{number} {noun}{'s' * (count != 1)}"


def with_article(name: str) -> str:
    """a Transformer, an EncoderModel."""
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def shown(value: object) -> str:
    """A value in short: an array by its dtype and shape, one of whole numbers by the first ones; a
    function by its name, a list or a text by what it begins with."""
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and value.dtype.kind in "iu":
            return _listed(value[:MOST_ITEMS].tolist(), len(value), "[]")
        return f"{value.dtype} {value.shape}"
    if isinstance(value, (float, np.floating)):
        whole = repr(float(value))
        return whole if len(whole) <= DIGITS + 3 else f"{value:.{DIGITS}g}"
    if isinstance(value, str):
        text = value if len(value) <= LONGEST_TEXT else f"{value[: LONGEST_TEXT - 3]}..."
        return repr(text)
    if isinstance(value, (list, tuple)) and type(value).__repr__ in (list.__repr__, tuple.__repr__):
        alike = {(one.dtype, one.shape) for one in value if isinstance(one, np.ndarray)}
        if len(alike) == 1 and isinstance(value[0], np.ndarray) and value[0].ndim != 1:
            return f"{len(value)} of {shown(value[0])}"
        brackets = "[]" if isinstance(value, list) else "()"
        return _listed(value[:MOST_ITEMS], len(value), brackets)
    if isinstance(value, dict):
        items = [f"{shown(key)}: {shown(one)}" for key, one in [*value.items()][:MOST_ITEMS]]
        return f"{{{', '.join(items)}{_more(len(value))}}}"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    return repr(value)


def _listed(first: Iterable[object], count: int, brackets: str) -> str:
    items = ", ".join(map(shown, first)) + _more(count)
    comma = "," if brackets == "()" and count == 1 else ""
    return f"{brackets[0]}{items}{comma}{brackets[1]}"


def _more(count: int) -> str:
    """What follows the first items of so many."""
    return f", ... {count} in all" if count > MOST_ITEMS else ""


def described(kind: C) -> C:
    """A dataclass that shows, by name, the fields that it would not have unless told, and whose
    docstring, which says what its fields are, is that of its `__init__` too."""
    if getattr(kind, "__repr__") is object.__repr__:  # noqa: B009 - which is no instance's
        setattr(kind, "__repr__", _repr)  # noqa: B010
    vars(kind)["__init__"].__doc__ = kind.__doc__
    return kind


def _repr(part: object) -> str:
    return called(part, named=told(part))


def told(part: Any) -> dict[str, object]:
    """The fields of a dataclass that it would not have unless it was told them."""
    values = {one.name: getattr(part, one.name) for one in fields(part)}
    return {one.name: values[one.name] for one in fields(part) if not _is_default(part, one)}


def _is_default(part: Any, one: Field[Any]) -> bool:
    value, default = getattr(part, one.name), one.default
    if one.default_factory is not MISSING:
        default = one.default_factory()
    if default is MISSING or type(value) is type(default):
        return default is not MISSING and bool(value == default)
    if default is not None or isinstance(value, np.ndarray):
        return False
    try:  # it may stand for what the other fields say
        return bool(replace(part, **{one.name: None}) == part)
    except (TypeError, ValueError):
        return False
