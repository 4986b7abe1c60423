"""Options against the model and the sentences: what they are there, or what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer._checks import brief

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.generation.options import GenerationOptions
    from pyx_transformer.generation.protocols import Decoding

DEFAULT_LENGTH = 256


def check_model(this: str, model: Decoding, *, has_encoder: bool | None = None) -> None:
    """Raise TypeError unless this is a model that gives the next token of a target, with an
    encoder or without where it has to be."""
    is_one = not isinstance(model, type) and getattr(model, "has_decoder", False)
    if not is_one or has_encoder not in (None, model.has_encoder):
        kinds = {True: "Transformer", False: "TransformerLM", None: "Transformer or TransformerLM"}
        raise TypeError(f"{this}: model is {brief(model)}, expected {kinds[has_encoder]}")


def as_prefixes(
    this: str, options: GenerationOptions, batch: int, because: tuple[str, tuple[int, ...]]
) -> list[NDArray[np.int64]]:
    """The prefix of each sentence, where none are given the first token or nothing."""
    if options.prefix is None:
        first = [] if options.first_token is None else [options.first_token]
        return [np.array(first, np.int64)] * batch
    if len(options.prefix) != batch:
        raise ValueError(
            f"{this}: prefix has {len(options.prefix)} sequences, expected {batch} because "
            f"{because[0]} is {because[1]}"
        )
    return [np.array(ids, np.int64) for ids in options.prefix]


def check_fit(
    this: str,
    model: Decoding,
    options: GenerationOptions,
    prefix_name: str,
    prefixes: list[NDArray[np.int64]],
) -> None:
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
    if options.coverage_penalty and not model.config.decoder.num_layers:
        raise ValueError(
            f"{this}: coverage_penalty is {options.coverage_penalty}, expected 0 because the "
            "decoder has no layers"
        )
    lists = {
        "suppress_tokens": options.suppress_tokens,
        "start_token": [] if options.start_token is None else [options.start_token],
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
    if options.last_token is not None and options.last_token >= vocabulary:
        raise ValueError(
            f"{this}: last_token is {options.last_token}, expected a token id below {vocabulary}"
        )
    if len(set(options.suppress_tokens)) == vocabulary:
        raise ValueError(
            f"{this}: suppress_tokens holds all {vocabulary} tokens, expected at least one left"
        )


def check_begun(this: str, name: str, count: int) -> None:
    """Raise ValueError for no tokens, where the model has none that begins a text."""
    if not count:
        raise ValueError(
            f"{this}: {name} is empty, expected at least one token because the config's start_id "
            "is None"
        )


def as_max_lengths(
    this: str,
    model: Decoding,
    options: GenerationOptions,
    prefix_name: str,
    prefixes: list[NDArray[np.int64]],
) -> list[int]:
    """max_length or, unless it is given, what it is for each prefix.

    Raises ValueError where learned positions do not reach it, or it lies below min_length.
    """
    lengths = [0 if options.prefix_bias else len(prefix) for prefix in prefixes]
    longest = max(lengths, default=0)
    if options.max_length is not None:
        what = f"{prefix_name} and max_length together are" if longest else "max_length is"
        model.check_length(this, what, longest + options.max_length)
        return [options.max_length] * len(prefixes)
    model.check_length(this, f"the longest {prefix_name} has length", longest)
    usual, reach = max(DEFAULT_LENGTH, options.min_length), model.config.longest
    if options.min_length > reach - longest:
        raise ValueError(
            f"{this}: min_length is {options.min_length}, expected at most {reach - longest} "
            "because positions are learned"
        )
    return [int(min(usual, reach - length)) for length in lengths]


def limit_of(options: GenerationOptions, max_length: int, source_length: int) -> int:
    """How many tokens the translation of a source may have, of max_length that any may have."""
    if options.max_length_factor is None:
        return max_length
    limit = options.max_length_factor * source_length + options.max_length_offset
    return min(max_length, max(int(min(limit, max_length)), options.min_length, 1))
