"""Losses with an output projection, a part of the logits at a time."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _runtime
from pyx_transformer.layers import add_linear_gradients, multiplied, packed, transposed
from pyx_transformer.training.tree import folded, nodes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.parameters import Floats, Parameter

# Logits that exist at a time: 16 MB, which the last-level cache holds.
LOGITS = 1 << 22


def projected_loss(
    rows,
    weight: Parameter,
    bias: Parameter | None,
    softcap: float | None,
    targets,
    smoothing: float,
    factor: float,
) -> tuple[NDArray[np.float64], Floats]:
    """The summed cross-entropy of softmax(rows W^T + b) of each shard, with its gradient times
    factor; with softcap of the capped logits.

    As `functions.cross_entropy`, some rows at a time, and the parameters' gradients at once: of
    the logits only those of these rows exist. -> (losses, gradient of rows).
    """
    kernels, threads = _runtime.kernels, _runtime.get_num_threads()
    forth, back = packed(weight, bias, softcap), transposed(weight)
    bounds, own = weight.bounds, (weight, bias)
    grad_rows = np.empty_like(rows)
    losses = np.zeros(len(rows))
    # As many rows as a row of weights has numbers cost no more room than another sum of weights.
    most = max(LOGITS // len(weight.value), weight.value.shape[1])

    def add_run(begin, end, own_bounds, weight, bias):
        part = slice(begin, end)
        logits = multiplied(rows[part], forth)
        slope = None if softcap is None else 1 - np.square(logits / np.float32(softcap))
        kernels.cross_entropy(losses[part], logits, targets[part], smoothing, factor, threads)
        if slope is not None:
            logits *= slope
        kernels.linear(grad_rows[part], logits, back, None, None, 0, threads)
        add_linear_gradients(weight._replace(bounds=own_bounds), bias, logits, rows[part])

    def put(i, left):
        begin, end = nodes[i]
        sums = new_sums() if left is None else left
        first, last, runs = bounds[begin], bounds[end], count_of(i)
        if runs == 1:
            add_run(first, last, bounds[begin : end + 1] - first, *sums)
        else:  # a shard
            ends = first + np.arange(runs + 1) * (last - first) // runs
            for low, high in pairwise(ends):
                add_run(low, high, np.array([0, high - low]), *sums)
        return sums

    def new_sums():
        """The gradients themselves, as long as they are 0, and then others."""
        if free:
            return free.pop()
        return tuple(
            None if one is None else one._replace(gradient=np.zeros_like(one.gradient))
            for one in own
        )

    def count_of(i):
        """In how many runs a node is taken."""
        begin, end = nodes[i]
        return -(-int(bounds[end] - bounds[begin]) // most)

    shards = len(bounds) - 1
    nodes = nodes_of(0, shards, shards, lambda begin, end: bounds[end] - bounds[begin] <= most)
    nodes = [(begin, end) for begin, end in nodes if bounds[begin] < bounds[end]]
    free = [own] if all(one is None or is_zero(one.gradient) for one in own) else []
    if nodes:
        sums = folded([begin for begin, _ in nodes], put, join, lambda i: count_of(i) == 1)
        if sums is not own:
            join(own, sums)
    return shard_losses(losses, bounds), grad_rows


def join(left, right) -> None:
    """Add the gradients of parameters, None where there is none, to those of others."""
    for one, other in zip(left, right, strict=True):
        if one is not None:
            np.add(one.gradient, other.gradient, out=one.gradient)


def is_zero(gradient: Floats) -> bool:
    """Whether nothing has been added yet."""
    flat = gradient.reshape(-1)
    return not _runtime.kernels.sums_of_squares(flat, _runtime.get_num_threads()).any()


def squared_loss(
    rows, weight: Parameter, bias: Parameter | None, targets, factor: float
) -> tuple[NDArray[np.float64], Floats]:
    """The summed squares of rows W^T + b - targets of each shard, W of one row, with their gradient
    times factor.

    The parameters' gradients at once. -> (losses, gradient of rows).
    """
    errors = multiplied(rows, packed(weight, bias)) - targets[:, None]
    losses = shard_losses(np.square(errors[:, 0], dtype=np.float64), weight.bounds)
    errors *= np.float32(2 * factor)
    add_linear_gradients(weight, bias, errors, rows)
    return losses, multiplied(errors, transposed(weight))


def shard_losses(losses, bounds) -> NDArray[np.float64]:
    """The sum of the losses of each shard's rows."""
    return np.array([math.fsum(own) for own in np.split(losses, bounds[1:-1])])
