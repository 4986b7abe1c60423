"""How probable given target sequences are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, ops
from pyx_transformer._kinds import as_list
from pyx_transformer.generation.checks import check_begun, check_model
from pyx_transformer.sequences import Sequences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.generation.protocols import Decoding, Translating
    from pyx_transformer.layers import Linear

ROWS_AT_ONCE = 256  # of logits, so that no matrix of all tokens times the vocabulary exists


def score(
    model: Translating,
    src: ArrayLike,
    tgt: ArrayLike,
    src_lengths: ArrayLike | None = None,
    tgt_lengths: ArrayLike | None = None,
) -> list[NDArray[np.float32]]:
    """Log-probability of every token of tgt (B, T) and of the end after it, given src (B, S).

    tgt carries neither start nor end -> one float32 array (tgt_lengths[b] + 1,) per sequence; its
    sum is the log-probability of the whole. An empty source has exactly the empty translation, as
    in `generate`: the end scores 0, any other token minus infinity. Raises TypeError or ValueError,
    naming the argument, also where learned positions do not reach the end of tgt.
    """
    this = "Transformer.score"
    check_model(this, model, has_encoder=True)
    ids, sources = model.sequences(this, "src", src, src_lengths)
    tgt_ids, targets = model.sequences(this, "tgt", tgt, tgt_lengths, len(sources.counts))
    memory = model.decoder.project(
        model.encoder.apply(model.side("src").apply(ids, sources.position_ids()), sources), sources
    )
    scores = score_targets(
        this, model, tgt_ids, targets, lambda rows, own: model.decoder.apply(rows, own, memory)
    )
    for b in np.flatnonzero(sources.counts == 0):
        scores[b][:-1] = -np.inf
        scores[b][-1] = 0.0
    return scores


def score_alone(
    model: Decoding, tgt: ArrayLike, tgt_lengths: ArrayLike | None = None
) -> list[NDArray[np.float32]]:
    """`score` without a source."""
    this = "TransformerLM.score"
    check_model(this, model, has_encoder=False)
    ids, targets = model.sequences(this, "tgt", tgt, tgt_lengths)
    return score_targets(
        this, model, ids, targets, lambda rows, own: model.decoder.apply(rows, own)
    )


def score_targets(
    this: str,
    model: Decoding,
    ids: NDArray[np.int64],
    targets: Sequences,
    decode: Callable[[NDArray[np.float32], Sequences], NDArray[np.float32]],
) -> list[NDArray[np.float32]]:
    """The scores of the sequences of ids (N,), whose rows `decode` takes through the decoder."""
    config = model.config
    if config.start_id is None:
        return score_begun(this, model, ids, targets, decode)
    extended = Sequences.of_counts(targets.counts + 1)
    model.check_length(this, "tgt with its start has length", extended.length)
    starts, counts = extended.starts, extended.counts
    total = int(counts.sum())
    inputs, outputs = np.full(total, config.start_id), np.full(total, config.end_id)
    inputs[np.delete(np.arange(total), starts)] = ids
    outputs[np.delete(np.arange(total), starts + counts - 1)] = ids
    rows = decode(model.side("tgt").apply(inputs, extended.position_ids()), extended)
    scores = score_rows(model.output_projection, rows, outputs)
    return [part.copy() for part in np.split(scores, starts[1:])] if len(starts) else []


def score_begun(
    this: str,
    model: Decoding,
    ids: NDArray[np.int64],
    targets: Sequences,
    decode: Callable[[NDArray[np.float32], Sequences], NDArray[np.float32]],
) -> list[NDArray[np.float32]]:
    """`score_targets` where each sequence's first token is given."""
    for number, count in enumerate(targets.counts):
        check_begun(this, f"tgt[{number}]", int(count))
    ends = targets.starts + targets.counts - 1
    outputs = np.roll(ids, -1)
    outputs[ends] = model.config.end_id
    rows = decode(model.side("tgt").apply(ids, targets.position_ids()), targets)
    scores = score_rows(model.output_projection, rows, outputs)
    return [part.copy() for part in np.split(scores, ends[:-1] + 1)] if len(ends) else []


def score_rows(
    projection: Linear, rows: NDArray[np.float32], tokens: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Log-probability of each of tokens (N,) in softmax(projection(row)), of rows (N, D)."""
    scores = np.empty(len(rows), np.float32)
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(begin, begin + ROWS_AT_ONCE)
        logits = projection.apply(rows[part])
        scores[part] = ops.log_softmax(logits)[np.arange(len(logits)), tokens[part]]
    return scores


def perplexity(scores: Iterable[ArrayLike]) -> float:
    """e to minus the mean of all log-probabilities that `score` gave, one array (T,) per sequence.

    Raises TypeError for anything else, ValueError where there is not a single one.
    """
    this = "perplexity"
    arrays = [
        _checks.as_float32(this, f"scores[{i}]", one, ("T",))
        for i, one in enumerate(as_list(this, "scores", scores, "what `score` gave"))
    ]
    if not sum(map(len, arrays)):
        raise ValueError(f"{this}: scores is empty, expected what `score` gave")
    with np.errstate(over="ignore"):
        return float(np.exp(-np.concatenate(arrays).mean(dtype=np.float64)))
