"""Rows of whole sub-layers, self-attention and feed-forward, plain and gated, on (B, T, D).

Every contestant allocates its result.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from cases import normal

import pyx_transformer as pt
from bench.rows import Row
from bench.timing import Contestant
from pyx_transformer import _runtime

SIZES = ((1, 1), (1, 16), (1, 128), (8, 128))  # (B, T)
D_MODEL, NUM_HEADS, D_FF = 512, 8, 2048
QUICK = {(1, 16)}


def rows():
    for B, T in SIZES:
        projections = 8 * B * T * D_MODEL**2
        yield Row(
            "attention block",
            {"B": B, "T": T, "D": D_MODEL, "H": NUM_HEADS},
            partial(attention_contestants, (B, T, D_MODEL)),
            flop=projections + 4 * B * T * T * D_MODEL,
            quick=(B, T) in QUICK,
        )
    for B, T in SIZES:
        yield Row(
            "feed-forward block",
            {"B": B, "T": T, "D": D_MODEL, "F": D_FF},
            partial(feed_forward_contestants, (B, T, D_MODEL)),
            flop=4 * B * T * D_MODEL * D_FF,
            quick=(B, T) in QUICK,
        )
    for B, T in SIZES:
        yield Row(
            "gated feed-forward",
            {"B": B, "T": T, "D": D_MODEL, "F": D_FF},
            partial(gated_contestants, (B, T, D_MODEL)),
            flop=6 * B * T * D_MODEL * D_FF,
            quick=(B, T) in QUICK,
        )


def attention_contestants(shape, peers):
    x = normal(np.random.default_rng(0), *shape)
    attention = pt.MultiheadAttention(D_MODEL, NUM_HEADS, rng=0)
    yield Contestant("ours", partial(attention, x))
    if peers.torch:
        torch = peers.torch
        theirs = torch.nn.MultiheadAttention(D_MODEL, NUM_HEADS, batch_first=True).eval()
        load(theirs, attention, torch)
        tensor = torch.from_numpy(x)
        attend = partial(theirs, tensor, tensor, tensor, need_weights=False)
        yield Contestant("torch", lambda: attend()[0])


def feed_forward_contestants(shape, peers):
    x = normal(np.random.default_rng(0), *shape)
    feed_forward = pt.FeedForward(D_MODEL, D_FF, rng=0)
    yield Contestant("ours", partial(feed_forward, x))
    if peers.torch:
        torch = peers.torch
        theirs = torch.nn.Sequential()
        theirs.add_module("linear1", torch.nn.Linear(D_MODEL, D_FF))
        theirs.add_module("relu", torch.nn.ReLU())
        theirs.add_module("linear2", torch.nn.Linear(D_FF, D_MODEL))
        load(theirs, feed_forward, torch)
        yield Contestant("torch", partial(theirs.eval(), torch.from_numpy(x)))


def gated_contestants(shape, peers):
    """(silu(x G^T) x V^T) W^T, all contestants without biases."""
    rng = np.random.default_rng(0)
    x = normal(rng, *shape)
    rows = x.reshape(-1, D_MODEL)
    gate, value = normal(rng, 2, D_FF, D_MODEL) / np.float32(D_MODEL**0.5)
    weight = normal(rng, D_MODEL, D_FF) / np.float32(D_FF**0.5)
    kernels, threads = _runtime.kernels, peers.threads
    packed_gate, packed_value, packed = map(kernels.PackedLinear, (gate, value, weight))
    silu, identity = kernels.ACTIVATIONS["silu"], kernels.ACTIVATIONS[None]

    def ours():
        values = np.empty((len(rows), D_FF), np.float32)
        hidden, out = np.empty_like(values), np.empty_like(rows)
        kernels.linear(values, rows, packed_value, None, None, identity, threads)
        kernels.linear(hidden, rows, packed_gate, values, None, silu, threads)
        kernels.linear(out, hidden, packed, None, None, identity, threads)
        return out.reshape(shape)

    yield Contestant("ours", ours)
    yield Contestant("numpy", partial(numpy_gated, x, gate, value, weight))
    if peers.torch:
        tensors = map(peers.torch.from_numpy, (x, gate, value, weight))
        yield Contestant("torch", partial(torch_gated, peers.torch.nn.functional, *tensors))


def torch_gated(functional, x, gate, value, weight):
    hidden = functional.silu(functional.linear(x, gate)) * functional.linear(x, value)
    return functional.linear(hidden, weight)


def numpy_gated(x, gate, value, weight):
    before = x @ gate.T
    return (before / (1 + np.exp(-before)) * (x @ value.T)) @ weight.T


def load(theirs, ours, torch):
    """Give torch's module the weights of our layer."""
    state = ours.state_dict()
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
