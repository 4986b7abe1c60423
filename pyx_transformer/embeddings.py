"""From token ids to the rows that a stack reads: token, position and type, norm, projection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.layers import Embedding, Linear, add_embedding_gradient
from pyx_transformer.norms import LayerNorm, RMSNorm
from pyx_transformer.positions import sinusoidal_positions
from pyx_transformer.stack import FIRST_TABLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.config import TokenConfig
    from pyx_transformer.sub_layers import TrainingPass

    Floats = NDArray[np.float32]


class TokenEmbeddings:
    """How one side of a model embeds its tokens: norm(token scale + position + type), projected.

    Its layers belong to the model, which names them. The table of sinusoids grows as needed.
    """

    def __init__(
        self,
        config: TokenConfig,
        tokens: Embedding,
        positions: Embedding | None,
        norm: LayerNorm | RMSNorm | None,
        types: Embedding | None = None,
        projection: Linear | None = None,
    ):
        self.config = config
        self.tokens = tokens
        self.positions = positions
        self.norm = norm
        self.types = types
        self.projection = projection
        self._sinusoids = np.empty((0, config.embedding_width), np.float32)

    @property
    def scale(self) -> float:
        """What embeddings are multiplied by."""
        return math.sqrt(self.config.d_model) if self.config.scale_embeddings else 1.0

    def position_table(self, length: int) -> Floats | None:
        """What is added at positions below `length`, at least; None where nothing is."""
        if self.config.positions == "sinusoidal":
            return self._sinusoids_up_to(length)
        return None if self.positions is None else self.positions.weight

    def apply(self, ids, position_ids, token_types=None) -> Floats:
        """ids (N,) at their positions (N,) in their sequences -> rows (N, d_model), unchecked."""
        table = self.position_table(int(position_ids.max(initial=-1)) + 1)
        rows = self.tokens.apply(ids, self.scale, table, position_ids)
        if self.types is not None:
            rows += self.types.apply(token_types, 1.0, None, None)
        if self.norm is not None:
            rows = self.norm.apply(rows)
        return rows if self.projection is None else self.projection.apply(rows)

    def forward(self, ids, run: TrainingPass, token_types=None):
        """`apply` on the parameters of a training run, with dropout (Vaswani et al. 2017, 5.4);
        back gives nothing."""
        sequences, parameters = run.sequences, run.parameters
        position_ids = sequences.position_ids()
        learned = None if self.positions is None else parameters.of(self.positions, "weight")
        table = self.position_table(sequences.length) if learned is None else learned.value
        rows, tokens_back = self.tokens.forward(ids, parameters, self.scale, table, position_ids)
        if self.types is not None:
            typed, types_back = self.types.forward(token_types, parameters)
            rows += typed
        rows, norm_back = run.normed(self.norm, rows)
        rows, drop_back = run.drop(rows)
        if self.projection is not None:
            rows, project_back = self.projection.forward(rows, parameters)

        def back(grad):
            if self.projection is not None:
                grad = project_back(grad)
            grad = norm_back(drop_back(grad))
            tokens_back(grad)
            if self.types is not None:
                types_back(grad)
            if learned is not None:
                add_embedding_gradient(learned, position_ids, grad)

        return rows, back

    def _sinusoids_up_to(self, length):
        """At least that many rows of the table, which grows by doubling."""
        config, table = self.config, self._sinusoids
        if len(table) < length:
            table = self._sinusoids = sinusoidal_positions(
                max(length, 2 * len(table), FIRST_TABLE),
                config.embedding_width,
                start=config.position_start,
                layout=config.position_layout,
                frequencies=config.position_frequencies,
            )
        return table
