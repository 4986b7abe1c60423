"""Rows of scaled dot-product attention, 64 features a head, full and causal.

Every contestant allocates its result, except ONNX Runtime, which gets memory for it.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from cases import AttentionCase, arrays

import pyx_transformer as pt
from bench.rows import Row
from bench.timing import Contestant

FULL, CAUSAL = "attention", "attention, causal"
SHORT = ((1, 8, 128), (8, 12, 128), (32, 8, 32))  # (B, H, T)
LONG = ((1, 12, 512), (1, 8, 2048), (1, 8, 4096))
HEAD_SIZE = 64
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
