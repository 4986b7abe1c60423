"""Texts in, texts out: translating, continuing, and how good translations are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.generation import GenerationOptions
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.transformer import Transformer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pyx_transformer.generation import Hypothesis

PART_TOKENS = 4096  # of the sources that are translated together


@dataclass(frozen=True)
class Translation:
    """A text with the hypothesis that it was decoded from."""

    text: str
    hypothesis: Hypothesis


def translate(
    model: Transformer, texts: Sequence[str], *, spaced: bool = False, **settings
) -> list[list[Translation]]:
    """The translations of each text, the best first.

    settings: those of `GenerationOptions`, such as beam_size=4, num_hypotheses=4, on top of the
    model's own, or `options` in their place. Unknown tokens are not generated. spaced: words stand
    between spaces in languages without them too.

    Raises TypeError where model is no Transformer or texts are no list of strings, ValueError for
    texts that are no Unicode and where the model has no tokenizers, and what `model.generate` does.
    """
    if not isinstance(model, Transformer):
        raise TypeError(f"translate: model is a {type(model).__name__}, expected a Transformer")
    tokenizer = tokenizer_of("translate", model, "src_tokenizer")
    ids, lengths = padded([tokenizer.encode(text) for text in as_texts("translate", texts)])
    generation = model.generate(ids, lengths, options=options_of("translate", model, settings))
    return as_translations(model, generation.hypotheses, spaced)


def continue_texts(
    model: TransformerLM, prompts: Sequence[str], **settings
) -> list[list[Translation]]:
    """Texts that begin with each prompt, the best or first drawn first.

    settings: those of `GenerationOptions`, such as num_samples=3, temperature=0.8, on top of the
    model's own, or `options` in their place. Unknown tokens are not generated.

    Raises TypeError where model is no TransformerLM or prompts are no list of strings, ValueError
    for prompts that are no Unicode and where the model has no tokenizer, and what `model.generate`
    does.
    """
    this = "continue_texts"
    if not isinstance(model, TransformerLM):
        raise TypeError(f"{this}: model is a {type(model).__name__}, expected a TransformerLM")
    tokenizer = tokenizer_of(this, model, "tgt_tokenizer")
    ids, lengths = padded([tokenizer.encode(text) for text in as_texts(this, prompts)])
    generation = model.generate(ids, lengths, options=options_of(this, model, settings))
    return as_translations(model, generation.hypotheses, False)


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """BLEU, 0 to 100, of texts whose tokens stand between spaces (Papineni et al. 2002).

    sacrebleu's, on the tokens as they are. Raises ImportError where that package is missing.
    """
    require_bleu()
    import sacrebleu

    return sacrebleu.corpus_bleu(list(texts), [list(references)], tokenize="none", force=True).score


def require_bleu() -> None:
    """Raise ImportError, saying what to install, where sacrebleu is missing."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "bleu: the package sacrebleu is missing: pip install 'pyx-transformer[train]'"
        ) from error


def padded(sequences: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequences of ids as one array (B, T) with zeros after them, and their lengths (B,)."""
    lengths = np.array([len(ids) for ids in sequences], np.int64)
    ids = np.zeros((len(sequences), int(lengths.max(initial=0))), np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths


def tokenizer_of(function: str, model: Transformer | TransformerLM, attribute: str):
    """A model's tokenizer of that name."""
    tokenizer = getattr(model, attribute)
    if tokenizer is None:
        raise ValueError(
            f"{function}: model has no {attribute}, expected one of pyx_transformer.text"
        )
    return tokenizer


def as_texts(function: str, texts: Sequence[str]) -> list[str]:
    """A list of texts."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(f"{function}: texts is {texts!r}, expected a list of texts")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{function}: texts holds {text!r}, expected strings")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{function}: texts[{i}] is {text!r}, which is no Unicode text"
            ) from error
    return texts


def options_of(
    function: str, model: Transformer | TransformerLM, settings: dict
) -> GenerationOptions:
    """The model's options, or those of settings["options"], with single settings on top.

    The tokenizer's unknown token is suppressed too, and no more is decoded at a time than
    PART_TOKENS unless asked.
    """
    settings = dict(settings)
    options = GenerationOptions.chosen(function, model, settings.pop("options", None), settings)
    if options.max_batch_tokens is None:
        options = replace(options, max_batch_tokens=PART_TOKENS)
    if model.tgt_tokenizer is not None:
        suppressed = (*options.suppress_tokens, model.tgt_tokenizer.unknown_id)
        options = replace(options, suppress_tokens=suppressed)
    return options


def as_translations(model, hypotheses, spaced):
    """The texts of a generation's hypotheses."""
    decode = model.tgt_tokenizer.decode
    return [
        [Translation(decode(one.sequence, spaced=spaced), one) for one in of_sentence]
        for of_sentence in hypotheses
    ]
