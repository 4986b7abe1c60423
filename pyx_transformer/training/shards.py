"""A step's examples cut into shards, whose gradients come together in one order whoever computes
them.

The cut depends on the examples and on the options, and so does the order: see tree.py. All rows of
a pass, some neighbouring shards, are computed together, and only the sums over rows follow the
tree, inside the kernels. Passes are nodes of it, so that their sums are those of one pass of all.

Several processes with the same weights can share out the shards: each computes `Step.sums` of a
range of its own, and `joined` makes one sum of all that they have found.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.training.batches import Batch
from pyx_transformer.training.gradients import add_gradients, pass_gradients
from pyx_transformer.training.tree import Node, folded, nodes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.parameters import Floats, Parameters
    from pyx_transformer.training.options import TrainingOptions


class Step:
    """The examples of a step, of its `accumulate` batches one after another: those of shard i are
    from ends[i] on, up to ends[i + 1]; shards hold nearly equal numbers of tokens, maybe none.

    batch: all of them. tokens: how many targets there are.
    """

    def __init__(self, batches: list[Batch], options: TrainingOptions, number: int):
        self.batch = Batch.joined(batches)
        self.tokens = len(self.batch.targets)
        self.shards = options.shards
        self.ends = cut(self.batch.sizes, self.shards)
        self._dropout, self._label_smoothing = options.dropout, options.label_smoothing
        # So that a pass takes the memory of a batch: of some shards, or of a part of one.
        self._is_one_pass = options.accumulate == 1
        self._most = max(self.shards // options.accumulate, 1)
        self._chunks = -(-options.accumulate // self.shards)
        drawn = np.random.SeedSequence((options.seed, number))
        seeds = drawn.generate_state(self.shards * self._chunks).astype(np.uint64) << np.uint64(32)
        self._seeds = seeds.reshape(self.shards, self._chunks)

    def add_gradients(self, model: Model, parameters: Parameters) -> float:
        """Add the gradients of all shards to `parameters.gradients`; the loss, summed up."""
        if self._is_one_pass:
            batch, seeds = self.batch.with_shards(self.ends), self._seeds[:, 0]
            return add_gradients(model, parameters, batch, seeds=seeds, **self._settings())
        sums, losses = self.sums(model, parameters, 0, self.shards)
        parameters.add_up(joined(sums))
        return math.fsum(losses)

    def sums(
        self, model: Model, parameters: Parameters, begin: int, end: int
    ) -> tuple[list[tuple[Node, Floats]], NDArray[np.float64]]:
        """What the shards from begin to end - 1 give: the sums of the gradients of the largest
        nodes that they make, and the loss of each shard (end - begin,).

        The sums are float32 (parameters.size_apart,), and go to `parameters.add_up` once they are
        one; nodes without examples have none. `parameters.gradients` stay as they are.
        """
        losses = np.zeros(end - begin)
        found = []
        for node in nodes_of(begin, end, self.shards):
            passes = nodes_of(*node, self.shards, lambda b, e: e - b <= self._most)
            passes = [one for one in passes if self.ends[one[0]] < self.ends[one[1]]]

            def put(i, left, passes=passes):
                one = passes[i]
                sums = np.zeros(parameters.size_apart, np.float32) if left is None else left
                own = losses[one[0] - begin : one[1] - begin]
                for chunk in range(self._chunks):
                    own += self._add_pass(model, parameters, one, chunk, sums)
                return sums

            if passes:
                begins = [first for first, _ in passes]
                found.append((node, folded(begins, put, add, lambda _: self._chunks == 1)))
        return found, losses

    def _add_pass(self, model, parameters, node, chunk, sums):
        """Add what a node gives to sums; the losses of its shards. Of a shard that is taken in
        chunks, one of them."""
        begin, end = node
        first, last = self.ends[begin], self.ends[end]
        shards = self.ends[begin : end + 1] - first
        if self._chunks > 1:
            parts = first + cut(self.batch.sizes[first:last], self._chunks)
            first, last = parts[chunk], parts[chunk + 1]
            shards = np.array([0, last - first])
        if first == last:
            return 0.0
        batch = self.batch.part(first, last).with_shards(shards)
        seeds = self._seeds[begin:end, chunk]
        return pass_gradients(model, parameters.apart(sums), batch, seeds=seeds, **self._settings())

    def _settings(self):
        return {
            "tokens": self.tokens,
            "dropout": self._dropout,
            "label_smoothing": self._label_smoothing,
        }


def joined(sums: list[tuple[Node, Floats]]) -> Floats:
    """The sum of all nodes, which come in their order; the arrays are used up."""

    def put(i, left):
        return sums[i][1] if left is None else add(left, sums[i][1])

    return folded([begin for (begin, _), _ in sums], put, add)


def add(left: Floats, right: Floats) -> Floats:
    """left + right, in the place of left."""
    return np.add(left, right, out=left)


def cut(sizes: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """Where each of so many groups of neighbours begins, and where the last one ends: groups of
    nearly equal sizes, each one being where its middle lies."""
    middles = 2 * np.cumsum(sizes) - sizes
    group = middles * groups // max(2 * int(sizes.sum()), 1)
    return np.searchsorted(group, np.arange(groups + 1))
