"""Texts with labels, of the whole or of each token: what a classifier learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks
from pyx_transformer._kinds import as_list
from pyx_transformer._reprs import called, counted
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.head_configs import ClassifierConfig
from pyx_transformer.training.batches import (
    Batch,
    as_id_arrays,
    as_rows,
    check_ids,
    check_texts,
    contents_of,
    in_batches,
    in_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.head_configs import Head

NO_LABEL = -1


class Labelled:
    """A corpus of token ids with labels, of texts or of their tokens."""

    def __init__(
        self,
        texts: Sequence[ArrayLike],
        labels: ArrayLike | Sequence[ArrayLike],
        *,
        token_types: Sequence[ArrayLike] | None = None,
    ):
        """texts: a list of arrays (S,) of token ids. labels: for a classifier of sequences the
        number of each text's label, whole numbers (N,); for one with a single label, whose logit is
        a score, real numbers (N,), of which it learns the least mean squared error; for a
        classifier of tokens a list of arrays (S,), -1 where a token has no label. token_types: a
        list of arrays (S,), or None for zeros.

        Raises TypeError or ValueError for what is no list, lists that are not of equal length, and
        what is no id and no label.
        """
        self.texts = as_id_arrays("texts", texts, "Labelled")
        self.labels = as_labels(labels)
        self.token_types = None
        if token_types is not None:
            self.token_types = as_id_arrays("token_types", token_types, "Labelled")
        self.lengths = np.array([len(text) for text in self.texts], np.int64)
        for name in ("labels", "token_types"):
            self._check_lengths(name, getattr(self, name))

    def _check_lengths(self, name, values):
        """Raise ValueError unless there is one for each text or, in a list, for each token."""
        if values is None:
            return
        if len(values) != len(self):
            raise ValueError(
                f"Labelled: {name} has {len(values)} entries, expected {len(self)} because texts "
                "has as many"
            )
        if isinstance(values, list):
            for i, (one, length) in enumerate(zip(values, self.lengths, strict=True)):
                if len(one) != length:
                    raise ValueError(
                        f"Labelled: {name}[{i}] has {len(one)} entries, expected {length} because "
                        f"texts[{i}] has as many tokens"
                    )

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        words = [counted(len(self), "text"), in_tokens(self.texts)]
        return called(self, words, {"labels": self.labels})

    def check(self, who: str, model: Model) -> None:
        """Raise ValueError unless a model can read all of it, and has these labels."""
        if not isinstance(model, EncoderModel):
            raise ValueError(f"{who} are Labelled, expected Examples for a {type(model).__name__}")
        head = model.config.head
        if not isinstance(head, ClassifierConfig):
            raise ValueError(f"{who} are Labelled, expected a model whose head is a classifier")
        check_texts(who, self.texts, self.lengths)
        self._check_labels(who, head)
        check_ids(who, "texts", self.texts, model, "src", 0)
        if self.token_types is not None:
            size = model.config.num_token_types
            most = max(types.max() for types in self.token_types)
            if most >= size:
                raise ValueError(
                    f"{who}: token_types go up to {most}, expected less than num_token_types = "
                    f"{size}"
                )

    def _check_labels(self, who, head: ClassifierConfig):
        count = len(head.labels)
        if isinstance(self.labels, list) != head.of_tokens:
            found, expected = ("tokens", "texts") if not head.of_tokens else ("texts", "tokens")
            raise ValueError(f"{who}: labels are those of {found}, expected those of {expected}")
        if is_score(head) != (np.asarray(self.labels[0]).dtype.kind == "f"):
            expected = "real numbers, as 1.0 is," if is_score(head) else "whole numbers"
            raise ValueError(
                f"{who}: labels has {self.labels[0].item()}, expected {expected} because "
                f"the head has {count} label{'s'[: count != 1]}"
            )
        if is_score(head):
            return
        each = self.labels if isinstance(self.labels, list) else self.labels[:, None]
        for i, own in enumerate(each):
            if not (own.max() >= 0 and own.max() < count):
                raise ValueError(
                    f"{who}: labels[{i}] goes up to {own.max()}, expected 0 to {count - 1} because "
                    f"the head has {count} labels"
                )

    def split(self, share: float) -> tuple[Labelled, Labelled]:
        """All but the last texts, and that share of them, at least one."""
        kept = len(self) - max(round(share * len(self)), 1)

        def part(which):
            types = None if self.token_types is None else self.token_types[which]
            return Labelled(self.texts[which], self.labels[which], token_types=types)

        return part(slice(None, kept)), part(slice(kept, None))

    def contents(self) -> Iterator[bytes]:
        """All that a run depends on, for a digest."""
        labels = self.labels if isinstance(self.labels, list) else [self.labels]
        for sequences in (self.texts, labels, self.token_types or ()):
            yield from contents_of(sequences)

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """The texts of these numbers, their labels as targets; of tokens at their places."""
        rows, sequences = as_rows([self.texts[i] for i in numbers])
        types = places = None
        if self.token_types is not None:
            types, _ = as_rows([self.token_types[i] for i in numbers])
        if isinstance(self.labels, list):
            targets, _ = as_rows([self.labels[i] for i in numbers])
            places = np.flatnonzero(targets != NO_LABEL)
            targets = targets[places]
        else:
            targets = self.labels[numbers]
        return Batch(numbers, rows, targets, sequences, None, None, places, types)

    def epoch(self, seed: int, epoch: int, tokens: int) -> list[NDArray[np.int64]]:
        """All texts once, as the numbers of each batch's: see `Examples.epoch`."""
        return in_batches(self.lengths, seed, epoch, tokens)


def is_score(head: Head | None) -> bool:
    """Whether what a head gives is a number to come near to, and no choice among labels."""
    return isinstance(head, ClassifierConfig) and len(head.labels) == 1 and not head.of_tokens


def as_labels(labels: ArrayLike | Sequence[ArrayLike]):
    """Labels of texts as int64 or float32 (N,), those of tokens as a list of int64 arrays (S,)."""
    this = "Labelled"
    if not isinstance(labels, np.ndarray):
        labels = as_list(this, "labels", labels, "labels")
    if len(labels) and np.ndim(labels[0]) == 1:
        return [
            _checks.as_integers(this, f"labels[{i}]", own, NO_LABEL, np.inf, ("S",))
            for i, own in enumerate(labels)
        ]
    array = np.asarray(labels)
    if array.dtype.kind == "f" and array.size:
        array = _checks.as_float32(this, "labels", labels, ("N",))
        if not np.isfinite(array).all():
            raise ValueError(f"{this}: labels has numbers that are not finite")
        return array
    return _checks.as_integers(this, "labels", labels, 0, np.inf, ("N",))
