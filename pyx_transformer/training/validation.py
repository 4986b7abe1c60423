"""How good a model is on examples that it was not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.transformer import Transformer
from pyx_transformer.translation import PART_TOKENS, bleu, padded

if TYPE_CHECKING:
    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.training.batches import Examples

SCORED = 64  # examples whose logits exist at a time


def validate(
    model: Transformer | TransformerLM, examples: Examples, *, with_bleu: bool, **settings
) -> dict[str, float]:
    """The figures of a model on examples.

    "loss": nats per target token with its end, without label smoothing. For a translator also
    "exact_match", the share of translations that are the target, and with_bleu "bleu". settings:
    those of `GenerationOptions`; greedy unless asked.
    """
    figures = {"loss": mean_loss(model, examples)}
    if not isinstance(model, Transformer):
        return figures
    src, lengths = padded(examples.sources)
    if model.tgt_tokenizer is not None:
        settings["suppress_tokens"] = [model.tgt_tokenizer.unknown_id]
    found = model.generate(src, lengths, max_batch_tokens=PART_TOKENS, **settings).sequences
    same = [np.array_equal(*pair) for pair in zip(found, examples.targets, strict=True)]
    figures["exact_match"] = float(np.mean(same))
    if with_bleu:
        tokenizer = model.tgt_tokenizer
        figures["bleu"] = bleu(
            [tokenizer.decode(ids, spaced=True) for ids in found],
            [tokenizer.spaced(text) for text in examples.references],
        )
    return figures


def reachable(model: Transformer | TransformerLM, max_length: int) -> int:
    """max_length, or what learned positions reach."""
    if model.config.positions != "learned":
        return max_length
    return max(min(max_length, model.config.max_length - 1), 1)


def mean_loss(model: Transformer | TransformerLM, examples: Examples) -> float:
    """The mean negative log-probability of the target tokens and ends."""
    total, tokens = 0.0, 0
    for begin in range(0, len(examples), SCORED):
        part = slice(begin, begin + SCORED)
        tgt, tgt_lengths = padded(examples.targets[part])
        if examples.sources is None:
            scores = model.score(tgt, tgt_lengths)
        else:
            src, src_lengths = padded(examples.sources[part])
            scores = model.score(src, tgt, src_lengths, tgt_lengths)
        total -= sum(float(score.sum(dtype=np.float64)) for score in scores)
        tokens += sum(len(score) for score in scores)
    return total / tokens
