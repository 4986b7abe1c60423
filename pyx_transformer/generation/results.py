"""What a generation gives back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer._reprs import called, counted, described

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pyx_transformer.generation.options import GenerationOptions


@described
@dataclass(frozen=True, repr=False)
class Hypothesis:
    """One generated sequence of token ids, int64 (T,), without start and end.

    is_finished: its end came, or stop_when said so; False where max_length cut it off. score,
    token_scores and attention are None unless asked for. token_scores, float32: the log-probability
    of each token, 0 for those of a forced prefix, and of the end token where one came. attention,
    float32 (layers, heads, T', S): the cross-attention of the steps that chose these tokens and
    that end.
    """

    sequence: NDArray[np.int64]
    is_finished: bool
    score: float | None = None
    token_scores: NDArray[np.float32] | None = None
    attention: NDArray[np.float32] | None = None


@described
@dataclass(frozen=True, repr=False)
class Generation:
    """hypotheses[b]: those of sentence b, the best first; samples in the order drawn, alternatives
    in that of their first tokens.

    All else, and iterating and indexing, is about the first hypothesis of each sentence.
    """

    hypotheses: list[list[Hypothesis]]

    @property
    def sequences(self) -> list[NDArray[np.int64]]:
        """Token ids, one array per sentence."""
        return [best.sequence for best, *_ in self.hypotheses]

    @property
    def is_finished(self) -> NDArray[np.bool_]:
        """(B,): whether the end came."""
        return np.array([best.is_finished for best, *_ in self.hypotheses], bool)

    @property
    def scores(self) -> NDArray[np.float64] | None:
        """(B,), or None unless return_scores."""
        scores = self._asked_for("score")
        return None if scores is None else np.array(scores, np.float64)

    @property
    def token_scores(self) -> list[NDArray[np.float32]] | None:
        """One array per sentence, or None unless return_token_scores."""
        return self._asked_for("token_scores")

    @property
    def attention(self) -> list[NDArray[np.float32]] | None:
        """One array per sentence, or None unless return_attention."""
        return self._asked_for("attention")

    def __repr__(self) -> str:
        sentences = counted(len(self), "sentence")
        return called(self, [sentences], {"sequences": self.sequences})

    def _asked_for(self, name: str) -> list[Any] | None:
        values = [getattr(best, name) for best, *_ in self.hypotheses]
        return None if any(value is None for value in values) else values

    def __len__(self) -> int:
        return len(self.hypotheses)

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        return self.sequences[index]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.sequences)


def kept(hypotheses: list[Hypothesis], options: GenerationOptions) -> list[Hypothesis]:
    """The hypotheses with what the options ask for and no more."""
    return [
        replace(
            one,
            score=one.score if options.return_scores else None,
            token_scores=one.token_scores if options.return_token_scores else None,
            attention=one.attention if options.return_attention else None,
        )
        for one in hypotheses
    ]
