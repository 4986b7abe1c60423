"""Checks of what is neither an array nor a number: lists, texts, their ids, and functions.

As in `_checks`, each function takes the name of the public function, the name of its argument and
the value, and raises TypeError or ValueError that says who, what came and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from pyx_transformer._checks import as_integers, brief


def as_list(function: str, name: str, value: Any, expected: str) -> list[Any]:
    """The items of `value`, which `expected` calls by their name: "texts", "sequences"."""
    return list(as_iterator(function, name, value, expected))


def as_iterator(function: str, name: str, value: Any, expected: str) -> Iterator[Any]:
    """`value` as what gives its items once, if it has any and is no text."""
    try:
        if not isinstance(value, (str, bytes, bytearray)):
            return iter(value)
    except TypeError:
        pass
    raise TypeError(f"{function}: {name} is {brief(value)}, expected a list of {expected}")


def as_string(function: str, name: str, value: object) -> str:
    """`value`, if it is a string that Unicode knows."""
    if not isinstance(value, str):
        raise TypeError(f"{function}: {name} is {brief(value)}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        message = f"{function}: {name} is {brief(value)}, which is no Unicode text"
        raise ValueError(message) from error
    return value


def as_texts(function: str, name: str, value: Iterable[str]) -> list[str]:
    """A list of texts."""
    return list(each_text(function, name, value))


def each_text(function: str, name: str, value: Iterable[str]) -> Iterator[str]:
    """The texts of a list, one at a time."""
    if isinstance(value, str):
        shown = brief(value)
        raise TypeError(f"{function}: {name} is {shown}, expected a list of texts: [{shown}]")
    for i, text in enumerate(as_iterator(function, name, value, "texts")):
        yield as_string(function, f"{name}[{i}]", text)


def as_ids(function: str, ids: Iterable[int], vocab_size: int) -> list[int]:
    """Token ids of a vocabulary of that size."""
    if not isinstance(ids, np.ndarray):
        ids = as_list(function, "ids", ids, "token ids")
    return as_integers(function, "ids", ids, 0, vocab_size - 1, ("T",)).tolist()


def check_function(function: str, name: str, value: object) -> None:
    """Raise TypeError unless `value` is a function, or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{function}: {name} is {brief(value)}, expected a function or None")
