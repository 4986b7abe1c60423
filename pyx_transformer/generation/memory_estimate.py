"""How much memory a generation takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyx_transformer import _checks, _runtime
from pyx_transformer.generation.checks import check_model
from pyx_transformer.generation.search import MOST_ROWS, MOST_TOKENS, PASS_TOKENS
from pyx_transformer.stack import FIRST_TABLE, Stack

if TYPE_CHECKING:
    from pyx_transformer.config import TokenConfig
    from pyx_transformer.generation.protocols import Decoding

FLOAT, INT64 = 4, 8
SENTENCE = 1900  # bytes of the objects for a sentence and its result, without tokens and scores


def memory_estimate(
    model: Decoding,
    encoder: Stack | None,
    batch: int,
    src_len: int,
    max_length: int,
    beam_size: int,
) -> int:
    """Bytes at the peak of decoding max_length tokens, beyond the interpreter and a model that has
    generated before.

    encoder: the model's, None for a language model. src_len: of each source or, without an encoder,
    of each prompt. beam_size: hypotheses in play per sentence, samples or alternatives included.
    Raises TypeError or ValueError for what is no such number.
    """
    this = "memory_estimate"
    check_model(this, model)
    this = f"{type(model).__name__}.{this}"
    if encoder is not None:
        _checks.as_kind(this, "encoder", encoder, Stack)
    batch = _checks.as_integer(this, "batch", batch, minimum=0)
    src_name = "prompt_len" if encoder is None else "src_len"
    src_len = _checks.as_integer(this, src_name, src_len, minimum=0)
    max_length = _checks.as_integer(this, "max_length", max_length, minimum=0)
    beam_size = _checks.as_integer(this, "beam_size", beam_size, minimum=1)
    if batch == 0:
        return 0
    config, decoder = model.config, model.decoder
    prompt = src_len if encoder is None else 0
    length = prompt + max_length
    may_hold = beam_size * (prompt + min(max_length, _runtime.kernels.USUAL_LENGTH))
    may_hold += 0 if encoder is None else src_len
    at_once = max(1, min(batch, MOST_ROWS // beam_size, MOST_TOKENS // max(may_hold, 1)))
    begun = max(1, min(at_once, PASS_TOKENS // max(src_len, 1)))  # sentences that begin together
    at_once = min(at_once, begun * max(max_length, 1))  # a step later come the next ones
    rows = at_once * beam_size
    threads = _runtime.get_num_threads()

    cache = _runtime.kernels.Cache(decoder.compiled(), None)
    shared = cache.own.bytes_of(prompt + 1) - cache.own.bytes_of(1)  # whole pages of a prompt
    own = at_once * shared + rows * (cache.own.bytes_of(length) - shared)
    memory = at_once * cache.memory.bytes_of(src_len) if encoder is not None else 0
    # Tokens, scores and places, with room for half as many more.
    tables = rows * length * (2 * INT64 + FLOAT) * 3 // 2
    logits = rows * config.tgt_vocab_size * FLOAT
    # Only the queries of a beam, of which several meet one memory, need their threads' workspace.
    at_work = threads if beam_size > 1 and encoder is not None else 0
    step = layer_pass(decoder, rows, at_work) + logits
    results = batch * (length * (INT64 + FLOAT) + SENTENCE)
    table, growing = table_of_sinusoids(config, src_len, length)
    decoding = memory + own + tables + max(step + table, growing)
    if encoder is None:
        # Prompts are read some at a time, while those before have theirs.
        there = at_once * cache.own.bytes_of(prompt)
        if batch > at_once:
            there = own + tables + logits
        beginning = there + layer_pass(decoder, begun * (src_len + 1), threads) + table
    else:
        row, tokens = config.d_model * FLOAT, begun * src_len
        widest = max((layer.memory_size for layer in decoder.in_order), default=0)
        encoding = tokens * row + layer_pass(encoder, tokens, threads)
        projecting = tokens * (row + 2 * decoder.num_kv_heads * widest * FLOAT)
        before = (at_once - begun) * cache.memory.bytes_of(src_len)
        if batch > at_once:  # the pages of those that have ended are there
            before = own + memory + tables + logits
        beginning = table + max(before + encoding, before + projecting, memory + projecting)
    return results + max(decoding, beginning)


def layer_pass(stack: Stack, rows: int, threads: int) -> int:
    """Bytes for the rows that come out of a stack, and its workspace."""
    if rows == 0:
        return 0
    return rows * stack.d_model * FLOAT + stack.compiled().workspace(rows, threads)


def table_of_sinusoids(config: TokenConfig, src_len: int, length: int) -> tuple[int, int]:
    """Bytes of the table for so many places beyond the first one, and at the peak of its last
    growth."""
    if config.positions != "sinusoidal":
        return 0, 0
    places = first = max(FIRST_TABLE, src_len)
    while places < length:
        places *= 2
    table = (places - FIRST_TABLE) * config.d_model * FLOAT
    return table, 0 if places == first else table + places // 2 * config.d_model * FLOAT
