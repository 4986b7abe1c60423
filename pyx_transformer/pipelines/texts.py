"""What texts and settings come to, and hypotheses back to texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyx_transformer.generation import GenerationOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from pyx_transformer.generation import Hypothesis
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

    What the tokenizer says is never generated, its unknown token, is suppressed too.
    """
    settings = dict(settings)
    options = GenerationOptions.chosen(function, model, settings.pop("options", None), settings)
    if model.tgt_tokenizer is not None and model.tgt_tokenizer.never_generated:
        suppressed = (*options.suppress_tokens, *model.tgt_tokenizer.never_generated)
        options = replace(options, suppress_tokens=suppressed)
    return options


def generated(
    count: int,
    completed: Iterable[tuple[int, list[Hypothesis]]],
    text_of: Callable[[int, NDArray[np.int64]], str],
    done: Callable[[int], object],
) -> list[list[GeneratedText]]:
    """The texts of hypotheses in the caller's order, as they are found; text_of: that of the ids
    (T,) of a sentence of that number; done: what is told."""
    texts: list[list[GeneratedText]] = [[] for _ in range(count)]
    for number, hypotheses in completed:
        texts[number] = [GeneratedText(text_of(number, one.sequence), one) for one in hypotheses]
        done(1)
    return texts


def best_of(
    function: str, found: list[list[GeneratedText]], settings: Mapping[str, Any]
) -> list[str]:
    """The first text of each. Raises ValueError where several were asked for."""
    for name in ("num_hypotheses", "num_samples"):
        if settings.get(name, 1) not in (None, 1):
            raise ValueError(
                f"{function}: {name} is {settings[name]!r}, expected 1 because one text is "
                "returned of each; `hypotheses` returns all"
            )
    return [one[0].text for one in found]


def told_unknown(tokenizer: Tokenizer, texts: Iterable[NDArray[np.int64]], unit: str) -> str:
    """How many tokens of texts the vocabulary lacks, and in which texts; "" where it has all."""
    unknown = tokenizer.unknown_id
    counts = [] if unknown is None else [int((ids == unknown).sum()) for ids in texts]
    if not any(counts):
        return ""
    words = "1 unknown word" if sum(counts) == 1 else f"{sum(counts)} unknown words"
    return f"{words}: {numbered(unit, [i for i, count in enumerate(counts) if count])}"


def numbered(unit: str, indices: list[int]) -> str:
    """The numbers of lines or texts from 1 on, the first ones if there are many."""
    shown = ", ".join(str(i + 1) for i in indices[:MOST_NUMBERS])
    more = f" and {len(indices) - MOST_NUMBERS} more" if len(indices) > MOST_NUMBERS else ""
    return f"{unit if len(indices) == 1 else unit + 's'} {shown}{more}"
