"""Texts to ids that a model reads, and hypotheses back to texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer.generation import GenerationOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pyx_transformer.generation import Generation, Hypothesis
    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.text import Tokenizer
    from pyx_transformer.transformer import Transformer

PART_TOKENS = 4096  # of the sources or prompts that are decoded together


@dataclass(frozen=True)
class GeneratedText:
    """A text with the hypothesis that it was decoded from."""

    text: str
    hypothesis: Hypothesis


def as_ids(
    function: str, texts: Sequence[str], tokenizer: Tokenizer
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A list of texts as ids (B, T), and how many are each text's (B,).

    Raises TypeError where texts are no list of strings, ValueError where one is no Unicode.
    """
    return padded([tokenizer.encode(text) for text in as_texts(function, texts)])


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


def padded(sequences: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequences of ids as one array (B, T) with zeros after them, and their lengths (B,)."""
    lengths = np.array([len(ids) for ids in sequences], np.int64)
    ids = np.zeros((len(sequences), int(lengths.max(initial=0))), np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths


def options_of(
    function: str, model: Transformer | TransformerLM, settings: Mapping[str, Any]
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


def generated_texts(
    generation: Generation, tokenizer: Tokenizer, *, spaced: bool = False
) -> list[list[GeneratedText]]:
    """The texts of a generation's hypotheses."""
    return [
        [GeneratedText(tokenizer.decode(one.sequence, spaced=spaced), one) for one in of_sentence]
        for of_sentence in generation.hypotheses
    ]
