"""How far a run is: a bar on a terminal, where there is more than a second of work and tqdm is
installed; elsewhere a line a minute, for who asks for it. Processes of a pool have none: their bars
would overwrite each other."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

SECONDS_BETWEEN_LINES = 60.0

Tell = Callable[[int], object]
_OUTER: ContextVar[Tell | None] = ContextVar("outer", default=None)


@contextmanager
def progress(
    total: int | None,
    unit: str,
    *,
    begun: int = 0,
    say: Callable[[str], object] | None = None,
    with_bar: bool = True,
) -> Iterator[Tell]:
    """What is to be told how many more of `total` are done, None where nobody knows how many there
    are; within another one, that of the other, which counts them all.

    begun: how many there were before, which say nothing of the rate. say: what gets a line a minute
    where there is no bar.
    """
    outer = _OUTER.get()
    if outer is not None:
        yield outer
        return
    bar = new_bar(total, unit, begun=begun) if with_bar and is_terminal() else None
    tell: Tell = lambda count: None  # noqa: E731
    if bar is not None:
        tell = bar.update
    elif say is not None:
        tell = Pace(total, unit, begun, say).add
    with nullcontext() if bar is None else bar:
        token = _OUTER.set(tell)
        try:
            yield tell
        finally:
            _OUTER.reset(token)


def new_bar(total: int | None, unit: str, *, begun: int = 0) -> Any:
    """A bar of tqdm, None where that is missing. Its rate is the mean: sentences that are computed
    side by side end in bursts."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None

    class Bar(tqdm):
        monitor_interval = 0  # no thread, with which this process could not fork

    steady = {"smoothing": 0, "miniters": 1}
    shown = {"delay": 1, "leave": False, "dynamic_ncols": True}
    return Bar(total=total, unit=unit, initial=begun, **steady, **shown)


def is_terminal() -> bool:
    """Whether standard error is one, and open, and this process has it for itself."""
    try:
        return sys.stderr.isatty() and multiprocessing.parent_process() is None
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


class Pace:
    """Says how far a run is, how fast, and how long it may take, once a minute."""

    def __init__(self, total: int | None, unit: str, begun: int, say: Callable[[str], object]):
        self._total, self._unit, self._say = total, unit, say
        self._begun = self._done = begun
        self._start = self._told = time.monotonic()

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_LINES:
            return
        self._told = now
        rate = (self._done - self._begun) / (now - self._start)
        said = f"{self._unit}s, {rate:,.1f} a second"
        if self._total is None:
            self._say(f"{self._done:,} {said}")
            return
        left = (self._total - self._done) / max(rate, 1e-9)
        self._say(f"{self._done:,} of {self._total:,} {said}, {clock(left)} left")


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
