"""A bar on a terminal, where there is more than a second of work and tqdm is installed. Processes
of a pool have none: their bars would overwrite each other."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any


@contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """What is to be told how many more of `total` are done."""
    bar = new_bar(total, unit) if is_terminal() and parent_process() is None else None
    if bar is None:
        yield lambda count: None
        return
    with bar:
        yield bar.update


def new_bar(total: int, unit: str) -> Any:
    """A bar of tqdm, None where that is missing."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit=unit, delay=1, leave=False)


def is_terminal() -> bool:
    """Whether standard error is one, and open, and this process has it for itself."""
    try:
        return sys.stderr.isatty() and multiprocessing.parent_process() is None
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False
