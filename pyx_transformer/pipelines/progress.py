"""A bar on a terminal, where there is more than a second of work and tqdm is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """What is to be told how many more of `total` are done."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
        return
    # Without a terminal there is no bar: disable=None.
    with tqdm(total=total, unit=unit, delay=1, leave=False, disable=None) as bar:
        yield bar.update
