"""The rows of a text to one vector (Reimers and Gurevych 2019), added up in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Whole = NDArray[np.int64]


def first(rows: Rows, starts: Whole, counts: Whole, before: Whole) -> Rows:
    """The first row of each text: rows (N, D), of which text b has counts[b] from starts[b] on, the
    first of them being that of its token number before[b]."""
    return rows[starts]


def last(rows: Rows, starts: Whole, counts: Whole, before: Whole) -> Rows:
    """The last row of each text."""
    return rows[starts + counts - 1]


def largest(rows: Rows, starts: Whole, counts: Whole, before: Whole) -> Rows:
    """The largest value of each column."""
    return np.maximum.reduceat(rows, starts, axis=0)


def mean(rows: Rows, starts: Whole, counts: Whole, before: Whole) -> Rows:
    """The mean of all rows."""
    return rounded(sums(rows, starts) / counts[:, None])


def mean_by_root(rows: Rows, starts: Whole, counts: Whole, before: Whole) -> Rows:
    """The sum of all rows over the root of their number."""
    return rounded(sums(rows, starts) / np.sqrt(counts[:, None]))


def weighted_mean(rows: Rows, starts: Whole, counts: Whole, before: Whole) -> Rows:
    """The mean of rows weighted with the places of their tokens from 1 on (Muennighoff 2022)."""
    places = np.arange(len(rows)) + np.repeat(before - starts, counts) + 1.0
    total = np.add.reduceat(places, starts)
    return rounded(sums(rows * places[:, None], starts) / total[:, None])


def sums(rows, starts):
    return np.add.reduceat(rows.astype(np.float64), starts, axis=0)


def rounded(values):
    return values.astype(np.float32)


POOLINGS: dict[str, Callable[[Rows, Whole, Whole, Whole], Rows]] = {
    "cls": first,
    "max": largest,
    "mean": mean,
    "mean_sqrt_len": mean_by_root,
    "weighted_mean": weighted_mean,
    "last": last,
}


def normalized(vectors: Rows) -> Rows:
    """Vectors (N, D), each divided by its length."""
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    return rounded(vectors / np.maximum(lengths, 1e-12))
