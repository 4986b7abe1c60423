"""What texts and settings come to, and hypotheses back to texts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer.generated_text import GeneratedText, NBest
from pyx_transformer.generation import GenerationOptions
from pyx_transformer.generation.options import SAMPLING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from pyx_transformer.generation import Hypothesis
    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.tokenizers.protocol import Tokenizer
    from pyx_transformer.transformer import Transformer

MOST_NUMBERS = 10  # of lines, that a message names
# What is known of every hypothesis anyway, and told of its text.
KNOWN = {"return_scores": True, "return_token_scores": True}
BANS = "suppress_tokens"
OF_SOURCE = ("max_length_factor", "max_length_offset")  # a limit by the length of a source


def options_of(
    function: str,
    model: Transformer | TransformerLM,
    settings: Mapping[str, Any],
    *,
    beam_size: int = 1,
    **changes: Any,
) -> GenerationOptions:
    """The model's options, or those of settings["options"], with single settings on top.

    beam_size: of a model that has no options; changes: what counts whatever is asked. What the
    tokenizer says is never generated, its unknown token, is suppressed too.
    """
    settings = dict(settings)
    options = settings.pop("options", None)
    if options is None:
        _fit(settings, model.generation_options, beam_size)
    own = options or model.generation_options
    tokenizer = model.tgt_tokenizer
    never = () if tokenizer is None else tokenizer.never_generated
    if isinstance(own, GenerationOptions | None) and settings.keys().isdisjoint({*changes, BANS}):
        # Checked once only: of a short sentence that is 2 % of the time.
        banned = never if own is None else (*own.suppress_tokens, *never)
        settings.update(changes, **({BANS: banned} if banned else {}))
        return GenerationOptions.chosen(function, model, options, settings)
    options = GenerationOptions.chosen(function, model, options, settings)
    return replace(options, **changes, suppress_tokens=(*options.suppress_tokens, *never))


def _fit(settings: dict[str, Any], own: GenerationOptions | None, beam_size: int) -> None:
    """Add to single settings what goes with them in place of a model's own options: no beams where
    something is to be drawn, no drawing with beams, beams for as many hypotheses, no limit by the
    source beside another limit."""
    asked = {name: value for name, value in settings.items() if value is not None}
    if "max_length" in asked and asked.keys().isdisjoint(OF_SOURCE):
        settings |= {"max_length_factor": None, "max_length_offset": 0.0}
    if not asked.keys().isdisjoint(SAMPLING):
        settings.setdefault("beam_size", 1)
    elif own is not None and own.is_sampling:
        if asked.get("beam_size", 1) != 1:
            settings.update(dict.fromkeys(SAMPLING))
    else:
        beams, count = own.beam_size if own else beam_size, asked.get("num_hypotheses")
        if isinstance(count, (int, np.integer)) and not asked.get("return_alternatives"):
            beams = max(beams, int(count))
        settings.setdefault("beam_size", beams)


def generated(
    count: int,
    completed: Iterable[tuple[int, list[Hypothesis]]],
    text_of: Callable[[int, Hypothesis], GeneratedText],
    done: Callable[[int], object],
) -> list[NBest]:
    """The texts of hypotheses in the caller's order, as they are found; text_of: that of one of the
    sentence of a number; done: what is told."""
    texts = [NBest() for _ in range(count)]
    for number, hypotheses in completed:
        texts[number].extend(text_of(number, one) for one in hypotheses)
        done(1)
    return texts


def as_text(
    text: str,
    hypothesis: Hypothesis,
    end: int,
    target: Tokenizer,
    source: Tokenizer,
    source_ids: NDArray[np.int64],
    prompt: int = 0,
) -> GeneratedText:
    """A text with what a hypothesis tells, which has so many tokens of a prompt, and may have ended
    with the token `end`."""
    scores = hypothesis.token_scores
    assert hypothesis.score is not None and scores is not None
    ids = hypothesis.sequence
    if len(scores) > len(ids):
        ids = np.append(ids, end)
    ids = ids[prompt:]
    return GeneratedText(
        text,
        hypothesis.score,
        hypothesis.is_finished,
        ids,
        partial(target.tokens, ids),
        partial(source.tokens, source_ids),
        scores[prompt:],
        hypothesis.attention,
    )


def end_of(model: Transformer | TransformerLM, options: GenerationOptions) -> int:
    """What stands for the token that ends a text."""
    return options.end_tokens[0] if options.end_tokens else model.config.end_id


def best_of(function: str, found: list[NBest], settings: Mapping[str, Any]) -> list[GeneratedText]:
    """The first text of each. Raises ValueError where several were asked for."""
    for name in ("num_hypotheses", "num_samples"):
        if settings.get(name, 1) not in (None, 1):
            raise ValueError(
                f"{function}: {name} is {settings[name]!r}, expected 1 because one text is "
                "returned of each; `hypotheses` returns all"
            )
    return [one[0] for one in found]


def unknown_in(
    tokenizer: Tokenizer, texts: Iterable[NDArray[np.int64]], begin: int = 0
) -> dict[int, int]:
    """How many tokens the vocabulary lacks of those texts that have any, by the texts' numbers,
    begin being the first one's."""
    unknown = tokenizer.unknown_id
    if unknown is None:
        return {}
    counts = {number: int((ids == unknown).sum()) for number, ids in enumerate(texts, begin)}
    return {number: count for number, count in counts.items() if count}


def told_unknown(counts: Mapping[int, int], unit: str) -> str:
    """How many unknown tokens there are, by the numbers of their texts from 0 on, and where."""
    total = sum(counts.values())
    words = "1 unknown word" if total == 1 else f"{total} unknown words"
    return f"{words}: {numbered(unit, list(counts))}"


def numbered(unit: str, indices: list[int]) -> str:
    """The numbers of lines or texts from 1 on, the first ones if there are many."""
    shown = ", ".join(str(i + 1) for i in indices[:MOST_NUMBERS])
    more = f" and {len(indices) - MOST_NUMBERS} more" if len(indices) > MOST_NUMBERS else ""
    return f"{unit if len(indices) == 1 else unit + 's'} {shown}{more}"
