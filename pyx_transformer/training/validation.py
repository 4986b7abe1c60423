"""How good a model is on examples that it was not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.transformer import Transformer

if TYPE_CHECKING:
    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.training.batches import Examples
    from pyx_transformer.training.options import TrainingOptions

SCORED = 64  # examples whose logits exist at a time
PART_TOKENS = 4096  # of the sources that are translated together


def validate(
    model: Transformer | TransformerLM, examples: Examples, options: TrainingOptions
) -> dict[str, float]:
    """The loss, in nats per target token with its end and without label smoothing, and for a
    translator "exact_match", the share of greedy translations that are the target, and "bleu" where
    that is the metric."""
    figures = {"loss": mean_loss(model, examples)}
    if not isinstance(model, Transformer):
        return figures
    translations = translate(model, examples.sources, max_length=options.max_length)
    same = [
        np.array_equal(ids, target)
        for ids, target in zip(translations, examples.targets, strict=True)
    ]
    figures["exact_match"] = float(np.mean(same))
    if options.metric == "bleu":
        decode = model.tgt_tokenizer.decode
        texts = [decode(ids, spaced=True) for ids in translations]
        references = examples.references or [
            decode(ids, spaced=True) for ids in examples.targets
        ]
        figures["bleu"] = bleu(texts, references)
    return figures


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


def translate(model: Transformer, sources: list[np.ndarray], **settings) -> list[np.ndarray]:
    """The best hypothesis for each source, greedy unless asked, without unknown tokens."""
    src, lengths = padded(sources)
    if model.tgt_tokenizer is not None:
        settings["suppress_tokens"] = [model.tgt_tokenizer.unknown_id]
    return model.generate(src, lengths, max_batch_tokens=PART_TOKENS, **settings).sequences


def bleu(texts: list[str], references: list[str]) -> float:
    """BLEU of texts whose tokens stand between spaces (Papineni et al. 2002; sacrebleu's)."""
    try:
        import sacrebleu
    except ImportError as error:
        raise ImportError(
            "bleu: the package sacrebleu is missing: pip install 'pyx-transformer[train]'"
        ) from error
    return sacrebleu.corpus_bleu(texts, [references], tokenize="none", force=True).score


def padded(sequences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of ids as one array (B, T) with zeros after them, and their lengths."""
    lengths = np.array([len(ids) for ids in sequences])
    ids = np.zeros((len(sequences), int(lengths.max(initial=0))), np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths
