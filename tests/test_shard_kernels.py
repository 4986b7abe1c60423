"""Sums over rows in the order of a tree: a call for all shards gives, to the bit, what calls for
each of them give, their results added up as the tree says, on every instruction set and number of
threads."""

from itertools import pairwise

import numpy as np
import pytest
from cases import normal

THREADS = (1, 2, 3)
# Rows of each shard: empty ones, more than a block of 1,024, and stretches of several shards.
COUNTS = {
    "one": [5],
    "two": [3, 4],
    "eight": [33, 31, 7, 64, 32, 1, 19, 40],
    "seven": [2, 5, 3, 1, 4, 6, 7],
    "empty ones": [0, 3, 0, 0, 2, 0, 4, 1, 0],
    "long": [1500, 2, 700, 300, 90, 2100],
    "stretches": [400, 300, 200, 500, 100, 90, 80, 70, 600, 10, 20, 30],
    "many": [1 + i % 3 for i in range(101)],
}
each_case = pytest.mark.parametrize("name", COUNTS)


def folded(parts, begin=0, size=1024):
    """The sum of the shards from `begin` on, None standing for an empty one."""
    if begin >= len(parts):
        return None
    if size == 1:
        return parts[begin]
    left = folded(parts, begin, size // 2)
    right = folded(parts, begin + size // 2, size // 2)
    return right if left is None else left if right is None else left + right


def assert_tree(call, counts, *shapes):
    """call(outs, rows, bounds, threads) adds to the outs what rows (a slice) give."""
    ends = np.cumsum([0, *counts])
    parts = []
    for begin, end in pairwise(ends):
        outs = [np.zeros(shape, np.float32) for shape in shapes]
        if begin < end:
            call(outs, slice(begin, end), np.array([0, end - begin]), 1)
        parts.append(outs if begin < end else None)
    start = [np.full(shape, 0.3, np.float32) for shape in shapes]
    expected = [
        start[i] + folded([None if part is None else part[i] for part in parts])
        for i in range(len(shapes))
    ]
    for threads in THREADS:
        outs = [one.copy() for one in start]
        call(outs, slice(None), ends, threads)
        for own, one in zip(outs, expected, strict=True):
            assert own.tobytes() == one.tobytes()


@each_case
@pytest.mark.parametrize("n, k", [(1, 3), (2, 40), (33, 17), (75, 70)])
def test_linear_weight_gradient(name, n, k, kernels, rng):
    counts = COUNTS[name]
    grad, x = normal(rng, sum(counts), n), normal(rng, sum(counts), k)

    def call(outs, rows, bounds, threads):
        kernels.linear_weight_gradient(*outs, grad[rows], x[rows], bounds, threads)

    assert_tree(call, counts, (n, k), (n,))


def test_a_large_linear_weight_gradient(kernels, rng):
    """Shared between threads by rows and by panels, which come in several chunks."""
    counts = [900, 800, 0, 900]
    for n, k in [(200, 600), (40, 1300)]:
        grad, x = normal(rng, sum(counts), n), normal(rng, sum(counts), k)

        def call(outs, rows, bounds, threads, grad=grad, x=x):
            kernels.linear_weight_gradient(*outs, grad[rows], x[rows], bounds, threads)

        assert_tree(call, counts, (n, k), (n,))


@each_case
@pytest.mark.parametrize("rms", [False, True])
def test_norm_gradients(name, rms, kernels, rng):
    counts, d = COUNTS[name], 37
    grad, x, weight = normal(rng, sum(counts), d), normal(rng, sum(counts), d), normal(rng, d)

    def call(outs, rows, bounds, threads):
        grad_x = np.empty_like(x[rows])
        kernels.norm_gradients(
            grad_x, *outs, grad[rows], x[rows], weight, 0.1, rms, bounds, threads
        )

    assert_tree(call, counts, (d,), (d,))


@each_case
def test_embedding_gradient(name, kernels, rng):
    counts, d = COUNTS[name], 37
    grad, ids = normal(rng, sum(counts), d), rng.integers(0, 9, sum(counts)) ** 2 // 8

    def call(outs, rows, bounds, threads):
        kernels.embedding_gradient(outs[0], ids[rows], grad[rows], 0.7, bounds, threads)

    assert_tree(call, counts, (9, d))


@each_case
def test_sum_rows(name, kernels, rng):
    counts, d = COUNTS[name], 37
    x = normal(rng, sum(counts), d)

    def call(outs, rows, bounds, threads):
        kernels.sum_rows(outs[0], x[rows], bounds, threads)

    assert_tree(call, counts, (d,))


@each_case
def test_dropout(name, kernels, rng):
    """Each shard has a stream of its own, whatever is beside it."""
    counts, d = COUNTS[name], 5
    ends = np.cumsum([0, *counts]) * d
    x, seeds = normal(rng, ends[-1]), rng.integers(0, 2**63, len(counts)).astype(np.uint64)
    parts = []
    for i, (begin, end) in enumerate(pairwise(ends)):
        out = np.empty(end - begin, np.float32)
        if begin < end:
            bounds = np.array([0, end - begin])
            kernels.dropout(out, x[begin:end], None, 0.4, bounds, seeds[i : i + 1], 1)
        parts.append(out)
    for threads in THREADS:
        out = np.full_like(x, np.nan)
        kernels.dropout(out, x, None, 0.4, ends, seeds, threads)
        assert out.tobytes() == np.concatenate(parts).tobytes()


def test_biases_of_attention(kernels, rng):
    """Those of each shard are the sums of its sequences."""
    heads, size, reach, counts = 2, 8, 3, np.array([4, 1, 2, 9, 3])
    rows = normal(rng, 4, counts.sum(), heads * size)
    starts = np.cumsum(counts) - counts
    bias = np.pad(normal(rng, heads, 2 * reach + 1), ((0, 0), (kernels.BIAS_PAD,) * 2), mode="edge")

    def biases(which, bounds, threads):
        """Of the sequences of a slice."""
        place = starts[which], counts[which]
        job = kernels.RowsJob(*rows[:3], heads, heads, *place, *place, bias=bias)
        job.run(threads)
        found = np.zeros((len(bounds) - 1, heads, 2 * reach + 1), np.float32)
        job.gradient(*np.zeros_like(rows[:3]), rows[3], found, np.array(bounds), threads)
        return found

    expected = [biases(slice(0, 2), [0, 2], 1), biases(slice(2, 5), [0, 3], 1)]
    for threads in THREADS:
        found = biases(slice(None), [0, 0, 2, 5, 5], threads)
        assert found[1:3].tobytes() == np.concatenate(expected).tobytes()
        assert not found[[0, 3]].any()


def test_too_many_shards(kernels):
    x = np.ones((1, 1), np.float32)
    bounds = np.minimum(np.arange(kernels.MOST_SHARDS + 2), 1)
    with pytest.raises(ValueError, match="1025 shards, expected at most 1024"):
        kernels.sum_rows(x[0], x, bounds, 1)
    kernels.sum_rows(x[0], x, bounds[:-1], 1)
