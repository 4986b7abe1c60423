"""The log of a training run: a JSON object per line."""

from __future__ import annotations

import json
import math
import os

from pyx_transformer._checks import brief
from pyx_transformer._files import as_path, read_bytes

LOG = "log.jsonl"  # in the folder of a run


def read(path: str | os.PathLike, *, who: str = "") -> list[dict]:
    """The entries of a log, without a last line that was cut off; none where there is no file.

    who: what begins an error's message. Raises ValueError, naming file and line, for a line that
    is no entry, and what reading the file does.
    """
    path = as_path("log", "path", path)
    if not path.exists():
        return []
    *lines, last = read_bytes(path, who=who).split(b"\n")
    entries = [as_entry(f"{who}{path}, line {i}", line) for i, line in enumerate(lines, 1)]
    try:
        return [*entries, as_entry("", last)]
    except ValueError:  # it was cut off, or is what stands after the last line break: nothing
        return entries


def as_entry(where: str, line: bytes) -> dict:
    """The entry that a line holds. Raises ValueError, saying where, for any other line."""
    try:
        entry = json.loads(line)
        as_line(entry)  # what cannot be written again is told here
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        raise ValueError(f"{where} is {brief(entry)}, expected an object with a step")
    return entry


def as_line(entry: dict) -> str:
    """An entry as the log has it."""
    return json.dumps(finite(entry), allow_nan=False) + "\n"


def finite(value):
    """The value with None for each number that is not finite, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
