"""Sentences to hypotheses: in batches, with the results in the caller's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.generation.attention import with_attention
from pyx_transformer.generation.batches import batches
from pyx_transformer.generation.checks import as_max_length, as_prefixes, check_fit
from pyx_transformer.generation.results import Generation, Hypothesis, asked_for
from pyx_transformer.generation.search import Search, Sentences
from pyx_transformer.sequences import Sequences

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyx_transformer.generation.options import GenerationOptions
    from pyx_transformer.generation.protocols import Decoding, Translating


def generate(
    model: Translating,
    src: ArrayLike,
    src_lengths: ArrayLike | None,
    options: GenerationOptions,
) -> Generation:
    """`Transformer.generate`: hypotheses for src (B, S), real up to src_lengths (B,)."""
    this = "Transformer.generate"
    ids, sources = model.sequences(this, "src", src, src_lengths)
    batch = len(sources.counts)
    prefixes = as_prefixes(this, options, batch, ("src", (batch, sources.length)))
    check_fit(this, model, options, "prefix", prefixes)
    max_length = as_max_length(this, model, options, "prefix", prefixes)
    source_ids = np.split(ids, sources.starts[1:]) if batch else []
    hypotheses = [[empty_translation(model)] for _ in range(batch)]
    for numbers in batches(sources.counts, options.max_batch_tokens):
        numbers = numbers[sources.counts[numbers] > 0]
        if not len(numbers):
            continue
        sequences = Sequences.of_counts(sources.counts[numbers])
        batch_ids = [source_ids[b] for b in numbers]
        memory = model.decoder.project(
            model.encoder.apply(
                model.side("src").apply(np.concatenate(batch_ids), sequences.position_ids()),
                sequences,
            ),
            sequences,
        )
        batch_prefixes = [prefixes[b] for b in numbers]
        sentences = Sentences(numbers, batch_prefixes, memory, batch_ids)
        for b, found in zip(numbers, search(model, sentences, options, max_length), strict=True):
            hypotheses[b] = found
    if options.return_attention:
        hypotheses = [
            with_attention(model, source, found)
            for source, found in zip(source_ids, hypotheses, strict=True)
        ]
    return asked_for(hypotheses, options)


def generate_alone(
    model: Decoding,
    prompt: ArrayLike,
    prompt_lengths: ArrayLike | None,
    options: GenerationOptions,
) -> Generation:
    """`generate` without a source: hypotheses that begin with prompt (B, T)."""
    this = "TransformerLM.generate"
    for name in ("prefix", "coverage_penalty", "return_attention"):
        if getattr(options, name):
            raise ValueError(
                f"{this}: {name} is {getattr(options, name)!r}, expected none because a language "
                "model has a prompt and no source"
            )
    ids, prompts = model.sequences(this, "prompt", prompt, prompt_lengths)
    prefixes = np.split(ids, prompts.starts[1:]) if len(prompts.counts) else []
    check_fit(this, model, options, "prompt", prefixes)
    max_length = as_max_length(this, model, options, "prompt", prefixes)
    hypotheses: list[list[Hypothesis]] = [[] for _ in prefixes]
    for numbers in batches(prompts.counts, options.max_batch_tokens):
        if not len(numbers):
            continue
        batch_ids = [prefixes[b] for b in numbers]
        sentences = Sentences(numbers, batch_ids, None, batch_ids)
        for b, found in zip(numbers, search(model, sentences, options, max_length), strict=True):
            hypotheses[b] = found
    return asked_for(hypotheses, options)


def search(
    model: Decoding,
    sentences: Sentences,
    options: GenerationOptions,
    max_length: int,
) -> list[list[Hypothesis]]:
    """The hypotheses of each sentence of one batch, everything filled in but the attention."""
    found = Search(model, sentences, options, max_length).run()
    each = options.branches
    if each == 1:
        return [unit[: options.num_hypotheses] for unit in found]
    return [
        [one for unit in found[i : i + each] for one in unit[:1]]
        for i in range(0, len(found), each)
    ]


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
