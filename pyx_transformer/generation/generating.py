"""Sentences to hypotheses: the results in the caller's order, or as they are found."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.generation.attention import with_attention
from pyx_transformer.generation.checks import (
    as_max_lengths,
    as_prefixes,
    check_begun,
    check_fit,
    limit_of,
)
from pyx_transformer.generation.results import Generation, Hypothesis, kept
from pyx_transformer.generation.search import Searching, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.generation.options import GenerationOptions
    from pyx_transformer.generation.protocols import Decoding, Translating

    Found = Iterator[tuple[int, list[Hypothesis]]]


def in_order(batch: int, found: Found) -> Generation:
    """The hypotheses of all sentences, in the caller's order."""
    hypotheses: list[list[Hypothesis]] = [[] for _ in range(batch)]
    try:
        for number, of_sentence in found:
            hypotheses[number] = of_sentence
    except RuntimeError as error:
        if isinstance(error.__cause__, StopIteration):  # a callback's: generators wrap it
            raise error.__cause__ from None
        raise
    return Generation(hypotheses)


def begun(
    this: str,
    model: Translating,
    src: ArrayLike,
    src_lengths: ArrayLike | None,
    options: GenerationOptions,
) -> tuple[int, Found]:
    """`Transformer.generate` and `generate_as_completed`: how many sentences src (B, S) has, and
    the hypotheses of each with its number as they are found. The arguments are checked at once."""
    ids, sources = model.sequences(this, "src", src, src_lengths)
    batch = len(sources.counts)
    prefixes = as_prefixes(this, options, batch, ("src", (batch, sources.length)))
    check_fit(this, model, options, "prefix", prefixes)
    max_lengths = as_max_lengths(this, model, options, "prefix", prefixes)

    def found() -> Found:
        source_ids = np.split(ids, sources.starts[1:]) if batch else []
        sentences = []
        rows = zip(source_ids, prefixes, max_lengths, strict=True)
        for number, (source, prefix, max_length) in enumerate(rows):
            if len(source):
                longest = limit_of(options, max_length, len(source))
                sentences.append(Waiting(number, source, prefix, longest))
            else:
                yield number, kept([empty_translation(model)], options)
        for number, hypotheses in Searching(model, options).hypotheses(sentences):
            if options.return_attention:
                hypotheses = with_attention(
                    model, source_ids[number], hypotheses, options.start_of(model.config)
                )
            yield number, kept(hypotheses, options)

    return batch, found()


def begun_alone(
    this: str,
    model: Decoding,
    prompt: ArrayLike,
    prompt_lengths: ArrayLike | None,
    options: GenerationOptions,
    pause: int | None = None,
) -> tuple[int, Found]:
    """`begun` without a source: hypotheses that begin with prompt (B, T). With a pause, which is a
    number of steps, there is an entry without hypotheses after so many too, of number -1."""
    for name in ("max_length_factor", "prefix", "coverage_penalty", "return_attention"):
        check_absent(this, options, name, bool(getattr(options, name)))
    for name in ("first_token", "start_token"):
        check_absent(this, options, name, getattr(options, name) is not None)
    ids, prompts = model.sequences(this, "prompt", prompt, prompt_lengths)
    prefixes = np.split(ids, prompts.starts[1:]) if len(prompts.counts) else []
    chosen = prefixes
    if model.config.start_id is None:
        for number, prefix in enumerate(prefixes):
            check_begun(this, f"prompt[{number}]", len(prefix))
        chosen = [prefix[1:] for prefix in prefixes]  # the first may be an end token: GPT-2's is
    check_fit(this, model, options, "prompt", chosen)
    max_lengths = as_max_lengths(this, model, options, "prompt", prefixes)

    def found() -> Found:
        sentences = [
            Waiting(number, ids, ids, max_length)
            for number, (ids, max_length) in enumerate(zip(prefixes, max_lengths, strict=True))
        ]
        for number, hypotheses in Searching(model, options).hypotheses(sentences, pause):
            yield number, kept(hypotheses, options)

    return len(prefixes), found()


def tokens_of(
    this: str, model: Decoding, prompt: NDArray[np.int64], options: GenerationOptions
) -> Iterator[int]:
    """The tokens after one prompt (T,), as on_token would be told of them. The arguments are
    checked at once."""
    told: deque[int] = deque()
    tell = options.on_token

    def on_token(sentence: int, token: int) -> None:
        told.append(token)
        if tell is not None:
            tell(sentence, token)

    _, found = begun_alone(this, model, [prompt], None, replace(options, on_token=on_token), 1)

    def tokens() -> Iterator[int]:
        for _ in found:
            while told:
                yield told.popleft()

    return tokens()


def check_absent(this: str, options: GenerationOptions, name: str, is_given: bool) -> None:
    """Raise ValueError for an option of translations only."""
    if is_given:
        raise ValueError(
            f"{this}: {name} is {getattr(options, name)!r}, expected none because a language model "
            "has a prompt and no source"
        )


def empty_translation(model: Translating) -> Hypothesis:
    """The one translation of an empty source."""
    layers, heads = model.config.decoder.num_layers, model.decoder.num_heads
    return Hypothesis(
        np.empty(0, np.int64),
        True,
        0.0,
        np.zeros(1, np.float32),
        np.zeros((layers, heads, 1, 0), np.float32),
    )
