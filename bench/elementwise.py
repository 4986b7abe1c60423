"""Rows of what is done to each row or value alone: norms, softmax, activations, embedding, rotary
positions.

Their limit is to read the inputs and to write the result once. Most of these arrays stay in the
caches, where that is faster than main memory: a share over 100 % is no mistake. Every contestant
allocates its result, except ONNX Runtime, which gets memory for it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from cases import ActivationCase, NormCase, SoftmaxCase, arrays, normal, without_bias

import pyx_transformer as pt
from bench.rows import Row
from bench.timing import Contestant
from pyx_transformer import _runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

NORM_SIZES = ((1, 768), (1024, 768), (65536, 768))  # the last is 200 MB, more than caches hold
SOFTMAX_SIZES = ((1024, 512), (64, 32000))
ACTIVATION_SIZES = (2048, 1024 * 3072)
EMBEDDING_SIZES = {"V": 32000, "D": 512, "B": 8, "T": 128}
ROTARY_SIZES = ({"rows": 128, "H": 8, "K": 64}, {"rows": 4096, "H": 8, "K": 64})
QUICK = {("layer_norm", 1024), ("softmax", 1024), ("gelu", 1024 * 3072)}

ONNX_OPERATORS: Mapping[str, tuple[str, dict[str, object]]] = {
    "layer_norm": ("LayerNormalization", {"epsilon": 1e-5}),
    "rms_norm": ("RMSNormalization", {"epsilon": 1e-6}),
    "softmax": ("Softmax", {}),
    "log_softmax": ("LogSoftmax", {}),
    "relu": ("Relu", {}),
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
}


def rows():
    for name in ("layer_norm", "rms_norm"):
        for size in NORM_SIZES:
            sizes = {"rows": size[0], "features": size[1]}
            yield row(name, sizes, partial(norm_inputs, name, NormCase(*size)))
    for name in ("softmax", "log_softmax"):
        for size in SOFTMAX_SIZES:
            sizes = {"rows": size[0], "features": size[1]}
            yield row(name, sizes, partial(arrays, SoftmaxCase(*size)))
    for name in ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu"):
        for size in ACTIVATION_SIZES:
            yield row(name, {"size": size}, partial(arrays, ActivationCase(size)))
    sizes = EMBEDDING_SIZES
    yield Row(
        "embedding",
        sizes,
        embedding_contestants,
        bytes=4 * sizes["D"] * (2 * sizes["B"] * sizes["T"] + sizes["T"]),
    )
    for name in ("rotary, interleaved", "rotary, halves"):
        for sizes in ROTARY_SIZES:
            yield Row(
                name,
                sizes,
                partial(rotary_contestants, name == "rotary, interleaved", sizes),
                bytes=4 * 2 * math.prod(sizes.values()),
            )


def row(name: str, sizes: dict[str, int], inputs: Callable[[], dict[str, np.ndarray]]) -> Row:
    """The row of an operation on an array of these sizes."""
    first = next(iter(sizes.values()))
    return Row(
        name,
        sizes,
        partial(contestants, name, inputs),
        bytes=4 * 2 * math.prod(sizes.values()),
        quick=(name, first) in QUICK,
    )


def norm_inputs(name, case):
    inputs = arrays(case)
    return without_bias(inputs) if name == "rms_norm" else inputs


def contestants(
    name: str, make_inputs: Callable[[], dict[str, np.ndarray]], peers
) -> Iterable[Contestant]:
    inputs = make_inputs()
    yield Contestant("ours", partial(getattr(pt.ops, name), *inputs.values()))
    if name in NUMPY:
        yield Contestant("numpy", partial(NUMPY[name], *inputs.values()))
    if peers.torch:
        tensors = [peers.torch.from_numpy(array) for array in inputs.values()]
        yield Contestant("torch", partial(torch_functions(peers.torch)[name], *tensors))
    if peers.onnxruntime and name in ONNX_OPERATORS:
        from bench import graphs

        operator, attributes = ONNX_OPERATORS[name]
        x = {"x": inputs["x"]}
        parameters = {key: array for key, array in inputs.items() if key != "x"}
        model = graphs.one_node(operator, x, inputs["x"].shape, parameters, **attributes)
        yield Contestant("onnxruntime", peers.onnx_call(model, x, inputs["x"].shape))


def embedding_contestants(peers):
    V, D, B, T = EMBEDDING_SIZES.values()
    rng = np.random.default_rng(0)
    ids, table, positions = rng.integers(0, V, (B, T)), normal(rng, V, D), normal(rng, T, D)
    scale = np.float32(D**0.5)
    yield Contestant("ours", lambda: pt.ops.embedding(ids, table, scale=scale, positions=positions))
    yield Contestant("numpy", lambda: table[ids] * scale + positions)
    if peers.torch:
        torch = peers.torch
        look_up = torch.nn.functional.embedding
        tensors = [torch.from_numpy(array) for array in (ids, table, positions)]
        yield Contestant(
            "torch", lambda: look_up(tensors[0], tensors[1]) * float(scale) + tensors[2]
        )


def rotary_contestants(is_interleaved, sizes, peers):
    """Every contestant leaves its input as it is."""
    m, H, K = sizes.values()
    x = normal(np.random.default_rng(0), m, H, K)
    positions = np.arange(m)
    angles = np.outer(positions, 10_000.0 ** (-2 * np.arange(K // 2) / K))
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    kernels = _runtime.kernels

    def ours():
        out = x.copy()
        rows = out.reshape(m, H * K)
        kernels.rotate(rows, H, K, cosines, sines, is_interleaved, positions, False, peers.threads)
        return out

    yield Contestant("ours", ours)
    pairs = (slice(0, None, 2), slice(1, None, 2))
    if not is_interleaved:
        pairs = (slice(0, K // 2), slice(K // 2, None))
    tables = cosines[:, None], sines[:, None]
    yield Contestant("numpy", partial(rotated, np.empty_like, x, *tables, *pairs))
    if peers.torch:
        tensors = [peers.torch.from_numpy(array) for array in (x, *tables)]
        yield Contestant("torch", partial(rotated, peers.torch.empty_like, *tensors, *pairs))


def rotated(empty_like, x, cosines, sines, first, second):
    """Rotary positions as NumPy and PyTorch write them."""
    out = empty_like(x)
    out[..., first] = x[..., first] * cosines - x[..., second] * sines
    out[..., second] = x[..., second] * cosines + x[..., first] * sines
    return out


def numpy_layer_norm(x, weight, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(1e-5)) * weight + bias


def numpy_rms_norm(x, weight):
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(1e-6)) * weight


def numpy_softmax(x):
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def numpy_log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return x


def numpy_gelu_tanh(x):
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    return x * (1 + np.tanh(inner)) / 2


# The exact GELU needs an error function, which NumPy has not.
NUMPY: dict[str, Callable] = {
    "layer_norm": numpy_layer_norm,
    "rms_norm": numpy_rms_norm,
    "softmax": numpy_softmax,
    "log_softmax": numpy_log_softmax,
    "relu": lambda x: np.maximum(x, 0),
    "gelu_tanh": numpy_gelu_tanh,
    "quick_gelu": lambda x: x / (1 + np.exp(np.float32(-1.702) * x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def torch_functions(torch) -> dict[str, Callable]:
    """Torch's functions of the names of ours, taking the arrays in the same order."""
    functional = torch.nn.functional
    return {
        "layer_norm": lambda x, w, b: functional.layer_norm(x, w.shape, w, b),
        "rms_norm": lambda x, w: functional.rms_norm(x, w.shape, w, 1e-6),
        "softmax": lambda x: functional.softmax(x, -1),
        "log_softmax": lambda x: functional.log_softmax(x, -1),
        "relu": functional.relu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "silu": functional.silu,
    }
