"""Functions on arrays. Each checks its arguments, allocates its result and calls one kernel.

Inputs are anything that np.asarray understands as real numbers; they are converted once to
C-contiguous float32 if they are not that already, and never written to. Results are new float32
arrays. "..." in a shape stands for any leading axes, none included; any axis may have size 0.
A wrong kind of argument raises TypeError, a wrong shape or range ValueError; the message names
the function, the argument, what came and what was expected.

Size letters: B batch, T target length, S source length, H heads, Hkv key/value heads, K key width
of a head, Kv value width of a head, V vocabulary, D width of an embedding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer._checks import as_rows as _rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float32]

__all__ = [
    "embedding",
    "gelu",
    "gelu_tanh",
    "layer_norm",
    "linear",
    "log_softmax",
    "quick_gelu",
    "relu",
    "rms_norm",
    "scaled_dot_product_attention",
    "silu",
    "softmax",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: str | None = None,
) -> NDArray[np.float32]:
    """activation(x W^T + b).

    x (..., in_features), weight (out_features, in_features), bias (out_features,) or None
    -> (..., out_features).

    activation: None, "relu", "gelu", "gelu_tanh", "quick_gelu" or "silu": the function of that
    name in this module. A row of the result is the same to the bit whatever rows are beside it.
    The weight is rearranged on every call; `Linear` does so once. Raises TypeError or ValueError,
    naming the argument.
    """
    x = _checks.as_float32("linear", "x", x, (..., "in_features"))
    expected = ("out_features", x.shape[-1])
    weight = _checks.as_float32("linear", "weight", weight, expected, ("x", x.shape))
    if bias is not None:
        because = ("weight", weight.shape)
        bias = _checks.as_float32("linear", "bias", bias, weight.shape[:1], because)
    kernels = _runtime.kernels
    _checks.as_choice("linear", "activation", activation, kernels.ACTIVATIONS)

    out = _empty("linear", (*x.shape[:-1], len(weight)))
    kernels.linear(
        _rows(out),
        _rows(x),
        kernels.PackedLinear(weight, bias, False, _runtime.get_num_threads()),
        None,
        None,
        kernels.ACTIVATIONS[activation],
        _runtime.get_num_threads(),
    )
    return out


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
) -> NDArray[np.float32]:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axis.

    x (..., features), weight (features,) or None, bias (features,) or None -> (..., features).
    The variance divides by the number of features. eps is at least 0; with 0, a row of equal
    numbers gives NaN. Raises TypeError or ValueError, naming the argument. Ba, Kiros and Hinton,
    2016.
    """
    x = _checks.as_float32("layer_norm", "x", x, (..., "features"))
    weight = _per_feature("layer_norm", "weight", weight, x)
    bias = _per_feature("layer_norm", "bias", bias, x)
    eps = _checks.as_number("layer_norm", "eps", eps, minimum=0)

    out = _empty("layer_norm", x.shape)
    threads = _runtime.get_num_threads()
    _runtime.kernels.layer_norm(_rows(out), _rows(x), weight, bias, eps, threads)
    return out


def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, eps: float = 1e-6
) -> NDArray[np.float32]:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis.

    x (..., features), weight (features,) or None -> (..., features). eps is at least 0; with 0, a
    row of zeros gives NaN. Raises TypeError or ValueError, naming the argument. Zhang and Sennrich,
    2019.
    """
    x = _checks.as_float32("rms_norm", "x", x, (..., "features"))
    weight = _per_feature("rms_norm", "weight", weight, x)
    eps = _checks.as_number("rms_norm", "eps", eps, minimum=0)

    out = _empty("rms_norm", x.shape)
    _runtime.kernels.rms_norm(_rows(out), _rows(x), weight, eps, _runtime.get_num_threads())
    return out


def softmax(x: ArrayLike) -> NDArray[np.float32]:
    """exp(x_j) / sum_j exp(x_j), over the last axis: (..., features) -> (..., features).

    A row of nothing but -infinity gives NaN: only attention has the rule that gives zeros. Raises
    TypeError or ValueError, naming the argument. Bridle, 1990.
    """
    x = _checks.as_float32("softmax", "x", x, (..., "features"))
    out = _empty("softmax", x.shape)
    _runtime.kernels.softmax(_rows(out), _rows(x), _runtime.get_num_threads())
    return out


def log_softmax(x: ArrayLike) -> NDArray[np.float32]:
    """x_j - log(sum_j exp(x_j)), over the last axis: (..., features) -> (..., features).

    A number where `softmax` underflows to 0, too. Raises TypeError or ValueError, naming the
    argument.
    """
    x = _checks.as_float32("log_softmax", "x", x, (..., "features"))
    out = _empty("log_softmax", x.shape)
    _runtime.kernels.log_softmax(_rows(out), _rows(x), _runtime.get_num_threads())
    return out


def relu(x: ArrayLike) -> NDArray[np.float32]:
    """max(x, 0), elementwise on any shape: (...) -> (...).

    Raises TypeError or ValueError, naming the argument. Nair and Hinton, 2010.
    """
    return _activate("relu", x)


def gelu(x: ArrayLike) -> NDArray[np.float32]:
    """x Phi(x) with the normal distribution function Phi, the exact GELU: (...) -> (...).

    NaN for -infinity, as -infinity times 0 is. Raises TypeError or ValueError, naming the argument.
    Hendrycks and Gimpel, 2016.
    """
    return _activate("gelu", x)


def gelu_tanh(x: ArrayLike) -> NDArray[np.float32]:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), elementwise: (...) -> (...).

    NaN for -infinity. Raises TypeError or ValueError, naming the argument. Hendrycks and Gimpel,
    2016; `gelu_new` in GPT-2.
    """
    return _activate("gelu_tanh", x)


def quick_gelu(x: ArrayLike) -> NDArray[np.float32]:
    """x sigmoid(1.702 x), elementwise on any shape: (...) -> (...).

    NaN for -infinity. Raises TypeError or ValueError, naming the argument. Hendrycks and Gimpel,
    2016; used by CLIP.
    """
    return _activate("quick_gelu", x)


def silu(x: ArrayLike) -> NDArray[np.float32]:
    """x sigmoid(x), also called swish, elementwise on any shape: (...) -> (...).

    NaN for -infinity. Raises TypeError or ValueError, naming the argument. Hendrycks and Gimpel,
    2016.
    """
    return _activate("silu", x)


def embedding(
    ids: ArrayLike, table: ArrayLike, *, scale: float = 1.0, positions: ArrayLike | None = None
) -> NDArray[np.float32]:
    """table[ids] * scale + positions (Vaswani et al., 2017, sections 3.4 and 3.5).

    ids (..., T) integers from 0 to V - 1, table (V, D) -> (..., T, D). positions (T, D), or more
    generally (..., D) whose leading axes broadcast to the shape of ids. Raises TypeError or
    ValueError, naming the argument.
    """
    table = _checks.as_float32("embedding", "table", table, ("V", "D"))
    ids = _checks.as_token_ids("embedding", "ids", ids, table.shape)
    scale = _checks.as_number("embedding", "scale", scale)
    position_ids = None
    if positions is not None:
        expected = (..., table.shape[1])
        because = ("table", table.shape)
        positions = _checks.as_float32("embedding", "positions", positions, expected, because)
        leading = positions.shape[:-1]
        _checks.check_broadcast(
            "embedding", "positions", positions.shape, (*ids.shape, table.shape[1]), "(..., T, D)"
        )
        positions = _rows(positions)
        numbers = np.arange(len(positions)).reshape(leading)
        position_ids = np.broadcast_to(numbers, ids.shape).ravel()

    out = _empty("embedding", (*ids.shape, table.shape[1]))
    threads = _runtime.get_num_threads()
    _runtime.kernels.embedding(
        _rows(out), ids.reshape(-1), table, scale, positions, position_ids, threads
    )
    return out


@overload
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
    return_weights: Literal[False] = False,
) -> Floats: ...
@overload
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
    return_weights: Literal[True],
) -> tuple[Floats, Floats]: ...
@overload
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
    return_weights: bool,
) -> Floats | tuple[Floats, Floats]: ...
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
    return_weights: bool = False,
) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
    """softmax(cap(scale Q K^T) + mask) V, over the keys that each query may attend to.

    query (B, H, T, K), key (B, Hkv, S, K), value (B, Hkv, S, Kv), H a multiple of Hkv: query head
    h reads key/value head h // (H / Hkv) -> (B, H, T, Kv), and with return_weights the pair of it
    and the weights (B, H, T, S).

    Query i stands at position p = i + query_offset among the keys, query_offset being one integer
    or one per sequence (B,). It may attend to key j if all of these allow it:
        mask           bool or float, broadcasting to (B, H, T, S): True, or not -infinity; its last
                       axis may also end early, with 2 to S - 1 keys: none behind that end
        lengths        (B,) integers from 0 to S: j < lengths[b]
        is_causal      j <= p
        window         (left, right), None for an open side: p - left <= j <= p + right
    A query that may attend to nothing gives zeros. What a key or value holds that a query may not
    attend to, NaN and infinity included, does not reach its result.

    scale is 1 / sqrt(K) unless given. With softcap, cap(s) = softcap tanh(s / softcap). A float
    mask is added after it.

    Vaswani et al., 2017, section 3.2.1. Masks, softcap and groups of heads are those of the
    Attention operator of ONNX, opset 24; its nonpad_kv_seqlen with is_causal is lengths with
    query_offset=lengths - T. The window is an addition to it, which opset 25 has too. Raises
    TypeError or ValueError, naming the argument, and MemoryError where there is no room for the
    result.
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
    return_weights = _checks.as_flag(this, "return_weights", return_weights)

    queries = inputs.query.shape[:3]
    out = _empty(this, (*queries, inputs.value.shape[3]))
    weights = _empty(this, (*queries, inputs.key.shape[2])) if return_weights else None
    if math.prod(queries):  # without a query, no width needs room to work in
        _runtime.kernels.attention(out, weights, (*inputs, None), _runtime.get_num_threads())
    return out if weights is None else (out, weights)


def _activate(name: str, x: ArrayLike) -> NDArray[np.float32]:
    x = _checks.as_float32(name, "x", x)
    out = _empty(name, x.shape)
    kernels = _runtime.kernels
    kernels.activate(
        out.reshape(-1), x.reshape(-1), kernels.ACTIVATIONS[name], _runtime.get_num_threads()
    )
    return out


def _per_feature(
    function: str, name: str, value: ArrayLike | None, x: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    if value is None:
        return None
    return _checks.as_float32(function, name, value, x.shape[-1:], ("x", x.shape))


def _empty(function: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        return np.empty(shape, np.float32)
    except (MemoryError, ValueError) as error:
        raise MemoryError(f"{function}: no memory for a result of shape {shape}") from error
