"""The rows of a batch: all real tokens one after another, so that padding costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sequences:
    """Which rows belong to which sequence: counts[b] rows from starts[b] on, both int64 (B,).

    The sequences from shards[i] on, up to shards[i + 1], are those of shard i of a training pass:
    see training/shards.py.
    """

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    length: int  # of the padded batch
    is_padded: bool
    shards: NDArray[np.int64]

    @classmethod
    def of(cls, batch: int, length: int, lengths: NDArray[np.int64] | None = None) -> Sequences:
        """The sequences of a padded batch (batch, length), real up to `lengths`."""
        shards = np.array([0, batch])
        if lengths is None or bool((lengths == length).all()):
            counts = np.full(batch, length)
            return cls(np.arange(batch) * length, counts, length, False, shards)
        return cls(np.cumsum(lengths) - lengths, lengths, length, True, shards)

    @classmethod
    def of_counts(
        cls, counts: NDArray[np.int64], shards: NDArray[np.int64] | None = None
    ) -> Sequences:
        """Sequences of these lengths, in a batch as long as the longest of them; all of them one
        shard unless `shards` says where each begins and the last one ends."""
        shards = np.array([0, len(counts)]) if shards is None else shards
        longest = int(counts.max(initial=0))
        return cls(np.cumsum(counts) - counts, counts, longest, True, shards)

    @property
    def shard_rows(self) -> NDArray[np.int64]:
        """Where the rows of each shard begin, and those of the last one end."""
        return np.append(0, np.cumsum(self.counts))[self.shards]

    def is_real(self) -> NDArray[np.bool_]:
        """(B, length): whether a row stands there, or padding."""
        return np.arange(self.length) < self.counts[:, None]

    def rows(self, x: NDArray) -> NDArray:
        """The real rows of x (B, length, ...) -> (N, ...)."""
        if self.is_padded:
            return x[self.is_real()]
        return x.reshape(-1, *x.shape[2:])

    def padded(self, rows: NDArray) -> NDArray:
        """Rows (N, D) -> (B, length, D), zeros in the padding."""
        batch = len(self.counts)
        if not self.is_padded:
            return rows.reshape(batch, self.length, rows.shape[-1])
        x = np.zeros((batch, self.length, rows.shape[-1]), rows.dtype)
        x[self.is_real()] = rows
        return x

    def position_ids(self) -> NDArray[np.int64]:
        """Each row's position in its sequence, (N,)."""
        position_ids = np.broadcast_to(np.arange(self.length), (len(self.counts), self.length))
        return np.ascontiguousarray(self.rows(position_ids))


class KeysValues(NamedTuple):
    """Projected keys and values (N, Hkv K) of a memory's rows: sequence b has counts[b] of them,
    from row starts[b] on."""

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
