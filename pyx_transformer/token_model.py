"""What whole models of token ids share: ids as rows, sides with embeddings, tied weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import numpy as np

from pyx_transformer import _checks
from pyx_transformer.config import TokenConfig
from pyx_transformer.embeddings import TokenEmbeddings
from pyx_transformer.layers import Embedding, Linear
from pyx_transformer.norms import norm_of
from pyx_transformer.parameters import Layer, Rng, Uninitialised, as_generator, as_state
from pyx_transformer.sequences import Sequences

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Self

AXES = {"src": "S", "tgt": "T"}


class TokenModel(Layer):
    """A layer built from a config of its own kind.

    A side is "src" or "tgt". Its tokens are embedded by {side}_embedding, {side}_positions where
    positions are learned, and {side}_embedding_norm where there is one.
    """

    config_type: ClassVar[type[TokenConfig]]
    of_texts: ClassVar[str]  # what does its work with texts
    has_encoder: ClassVar[bool]  # whether it reads a source
    has_decoder: ClassVar[bool]  # whether it gives the next token of a target

    config: Any
    output_projection: Linear

    if TYPE_CHECKING:  # see saving.py

        def save(self, directory: str | os.PathLike[str], *, dtype: str = "float32") -> None:
            """Write the model, its vocabularies and tokenizers into a directory; dtype "int8" takes
            a quarter of the room, and rounds: see `checkpoints.save`."""

        @classmethod
        def load(cls, path: str | os.PathLike[str]) -> Self:
            """What `save` wrote of this kind, or `pt.load` opens otherwise. Raises what that does,
            and TypeError for another kind."""

    def __init__(self, config: Any, rng: Rng):
        this = type(self).__name__
        if not isinstance(config, self.config_type):
            raise TypeError(
                f"{this}: config is {_checks.brief(config)}, expected a {self.config_type.__name__}"
            )
        self.config = config
        self._sides: dict[str, TokenEmbeddings] = {}
        generator = as_generator(this, rng)
        self._build(generator)
        if self.ties() and not isinstance(generator, Uninitialised):
            self.load_state_dict(self.state_dict())

    def _build(self, rng: np.random.Generator | Uninitialised) -> None:
        """Make the layers."""
        raise NotImplementedError

    def _embeddings(self, rng, *sides: str) -> None:
        """Make the embeddings of these sides: all tables of tokens, then all of positions."""
        config, width = self.config, self.config.embedding_width
        for side in sides:
            tokens = Embedding(getattr(config, f"{side}_vocab_size"), width, rng=rng)
            setattr(self, f"{side}_embedding", tokens)
        for side in sides:
            learned = config.positions == "learned"
            positions = Embedding(config.max_length, width, rng=rng) if learned else None
            setattr(self, f"{side}_positions", positions)
        for side in sides:
            norm = norm_of(config.embedding_norm, width, rng)
            setattr(self, f"{side}_embedding_norm", norm)
            self._sides[side] = TokenEmbeddings(
                config,
                getattr(self, f"{side}_embedding"),
                getattr(self, f"{side}_positions"),
                norm,
            )

    def side(self, name: str) -> TokenEmbeddings:
        """How a side embeds its tokens."""
        return self._sides[name]

    def check_length(self, function: str, what: str, length: int) -> None:
        """Raise ValueError where learned positions do not reach as far as `length`."""
        if length > self.config.longest:
            raise ValueError(
                f"{function}: {what} {length}, expected at most the config's max_length = "
                f"{self.config.max_length} because positions are learned"
            )

    def sequences(
        self,
        function: str,
        name: str,
        ids: ArrayLike,
        lengths: ArrayLike | None,
        batch: str | int = "B",
    ) -> tuple[NDArray[np.int64], Sequences]:
        """Checked ids (B, length), or a list of sequences of different lengths, as rows (N,), and
        their Sequences; name is src, tgt or, of a target, another that the caller knows it by."""
        if is_text(ids):
            raise TypeError(
                f"{function}: {name} is {_checks.brief(ids)}, expected token ids; "
                f"pt.{self.of_texts} takes texts"
            )
        side = name if name in AXES else "tgt"
        table = self.side(side).tokens.weight.shape
        if lengths is None and is_ragged(ids) and batch in ("B", len(ids)):
            ids, counts = as_ragged_ids(function, name, ids, table)
            self.check_length(function, f"{name} has length", int(counts.max()))
            return ids, Sequences.of_counts(counts)
        ids = _checks.as_integers(function, name, ids, -math.inf, math.inf, (batch, AXES[side]))
        count, length = ids.shape
        if lengths is not None:
            because = (name, ids.shape)
            lengths = _checks.as_lengths(
                function, f"{name}_lengths", lengths, count, length, because
            )
        sequences = Sequences.of(count, length, lengths)
        self.check_length(function, f"{name} has length", int(sequences.counts.max(initial=0)))
        if sequences.is_padded:  # what fills up the batch may be anything
            ids = np.where(sequences.is_real(), ids, 0)
        ids = _checks.as_token_ids(function, name, ids, table)
        return sequences.rows(ids), sequences

    @property
    def projection(self) -> Linear:
        """The last map, which gives the logits."""
        return self.output_projection

    # Tied weights.

    def ties(self) -> dict[str, str]:
        """Pairs of keys that hold one weight, the stored one second."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Copies of all parameters by their dotted names, tied ones once."""
        state = super().state_dict()
        for key in self.ties():
            del state[key]
        return state

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Replace all parameters by those of `state`, tied ones under any of their keys.

        Raises TypeError or ValueError as for any layer, and ValueError for tied ones that differ.
        """
        this = f"{type(self).__name__}.load_state_dict"
        state = as_state(this, state)
        ties = self.ties()
        for key, stored in ties.items():
            if key not in state:
                continue
            if stored in state:
                one, other = (_checks.as_float32(this, k, state[k]) for k in (key, stored))
                if not np.array_equal(one, other, equal_nan=True):
                    raise ValueError(
                        f"{this}: {key} differs from {stored}, expected the same values because "
                        "the config ties them"
                    )
            state[stored] = state[key]
        for key, stored in ties.items():
            if stored in state:
                state[key] = state[stored]
        super().load_state_dict(state)

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters hold, tied ones counted once."""
        shapes = self._all_shapes()
        return sum(math.prod(s) for key, s in shapes.items() if key not in self.ties())


def is_ragged(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether `value` is a list of sequences that are not all of one length."""
    if not isinstance(value, (list, tuple)):
        return False
    return len({len(one) for one in value if isinstance(one, Sequence | np.ndarray)}) > 1


def as_ragged_ids(
    function: str, name: str, value: Sequence[Any], table_shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequences of token ids as one array (N,), and the length of each (B,)."""
    last = table_shape[0] - 1
    rows = [
        _checks.as_integers(function, f"{name}[{b}]", row, -math.inf, math.inf, ("length",))
        for b, row in enumerate(value)
    ]
    ids = np.concatenate(rows)
    if ids.size and not (ids.min() >= 0 and ids.max() <= last):
        for b, row in enumerate(rows):
            _checks.as_token_ids(function, f"{name}[{b}]", row, table_shape)
    return ids, np.array([len(row) for row in rows], np.int64)


def is_text(ids: object) -> bool:
    """Whether this is a text, or a list with texts, in the place of ids."""
    return isinstance(ids, str) or (
        isinstance(ids, (list, tuple)) and any(isinstance(one, str) for one in ids)
    )
