"""Masked tokens: texts whose hidden tokens an encoder learns to tell (Devlin et al. 2019, 3.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

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
    from pyx_transformer.config import EncoderConfig

MASK_RATE = 0.15
# Of the chosen tokens; the rest stays, so that every row has to know its own token.
HIDDEN, RANDOM = 0.8, 0.1


class Texts:
    """A corpus of token ids: what an encoder learns masked tokens of."""

    def __init__(self, texts: Sequence[ArrayLike]):
        """texts: a list of arrays (S,) of token ids.

        Raises TypeError or ValueError for what is no list of lists of whole numbers of at least 0.
        """
        self.texts = as_id_arrays("texts", texts, "Texts")
        self.lengths = np.array([len(text) for text in self.texts], np.int64)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return called(self, [counted(len(self), "text"), in_tokens(self.texts)])

    def check(self, who: str, model: Model) -> None:
        """Raise ValueError unless a model can read all of it, and tell masked tokens."""
        if not isinstance(model, EncoderModel):
            raise ValueError(f"{who} are Texts, expected Examples for a {type(model).__name__}")
        if model.config.head is None:
            raise ValueError(f"{who} are Texts, expected a model with a head")
        if isinstance(model.config.head, ClassifierConfig):
            raise ValueError(f"{who} are Texts, expected Labelled for a classifier")
        if model.config.mask_id is None:
            raise ValueError(
                f"{who} are Texts, expected a model with a mask_id: "
                "dataclasses.replace(model.config, mask_id=...) has one"
            )
        check_texts(who, self.texts, self.lengths)
        check_ids(who, "texts", self.texts, model, "src", 0)

    def split(self, share: float) -> tuple[Texts, Texts]:
        """All but the last texts, and that share of them, at least one."""
        kept = len(self) - max(round(share * len(self)), 1)
        return Texts(self.texts[:kept]), Texts(self.texts[kept:])

    def contents(self) -> Iterator[bytes]:
        """All that a run depends on, for a digest."""
        return contents_of(self.texts)

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """The texts of these numbers, each its own target: see `masked`."""
        rows, sequences = as_rows([self.texts[i] for i in numbers])
        return Batch(numbers, rows, rows, sequences, None, None)

    def epoch(self, seed: int, epoch: int, tokens: int) -> list[NDArray[np.int64]]:
        """All texts once, as the numbers of each batch's: see `Examples.epoch`."""
        return in_batches(self.lengths, seed, epoch, tokens)


def masked(batch: Batch, config: EncoderConfig, rate: float, seed: tuple[int, ...]) -> Batch:
    """A batch of `Texts` whose targets are a share `rate` of the tokens, at least one.

    Of the inputs there 80 % become config.mask_id, 10 % any token, and 10 % stay. Which ones, seed
    decides.
    """
    rng = np.random.default_rng(seed)
    tokens = len(batch.inputs)
    places = np.sort(rng.permutation(tokens)[: max(round(rate * tokens), 1)])
    targets, drawn = batch.inputs[places], rng.integers(config.src_vocab_size, size=len(places))
    kind, masks = rng.random(len(places)), np.full_like(targets, config.mask_id)
    inputs = batch.inputs.copy()
    inputs[places] = np.select([kind < HIDDEN, kind < HIDDEN + RANDOM], [masks, drawn], targets)
    return replace(batch, inputs=inputs, targets=targets, places=places)
