"""How much memory a generation takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyx_transformer import _checks

if TYPE_CHECKING:
    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.transformer import Transformer

FLOAT, INT64 = 4, 8


def memory_estimate(
    model: Transformer | TransformerLM, batch: int, src_len: int, max_length: int, beam_size: int
) -> int:
    """Bytes at the peak of decoding max_length tokens, beyond the model and the interpreter.

    src_len: of each source or, for a language model, of each prompt.
    """
    this = f"{type(model).__name__}.memory_estimate"
    batch = _checks.as_integer(this, "batch", batch, minimum=0)
    src_len = _checks.as_integer(this, "src_len", src_len, minimum=0)
    max_length = _checks.as_integer(this, "max_length", max_length, minimum=0)
    beam_size = _checks.as_integer(this, "beam_size", beam_size, minimum=1)
    config = model.config
    rows, layers, width = batch * beam_size, len(model.decoder.layers), config.d_model
    source = batch * src_len
    has_encoder = hasattr(model, "encoder")
    capacity = max_length if has_encoder else max_length + src_len
    own = rows * capacity * width * 2 * layers * FLOAT
    memory = source * width * 2 * layers * FLOAT if has_encoder else 0
    bookkeeping = rows * capacity * (FLOAT + (2 if beam_size > 1 else 1) * INT64)
    # One pass: rows in and out of a layer, a sub-layer's workspace, and the step's logits.
    encoding = source * (2 * width + max(5 * width, width + config.d_ff)) * FLOAT
    step = rows * (9 * width + config.d_ff + config.tgt_vocab_size) * FLOAT
    return own + memory + bookkeeping + max(step, encoding)
