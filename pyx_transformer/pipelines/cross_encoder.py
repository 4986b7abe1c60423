"""Pairs of texts to scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyx_transformer._checks import as_integer, brief
from pyx_transformer._kinds import as_iterator, as_string, as_texts
from pyx_transformer._reprs import called
from pyx_transformer.pages import AttentionView
from pyx_transformer.pipelines.attending import attention_of
from pyx_transformer.pipelines.logits import logits_of, sigmoid
from pyx_transformer.pipelines.opened import classifier
from pyx_transformer.tokenizers.protocol import tokenizer_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.encoder_model import EncoderModel


class Ranked(NamedTuple):
    """A text of a ranking: its place in the caller's list, its score, and itself."""

    corpus_id: int
    score: float
    text: str

    def __repr__(self) -> str:
        return called(self, named=self._asdict())


class CrossEncoder:
    """A model that reads two texts together and says how well they fit (Nogueira and Cho 2019).

    `predict` gives the scores of pairs, `rank` orders texts by their scores with a query.
    """

    def __init__(self, model: str | os.PathLike[str] | EncoderModel):
        """model: a directory that `pt.load` opens, or an `EncoderModel` whose head is for labels of
        texts.

        Raises what `load` does, TypeError for another model and ValueError for one without such a
        head or without a tokenizer.
        """
        self.model, self.head = classifier("CrossEncoder", model, of_tokens=False)
        self.tokenizer = tokenizer_of("CrossEncoder", self.model, "src_tokenizer")

    def __repr__(self) -> str:
        return called(self, [repr(self.model), repr(self.tokenizer)])

    def predict(
        self, pairs: Sequence[tuple[str, str]], *, max_batch_tokens: int | None = None
    ) -> NDArray[np.float32]:
        """The scores of pairs of texts: (N,) float32 where the model has one label, in which case
        they lie between 0 and 1 unless its files say that they are logits, else (N, labels) logits.

        max_batch_tokens: how many are computed at a time, 4,096 unless given. Raises TypeError
        where pairs are no list of pairs of strings, ValueError for texts that are no Unicode and
        pairs of more tokens than the model reads. Warns of pairs that were cut, the longer text of
        each, because the tokenizer's file says so.
        """
        firsts, seconds = as_pairs("predict", pairs)
        return self._scores("predict", "pairs", firsts, seconds, max_batch_tokens)

    def rank(
        self,
        query: str,
        texts: Sequence[str],
        *,
        top_k: int | None = None,
        max_batch_tokens: int | None = None,
    ) -> list[Ranked]:
        """Texts by their scores with a query, the highest first, the top_k best of them or all.

        Equal scores come in the caller's order. Raises as `predict` does, and ValueError for a
        model of several labels.
        """
        this = "rank"
        if len(self.head.labels) > 1:
            raise ValueError(
                f"{this}: the model has {len(self.head.labels)} labels, expected one: a score"
            )
        query, texts = as_string(this, "query", query), as_texts(this, "texts", texts)
        if top_k is not None:
            top_k = as_integer(this, "top_k", top_k, minimum=1)
        scores = self._scores(this, "texts", [query] * len(texts), texts, max_batch_tokens)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(i), float(scores[i]), texts[i]) for i in order]

    def attention(self, first: str, second: str) -> AttentionView:
        """What each token of two texts, read together, attends to, in every layer and head. Raises
        as `predict` does, and ValueError for texts of more tokens than a page has room for."""
        return attention_of("attention", self.model, self.tokenizer, first, second)

    def _scores(self, this, name, firsts, seconds, max_batch_tokens):
        logits = logits_of(
            this, name, self.model, self.tokenizer, firsts, seconds, max_batch_tokens
        )
        is_one = len(self.head.labels) == 1
        usual = "sigmoid" if is_one else "logits"
        scores = sigmoid(logits) if (self.head.pair_scores or usual) == "sigmoid" else logits
        return scores[:, 0] if is_one else scores


def as_pairs(function: str, pairs: object) -> tuple[list[str], list[str]]:
    """The first and the second texts of pairs."""
    firsts, seconds = [], []
    for i, pair in enumerate(as_iterator(function, "pairs", pairs, "pairs of texts")):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{function}: pairs[{i}] is {brief(pair)}, expected two texts")
        firsts.append(as_string(function, f"pairs[{i}][0]", pair[0]))
        seconds.append(as_string(function, f"pairs[{i}][1]", pair[1]))
    return firsts, seconds
