"""What models attend to as they read one text, to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer._kinds import as_string
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.pages import AttentionMap, AttentionView
from pyx_transformer.pages.attention import check_count
from pyx_transformer.pipelines.reading import read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pyx_transformer.encoder_model import EncoderModel
    from pyx_transformer.tokenizers.protocol import Tokenizer
    from pyx_transformer.transformer import Transformer

    Ids = NDArray[np.int64]


def of_reading(
    function: str,
    model: EncoderModel | TransformerLM,
    tokenizer: Tokenizer,
    ids: Ids,
    title: str,
    types: Ids | None = None,
) -> AttentionView:
    """The attention of a model with one stack to the tokens (T,) that it reads, of these token
    types."""
    check_read(function, ids)
    if isinstance(model, TransformerLM):
        start = model.config.start_id
        ids = ids if start is None else np.array([start, *ids], np.int64)
    stack = model.decoder if isinstance(model, TransformerLM) else model.encoder
    check_count(function, [(len(stack.in_order), stack.num_heads, len(ids), len(ids))])
    if isinstance(model, TransformerLM):
        name = "decoder"
        _, weights = model(ids[None], return_attention=True)
    else:
        name = "encoder"
        token_types = None if types is None or not model.config.num_token_types else types[None]
        _, weights = model.encode(ids[None], token_types=token_types, return_attention=True)
    words = tokenizer.tokens(ids)
    return AttentionView(maps_of({name: (weights, words, words)}), title)


def attention_of(
    function: str, model: EncoderModel, tokenizer: Tokenizer, text: str, pair: str | None = None
) -> AttentionView:
    """The attention of an encoder to a text, or to two that it reads together."""
    texts = [as_string(function, "text", text)]
    pairs = None if pair is None else [as_string(function, "second", pair)]
    found = read(function, "texts", model, tokenizer, texts, pairs)
    title = " / ".join([*texts, *(pairs or ())])
    types = None if found.types is None else found.types[0]
    return of_reading(function, model, tokenizer, found.ids[0], title, types)


def of_translation(
    function: str,
    model: Transformer,
    tokenizers: tuple[Tokenizer, Tokenizer],
    source: Ids,
    target: Sequence[int],
    title: str,
) -> AttentionView:
    """The attention of a model with two stacks as it reads the source (S,) and writes the target
    (1 + T,), what is before it and after it included: a row of each step, which is named after the
    token that it writes, and attends to those that are there."""
    check_read(function, source)
    *before, _ = _, *written = target
    read = np.array(before, np.int64)
    encoder, decoder = model.encoder, model.decoder
    sizes = [
        (len(encoder.in_order), encoder.num_heads, len(source), len(source)),
        (len(decoder.in_order), decoder.num_heads, len(read), len(read)),
        (len(decoder.in_order), decoder.num_heads, len(read), len(source)),
    ]
    check_count(function, sizes)
    _, weights = model(source[None], read[None], return_attention=True)
    of_source, of_target = tokenizers
    words, steps = of_source.tokens(source), of_target.tokens(written)
    maps = {
        "encoder": (weights.encoder, words, words),
        "decoder": (weights.decoder, steps, of_target.tokens(read)),
        "cross": (weights.cross, steps, words),
    }
    return AttentionView(maps_of(maps), title)


def maps_of(
    found: dict[str, tuple[list[NDArray[np.float32]], list[str], list[str]]],
) -> list[AttentionMap]:
    """Maps of what each layer has (1, H, T, S), of those that have layers."""
    return [
        AttentionMap(name, np.concatenate(weights), rows, columns)
        for name, (weights, rows, columns) in found.items()
        if weights
    ]


def check_read(function: str, ids: Ids) -> None:
    """Raise ValueError where there is no token to attend to."""
    if not len(ids):
        raise ValueError(f"{function}: the text has no tokens, expected some to attend to")
