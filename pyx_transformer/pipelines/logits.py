"""Texts to the logits of a model's head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.head_configs import ClassifierConfig
from pyx_transformer.pipelines.progress import progress
from pyx_transformer.pipelines.reading import batches, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.encoder_model import EncoderModel
    from pyx_transformer.tokenizers.protocol import Tokenizer


def logits_of(
    function: str,
    name: str,
    model: EncoderModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_batch_tokens: int | None,
) -> NDArray[np.float32]:
    """The logits (N, labels) of texts, or of pairs of texts."""
    found = read(function, name, model, tokenizer, texts, pairs)
    assert isinstance(model.config.head, ClassifierConfig)
    out = np.zeros((len(texts), len(model.config.head.labels)), np.float32)
    with progress(len(texts), "text") as done:
        for numbers in batches(function, [len(ids) for ids in found.ids], max_batch_tokens):
            types = None if found.types is None else [found.types[i] for i in numbers]
            rows, sources = model.rows_of(function, [found.ids[i] for i in numbers], types)
            out[numbers] = model.logits_of(rows, sources)
            done(len(numbers))
    return out


def sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)), in float64 and rounded once."""
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)
