"""Drawing tokens: which of the likely ones, and with which random numbers."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _runtime, ops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.generation.options import GenerationOptions

FIRST_LOOK = 64  # candidates that are nearly always enough


def uniform_numbers(
    seed: int | None, sources: list[NDArray[np.int64]], samples: int, length: int
) -> NDArray[np.float64]:
    """Numbers in [0, 1) for each sample of each source, (len(sources) * samples, length).

    A row depends on the seed, its source's ids and its sample's number alone.
    """
    if seed is None:
        seed = secrets.randbits(64)
    rows = [
        np.random.Philox(
            np.random.SeedSequence([seed, *source.tolist()], spawn_key=(sample,))
        ).random_raw(length)
        for source in sources
        for sample in range(samples)
    ]
    raw = np.array(rows, np.uint64).reshape(len(rows), length)
    return np.multiply(raw >> np.uint64(11), 2.0**-53, dtype=np.float64)


def draw(
    logits: NDArray[np.float32], numbers: NDArray[np.float64], options: GenerationOptions
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """A token for each row of logits (N, V) by the numbers (N,), and its log-probability.

    -1 where no token is allowed.
    """
    rows, vocabulary = logits.shape
    shape = rows, min(max(FIRST_LOOK, options.top_k or 0), vocabulary)
    ids, parents = np.empty(shape, np.int64), np.empty(shape, np.int64)
    log_probabilities = np.empty(shape, np.float32)
    _runtime.kernels.candidates(
        np.empty(shape),
        ids,
        parents,
        log_probabilities,
        logits,
        np.zeros(rows),
        np.arange(rows + 1),
        _runtime.get_num_threads(),
    )
    tokens, scores = np.full(rows, -1), np.full(rows, -np.inf, np.float32)
    for row in range(rows):
        count = int(np.count_nonzero(parents[row] >= 0))
        if count == 0:
            continue
        likely, order = log_probabilities[row, :count], ids[row]
        index = choice(likely, numbers[row], options, count < shape[1] or count == vocabulary)
        if index is None:  # the first look did not reach far enough
            everything = ops.log_softmax(logits[row])
            order = np.argsort(-everything, kind="stable")
            likely = everything[order]
            index = choice(likely, numbers[row], options, True)
        tokens[row], scores[row] = order[index], likely[index]
    return tokens, scores


def choice(
    likely: NDArray[np.float32], number: float, options: GenerationOptions, is_all: bool
) -> int | None:
    """Which of these falling log-probabilities the number in [0, 1) falls on.

    None where it takes more of them to tell; is_all: there are no more.
    """
    p = np.exp(likely.astype(np.float64))
    if options.top_k is not None:
        p = p[: options.top_k] / p[: options.top_k].sum()
        is_all = True
    cumulative = p.cumsum()
    limits = []
    if options.top_p is not None and options.top_p < 1:
        limits.append(int(np.searchsorted(cumulative, options.top_p)) + 1)
    if options.min_p:
        limits.append(int(np.searchsorted(-p, -options.min_p * p[0], side="right")))
    kept = min([len(p), *limits])
    if limits and kept == len(p) and not is_all:
        return None
    total = cumulative[kept - 1] if limits or options.top_k is not None else 1.0
    index = int(np.searchsorted(cumulative[:kept], number * total, side="right"))
    if index == kept and not limits and not is_all:
        return None
    # Where rounding has left the sum below the number, the last one that can be.
    return min(index, int(np.count_nonzero(p[:kept])) - 1)
