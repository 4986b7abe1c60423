"""Greedy decoding: at each step the most probable token, until each sequence ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks
from pyx_transformer.generation.cache import KeyValueCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.transformer import Transformer


@dataclass(frozen=True)
class Generation:
    """Generated token ids, one int64 array per sequence, without start and end.

    is_finished (B,): the end came; False where max_length cut the sequence off. Indexing and
    iterating go over the sequences.
    """

    sequences: list[NDArray[np.int64]]
    is_finished: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index):
        return self.sequences[index]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.sequences)


def generate(
    model: Transformer,
    src: ArrayLike,
    src_lengths: ArrayLike | None = None,
    *,
    max_length: int | None = None,
) -> Generation:
    """Greedy translation of src (B, S) token ids, real up to src_lengths (B,).

    Each sequence starts with config.start_id, takes the most probable token at each step (the
    lowest id among equals), and stops by itself at config.end_id or after max_length tokens: 256,
    or as far as learned positions reach, unless given. An empty source has the empty translation.
    The result of a sequence does not depend on the others.

    Raises TypeError or ValueError for bad ids, lengths or max_length, or where learned positions
    do not reach max_length; MemoryError where there is no room for max_length.
    """
    this = "Transformer.generate"
    config = model.config
    if max_length is None:
        max_length = 256 if config.positions != "learned" else min(256, config.max_length)
    max_length = _checks.as_integer(this, "max_length", max_length, minimum=0)
    model.check_length(this, "max_length is", max_length)
    ids, sources = model.sequences(this, "src", src, src_lengths)
    batch = len(sources.counts)
    memory = model.encoder.apply(model.embed_source(ids, sources), sources)
    cache = KeyValueCache(model, memory, sources, max_length)
    sequences = np.empty((batch, max_length), np.int64)
    lengths = np.zeros(batch, np.int64)
    is_finished = sources.counts == 0
    live = np.flatnonzero(~is_finished)
    tokens = np.full(len(live), config.start_id)
    for step in range(max_length):
        if not len(live):
            break
        rows = cache.extend(tokens, live, np.ones(len(live), np.int64))
        tokens = model.output_projection.apply(rows).argmax(-1)
        ended = tokens == config.end_id
        is_finished[live[ended]] = True
        live, tokens = live[~ended], tokens[~ended]
        sequences[live, step] = tokens
        lengths[live] = step + 1
    return Generation(
        [row[:length].copy() for row, length in zip(sequences, lengths, strict=True)], is_finished
    )
