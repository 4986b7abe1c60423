"""Rows of scaled dot-product attention, 64 features a head: full, causal, with biases by distance.

Every contestant allocates its result, except ONNX Runtime, which gets memory for it. The peers read
biases as a float mask, the only way that they have.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from cases import AttentionCase, arrays, normal

import pyx_transformer as pt
from bench.rows import Row
from bench.timing import Contestant
from pyx_transformer import _runtime

FULL, CAUSAL, BIASED = "attention", "attention, causal", "attention, biases by distance"
SHORT = ((1, 8, 128), (8, 12, 128), (32, 8, 32))  # (B, H, T)
LONG = ((1, 12, 512), (1, 8, 2048), (1, 8, 4096))
HEAD_SIZE = 64
BIASED_SIZES = ((1, 8, 128), (1, 8, 512))
REACH = 128  # distances beyond it have one bias
QUICK = {(1, 8, 128), (1, 12, 512)}
MOST_NUMPY_SCORES = 1 << 22  # 16 MB: NumPy stores them all, several times


def rows():
    for group in (FULL, CAUSAL):
        for B, H, T in SHORT + LONG:
            pairs = T * T if group == FULL else T * (T + 1) // 2
            yield Row(
                group,
                {"B": B, "H": H, "T": T, "K": HEAD_SIZE},
                partial(contestants, case(B, H, T, group == CAUSAL)),
                flop=4 * B * H * pairs * HEAD_SIZE,
                quick=(B, H, T) in QUICK,
            )
    for B, H, T in BIASED_SIZES:
        yield Row(
            BIASED,
            {"B": B, "H": H, "T": T, "K": HEAD_SIZE},
            partial(biased_contestants, case(B, H, T, False)),
            flop=4 * B * H * T * T * HEAD_SIZE,
            quick=(B, H, T) in QUICK,
        )


def case(B, H, T, is_causal):
    return AttentionCase(B=B, H=H, T=T, S=T, K=HEAD_SIZE, is_causal=is_causal)


def contestants(case, peers):
    inputs = arrays(case)
    query, key, value = inputs["query"], inputs["key"], inputs["value"]
    is_causal = case.is_causal
    attend = partial(pt.ops.scaled_dot_product_attention, query, key, value, is_causal=is_causal)
    yield Contestant("ours", attend)
    if case.B * case.H * case.T * case.S <= MOST_NUMPY_SCORES:
        mask = np.triu(np.full((case.T, case.S), -np.inf, np.float32), 1) if is_causal else None
        yield Contestant("numpy", partial(numpy_attention, query, key, value, mask))
    if peers.torch:
        torch = peers.torch
        tensors = [torch.from_numpy(array) for array in (query, key, value)]
        attend = torch.nn.functional.scaled_dot_product_attention
        yield Contestant("torch", partial(attend, *tensors, is_causal=is_causal))
    if peers.onnxruntime:
        from bench import graphs

        model = graphs.one_node("Attention", inputs, query.shape, is_causal=int(is_causal))
        yield Contestant("onnxruntime", peers.onnx_call(model, inputs, query.shape))


def biased_contestants(case, peers):
    query, key, value = arrays(case).values()
    table = normal(np.random.default_rng(1), case.H, 2 * REACH + 1)
    distances = np.arange(case.S) - np.arange(case.T)[:, None]
    mask = np.ascontiguousarray(table[:, np.clip(distances, -REACH, REACH) + REACH])
    kernels = _runtime.kernels
    padded = np.pad(table, ((0, 0), (kernels.BIAS_PAD,) * 2), mode="edge")
    lengths, offsets = np.full(case.B, case.S), np.zeros(case.B, np.int64)
    rules = (None, lengths, offsets, False, -1, -1, 0.0, HEAD_SIZE**-0.5)
    heads = (query, key, value, *rules, None, padded)

    def ours():
        out = np.empty_like(query)
        kernels.attention(out, None, heads, peers.threads)
        return out

    yield Contestant("ours", ours)
    yield Contestant("numpy", partial(numpy_attention, query, key, value, mask))
    if peers.torch:
        tensors = [peers.torch.from_numpy(array) for array in (query, key, value, mask[None])]
        attend = peers.torch.nn.functional.scaled_dot_product_attention
        yield Contestant("torch", partial(attend, *tensors))


def numpy_attention(query, key, value, mask):
    """softmax(Q K^T / sqrt(K) + mask) V as plain NumPy."""
    scores = query @ key.swapaxes(-1, -2)
    scores *= np.float32(query.shape[-1] ** -0.5)
    if mask is not None:
        scores += mask
    scores -= scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores, out=scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights @ value
