"""Texts to labels, and the labels of their parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyx_transformer import ops
from pyx_transformer._checks import as_choice
from pyx_transformer._kinds import as_texts
from pyx_transformer._reprs import called
from pyx_transformer.pages import AttentionView
from pyx_transformer.pipelines.attending import attention_of
from pyx_transformer.pipelines.logits import logits_of, sigmoid
from pyx_transformer.pipelines.opened import classifier
from pyx_transformer.pipelines.progress import progress
from pyx_transformer.pipelines.reading import batches, read
from pyx_transformer.tokenizers.protocol import tokenizer_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.encoder_model import EncoderModel
    from pyx_transformer.head_configs import ClassifierConfig


class Label(NamedTuple):
    """A label with its score."""

    label: str
    score: float

    def __repr__(self) -> str:
        return called(self, named=self._asdict())


class Span(NamedTuple):
    """A part of a text with its label: characters start to end - 1."""

    label: str
    score: float
    start: int
    end: int
    text: str

    def __repr__(self) -> str:
        return called(self, named=self._asdict())


def scores_of(head: ClassifierConfig, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """What logits (N, labels) say of each label: probabilities, or scores where it is those."""
    if head.problem == "regression":
        return logits
    if head.problem == "multi_label" or len(head.labels) == 1:
        return sigmoid(logits)
    return ops.softmax(logits)


class TextClassifier:
    """A model that says which of some labels a text has.

    `classify` gives the label of the highest score of each text, `scores` all scores.
    """

    def __init__(self, model: str | os.PathLike[str] | EncoderModel):
        """model: a directory that `pt.load` opens, or an `EncoderModel` whose head is for labels of
        texts.

        Raises what `load` does, TypeError for another model and ValueError for one without such a
        head or without a tokenizer.
        """
        self.model, self.head = classifier("TextClassifier", model, of_tokens=False)
        self.tokenizer = tokenizer_of("TextClassifier", self.model, "src_tokenizer")

    def __repr__(self) -> str:
        return called(self, [repr(self.model), repr(self.tokenizer)], {"labels": self.labels})

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the scores."""
        return self.head.labels

    def classify(self, texts: Sequence[str], *, max_batch_tokens: int | None = None) -> list[Label]:
        """The label of the highest score of each text, with it.

        Raises TypeError where texts are no list of strings, ValueError for texts that are no
        Unicode or have more tokens than the model reads. Warns of texts that were cut because the
        tokenizer's file says so.
        """
        scores = self._scores("classify", texts, max_batch_tokens)
        best = scores.argmax(axis=1)
        return [Label(self.labels[i], float(row[i])) for i, row in zip(best, scores, strict=True)]

    def scores(
        self, texts: Sequence[str], *, max_batch_tokens: int | None = None
    ) -> NDArray[np.float32]:
        """(N, labels) float32: the probability of each label where a text has one of them, or each
        on its own; numbers as they are where the model's files say that it is for those."""
        return self._scores("scores", texts, max_batch_tokens)

    def attention(self, text: str) -> AttentionView:
        """What each token of a text attends to, in every layer and head. Raises as `classify` does,
        and ValueError for a text without tokens, or of more than a page has room for."""
        return attention_of("attention", self.model, self.tokenizer, text)

    def _scores(self, this, texts, max_batch_tokens):
        texts = as_texts(this, "texts", texts)
        logits = logits_of(this, "texts", self.model, self.tokenizer, texts, None, max_batch_tokens)
        return scores_of(self.head, logits)


class TokenClassifier:
    """A model that labels parts of texts, such as names of persons and places: see `tag`.

    Labels that begin with B- and I- begin and continue a part (Ramshaw and Marcus 1995); what is
    labelled O is none.
    """

    def __init__(self, model: str | os.PathLike[str] | EncoderModel):
        """model: a directory that `pt.load` opens, or an `EncoderModel` whose head is for labels of
        tokens.

        Raises what `load` does, TypeError for another model and ValueError for one without such a
        head or without a tokenizer.
        """
        self.model, self.head = classifier("TokenClassifier", model, of_tokens=True)
        self.tokenizer = tokenizer_of("TokenClassifier", self.model, "src_tokenizer")

    def __repr__(self) -> str:
        return called(self, [repr(self.model), repr(self.tokenizer)], {"labels": self.labels})

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, B- and I- included."""
        return self.head.labels

    def tag(
        self,
        texts: Sequence[str],
        aggregation: str = "simple",
        *,
        max_batch_tokens: int | None = None,
    ) -> list[list[Span]]:
        """The labelled parts of each text, in their order.

        aggregation: "none" gives every token with its whole label; "simple" joins tokens of one
        label, with the mean of their scores; "first" and "max" first give all tokens of a word the
        label of its first one, or of the one that is surest. Raises as `TextClassifier.classify`
        does.
        """
        this = "tag"
        texts = as_texts(this, "texts", texts)
        as_choice(this, "aggregation", aggregation, tuple(AGGREGATIONS))
        found = read(this, "texts", self.model, self.tokenizer, texts, with_offsets=True)
        spans: list[list[Span]] = [[] for _ in texts]
        with progress(len(texts), "text") as done:
            for numbers in batches(this, [len(ids) for ids in found.ids], max_batch_tokens):
                rows, sources = self.model.rows_of(this, [found.ids[i] for i in numbers])
                scores = scores_of(self.head, self.model.logits_of(rows, sources))
                for number, part in zip(numbers, np.split(scores, sources.starts[1:]), strict=True):
                    tokens = self._parts(texts[number], part, found, number, aggregation)
                    spans[number] = (
                        tokens if aggregation == "none" else joined(tokens, texts[number])
                    )
                done(len(numbers))
        return spans

    def attention(self, text: str) -> AttentionView:
        """What each token of a text attends to, in every layer and head. Raises as `tag` does, and
        ValueError for a text without tokens, or of more than a page has room for."""
        return attention_of("attention", self.model, self.tokenizer, text)

    def _parts(self, text, scores, found, number, aggregation) -> list[Span]:
        """What is labelled: tokens, or words."""
        offsets, words = found.offsets[number], found.words[number]
        spans = []
        for places in AGGREGATIONS[aggregation](words, scores):
            # The surest token of a word, or its first, says the label and the score.
            place, start, end = places[0], offsets[places[1], 0], offsets[places[2], 1]
            best = int(scores[place].argmax())
            spans.append(
                Span(
                    self.labels[best],
                    float(scores[place, best]),
                    int(start),
                    int(end),
                    text[start:end],
                )
            )
        if aggregation == "none":
            return [span for span in spans if span.label != OUTSIDE]
        return spans


OUTSIDE = "O"
Places = tuple[int, int, int]  # of a token that says the label, of a word's first, of its last


def each_token(words: NDArray[np.int64], scores: NDArray[np.float32]) -> list[Places]:
    """All but special tokens."""
    return [(i, i, i) for i in np.flatnonzero(words >= 0).tolist()]


def first_of_word(words: NDArray[np.int64], scores: NDArray[np.float32]) -> list[Places]:
    """Words by their first tokens."""
    return [(first, first, last) for first, last in runs(words)]


def surest_of_word(words: NDArray[np.int64], scores: NDArray[np.float32]) -> list[Places]:
    """Words by their tokens of the highest score."""
    highest = scores.max(axis=1)
    return [
        (first + int(highest[first : last + 1].argmax()), first, last)
        for first, last in runs(words)
    ]


AGGREGATIONS: dict[str, Callable[[NDArray[np.int64], NDArray[np.float32]], list[Places]]] = {
    "none": each_token,
    "simple": each_token,
    "first": first_of_word,
    "max": surest_of_word,
}


def runs(words: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The first and the last token of each word."""
    places = np.flatnonzero(words >= 0)
    found: list[tuple[int, int]] = []
    for i in places.tolist():
        if found and words[i] == words[found[-1][0]] and found[-1][1] == i - 1:
            found[-1] = found[-1][0], i
        else:
            found.append((i, i))
    return found


def joined(tokens: list[Span], text: str) -> list[Span]:
    """Tokens of one label after another as one part, with the mean of their scores."""
    groups: list[list[Span]] = []
    kinds: list[str] = []
    for token in tokens:
        prefix, dash, kind = token.label.partition("-")
        if not dash or prefix not in ("B", "I"):
            prefix, kind = "I", token.label
        if groups and kinds[-1] == kind and prefix != "B":
            groups[-1].append(token)
        else:
            groups.append([token])
            kinds.append(kind)
    return [
        Span(
            kind,
            float(np.mean([token.score for token in group])),
            group[0].start,
            group[-1].end,
            text[group[0].start : group[-1].end],
        )
        for kind, group in zip(kinds, groups, strict=True)
        if kind != OUTSIDE
    ]
