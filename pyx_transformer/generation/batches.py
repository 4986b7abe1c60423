"""From the caller's sentences to batches of them, and back to results in the caller's order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.attention import Sequences
from pyx_transformer.generation.results import Generation, Hypothesis
from pyx_transformer.generation.search import Search, Sentences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.generation.options import GenerationOptions
    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.transformer import Transformer

DEFAULT_LENGTH = 256


def generate(
    model: Transformer,
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
                model.embed_source(np.concatenate(batch_ids), sequences), sequences
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
    model: TransformerLM,
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
    hypotheses = [[] for _ in prefixes]
    for numbers in batches(prompts.counts, options.max_batch_tokens):
        if not len(numbers):
            continue
        batch_ids = [prefixes[b] for b in numbers]
        sentences = Sentences(numbers, batch_ids, None, batch_ids)
        for b, found in zip(numbers, search(model, sentences, options, max_length), strict=True):
            hypotheses[b] = found
    return asked_for(hypotheses, options)


def search(model, sentences, options, max_length):
    """The hypotheses of each sentence of one batch, everything filled in but the attention."""
    found = Search(model, sentences, options, max_length).run()
    each = options.branches
    if each == 1:
        return [unit[: options.num_hypotheses] for unit in found]
    return [
        [one for unit in found[i : i + each] for one in unit[:1]]
        for i in range(0, len(found), each)
    ]


def batches(counts: NDArray[np.int64], most: int | None) -> Iterator[NDArray[np.int64]]:
    """Numbers of the sentences of each batch: by length, at most `most` tokens in one or, where
    it is longer, a single sentence."""
    if most is None:
        yield np.arange(len(counts))
        return
    batch: list[int] = []
    held = 0
    for b in np.argsort(-counts, kind="stable"):
        if batch and held + counts[b] > most:
            yield np.array(batch)
            batch, held = [], 0
        batch.append(int(b))
        held += int(counts[b])
    yield np.array(batch, np.int64)


def empty_translation(model):
    """The one translation of an empty source."""
    layers, heads = len(model.decoder.layers), model.config.num_heads
    return Hypothesis(
        np.empty(0, np.int64),
        True,
        0.0,
        np.zeros(1, np.float32),
        np.zeros((layers, heads, 1, 0), np.float32),
    )


def asked_for(hypotheses: list[list[Hypothesis]], options: GenerationOptions) -> Generation:
    """The hypotheses of each sentence, with what the options ask for and no more."""

    def kept(one):
        return replace(
            one,
            score=one.score if options.return_scores else None,
            token_scores=one.token_scores if options.return_token_scores else None,
            attention=one.attention if options.return_attention else None,
        )

    return Generation([[kept(one) for one in found] for found in hypotheses])


def with_attention(model, source, hypotheses):
    """A sentence's hypotheses with their cross-attention: one more pass, which gives the same to
    the bit as the steps that found them."""
    if not len(source):
        return hypotheses
    steps = np.array([len(one.token_scores) for one in hypotheses])
    inputs = np.full((len(hypotheses), max(steps)), model.config.start_id)
    for row, one, count in zip(inputs, hypotheses, steps, strict=True):
        row[1:count] = one.sequence[: max(count - 1, 0)]
    sources = np.repeat(source[None], len(hypotheses), axis=0)
    _, weights = model(sources, inputs, tgt_lengths=steps, return_attention=True)
    layers, heads = len(weights.cross), model.config.num_heads
    attention = np.array(weights.cross, np.float32).reshape(
        layers, len(hypotheses), heads, max(steps), len(source)
    )
    return [
        replace(one, attention=attention[:, i, :, :count].copy())
        for i, (one, count) in enumerate(zip(hypotheses, steps, strict=True))
    ]


# What depends on the model or on the sentences.


def as_prefixes(this, options, batch, because):
    if options.prefix is None:
        return [np.empty(0, np.int64)] * batch
    if len(options.prefix) != batch:
        raise ValueError(
            f"{this}: prefix has {len(options.prefix)} sequences, expected {batch} because "
            f"{because[0]} is {because[1]}"
        )
    return [np.array(ids, np.int64) for ids in options.prefix]


def check_fit(this, model, options, prefix_name, prefixes):
    """Raise ValueError for options that do not fit the model or the prefixes."""
    vocabulary = model.config.tgt_vocab_size
    end_tokens = options.end_tokens or (model.config.end_id,)
    if options.beam_size > vocabulary:
        raise ValueError(
            f"{this}: beam_size is {options.beam_size}, expected at most the {vocabulary} tokens "
            "of the vocabulary"
        )
    if options.return_alternatives and options.num_hypotheses > vocabulary:
        raise ValueError(
            f"{this}: num_hypotheses is {options.num_hypotheses}, expected at most the "
            f"{vocabulary} tokens of the vocabulary"
        )
    if options.coverage_penalty and not model.decoder.layers:
        raise ValueError(
            f"{this}: coverage_penalty is {options.coverage_penalty}, expected 0 because the "
            "decoder has no layers"
        )
    lists = {
        "suppress_tokens": options.suppress_tokens,
        "end_tokens": end_tokens,
        **{f"suppress_sequences[{i}]": ids for i, ids in enumerate(options.suppress_sequences)},
        **{f"{prefix_name}[{i}]": ids.tolist() for i, ids in enumerate(prefixes)},
    }
    for name, ids in lists.items():
        if ids and max(ids) >= vocabulary:
            raise ValueError(
                f"{this}: {name} holds {max(ids)}, expected token ids below {vocabulary}"
            )
        if name.startswith(prefix_name) and (ends := sorted(set(end_tokens) & set(ids))):
            raise ValueError(f"{this}: {name} holds {ends[0]}, expected no end token")
    if len(set(options.suppress_tokens)) == vocabulary:
        raise ValueError(
            f"{this}: suppress_tokens holds all {vocabulary} tokens, expected at least one left"
        )


def as_max_length(this, model, options, prefix_name, prefixes):
    """max_length, or what it is unless given."""
    longest = 0
    if not options.prefix_bias:
        longest = max(map(len, prefixes), default=0)
    if options.max_length is not None:
        what = f"{prefix_name} and max_length together are" if longest else "max_length is"
        model.check_length(this, what, longest + options.max_length)
        return options.max_length
    model.check_length(this, f"the longest {prefix_name} has length", longest)
    max_length = max(DEFAULT_LENGTH, options.min_length)
    max_length = min(max_length, model.config.longest - longest)
    if options.min_length > max_length:
        raise ValueError(
            f"{this}: min_length is {options.min_length}, expected at most {max_length} because "
            "positions are learned"
        )
    return max_length
