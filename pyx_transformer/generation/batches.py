"""Which sentences are decoded together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def batches(counts: NDArray[np.int64], most: int | None) -> Iterator[NDArray[np.int64]]:
    """Numbers of the sentences of each batch: by length, at most `most` tokens in one or, where
    it is longer, a single sentence."""
    if most is None:
        yield np.arange(len(counts))
        return
    batch: list[int] = []
    held = 0
    for b in np.argsort(-counts, kind="stable"):
        if batch and held + counts[b] > most:
            yield np.array(batch)
            batch, held = [], 0
        batch.append(int(b))
        held += int(counts[b])
    yield np.array(batch, np.int64)
