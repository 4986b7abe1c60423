"""Contestants in turn, round after round: what else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

TURN_SECONDS = 0.02
SHORTEST_PAUSE = 0.03
LONGEST_PAUSE = 2.0


class Contestant(NamedTuple):
    """One way to do a row's work."""

    name: str  # the library's, and after a space its setting where there are several
    call: Callable[[], object]  # does the work once and returns the result
    is_compared: bool = True  # False where the result is another one on purpose


def rounds(
    contestants: Sequence[Contestant], number: int, limit_seconds: Callable[[], float]
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds per call of each contestant by name, and seconds of the limit, one per round."""
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    limits = []
    for i in range(number):
        # Every other round runs backwards, so that a steady drift favours nobody.
        for contestant in contestants if i % 2 == 0 else reversed(contestants):
            wait_until_idle()
            seconds[contestant.name].append(turn(contestant.call))
        wait_until_idle()
        limits.append(limit_seconds())
    return seconds, limits


def turn(call: Callable[[], object]) -> float:
    """Seconds per call: the mean over TURN_SECONDS or one call, after one that is not counted."""
    call()
    calls = 0
    start = time.perf_counter()
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= TURN_SECONDS:
            return elapsed / calls


def wait_until_idle() -> None:
    """Sleep until no thread of this process spins any more, SHORTEST_PAUSE at least.

    Threads of a library spin for a while after its last call, OpenBLAS's for 60 ms and more, and
    whoever runs meanwhile shares the cores with them: up to 20 times slower, as measured.
    """
    time.sleep(SHORTEST_PAUSE)
    deadline = time.monotonic() + LONGEST_PAUSE
    while time.monotonic() < deadline:
        used = time.process_time()  # of all threads
        time.sleep(0.01)
        if time.process_time() - used < 0.001:
            return
    raise RuntimeError(f"a thread of this process still runs {LONGEST_PAUSE:g} s after the call")
