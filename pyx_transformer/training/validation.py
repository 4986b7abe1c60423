"""How good a model is on examples that it was not trained on."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer import _checks, ops
from pyx_transformer.checkpoints import load_model
from pyx_transformer.generation.scoring import score_rows
from pyx_transformer.metrics import (
    BLEU_TOKENIZERS,
    bleu_tokenizer_for,
    bleu_with_signature,
    require_bleu,
)
from pyx_transformer.pipelines.texts import options_of, told_unknown, unknown_in
from pyx_transformer.token_model import TokenModel
from pyx_transformer.tokenizers.protocol import tokenizer_of
from pyx_transformer.training import corpus
from pyx_transformer.training.batches import Examples
from pyx_transformer.training.labelled import Labelled, is_score
from pyx_transformer.training.masking import MASK_RATE, Texts, masked
from pyx_transformer.transformer import Transformer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.generation.settings import TextSettings
    from pyx_transformer.training.corpus import Corpus

SCORED = 64  # examples whose rows exist at a time


Figures = dict[str, Any]  # numbers, and the signature of BLEU


def validate(
    model: Model, examples: Corpus, *, with_bleu: bool, bleu_tokenizer: str = "auto", **settings
) -> Figures:
    """The figures of a model on examples.

    "loss": nats per target token with its end, without label smoothing; of an encoder per masked
    token, the masks being the same at every call and in every run; of a classifier per label, with
    "accuracy", the share of labels whose logit is the largest, or the mean squared error of scores.
    For a translator also
    "exact_match", the share of translations that are the target, "cut_off", the share that ended at
    the maximum length only, and with_bleu "bleu" and its "bleu_signature". bleu_tokenizer: that of
    `metrics.bleu`, or "auto" for the words or, where the references are written without spaces,
    their characters. settings: those of `GenerationOptions`, on top of the model's own; greedy
    unless asked.
    """
    if isinstance(examples, Labelled):
        return label_figures(model, examples)
    figures: Figures = {"loss": mean_loss(model, examples)}
    if not isinstance(model, Transformer) or not isinstance(examples, Examples):
        return figures
    options = options_of("validate", model, settings)
    generation = model.generate(examples.sources or [], options=options)
    found = generation.sequences
    same = [np.array_equal(*pair) for pair in zip(found, examples.targets, strict=True)]
    figures["exact_match"] = float(np.mean(same))
    figures["cut_off"] = 1 - float(np.mean(generation.is_finished))
    if with_bleu:
        if examples.references is None:
            raise ValueError(
                "validate: examples have no references, expected texts to compare with"
            )
        tokenizer = tokenizer_of("validate", model, "tgt_tokenizer")
        references = [tokenizer.spaced(text) for text in examples.references]
        if bleu_tokenizer == "auto":
            bleu_tokenizer = bleu_tokenizer_for(references)
        texts = [tokenizer.decode(ids, spaced=True) for ids in found]
        figures["bleu"], figures["bleu_signature"] = bleu_with_signature(
            texts, references, bleu_tokenizer
        )
    return figures


def evaluate(
    model: Model | str | os.PathLike[str],
    source: corpus.Given,
    target: corpus.Given | None = None,
    *,
    with_bleu: bool = True,
    bleu_tokenizer: str = "auto",
    **settings: Unpack[TextSettings],
) -> Figures:
    """The figures of a translator on sentences and their translations, of a classifier on texts and
    their labels, or of a language model or an encoder on its text: see `validate`.

    model: one, or what `pt.load` opens. source, target: lists of texts, or the paths of files with
    one in each line. Warns of words that a translator does not know.

    Raises ValueError where texts or settings are missing or too many for that kind of model, or
    cannot be read by it, TypeError for what is neither a path nor a list of texts, ImportError
    where BLEU is asked for and sacrebleu missing, and what `pt.load`, reading the files and
    `model.generate` raise.
    """
    if isinstance(model, (str, os.PathLike)):
        model = load_model("evaluate", model)
    if isinstance(getattr(model, "model", None), TokenModel):
        raise TypeError(f"evaluate: model is {_checks.brief(model)}, expected its .model")
    _checks.as_kind("evaluate", "model", model, TokenModel)
    _checks.as_flag("evaluate", "with_bleu", with_bleu)
    _checks.as_choice("evaluate", "bleu_tokenizer", bleu_tokenizer, ("auto", *BLEU_TOKENIZERS))
    if isinstance(model, Transformer):
        if target is None:
            raise ValueError("evaluate: target is missing, expected the translations")
        if with_bleu:
            require_bleu()
        examples = corpus.read("evaluate", model, source, target)
        assert isinstance(examples, Examples) and examples.sources is not None
        for name, text, side, ids in (
            ("source", source, "src_tokenizer", examples.sources),
            ("target", target, "tgt_tokenizer", examples.targets),
        ):
            if unknown := unknown_in(tokenizer_of("evaluate", model, side), ids):
                is_file = isinstance(text, (str, os.PathLike))
                said = told_unknown(unknown, "line" if is_file else "text")
                warnings.warn(f"{text if is_file else name} has {said}", stacklevel=2)
    else:
        asked = None if bleu_tokenizer == "auto" else bleu_tokenizer
        others = {"bleu_tokenizer": asked, **settings}
        given, kind = [source], f"a {type(model).__name__}, whose loss on one text is all there is"
        if corpus.has_labels(model):
            if target is None:
                raise ValueError("evaluate: target is missing, expected the labels")
            given, kind = [source, target], "a classifier"
        else:
            others = {"target": target, **others}
        for name, value in others.items():
            if value is not None:
                raise ValueError(
                    f"evaluate: {name} was given, expected none because the model is {kind}"
                )
        examples = corpus.read("evaluate", model, *given)
    examples.check("evaluate", model)
    return validate(model, examples, with_bleu=with_bleu, bleu_tokenizer=bleu_tokenizer, **settings)


def reachable(model: Transformer, max_length: int) -> int:
    """max_length, or what learned positions reach."""
    return max(int(min(max_length, model.config.longest - 1)), 1)


def mean_loss(model: Model, examples: Examples | Texts) -> float:
    """The mean negative log-probability of the target tokens and ends, or of the masked tokens."""
    total, tokens = 0.0, 0
    for begin in range(0, len(examples), SCORED):
        part = slice(begin, min(begin + SCORED, len(examples)))
        scores = scores_of(model, examples, part)
        total -= sum(float(score.sum(dtype=np.float64)) for score in scores)
        tokens += sum(len(score) for score in scores)
    return total / tokens


def label_figures(model: Any, examples: Labelled) -> Figures:
    """The loss per label, and the share of right ones where there is a choice."""
    total, right, count = 0.0, 0, 0
    for begin in range(0, len(examples), SCORED):
        batch = examples.batch(np.arange(begin, min(begin + SCORED, len(examples))))
        sequences, targets = batch.input_sequences, batch.targets
        ids, types = (
            None if one is None else sequences.padded(one[:, None])[..., 0]
            for one in (batch.inputs, batch.token_types)
        )
        logits = model(ids, sequences.counts, types)
        if batch.places is not None:
            logits = sequences.rows(logits)[batch.places]
        count += len(targets)
        if is_score(model.config.head):
            total += float(np.square(logits[:, 0] - targets, dtype=np.float64).sum())
            continue
        chosen = ops.log_softmax(logits)[np.arange(len(targets)), targets]
        total -= float(chosen.sum(dtype=np.float64))
        right += int((logits.argmax(axis=1) == targets).sum())
    if is_score(model.config.head):
        return {"loss": total / count}
    return {"loss": total / count, "accuracy": right / count}


def scores_of(model: Any, examples: Examples | Texts, part: slice) -> list[NDArray[np.float32]]:
    """The log-probabilities of the targets of a part of the examples."""
    if isinstance(examples, Texts):
        batch = examples.batch(np.arange(part.start, part.stop))
        batch = masked(batch, model.config, MASK_RATE, (0, part.start))
        src = np.split(batch.inputs, batch.input_sequences.starts[1:])
        rows = batch.input_sequences.rows(model.encode(src))
        rows = model.head.apply(rows[batch.places])
        return [score_rows(model.output_projection, rows, batch.targets)]
    if examples.sources is None:
        return model.score(examples.targets[part])
    return model.score(examples.sources[part], examples.targets[part])
