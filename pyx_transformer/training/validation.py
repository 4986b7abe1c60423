"""How good a model is on examples that it was not trained on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.language_model import TransformerLM
from pyx_transformer.metrics import bleu, require_bleu
from pyx_transformer.pipelines.texts import options_of, padded
from pyx_transformer.text import tokenizer_of
from pyx_transformer.training import corpus

if TYPE_CHECKING:
    from pyx_transformer.training.batches import Examples
    from pyx_transformer.transformer import Transformer

SCORED = 64  # examples whose logits exist at a time


def validate(
    model: Transformer | TransformerLM, examples: Examples, *, with_bleu: bool, **settings
) -> dict[str, float]:
    """The figures of a model on examples.

    "loss": nats per target token with its end, without label smoothing. For a translator also
    "exact_match", the share of translations that are the target, and with_bleu "bleu". settings:
    those of `GenerationOptions`, on top of the model's own; greedy unless asked.
    """
    figures = {"loss": mean_loss(model, examples)}
    if examples.sources is None:
        return figures
    src, lengths = padded(examples.sources)
    options = options_of("validate", model, settings)
    found = model.generate(src, lengths, options=options).sequences
    same = [np.array_equal(*pair) for pair in zip(found, examples.targets, strict=True)]
    figures["exact_match"] = float(np.mean(same))
    if with_bleu:
        if examples.references is None:
            raise ValueError(
                "validate: examples have no references, expected texts to compare with"
            )
        tokenizer = tokenizer_of("validate", model, "tgt_tokenizer")
        figures["bleu"] = bleu(
            [tokenizer.decode(ids, spaced=True) for ids in found],
            [tokenizer.spaced(text) for text in examples.references],
        )
    return figures


def evaluate(
    model: Transformer | TransformerLM,
    source: str | os.PathLike,
    target: str | os.PathLike | None = None,
    *,
    with_bleu: bool = True,
    **settings,
) -> dict[str, float]:
    """The figures of a translator on a file of sentences and that of their translations, or of a
    language model on its text: see `validate`.

    Raises ValueError where files or settings are missing or too many for that kind of model, or
    cannot be read by it, ImportError where BLEU is asked for and sacrebleu missing, and what
    reading the files and `model.generate` raise.
    """
    tokenizer = tokenizer_of("evaluate", model, "tgt_tokenizer")
    if model.has_encoder:
        if target is None:
            raise ValueError("evaluate: target is missing, expected the file of the translations")
        if with_bleu:
            require_bleu()
        src_tokenizer = tokenizer_of("evaluate", model, "src_tokenizer")
        examples = corpus.pair_examples(source, target, src_tokenizer, tokenizer, model.config)
    else:
        for name, value in {"target": target, **settings}.items():
            if value is not None:
                raise ValueError(
                    f"evaluate: {name} was given, expected none because the model is a language "
                    "model, whose loss on one text is all there is"
                )
        examples = corpus.text_examples(source, tokenizer, model.config)
    examples.check("evaluate", model)
    return validate(model, examples, with_bleu=with_bleu, **settings)


def reachable(model: Transformer | TransformerLM, max_length: int) -> int:
    """max_length, or what learned positions reach."""
    return max(int(min(max_length, model.config.longest - 1)), 1)


def mean_loss(model: Transformer | TransformerLM, examples: Examples) -> float:
    """The mean negative log-probability of the target tokens and ends."""
    total, tokens = 0.0, 0
    for begin in range(0, len(examples), SCORED):
        part = slice(begin, begin + SCORED)
        tgt, tgt_lengths = padded(examples.targets[part])
        if isinstance(model, TransformerLM):
            scores = model.score(tgt, tgt_lengths)
        else:
            src, src_lengths = padded((examples.sources or [])[part])
            scores = model.score(src, tgt, src_lengths, tgt_lengths)
        total -= sum(float(score.sum(dtype=np.float64)) for score in scores)
        tokens += sum(len(score) for score in scores)
    return total / tokens
