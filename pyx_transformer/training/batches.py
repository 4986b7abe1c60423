"""Pairs of token ids in batches of about one number of tokens, in an order that a seed decides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer import _checks
from pyx_transformer._kinds import as_list, as_texts
from pyx_transformer._reprs import called, counted
from pyx_transformer.sequences import Sequences

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.checkpoints.native import Model


@dataclass(frozen=True)
class Batch:
    """Examples as rows, one after another: sources (M,), inputs and targets (N,) int64.

    Target row t is the token after input row t: inputs begin with the start token, targets end with
    the end token. With places (K,), targets (K,) are the tokens at these rows of the inputs (see
    masking.py), or their labels; a classifier of sequences has as targets (B,) their labels, or
    float32 scores (see labelled.py), and may have token_types (N,) of the inputs. numbers are the
    examples' places in their corpus. Without sources (a language model, an encoder) sources and
    source_sequences are None.
    """

    numbers: NDArray[np.int64]
    inputs: NDArray[np.int64]
    targets: NDArray[Any]
    input_sequences: Sequences
    sources: NDArray[np.int64] | None
    source_sequences: Sequences | None
    places: NDArray[np.int64] | None = None
    token_types: NDArray[np.int64] | None = None

    @classmethod
    def joined(cls, batches: list[Batch]) -> Batch:
        """The examples of all, one after another."""
        counts = [batch.input_sequences.counts for batch in batches]
        of_sources = [batch.source_sequences for batch in batches]
        source_counts = [one.counts for one in of_sources if one is not None]
        begins = np.cumsum([0] + [len(batch.inputs) for batch in batches])
        places = [
            begin + batch.places
            for begin, batch in zip(begins, batches, strict=False)
            if batch.places is not None
        ]

        def all_of(name):
            arrays = [getattr(batch, name) for batch in batches]
            return None if arrays[0] is None else np.concatenate(arrays)

        return cls(
            np.concatenate([batch.numbers for batch in batches]),
            np.concatenate([batch.inputs for batch in batches]),
            np.concatenate([batch.targets for batch in batches]),
            Sequences.of_counts(np.concatenate(counts)),
            all_of("sources"),
            Sequences.of_counts(np.concatenate(source_counts)) if source_counts else None,
            np.concatenate(places) if places else None,
            all_of("token_types"),
        )

    def with_shards(self, shards: NDArray[np.int64]) -> Batch:
        """The same, the examples from shards[i] on, up to shards[i + 1], being those of shard i."""
        of_inputs, of_sources = self.input_sequences, self.source_sequences
        return replace(
            self,
            input_sequences=replace(of_inputs, shards=shards),
            source_sequences=None if of_sources is None else replace(of_sources, shards=shards),
        )

    def part(self, begin: int, end: int) -> Batch:
        """The examples from begin to end - 1, as one shard."""
        alone = self.with_shards(np.array([begin, end]))
        rows, targets = slice(*alone.input_sequences.shard_rows), slice(*alone.target_bounds)
        sources = of_sources = None
        if alone.source_sequences is not None and self.sources is not None:
            sources = self.sources[slice(*alone.source_sequences.shard_rows)]
            of_sources = Sequences.of_counts(alone.source_sequences.counts[begin:end])
        return Batch(
            self.numbers[begin:end],
            self.inputs[rows],
            self.targets[targets],
            Sequences.of_counts(self.input_sequences.counts[begin:end]),
            sources,
            of_sources,
            None if self.places is None else self.places[targets] - rows.start,
            None if self.token_types is None else self.token_types[rows],
        )

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many tokens each example has, of its source too."""
        sizes = self.input_sequences.counts
        return sizes if self.source_sequences is None else sizes + self.source_sequences.counts

    @property
    def target_bounds(self) -> NDArray[np.int64]:
        """Where the targets of each shard begin, and those of the last one end."""
        sequences = self.input_sequences
        if self.places is not None:
            return np.searchsorted(self.places, sequences.shard_rows)
        of_rows = len(self.targets) == len(self.inputs)
        return sequences.shard_rows if of_rows else sequences.shards


class Examples:
    """A corpus of token ids: sources and targets, or targets alone."""

    def __init__(
        self,
        sources: Sequence[ArrayLike] | None,
        targets: Sequence[ArrayLike],
        *,
        start_id: int | None,
        end_id: int,
        references: Sequence[str] | None = None,
    ):
        """sources, targets: lists of arrays (T,) of token ids; sources may be None. Each target is
        read after start_id, or from its own first token on where that is None, and ends with
        end_id, which it does not hold itself. references: the texts of the targets, if known, for
        scores that compare texts.

        Raises TypeError or ValueError for what is no list, lists that are not of equal length or
        hold anything but whole numbers of at least 0 (references: texts), and ids that are none.
        """
        self.targets = as_id_arrays("targets", targets)
        self.sources = None if sources is None else as_id_arrays("sources", sources)
        self.references = (
            None if references is None else as_texts("Examples", "references", references)
        )
        for name in ("sources", "references"):
            others = getattr(self, name)
            if others is not None and len(others) != len(self.targets):
                raise ValueError(
                    f"Examples: {name} has {len(others)} entries, expected {len(self.targets)} "
                    "because targets has as many"
                )
        self.start_id = start_id
        if start_id is not None:
            self.start_id = _checks.as_integer("Examples", "start_id", start_id, minimum=0)
        elif not all(map(len, self.targets)):
            empty = list(map(len, self.targets)).index(0)
            raise ValueError(
                f"Examples: targets[{empty}] is empty, expected at least one token because "
                "start_id is None"
            )
        self.end_id = _checks.as_integer("Examples", "end_id", end_id, minimum=0)
        # A target is read with its start or end token.
        self.lengths = np.array([len(target) + 1 for target in self.targets], np.int64)
        if self.sources is not None:
            self.lengths = np.maximum(self.lengths, [len(source) for source in self.sources])

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        if self.sources is None:
            return called(self, [counted(len(self), "text"), in_tokens(self.targets)])
        sides = f"{in_tokens(self.sources)} to {in_tokens(self.targets)}"
        return called(self, [counted(len(self), "pair"), sides])

    def check(self, who: str, model: Model) -> None:
        """Raise ValueError unless a model can read all of it."""
        if not model.has_decoder:
            raise ValueError(f"{who} are Examples, expected Texts or Labelled for an EncoderModel")
        if not len(self):
            raise ValueError(f"{who} is empty, expected at least one example")
        for name in ("start_id", "end_id"):
            own, expected = getattr(self, name), getattr(model.config, name)
            if own != expected:
                raise ValueError(
                    f"{who}: {name} is {own}, expected {expected} as in the model's config"
                )
        check_ids(who, "targets", self.targets, model, "tgt", 1)
        if model.has_encoder:
            if self.sources is None:
                raise ValueError(f"{who}: sources is None, expected those of a translator")
            check_ids(who, "sources", self.sources, model, "src", 0)
        elif self.sources is not None:
            raise ValueError(f"{who}: sources were given, expected None for a language model")

    def split(self, share: float) -> tuple[Examples, Examples]:
        """All but the last examples, and that share of them, at least one."""
        kept = len(self) - max(round(share * len(self)), 1)

        def part(begin, end):
            return Examples(
                None if self.sources is None else self.sources[begin:end],
                self.targets[begin:end],
                start_id=self.start_id,
                end_id=self.end_id,
                references=None if self.references is None else self.references[begin:end],
            )

        return part(0, kept), part(kept, len(self))

    def contents(self) -> Iterator[bytes]:
        """All that a run depends on, for a digest."""
        for sequences in (self.sources, self.targets):
            yield from contents_of(sequences or ())

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """The examples of these numbers."""
        targets = [self.targets[i] for i in numbers]
        start = [] if self.start_id is None else [self.start_id]
        end = [self.end_id]
        sources = source_sequences = None
        if self.sources is not None:
            sources, source_sequences = as_rows([self.sources[i] for i in numbers])
        inputs, input_sequences = as_rows([np.concatenate([start, ids]) for ids in targets])
        first = 1 - len(start)
        outputs, _ = as_rows([np.concatenate([ids[first:], end]) for ids in targets])
        return Batch(numbers, inputs, outputs, input_sequences, sources, source_sequences)

    def epoch(self, seed: int, epoch: int, tokens: int) -> list[NDArray[np.int64]]:
        """All examples once, as the numbers of each batch's.

        Examples of like length come together, at most `tokens` tokens, counted with padding, and at
        least one example in each batch; the batches come in any order. seed and epoch decide it.
        """
        return in_batches(self.lengths, seed, epoch, tokens)


def in_tokens(sequences: list[NDArray[np.int64]]) -> str:
    """How many tokens they have together, in words."""
    return counted(sum(map(len, sequences)), "token")


def in_batches(
    lengths: NDArray[np.int64], seed: int, epoch: int, tokens: int
) -> list[NDArray[np.int64]]:
    """`Examples.epoch` of examples of these lengths."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    batches, begin = [], 0
    for i in range(1, len(order) + 1):
        if i == len(order) or (i + 1 - begin) * lengths[order[i]] > tokens:
            batches.append(order[begin:i])
            begin = i
    return [batches[i] for i in rng.permutation(len(batches))]


def check_texts(who: str, texts: list[NDArray[np.int64]], lengths: NDArray[np.int64]) -> None:
    """Raise ValueError where there is no text, or an empty one."""
    if not texts:
        raise ValueError(f"{who} is empty, expected at least one text")
    if not lengths.all():
        raise ValueError(f"{who}: texts[{lengths.argmin()}] is empty, expected at least one token")


def check_ids(who, name, sequences: list[NDArray[np.int64]], model: Model, side: str, more: int):
    """Raise ValueError unless a model can read these on a side, with `more` tokens each."""
    size = getattr(model.config, f"{side}_vocab_size")
    ids = np.concatenate(sequences)
    if ids.size and not (ids.min() >= 0 and ids.max() < size):
        raise ValueError(
            f"{who}: {name} has token ids from {ids.min()} to {ids.max()}, expected 0 to "
            f"{size - 1} because {side}_vocab_size is {size}"
        )
    longest = max(len(sequence) for sequence in sequences) + more
    model.check_length(who, f"{name} has a sequence of", longest)


def contents_of(sequences: Sequence[NDArray[Any]]) -> Iterator[bytes]:
    """Sequences of ids or labels for a digest."""
    for ids in sequences:
        yield b"%d:" % len(ids) + ids.tobytes()


def as_id_arrays(
    name: str, sequences: Sequence[ArrayLike], who: str = "Examples"
) -> list[NDArray[np.int64]]:
    """Each sequence as an int64 array (T,) of ids of at least 0."""
    arrays = [
        ids
        if isinstance(ids, np.ndarray) and ids.dtype == np.int64 and ids.ndim == 1
        else _checks.as_integers(who, f"{name}[{i}]", ids, -np.inf, np.inf, ("T",))
        for i, ids in enumerate(as_list(who, name, sequences, "sequences of token ids"))
    ]
    if arrays and np.concatenate(arrays).min(initial=0) < 0:
        for i, ids in enumerate(arrays):
            _checks.as_integers(who, f"{name}[{i}]", ids, 0, np.inf)
    return arrays


def as_rows(sequences: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], Sequences]:
    """Sequences of ids one after another, and where each lies."""
    counts = np.array([len(ids) for ids in sequences])
    rows = np.concatenate(sequences).astype(np.int64)
    return rows, Sequences.of_counts(counts)
