"""What texts and settings come to, and hypotheses back to texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyx_transformer.generation import GenerationOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from pyx_transformer.generation import Generation, Hypothesis
    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.tokenizers.protocol import Tokenizer
    from pyx_transformer.transformer import Transformer

MOST_NUMBERS = 10  # of lines, that a message names


@dataclass(frozen=True)
class GeneratedText:
    """A text with the hypothesis that it was decoded from."""

    text: str
    hypothesis: Hypothesis


def options_of(
    function: str, model: Transformer | TransformerLM, settings: Mapping[str, Any]
) -> GenerationOptions:
    """The model's options, or those of settings["options"], with single settings on top.

    The tokenizer's unknown token is suppressed too.
    """
    settings = dict(settings)
    options = GenerationOptions.chosen(function, model, settings.pop("options", None), settings)
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


def told_unknown(tokenizer: Tokenizer, texts: Iterable[NDArray[np.int64]], unit: str) -> str:
    """How many tokens of texts the vocabulary lacks, and in which texts; "" where it has all."""
    counts = [int((ids == tokenizer.unknown_id).sum()) for ids in texts]
    if not any(counts):
        return ""
    words = "1 unknown word" if sum(counts) == 1 else f"{sum(counts)} unknown words"
    return f"{words}: {numbered(unit, [i for i, count in enumerate(counts) if count])}"


def numbered(unit: str, indices: list[int]) -> str:
    """The numbers of lines or texts from 1 on, the first ones if there are many."""
    shown = ", ".join(str(i + 1) for i in indices[:MOST_NUMBERS])
    more = f" and {len(indices) - MOST_NUMBERS} more" if len(indices) > MOST_NUMBERS else ""
    return f"{unit if len(indices) == 1 else unit + 's'} {shown}{more}"
