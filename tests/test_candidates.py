"""The best next tokens of groups of rows, on each instruction set, against sorting everything."""

import numpy as np
import pytest
from cases import normal

from pyx_transformer import _runtime, ops

# (vocabulary, rows of each group, how many of the best)
SHAPES = [
    (1, [1], 1),
    (7, [1, 3, 2], 5),
    (16, [4], 8),
    (33, [2, 1], 40),
    (511, [1] * 5, 3),
    (513, [3, 4], 9),
    (32_003, [4, 2], 8),
]


def best(logits, sums, counts, most):
    """What the kernel gives: log-probabilities are float32, all else is a stable sort."""
    log_probabilities = ops.log_softmax(logits)
    found = []
    for rows in np.split(np.arange(len(logits)), np.cumsum(counts)[:-1]):
        values = sums[rows, None] + log_probabilities[rows].astype(np.float64)
        row, token = np.indices(values.shape)
        order = np.lexsort((row.ravel(), token.ravel(), -values.ravel()))
        order = [i for i in order if values.ravel()[i] > -np.inf][:most]
        found.append([(values.ravel()[i], token.ravel()[i], rows[row.ravel()[i]]) for i in order])
    return found


def candidates(kernels, logits, sums, counts, most, threads):
    shape = len(counts), most
    values, scores = np.full(shape, np.nan), np.full(shape, np.nan, np.float32)
    tokens, rows = np.full(shape, 99), np.full(shape, 99)
    starts = np.append(0, np.cumsum(counts))
    kernels.candidates(values, tokens, rows, scores, logits, sums, starts, threads)
    return values, tokens, rows, scores


@pytest.fixture(autouse=True)
def same_kernels(kernels, monkeypatch):
    monkeypatch.setattr(_runtime, "kernels", kernels)


@pytest.mark.parametrize("threads", (1, 2, 3))
@pytest.mark.parametrize("kind", ("normal", "ties", "banned", "large"))
@pytest.mark.parametrize(("vocabulary", "counts", "most"), SHAPES, ids=str)
def test_candidates(kernels, vocabulary, counts, most, kind, threads):
    rng = np.random.default_rng(0)
    logits = normal(rng, sum(counts), vocabulary)
    sums = rng.standard_normal(len(logits)) - 5
    if kind == "ties":
        logits, sums = np.round(2 * logits), np.round(sums)
    elif kind == "banned":
        logits[rng.random(logits.shape) < 0.9] = -np.inf
        logits[:, -1] = 0
    elif kind == "large":
        logits *= np.float32(1e30)
    values, tokens, rows, scores = candidates(kernels, logits, sums, counts, most, threads)
    for i, expected in enumerate(best(logits, sums, counts, most)):
        held = len(expected)
        assert [*zip(values[i, :held], tokens[i, :held], rows[i, :held], strict=True)] == expected
        of_tokens = ops.log_softmax(logits)[rows[i, :held], tokens[i, :held]]
        np.testing.assert_array_equal(scores[i, :held], of_tokens)
        assert (values[i, held:] == -np.inf).all() and (tokens[i, held:] == -1).all()
        assert (rows[i, held:] == -1).all() and (scores[i, held:] == -np.inf).all()


@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_a_row_without_probabilities_has_no_candidates(kernels, value):
    logits = normal(np.random.default_rng(0), 3, 37)
    logits[1] = value
    _, tokens, _, _ = candidates(kernels, logits, np.zeros(3), [1, 1, 1], 2, 1)
    assert tokens[1].tolist() == [-1, -1]
    assert (tokens[[0, 2]] >= 0).all()
