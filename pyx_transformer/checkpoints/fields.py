"""Tables in JSON files, and their values, each checked as it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pyx_transformer import _checks
from pyx_transformer._fields import as_object
from pyx_transformer._files import read_text

V = TypeVar("V")
REQUIRED: Any = object()


class Fields:
    """A table of a JSON file; where: what an error's message begins with.

    Each method gives one value, or the default where the file has none or null. All raise
    TypeError or ValueError that names the key; for a key that has no default and is missing too.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values = values
        self.where = where

    def __contains__(self, name: str) -> bool:
        """Whether there is such a value, and it is not null."""
        return self.values.get(name) is not None

    def size(self, name: str, default: Any = REQUIRED, *, minimum: int = 1) -> Any:
        """A whole number from `minimum` on."""
        value = self._value(name, default)
        if value is default:
            return default
        return _checks.as_integer(self.where, name, value, minimum, _checks.LARGEST_SIZE)

    def number(self, name: str, default: Any = REQUIRED, *, above: float | None = None) -> Any:
        """A real number that is at least 0, or above another."""
        value = self._value(name, default)
        if value is default:
            return default
        if above is None:
            return _checks.as_number(self.where, name, value, minimum=0)
        return _checks.as_number(self.where, name, value, above=above)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return _checks.as_flag(self.where, name, self._value(name, default))

    def choice(self, name: str, known: Mapping[str, V], default: str = REQUIRED) -> V:
        """What a word stands for."""
        value = self._value(name, default)
        return known[_checks.as_choice(self.where, name, value, tuple(known))]

    def words(self, name: str, known: tuple[str, ...]) -> list[str] | None:
        """A list of some of these words; None where there is none."""
        values = self._value(name, None)
        if values is None:
            return None
        self._kind(name, values, list, "a list")
        return [_checks.as_choice(self.where, name, value, known) for value in values]

    def items(self, name: str, kind: type) -> list[Any]:
        """A list of values of one kind; empty where there is none."""
        values = self._value(name, [])
        self._kind(name, values, list, "a list")
        for i, value in enumerate(values):
            self._kind(f"{name}[{i}]", value, kind, f"of type {kind.__name__}")
        return values

    def table(self, name: str) -> Fields | None:
        """A table inside this one; None where there is none."""
        values = self._value(name, None)
        if values is None:
            return None
        self._kind(name, values, dict, "a table")
        return Fields(values, f"{self.where}: {name}")

    def _value(self, name, default):
        value = self.values.get(name)
        if value is not None:
            return value
        if default is REQUIRED:
            raise ValueError(f"{self.where}: {name} is missing")
        return default

    def _kind(self, name, value, kind, expected):
        if not isinstance(value, kind):
            came = _checks.brief(value)
            raise TypeError(f"{self.where}: {name} is {came}, expected {expected}")


def read_values(path: Path) -> dict[str, Any]:
    """The table in a JSON file. Raises ValueError, naming the file, where there is none, and what
    reading it does."""
    text = read_text(path, who="load: ")
    try:
        return as_object("table", text)
    except ValueError as error:
        raise ValueError(f"load: {path}: {error}") from error


def read_fields(path: Path) -> Fields:
    """The fields of a JSON file, none where it is missing. Raises as `read_values` does."""
    return Fields(read_values(path) if path.exists() else {}, f"load: {path}")
