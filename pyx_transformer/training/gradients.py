"""The loss of a batch, and what a model's parameters get from it.

The way through the layers and back is their own (`forward`): here are what stands around it, the
dropout and the loss.
"""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _runtime
from pyx_transformer.layers import add_linear_gradients, multiplied, packed, transposed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyx_transformer.encoder_model import EncoderModel
    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.parameters import Parameter, Parameters
    from pyx_transformer.training.batches import Batch
    from pyx_transformer.transformer import Transformer

# Logits that exist at a time: 16 MB, which the last-level cache holds.
LOGITS = 1 << 22


def add_gradients(
    model: Transformer | TransformerLM | EncoderModel,
    parameters: Parameters,
    batch: Batch,
    *,
    tokens: int,
    dropout: float = 0.0,
    label_smoothing: float = 0.0,
    seed: int = 0,
) -> float:
    """The cross-entropy of a batch, in nats, added up over its targets; of targets that are real
    numbers their squared errors.

    The parameters' gradients get those of this sum divided by `tokens`, which is the number of all
    targets whose gradients come together.

    The paper's dropout: on the output of each sub-layer and on embeddings with positions (Vaswani
    et al. 2017, 5.4). Which values it drops depends on seed and on nothing else.
    """
    rows, back = model.forward(batch, parameters, Dropout(dropout, count(seed)))
    projection = model.projection
    weight, bias = parameters.of(projection, "weight"), parameters.get(projection, "bias")
    if np.issubdtype(batch.targets.dtype, np.floating):
        loss, grad = squared_loss(rows, weight, bias, batch.targets, 1 / tokens)
    else:
        loss, grad = projected_loss(
            rows, weight, bias, projection.softcap, batch.targets, label_smoothing, 1 / tokens
        )
    back(grad)
    return loss


class Dropout:
    """Rows with some values replaced by 0, a new stream at every call (see `functions.dropout`)."""

    def __init__(self, rate: float, seeds: Iterator[int]):
        self.rate = rate
        self._seeds = seeds

    def __call__(self, rows, residual=None):
        """residual + dropped rows; back gives the gradient of rows. Writes to rows."""
        if not self.rate:
            return (rows if residual is None else np.add(rows, residual, out=rows)), lambda g: g
        seed = next(self._seeds)
        self._drop(rows, rows, residual, seed)
        return rows, lambda grad: self._drop(np.empty_like(grad), grad, None, seed)

    def _drop(self, out, rows, residual, seed):
        residual = None if residual is None else residual.reshape(-1)
        threads = _runtime.get_num_threads()
        _runtime.kernels.dropout(
            out.reshape(-1), rows.reshape(-1), residual, self.rate, seed, threads
        )
        return out


def projected_loss(
    rows,
    weight: Parameter,
    bias: Parameter | None,
    softcap: float | None,
    targets,
    smoothing: float,
    factor: float,
):
    """The summed cross-entropy of softmax(rows W^T + b), with its gradient times factor; with
    softcap of the capped logits.

    As `functions.cross_entropy`, some rows at a time, and the parameters' gradients at once: of
    the logits only those of these rows exist. -> (loss, gradient of rows).
    """
    kernels, threads = _runtime.kernels, _runtime.get_num_threads()
    forth, back = packed(weight, bias, softcap), transposed(weight)
    grad_rows = np.empty_like(rows)
    losses = np.zeros(len(rows))
    run = max(LOGITS // len(weight.value), 1)
    for begin in range(0, len(rows), run):
        part = slice(begin, begin + run)
        logits = multiplied(rows[part], forth)
        slope = None if softcap is None else 1 - np.square(logits / np.float32(softcap))
        kernels.cross_entropy(losses[part], logits, targets[part], smoothing, factor, threads)
        if slope is not None:
            logits *= slope
        kernels.linear(grad_rows[part], logits, back, None, None, 0, threads)
        add_linear_gradients(weight, bias, logits, rows[part])
    return math.fsum(losses), grad_rows


def squared_loss(rows, weight: Parameter, bias: Parameter | None, targets, factor: float):
    """The summed squares of rows W^T + b - targets, W of one row, with their gradient times factor.

    The parameters' gradients at once. -> (loss, gradient of rows).
    """
    errors = multiplied(rows, packed(weight, bias)) - targets[:, None]
    loss = math.fsum(np.square(errors[:, 0], dtype=np.float64))
    errors *= np.float32(2 * factor)
    add_linear_gradients(weight, bias, errors, rows)
    return loss, multiplied(errors, transposed(weight))
