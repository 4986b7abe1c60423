"""The layers with their way back, on the rows of a batch (see attention.Sequences).

Each function takes `Parameter`s and rows (N, features), and gives rows and a function `back`, which
takes the rows' gradient, adds to the gradients of the parameters, and gives the gradient of the
rows that came in, plus `residual` where it takes one. Nothing is checked. The sums are those of the
layers themselves, so that without dropout the outputs are the model's own to the bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyx_transformer.attention import Sequences
    from pyx_transformer.training.parameters import Parameter, Parameters

# Logits that exist at a time: 16 MB, which the last-level cache holds.
LOGITS = 1 << 22


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
        _runtime.kernels.dropout(
            out.reshape(-1), rows.reshape(-1), residual, self.rate, seed, _threads()
        )
        return out


def linear(rows, weight: Parameter, bias: Parameter | None, activation: str | None = None):
    """rows W^T + b, and its activation: back then takes the gradient before the activation."""
    out = _multiplied(rows, _packed(weight, bias), activation=activation)

    def back(grad, residual=None):
        _add_gradients(weight, bias, grad, rows)
        return _multiplied(grad, _transposed(weight), residual)

    return out, back


def layer_norm(rows, weight: Parameter, bias: Parameter, eps: float):
    """(x - mean) / sqrt(variance + eps) * weight + bias for each row x."""
    out = np.empty_like(rows)
    _runtime.kernels.layer_norm(out, rows, weight.value, bias.value, eps, _threads())

    def back(grad):
        grad_rows = np.empty_like(rows)
        _runtime.kernels.norm_gradients(
            grad_rows,
            weight.gradient,
            bias.gradient,
            grad,
            rows,
            weight.value,
            eps,
            False,
            _threads(),
        )
        return grad_rows

    return out, back


def embedding(
    ids, position_ids, table: Parameter, scale: float, positions, learned: Parameter | None
):
    """table[ids] scale + positions[position_ids]; positions may be None, and are learned or not."""
    out = np.empty((len(ids), table.value.shape[1]), np.float32)
    _runtime.kernels.embedding(out, ids, table.value, scale, positions, position_ids, _threads())

    def back(grad):
        _runtime.kernels.embedding_gradient(table.gradient, ids, grad, scale, _threads())
        if learned is not None:
            _runtime.kernels.embedding_gradient(
                learned.gradient, position_ids, grad, 1.0, _threads()
            )

    return out, back


def self_attention(
    rows, sequences: Sequences, parameters: Parameters, key: str, heads: int, is_causal: bool
):
    """Attention of each sequence to itself, between its projections."""
    width = rows.shape[1]
    projected, project_back = linear(
        rows, parameters[f"{key}.in_proj_weight"], parameters[f"{key}.in_proj_bias"]
    )
    job = _runtime.kernels.RowsJob(
        *_columns(projected, width),
        heads,
        sequences.starts,
        sequences.counts,
        sequences.starts,
        sequences.counts,
        is_causal,
    )
    job.run(_threads())
    out, out_back = linear(
        job.out, parameters[f"{key}.out_proj.weight"], parameters[f"{key}.out_proj.bias"]
    )

    def back(grad, residual=None):
        grad_projected = np.zeros_like(projected)
        job.gradient(*_columns(grad_projected, width), out_back(grad), _threads())
        return project_back(grad_projected, residual)

    return out, back


class Memory:
    """The encoder's rows as the decoder's layers attend to them, and what they all get back."""

    def __init__(self, rows, sequences: Sequences):
        self.rows = rows
        self.sequences = sequences
        self.gradient = None


def cross_attention(rows, sequences: Sequences, memory: Memory, parameters, key: str, heads: int):
    """Attention of rows to the memory, between its projections."""
    width = rows.shape[1]
    weight, bias = parameters[f"{key}.in_proj_weight"], parameters[f"{key}.in_proj_bias"]
    queries, query_back = linear(rows, weight.part(0, width), bias.part(0, width))
    known, known_back = linear(
        memory.rows, weight.part(width, 3 * width), bias.part(width, 3 * width)
    )
    job = _runtime.kernels.RowsJob(
        queries,
        *_columns(known, width),
        heads,
        sequences.starts,
        sequences.counts,
        memory.sequences.starts,
        memory.sequences.counts,
        False,
    )
    job.run(_threads())
    out, out_back = linear(
        job.out, parameters[f"{key}.out_proj.weight"], parameters[f"{key}.out_proj.bias"]
    )

    def back(grad, residual=None):
        grad_queries, grad_known = np.zeros_like(queries), np.zeros_like(known)
        job.gradient(grad_queries, *_columns(grad_known, width), out_back(grad), _threads())
        memory.gradient = known_back(grad_known, memory.gradient)
        return query_back(grad_queries, residual)

    return out, back


def feed_forward(rows, parameters: Parameters, key: str, activation: str | None):
    """W2 f(W1 x + b1) + b2 for each row x."""
    weight, bias = parameters[f"{key}.linear1.weight"], parameters[f"{key}.linear1.bias"]
    # The derivative of ReLU can be told from its output; other activations keep their input.
    is_relu = activation == "relu"
    before, back1 = linear(rows, weight, bias, "relu" if is_relu else None)
    number = _runtime.kernels.ACTIVATIONS[activation]
    hidden = before
    if not is_relu:
        hidden = np.empty_like(before)
        _runtime.kernels.activate(hidden.reshape(-1), before.reshape(-1), number, _threads())
    out, back2 = linear(
        hidden, parameters[f"{key}.linear2.weight"], parameters[f"{key}.linear2.bias"]
    )

    def back(grad, residual=None):
        grad = back2(grad)
        _runtime.kernels.activation_gradient(
            grad.reshape(-1), grad.reshape(-1), before.reshape(-1), number, _threads()
        )
        return back1(grad, residual)

    return out, back


def projected_loss(
    rows, weight: Parameter, bias: Parameter | None, targets, smoothing: float, factor: float
):
    """The summed cross-entropy of softmax(rows W^T + b), with its gradient times factor.

    As `functions.cross_entropy`, some rows at a time, and the parameters' gradients at once: of
    the logits only those of these rows exist. -> (loss, gradient of rows).
    """
    kernels, threads = _runtime.kernels, _threads()
    packed, transposed = _packed(weight, bias), _transposed(weight)
    grad_rows = np.empty_like(rows)
    losses = np.zeros(len(rows))
    run = max(LOGITS // len(weight.value), 1)
    for begin in range(0, len(rows), run):
        part = slice(begin, begin + run)
        logits = _multiplied(rows[part], packed)
        kernels.cross_entropy(losses[part], logits, targets[part], smoothing, factor, threads)
        kernels.linear(grad_rows[part], logits, transposed, None, 0, threads)
        _add_gradients(weight, bias, logits, rows[part])
    return math.fsum(losses), grad_rows


def _multiplied(rows, packed, residual=None, activation=None):
    out = np.empty((len(rows), packed.out_features), np.float32)
    number = _runtime.kernels.ACTIVATIONS[activation]
    _runtime.kernels.linear(out, rows, packed, residual, number, _threads())
    return out


def _add_gradients(weight: Parameter, bias: Parameter | None, grad, rows):
    bias_gradient = None if bias is None else bias.gradient
    _runtime.kernels.linear_weight_gradient(weight.gradient, bias_gradient, grad, rows, _threads())


def _packed(weight: Parameter, bias: Parameter | None):
    bias_value = None if bias is None else bias.value
    return _runtime.kernels.PackedLinear(weight.value, bias_value, False, _threads())


def _transposed(weight: Parameter):
    return _runtime.kernels.PackedLinear(weight.value, None, True, _threads())


def _columns(rows, width):
    """rows (N, n width) as n views (N, width)."""
    return (rows[:, i : i + width] for i in range(0, rows.shape[1], width))


def _threads():
    return _runtime.get_num_threads()
