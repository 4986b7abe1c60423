"""How probable given target sequences are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import ops

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.transformer import Transformer


def score(
    model: Transformer,
    src: ArrayLike,
    tgt: ArrayLike,
    src_lengths: ArrayLike | None = None,
    tgt_lengths: ArrayLike | None = None,
) -> list[NDArray[np.float32]]:
    """Log-probability of every token of tgt (B, T) and of the end after it, given src (B, S).

    tgt carries neither start nor end -> one float32 array (tgt_lengths[b] + 1,) per sequence; its
    sum is the log-probability of the whole. An empty source has exactly the empty translation, as
    in `generate`: the end scores 0, any other token minus infinity.
    """
    this = "Transformer.score"
    config = model.config
    _, sources = model.sequences(this, "src", src, src_lengths)
    ids, targets = model.sequences(this, "tgt", tgt, tgt_lengths, len(sources.counts))
    longest = int(targets.counts.max(initial=0))
    model.check_length(this, "tgt with its start has length", longest + 1)
    inputs = np.full((len(targets.counts), targets.length + 1), config.start_id)
    outputs = np.full_like(inputs, config.end_id)
    inputs[:, 1:] = targets.padded(ids[:, None])[:, :, 0]
    outputs[:, :-1] = inputs[:, 1:]
    outputs[np.arange(len(inputs)), targets.counts] = config.end_id
    scores = ops.log_softmax(model(src, inputs, src_lengths, targets.counts + 1))
    scores = np.take_along_axis(scores, outputs[:, :, None], axis=-1)[:, :, 0]
    return [
        row[: count + 1].copy() if source else _only_the_end(count)
        for row, count, source in zip(scores, targets.counts, sources.counts, strict=True)
    ]


def _only_the_end(count):
    scores = np.full(count + 1, -np.inf, np.float32)
    scores[-1] = 0.0
    return scores
