"""How much memory a generation takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyx_transformer import _checks, _runtime
from pyx_transformer.stacks import FIRST_TABLE

if TYPE_CHECKING:
    from pyx_transformer.config import TokenConfig
    from pyx_transformer.generation.protocols import Decoding
    from pyx_transformer.stacks import Stack

FLOAT, INT64 = 4, 8
HUGE_PAGES = 1 << 22  # NumPy asks for them from here on: an array is there once it is written to


def memory_estimate(
    model: Decoding,
    encoder: Stack | None,
    batch: int,
    src_len: int,
    max_length: int,
    beam_size: int,
) -> int:
    """Bytes at the peak of decoding max_length tokens, beyond the model and the interpreter.

    encoder: the model's, None for a language model. src_len: of each source or, without an encoder,
    of each prompt. beam_size: hypotheses in play
    per sentence, samples or alternatives included. Raises TypeError or ValueError for what is no
    such number.
    """
    this = f"{type(model).__name__}.memory_estimate"
    batch = _checks.as_integer(this, "batch", batch, minimum=0)
    src_name = "prompt_len" if encoder is None else "src_len"
    src_len = _checks.as_integer(this, src_name, src_len, minimum=0)
    max_length = _checks.as_integer(this, "max_length", max_length, minimum=0)
    beam_size = _checks.as_integer(this, "beam_size", beam_size, minimum=1)
    config, decoder = model.config, model.decoder
    rows, source = batch * beam_size, batch * src_len
    row = config.d_model * FLOAT
    keys_values = sum(2 * decoder.num_kv_heads * layer.head_size for layer in decoder.in_order)
    capacity = max_length + (src_len if encoder is None else 0)
    own = rows * capacity * keys_values * FLOAT
    # Tokens and their scores, twice while beams change places; with beams, where keys lie, twice.
    own += rows * capacity * (2 * (FLOAT + INT64) + (2 * INT64 if beam_size > 1 else 0))
    # One array of logits: each step writes its own over the last one's.
    step = layer_pass(decoder, rows) + rows * config.tgt_vocab_size * FLOAT
    of_memory = sum(2 * decoder.num_kv_heads * layer.memory_size for layer in decoder.in_order)
    # The encoder's rows stay too.
    memory = 0 if encoder is None else source * (of_memory * FLOAT + row)
    table, growing = table_of_sinusoids(config, src_len, capacity)
    decoding = memory + own + step + table
    if growing:  # for the last time with half of its places decoded
        is_there = rows * capacity * row >= HUGE_PAGES
        held = own if is_there else own * table // (2 * capacity * row)
        decoding = max(decoding, memory + held + growing)
    if encoder is None:
        return max(decoding, own + layer_pass(decoder, source + batch) + table)
    projecting = memory + 2 * source * row  # and the keys and values of one layer as rows
    return max(source * row + layer_pass(encoder, source), projecting, decoding)


def layer_pass(stack: Stack, rows: int) -> int:
    """Bytes for the rows that come out of a stack, and its workspace."""
    if rows == 0:
        return 0
    threads = _runtime.get_num_threads()
    return rows * stack.d_model * FLOAT + stack.compiled().workspace(rows, threads)


def table_of_sinusoids(config: TokenConfig, src_len: int, capacity: int) -> tuple[int, int]:
    """Bytes of the table for so many places, and at the peak of its last growth."""
    if config.positions != "sinusoidal":
        return 0, 0
    length = first = max(FIRST_TABLE, src_len)
    while length < capacity:
        length *= 2
    table = length * config.d_model * FLOAT
    # While it grows there are angles and sines, each half as many in float64, and the old one.
    return table, 0 if length == first else table * 7 // 2
