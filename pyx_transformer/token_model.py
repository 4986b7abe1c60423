"""What models of token ids share: checked ids as rows, embeddings with positions, tied weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks
from pyx_transformer.attention import Sequences
from pyx_transformer.config import TransformerConfig
from pyx_transformer.layers import Embedding, Layer, as_state
from pyx_transformer.positions import sinusoidal_positions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray


class TokenModel(Layer):
    """A layer built from a `TransformerConfig`, with a sinusoidal table that grows as needed."""

    has_encoder: bool  # whether it reads a source

    def __init__(self, config: TransformerConfig):
        if not isinstance(config, TransformerConfig):
            raise TypeError(
                f"{type(self).__name__}: config is {config!r}, expected a TransformerConfig"
            )
        self.config = config
        self._sinusoidal = np.empty((0, config.d_model), np.float32)

    def _stack(self, kind: type, num_layers: int, rng: np.random.Generator):
        """An encoder or decoder of the config's sizes."""
        config = self.config
        return kind(
            num_layers,
            config.d_model,
            config.num_heads,
            config.d_ff,
            activation=config.activation,
            norm_first=config.norm_first,
            final_norm=config.final_norm,
            layer_norm_eps=config.layer_norm_eps,
            rng=rng,
        )

    def check_length(self, function, what, length):
        """Raise ValueError where learned positions do not reach as far as `length`."""
        if length > self.config.longest:
            raise ValueError(
                f"{function}: {what} {length}, expected at most max_length = "
                f"{self.config.max_length} because positions are learned"
            )

    def _sequences(self, function, name, ids, lengths, embedding, shape):
        """Checked ids, of this shape, as rows (N,), and their Sequences."""
        ids = _checks.as_integers(function, name, ids, -math.inf, math.inf, shape)
        if lengths is not None:
            because = (name, ids.shape)
            lengths = _checks.as_lengths(function, f"{name}_lengths", lengths, *ids.shape, because)
        sequences = Sequences.of(*ids.shape, lengths)
        self.check_length(function, f"{name} has length", int(sequences.counts.max(initial=0)))
        if sequences.is_padded:  # what fills up the batch may be anything
            ids = np.where(sequences.is_real(), ids, 0)
        ids = _checks.as_token_ids(function, name, ids, embedding.weight.shape)
        return sequences.rows(ids), sequences

    def _embed(self, embedding: Embedding, learned: Embedding | None, ids, position_ids):
        """ids (N,) at their positions (N,) in their sequences -> rows (N, d_model)."""
        length = int(position_ids.max(initial=-1)) + 1
        _, scale, positions = self._tables(embedding, learned, length)
        return embedding.apply(ids, scale, positions, position_ids)

    def _tables(self, embedding: Embedding, learned: Embedding | None, length):
        """What positions below `length` are embedded with: table, its scale, positions or None."""
        config = self.config
        scale = math.sqrt(config.d_model) if config.scale_embeddings else 1.0
        positions = None if learned is None else learned.weight
        if config.positions == "sinusoidal":
            positions = self.sinusoidal_up_to(length)
        return embedding.weight, scale, positions

    def target_tables(self, length):
        """What `decode` embeds target ids with."""
        return self._tables(self.tgt_embedding, self.tgt_positions, length)

    def sinusoidal_up_to(self, length):
        """At least that many rows of the table, which grows by doubling."""
        table = self._sinusoidal
        if len(table) < length:
            config = self.config
            table = self._sinusoidal = sinusoidal_positions(
                max(length, 2 * len(table), 64),
                config.d_model,
                start=config.position_start,
                layout=config.position_layout,
                frequencies=config.position_frequencies,
            )
        return table

    # Tied weights.

    def _ties(self) -> dict[str, str]:
        """Pairs of keys that hold one weight, the stored one second."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Copies of all parameters by their dotted names, tied ones once."""
        state = super().state_dict()
        for key in self._ties():
            del state[key]
        return state

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Replace all parameters by those of `state`, tied ones under any of their keys.

        Raises TypeError or ValueError as for any layer, and ValueError for tied ones that differ.
        """
        this = f"{type(self).__name__}.load_state_dict"
        state = as_state(this, state)
        ties = self._ties()
        for key, stored in ties.items():
            if key not in state:
                continue
            if stored in state:
                both = (_checks.as_float32(this, name, state[name]) for name in (key, stored))
                if not np.array_equal(*both, equal_nan=True):
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
        return sum(math.prod(s) for key, s in shapes.items() if key not in self._ties())
