"""The cross-attention of what has been generated, computed afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.generation.protocols import Translating
    from pyx_transformer.generation.results import Hypothesis


def with_attention(
    model: Translating, source: NDArray[np.int64], hypotheses: list[Hypothesis], start: int | None
) -> list[Hypothesis]:
    """A sentence's hypotheses, which begin after `start`, with their cross-attention: one more
    pass, which gives the same to the bit as the steps that found them."""
    if not len(source):
        return hypotheses
    token_scores = (cast("NDArray[np.float32]", one.token_scores) for one in hypotheses)
    steps = np.array([len(scores) for scores in token_scores])
    inputs = np.full((len(hypotheses), max(steps)), start)
    for row, one, count in zip(inputs, hypotheses, steps, strict=True):
        row[1:count] = one.sequence[: max(count - 1, 0)]
    sources = np.repeat(source[None], len(hypotheses), axis=0)
    _, weights = model(sources, inputs, tgt_lengths=steps, return_attention=True)
    layers, heads = len(weights.cross), model.decoder.num_heads
    attention = np.array(weights.cross, np.float32).reshape(
        layers, len(hypotheses), heads, max(steps), len(source)
    )
    return [
        replace(one, attention=attention[:, i, :, :count].copy())
        for i, (one, count) in enumerate(zip(hypotheses, steps, strict=True))
    ]
