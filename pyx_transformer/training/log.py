"""What a run tells: a JSON object per line, and how fast it goes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pyx_transformer._files import replace_files
from pyx_transformer._run_log import as_line, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SECONDS_BETWEEN_ENTRIES = 10.0


class Log:
    """A file of JSON lines, from which what came after `step` is cut off first, and with it the
    figures of a test, which are those of a run that has ended."""

    def __init__(self, path: Path, step: int, told: Sequence[Callable[[dict], None]]):
        entries = read(path, who="train: ") if step else []
        kept = [entry for entry in entries if entry["step"] <= step and "test" not in entry]
        self._path = path
        self._told = told
        replace_files(path.parent, {path.name: "".join(map(as_line, kept)).encode()})

    def write(self, entry: dict) -> None:
        """Add a line, and tell it."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(as_line(entry))
        for tell in self._told:
            tell(entry)


class Pace:
    """The mean loss and the speed since the last summary."""

    def __init__(self):
        self._begin()

    def _begin(self):
        self._reported = time.monotonic()
        self._tokens = self._steps = 0
        self._loss = self._seconds = 0.0

    def timed(self, step: Callable[[list], dict], batches: list) -> dict:
        """The entry of step(batches), which is counted."""
        begun = time.monotonic()
        entry = step(batches)
        self._seconds += time.monotonic() - begun
        self._steps += 1
        if "skipped" not in entry:
            self._loss += entry["loss"] * entry["tokens"]
            self._tokens += entry["tokens"]
        return entry

    def is_due(self) -> bool:
        """Whether the last summary was long enough ago."""
        return time.monotonic() - self._reported > SECONDS_BETWEEN_ENTRIES

    def summary(self, steps_left: int) -> dict:
        """Mean loss, tokens per second, seconds left; then it all begins anew."""
        summary = {
            "tokens_per_second": self._tokens / self._seconds,
            "seconds_left": steps_left * self._seconds / self._steps,
        }
        if self._tokens:
            summary = {"loss": self._loss / self._tokens, "tokens": self._tokens, **summary}
        self._begin()
        return summary
