"""How much memory a generation takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyx_transformer import _checks

if TYPE_CHECKING:
    from pyx_transformer.config import TransformerConfig
    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.transformer import Transformer

FLOAT, INT64 = 4, 8
HIDDEN_FLOATS = 1 << 20  # at most so many hidden activations at once, as blocks.pxi has it
FIRST_TABLE = 64  # least rows of a model's table of sinusoids, which then doubles
HUGE_PAGES = 1 << 22  # NumPy asks for them from here on: an array is there once it is written to


def memory_estimate(
    model: Transformer | TransformerLM, batch: int, src_len: int, max_length: int, beam_size: int
) -> int:
    """Bytes at the peak of decoding max_length tokens, beyond the model and the interpreter.

    src_len: of each source or, for a language model, of each prompt. beam_size: hypotheses in play
    per sentence, samples or alternatives included. Raises TypeError or ValueError for what is no
    such number.
    """
    this = f"{type(model).__name__}.memory_estimate"
    batch = _checks.as_integer(this, "batch", batch, minimum=0)
    src_name = "src_len" if model.has_encoder else "prompt_len"
    src_len = _checks.as_integer(this, src_name, src_len, minimum=0)
    max_length = _checks.as_integer(this, "max_length", max_length, minimum=0)
    beam_size = _checks.as_integer(this, "beam_size", beam_size, minimum=1)
    config = model.config
    rows, source, layers = batch * beam_size, batch * src_len, len(model.decoder.layers)
    row = config.d_model * FLOAT
    capacity = max_length if model.has_encoder else max_length + src_len
    own = rows * capacity * 2 * layers * row
    # Tokens and their scores, twice while beams change places; with beams, where keys lie, twice.
    own += rows * capacity * (2 * (FLOAT + INT64) + (2 * INT64 if beam_size > 1 else 0))
    # One array of logits: each step writes its own over the last one's.
    step = layer_pass(config, rows) + rows * config.tgt_vocab_size * FLOAT
    memory = (
        source * (2 * layers + 1) * row if model.has_encoder else 0
    )  # the encoder's rows stay too
    table, growing = table_of_sinusoids(config, src_len, capacity)
    decoding = memory + own + step + table
    if growing:  # for the last time with half of its places decoded
        is_there = rows * capacity * row >= HUGE_PAGES
        held = own if is_there else own * table // (2 * capacity * row)
        decoding = max(decoding, memory + held + growing)
    if not model.has_encoder:
        return max(decoding, own + layer_pass(config, source + batch) + table)
    projecting = memory + 2 * source * row  # and the keys and values of one layer as rows
    return max(layer_pass(config, source), projecting, decoding)


def layer_pass(config: TransformerConfig, rows: int) -> int:
    """Bytes for rows in and out of one layer, and its workspace."""
    width = config.d_model
    normed = width if config.norm_first else 0
    run = min(rows, max(HIDDEN_FLOATS // config.d_ff, 1))
    attention = rows * (4 * width + normed)
    feed_forward = rows * width + run * (normed + config.d_ff)
    return (2 * rows * width + max(attention, feed_forward)) * FLOAT


def table_of_sinusoids(config: TransformerConfig, src_len: int, capacity: int) -> tuple[int, int]:
    """Bytes of the table for so many places, and at the peak of its last growth."""
    if config.positions != "sinusoidal":
        return 0, 0
    length = first = max(FIRST_TABLE, src_len)
    while length < capacity:
        length *= 2
    table = length * config.d_model * FLOAT
    # While it grows there are angles and sines, each half as many in float64, and the old one.
    return table, 0 if length == first else table * 7 // 2
