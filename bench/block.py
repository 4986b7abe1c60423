"""Rows of whole sub-layers, self-attention and feed-forward with their projections, on (B, T, D).

Every contestant allocates its result.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from cases import normal

import pyx_transformer as pt
from bench.rows import Row
from bench.timing import Contestant

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


def load(theirs, ours, torch):
    """Give torch's module the weights of our layer."""
    state = ours.state_dict()
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
