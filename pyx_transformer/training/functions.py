"""Operations with their way back.

Each gives its output and a function `back` that takes the output's gradient and gives those of the
inputs, in the order of the arguments: None for an argument that was None. Nothing is recorded
elsewhere: who calls the functions of a layer in turn calls their `back` in the opposite one.

Arrays are as in `ops`: anything that np.asarray understands as real numbers, converted once to
C-contiguous float32. `back` reads the inputs again: they have to stay as they are until then. It
gives new float32 arrays, the same to the bit for any number of threads. What raises, and what "..."
in a shape means, is said in `ops` too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, _runtime, ops
from pyx_transformer._checks import as_rows as _rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float32]
    Gradients = tuple[Floats | None, ...]

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu")


def linear(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None
) -> tuple[Floats, Callable[[ArrayLike], Gradients]]:
    """x W^T + b, as `ops.linear`; back(grad) gives the gradients of x, weight and bias: grad W,
    grad^T x and the sum of grad's rows.

    x (..., in_features), weight (out_features, in_features), bias (out_features,) or None; out and
    grad (..., out_features).
    """
    x = _checks.as_float32("linear", "x", x, (..., "in_features"))
    out = ops.linear(x, weight, bias)
    weight = _checks.as_float32("linear", "weight", weight)

    def back(grad: ArrayLike) -> Gradients:
        return _linear_back(_gradient("linear", grad, out.shape), x, weight, bias)

    return out, back


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
) -> tuple[Floats, Callable[[ArrayLike], Gradients]]:
    """(x - mean) / sqrt(variance + eps) * weight + bias, as `ops.layer_norm`; back(grad) gives the
    gradients of x, weight and bias.

    With y the row before weight and bias, s = 1 / sqrt(variance + eps) and g = grad weight:
    s (g - mean g - y mean(g y)), the sum of grad y and that of grad. x, out and grad (...,
    features), weight and bias (features,) or None. Ba, Kiros and Hinton, 2016.
    """
    out = ops.layer_norm(x, weight, bias, eps=eps)
    return out, _norm_back("layer_norm", x, weight, bias, eps, rms=False)


def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, eps: float = 1e-6
) -> tuple[Floats, Callable[[ArrayLike], Gradients]]:
    """x / sqrt(mean(x^2) + eps) * weight, as `ops.rms_norm`; back(grad) gives the gradients of x
    and weight: those of `layer_norm` without mean g.

    x, out and grad (..., features), weight (features,) or None. Zhang and Sennrich, 2019.
    """
    out = ops.rms_norm(x, weight, eps=eps)
    back = _norm_back("rms_norm", x, weight, None, eps, rms=True)
    return out, lambda grad: back(grad)[:2]


def activation(name: str, x: ArrayLike) -> tuple[Floats, Callable[[ArrayLike], Gradients]]:
    """The activation of that name, "relu", "gelu", "gelu_tanh", "quick_gelu" or "silu", of x (...);
    back(grad) gives the gradient of x: grad times the derivative, which is 0 at 0 for ReLU."""
    _checks.as_choice("activation", "name", name, ACTIVATIONS)
    x = _checks.as_float32("activation", "x", x)
    out = getattr(ops, name)(x)

    def back(grad: ArrayLike) -> Gradients:
        grad = _gradient("activation", grad, out.shape)
        grad_x = np.empty(x.shape, np.float32)
        if x.size:
            kernels = _runtime.kernels
            kernels.activation_gradient(
                grad_x.reshape(-1),
                grad.reshape(-1),
                x.reshape(-1),
                kernels.ACTIVATIONS[name],
                _runtime.get_num_threads(),
            )
        return (grad_x,)

    return out, back


def embedding(
    ids: ArrayLike, table: ArrayLike, *, scale: float = 1.0
) -> tuple[Floats, Callable[[ArrayLike], Gradients]]:
    """table[ids] scale: ids (...) whole numbers from 0 to V - 1, table (V, D) -> (..., D).

    back(grad) gives the gradient of the table, in which a token's gradients are added up in the
    order of ids.
    """
    table = _checks.as_float32("embedding", "table", table, ("V", "D"))
    # A copy: what was checked must still hold when the gradient comes back.
    ids = _checks.as_token_ids("embedding", "ids", ids, table.shape).copy()
    scale = _checks.as_number("embedding", "scale", scale)
    out = ops.embedding(ids, table, scale=scale)

    def back(grad: ArrayLike) -> Gradients:
        grad = _gradient("embedding", grad, out.shape)
        grad_table = np.zeros(table.shape, np.float32)
        if out.size:
            threads = _runtime.get_num_threads()
            _runtime.kernels.embedding_gradient(
                grad_table, ids.reshape(-1), _rows(grad), scale, _one_shard(ids.size), threads
            )
        return (grad_table,)

    return out, back


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    is_causal: bool = False,
    query_offset: ArrayLike = 0,
    window: Sequence[int | None] | None = None,
    softcap: float | None = None,
    scale: float | None = None,
) -> tuple[Floats, Callable[[ArrayLike], Gradients]]:
    """Attention, as `ops.scaled_dot_product_attention`; back(grad) gives the gradients of query,
    key and value.

    The scores are computed again from what two numbers per query say of them: no array of T x S
    values exists (Dao et al., 2022). A query that may attend to nothing gives and gets zeros.
    """
    this = "scaled_dot_product_attention"
    inputs = _checks.as_attention_inputs(
        this,
        query,
        key,
        value,
        mask=mask,
        lengths=lengths,
        is_causal=is_causal,
        query_offset=query_offset,
        window=window,
        softcap=softcap,
        scale=scale,
    )
    queries, widths = inputs.query.shape[:3], (inputs.query.shape[3], inputs.value.shape[3])
    widest = _runtime.kernels.WIDEST_HEAD
    if max(widths) > widest:
        raise ValueError(
            f"{this}: heads are {widths[0]} and {widths[1]} wide, expected at most {widest} to "
            "train"
        )
    out = np.empty((*queries, widths[1]), np.float32)
    arguments = (*inputs, np.empty((*queries, 2), np.float32))
    _runtime.kernels.attention(out, None, arguments, _runtime.get_num_threads())

    def back(grad: ArrayLike) -> Gradients:
        grad = _gradient(this, grad, out.shape)
        grad_query, grad_key, grad_value = (np.zeros(a.shape, np.float32) for a in inputs[:3])
        if grad.size and inputs.value.size:
            threads = _runtime.get_num_threads()
            _runtime.kernels.attention_gradient(
                grad_query, grad_key, grad_value, None, None, grad, out, arguments, threads
            )
        return grad_query, grad_key, grad_value

    return out, back


def dropout(
    x: ArrayLike, rate: float, *, seed: int
) -> tuple[Floats, Callable[[ArrayLike], Gradients]]:
    """x / (1 - rate), each value independently replaced by 0 with probability rate; x (...).

    rate is at least 0 and below 1. Which values stay depends on seed, from 0 to 2^64 - 1, and on a
    value's place in x counted row by row, and on nothing else. back(grad) gives the gradient of x:
    grad with the same values replaced. Srivastava et al., 2014.
    """
    x = _checks.as_float32("dropout", "x", x)
    rate = _checks.as_number("dropout", "rate", rate, minimum=0, below=1)
    seed = _checks.as_integer("dropout", "seed", seed, minimum=0, maximum=2**64 - 1)

    def dropped(values: Floats) -> Floats:
        out = np.empty(x.shape, np.float32)
        if x.size:
            _runtime.kernels.dropout(
                out.reshape(-1),
                values.reshape(-1),
                None,
                rate,
                _one_shard(x.size),
                np.array([seed], np.uint64),
                _runtime.get_num_threads(),
            )
        return out

    return dropped(x), lambda grad: (dropped(_gradient("dropout", grad, x.shape)),)


def cross_entropy(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    label_smoothing: float = 0.0,
) -> tuple[float, Callable[[], Gradients]]:
    """The mean cross-entropy of softmax(x W^T + b) and the targets: an output projection with its
    loss.

    x (..., D), weight (V, D), bias (V,) or None, targets (...) whole numbers: token ids, or -1
    where the place is padding and counts nothing. The loss of a place is -sum_j q_j log p_j with
    q_j = (1 - label_smoothing) [j = target] + label_smoothing / V (Szegedy et al., 2016), and the
    mean is over the places that count, 0 if there are none. label_smoothing is from 0 to 1.
    back() gives the gradients of x, weight and bias. One array (places, V) exists at a time: the
    logits, which become their own gradient. x has to be finite in places of padding too.
    """
    this = "cross_entropy"
    x = _checks.as_float32(this, "x", x, (..., "D"))
    logits = ops.linear(x, weight, bias)
    weight = _checks.as_float32(this, "weight", weight)
    targets = _checks.as_integers(
        this, "targets", targets, -1, len(weight) - 1, x.shape[:-1], ("x", x.shape)
    )
    label_smoothing = _checks.as_number(
        this, "label_smoothing", label_smoothing, minimum=0, maximum=1
    )

    targets = targets.reshape(-1).copy()
    count = max(int((targets >= 0).sum()), 1)
    losses = np.zeros(len(targets))
    if logits.size:
        threads = _runtime.get_num_threads()
        _runtime.kernels.cross_entropy(
            losses, _rows(logits), targets, label_smoothing, 1 / count, threads
        )
    return math.fsum(losses) / count, lambda: _linear_back(logits, x, weight, bias)


def _linear_back(grad: Floats, x: Floats, weight: Floats, bias: ArrayLike | None) -> Gradients:
    grad_x = np.zeros(x.shape, np.float32)
    grad_weight = np.zeros(weight.shape, np.float32)
    grad_bias = None if bias is None else np.zeros(len(weight), np.float32)
    grad, threads = _rows(grad), _runtime.get_num_threads()
    if grad.size and x.size:
        kernels = _runtime.kernels
        kernels.linear(
            _rows(grad_x),
            grad,
            kernels.PackedLinear(weight, None, True, threads),
            None,
            None,
            kernels.ACTIVATIONS[None],
            threads,
        )
        bounds = _one_shard(len(grad))
        kernels.linear_weight_gradient(grad_weight, grad_bias, grad, _rows(x), bounds, threads)
    elif grad.size and grad_bias is not None:  # no features: only the bias has a part in the output
        grad_bias[:] = grad.sum(axis=0)
    return grad_x, grad_weight, grad_bias


def _norm_back(
    function: str,
    x: ArrayLike,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    eps: float,
    *,
    rms: bool,
) -> Callable[[ArrayLike], Gradients]:
    x = _checks.as_float32(function, "x", x, (..., "features"))
    if weight is not None:
        weight = _checks.as_float32(function, "weight", weight)

    def back(grad: ArrayLike) -> Gradients:
        grad = _gradient(function, grad, x.shape)
        grad_x = np.zeros(x.shape, np.float32)
        grad_weight = None if weight is None else np.zeros(x.shape[-1], np.float32)
        grad_bias = None if bias is None else np.zeros(x.shape[-1], np.float32)
        if x.size:
            _runtime.kernels.norm_gradients(
                _rows(grad_x),
                grad_weight,
                grad_bias,
                _rows(grad),
                _rows(x),
                weight,
                eps,
                rms,
                _one_shard(len(_rows(x))),
                _runtime.get_num_threads(),
            )
        return grad_x, grad_weight, grad_bias

    return back


def _one_shard(rows: int) -> NDArray[np.int64]:
    """The bounds of rows whose sums are taken one after the other."""
    return np.array([0, rows])


def _gradient(function: str, grad: ArrayLike, shape: tuple[int, ...]) -> Floats:
    return _checks.as_float32(function, "grad", grad, shape, ("the output", shape))
