"""Pairs of token ids in batches of about one number of tokens, in an order that a seed decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.attention import Sequences

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Examples as rows, one after another: sources (M,), inputs and targets (N,) int64.

    Target row t is the token after input row t: inputs begin with the start token, targets end with
    the end token. numbers are the examples' places in their corpus. Without sources (a language
    model) sources and source_sequences are None.
    """

    numbers: NDArray[np.int64]
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    input_sequences: Sequences
    sources: NDArray[np.int64] | None
    source_sequences: Sequences | None


class Examples:
    """A corpus of token ids: sources and targets, lists of int64 arrays; sources may be None.

    references: the texts of the targets, if known, for scores that compare texts.
    """

    def __init__(self, sources, targets, *, start_id: int, end_id: int, references=None):
        self.references = references
        self.sources = sources
        self.targets = targets
        self.start_id = start_id
        self.end_id = end_id
        # A target is read with its start or end token.
        self.lengths = np.array([len(target) + 1 for target in targets])
        if sources is not None:
            self.lengths = np.maximum(self.lengths, [len(source) for source in sources])

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """The examples of these numbers."""
        targets = [self.targets[i] for i in numbers]
        start, end = ([token] for token in (self.start_id, self.end_id))
        sources = source_sequences = None
        if self.sources is not None:
            sources, source_sequences = as_rows([self.sources[i] for i in numbers])
        inputs, input_sequences = as_rows([np.concatenate([start, ids]) for ids in targets])
        outputs, _ = as_rows([np.concatenate([ids, end]) for ids in targets])
        return Batch(numbers, inputs, outputs, input_sequences, sources, source_sequences)

    def epoch(self, seed: int, epoch: int, tokens: int) -> list[NDArray[np.int64]]:
        """All examples once, as the numbers of each batch's.

        Examples of like length come together, at most `tokens` tokens, counted with padding, and at
        least one example in each batch; the batches come in any order. seed and epoch decide it.
        """
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(self))
        order = order[np.argsort(self.lengths[order], kind="stable")]
        batches, begin = [], 0
        for i in range(1, len(order) + 1):
            if i == len(order) or (i + 1 - begin) * self.lengths[order[i]] > tokens:
                batches.append(order[begin:i])
                begin = i
        return [batches[i] for i in rng.permutation(len(batches))]


def as_rows(sequences: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], Sequences]:
    """Sequences of ids one after another, and where each lies."""
    counts = np.array([len(ids) for ids in sequences])
    rows = np.concatenate(sequences).astype(np.int64)
    return rows, Sequences(np.cumsum(counts) - counts, counts, int(counts.max()), True)
