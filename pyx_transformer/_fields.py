"""Fields of frozen dataclasses: each brought to its one form, and all of them as plain values.

Plain values are what JSON and TOML have: tables, lists, numbers and strings. Fields that have their
default are left out of them. Of several dataclasses that a field can be of, a table is the one
whose fields without a default it has.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass

from pyx_transformer import _checks
from pyx_transformer._keys import wrong_keys


def set_field(part: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass while it is made."""
    object.__setattr__(part, name, value)


def check_fields(this: str, part: typing.Any, least: Mapping[str, float] | None = None) -> None:
    """Give each field the one form that its type says: TypeError or ValueError where it has none.

    Whole numbers are at least 1 and real ones at least 0, or what `least` says of the field. A
    field without a value stays None where its type allows that; tuples of anything but dataclasses
    and strings are left to the caller.
    """
    least = least or {}
    for name, kinds in _kinds(type(part)).items():
        value = getattr(part, name)
        if value is None and types.NoneType in kinds:
            continue
        kind = kinds[0]
        if kind is int:
            value = _checks.as_integer(this, name, value, least.get(name, 1), _checks.LARGEST_SIZE)
        elif kind is float:
            value = _checks.as_number(this, name, value, minimum=least.get(name, 0))
        elif kind is bool:
            value = _checks.as_flag(this, name, value)
        elif is_dataclass(kind):
            _checks.as_kind(this, name, value, *(k for k in kinds if k is not types.NoneType))
        elif is_dataclass(_item(kind)):
            if not isinstance(value, (tuple, list)):
                raise TypeError(
                    f"{this}: {name} is {_checks.brief(value)}, expected a tuple of "
                    f"{_item(kind).__name__}"
                )
            value = tuple(value)
            for i, one in enumerate(value):
                _checks.as_kind(this, f"{name}[{i}]", one, _item(kind))
        set_field(part, name, value)


def as_values(part: typing.Any) -> typing.Any:
    """A dataclass, or what one of its fields holds, as plain values."""
    if isinstance(part, tuple):
        return [as_values(one) for one in part]
    if not is_dataclass(part):
        return part
    return {
        field.name: as_values(getattr(part, field.name))
        for field in fields(part)
        if field.default is MISSING or getattr(part, field.name) != field.default
    }


def from_values(kind: typing.Any, values: object, where: str) -> typing.Any:
    """The dataclass that `as_values` gave. Raises ValueError, saying where."""
    if not isinstance(values, dict):
        raise ValueError(
            f"{where} is {_checks.brief(values)}, expected the fields of {kind.__name__}"
        )
    kinds = _kinds(kind)
    unknown = values.keys() - kinds.keys()
    missing = _required(kind) - values.keys()
    if unknown or missing:
        raise ValueError(f"{where}: {wrong_keys(unknown, missing, kinds)}")
    read = {
        name: read_part(kinds[name], value, f"{where}.{name}") for name, value in values.items()
    }
    try:
        return kind(**read)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def as_object(this: str, text: str) -> dict[str, typing.Any]:
    """The JSON object that a text holds. Raises ValueError for any other text."""
    if not isinstance(text, (str, bytes, bytearray)):
        raise TypeError(f"{this}: text is of type {type(text).__name__}, expected str")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{this}: text is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{this}: text is a {type(values).__name__}, expected an object")
    return values


def read_part(kinds: tuple[typing.Any, ...], value: object, where: str) -> typing.Any:
    """What one field holds that can be of these types. Raises ValueError, saying where."""
    parts = [kind for kind in kinds if is_dataclass(kind)]
    if parts and isinstance(value, dict):
        fitting = [part for part in parts if _required(part) <= value.keys()]
        return from_values((fitting or parts)[0], value, where)
    if isinstance(value, list):
        item = _item(kinds[0])
        if not is_dataclass(item):
            return tuple(value)
        return tuple(from_values(item, one, f"{where}[{i}]") for i, one in enumerate(value))
    return value


def _required(kind):
    return {field.name for field in fields(kind) if field.default is MISSING}


def _kinds(kind):
    """The types that each field may have, NoneType last."""
    hints = typing.get_type_hints(kind)
    return {
        field.name: typing.get_args(hints[field.name])
        if isinstance(hints[field.name], types.UnionType)
        else (hints[field.name],)
        for field in fields(kind)
    }


def _item(kind):
    """What a tuple type holds, None for other types."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None
