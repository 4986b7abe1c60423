"""A stack of layers, made as its description says (see description.py).

Inside a stack the padding is gone: all real tokens are rows of one matrix (see sequences.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer.description import RotaryConfig, StackConfig
from pyx_transformer.layers import DistanceBias
from pyx_transformer.norms import norm_of
from pyx_transformer.parameters import Layer, Rng, as_generator
from pyx_transformer.positions import rotary_table
from pyx_transformer.sequences import KeysValues, Sequences
from pyx_transformer.sub_layers import StackLayer, TrainingPass, in_turn

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray
    from typing_extensions import Self

    from pyx_transformer._kernels import _entry

    Floats = NDArray[np.float32]

FIRST_TABLE = 64  # least rows of a table of positions, which then doubles


class Stack(Layer):
    """The layers of a `StackConfig`, and its final norm.

    Parameters: layers.0.*, layers.1.*, ... (see `StackLayer`), norm.* of the final norm, and
    distance_bias.weight where all layers share one.
    """

    _compiled: tuple[int, _entry.CompiledStack] | None = None

    takes_memory: ClassVar[bool] = True
    switches: ClassVar = {"norm.weight": "final_norm"}

    if TYPE_CHECKING:  # see saving.py

        def save(self, directory: str | os.PathLike[str], *, dtype: str = "float32") -> None:
            """Write the stack into a directory; dtype "int8" takes a quarter of the room, and
            rounds: see `checkpoints.save`."""

        @classmethod
        def load(cls, path: str | os.PathLike[str]) -> Self:
            """What `save` wrote of this kind, or `pt.load` opens otherwise. Raises what that does,
            and TypeError for another kind."""

    @classmethod
    def of(cls, config: StackConfig, rng: Rng = None) -> Self:
        """What a description asks for; rng as in `Linear`.

        Raises TypeError or ValueError, naming the argument, also for cross-attention in an encoder.
        """
        this = f"{cls.__name__}.of"
        _checks.as_kind(this, "config", config, StackConfig)
        if config.has_memory and not cls.takes_memory:
            raise ValueError(f"{this}: config has a cross-attention, expected none")
        stack = cls.__new__(cls)
        stack._build(config, as_generator(this, rng))
        return stack

    def _build(self, config: StackConfig, rng: Rng):
        self.config = config
        self.d_model = config.d_model
        attentions = config.attentions
        self.num_heads = max((one.num_heads for one in attentions), default=1)
        # Caches have room for so many in every layer.
        self.num_kv_heads = max(
            (one.num_kv_heads or one.num_heads for one in attentions), default=1
        )
        biases = [one.distance_bias for one in attentions]
        shared = [one for one in biases if one is not None and one.shared]
        bias = DistanceBias(shared[0], self.num_heads, rng) if shared else None
        count = config.num_layers
        if config.share_weights:
            count = min(count, len(config.layers))
        self.layers = tuple(
            StackLayer(config.layer(i), config.d_model, rng, bias) for i in range(count)
        )
        for i, layer in enumerate(self.layers):
            for _, one in layer.named_layers():
                one.uses = len(range(i, config.num_layers, count))
        if bias is not None:
            readers = [one.attention for layer in self.in_order for one in layer.sub_layers]
            bias.uses = sum(one is not None and one._bias is bias for one in readers)
        self.norm = norm_of(config.final_norm, config.d_model, rng)
        self.distance_bias = bias
        self._tables: dict[tuple[RotaryConfig, int], tuple] = {}

    def in_words(self) -> list[str]:
        return [*self.config.in_words(), *super().in_words()]

    @property
    def in_order(self) -> list[StackLayer]:
        """The layers that rows meet, one after the other."""
        return [self.layers[i % len(self.layers)] for i in range(self.config.num_layers)]

    def _children(self):
        yield from ((f"layers.{i}", layer) for i, layer in enumerate(self.layers))
        for name in ("norm", "distance_bias"):
            if getattr(self, name) is not None:
                yield name, getattr(self, name)

    # As the kernels run it.

    def compiled(self) -> _entry.CompiledStack:
        """The stack as the kernels run it: made anew once anything has been set on a layer."""
        held = self._compiled
        if held is None or held[0] != Layer.changes:
            changes, rotaries = Layer.changes, self._rotaries()
            each = {id(layer): layer.compiled(rotaries) for layer in self.layers}
            layers = [each[id(layer)] for layer in self.in_order]
            norm = None if self.norm is None else self.norm.parameters
            held = changes, _runtime.kernels.CompiledStack(layers, norm, self.d_model)
            vars(self)["_compiled"] = held
        return held[1]

    def tables(self, length: int) -> _entry.Tables | None:
        """What queries and keys turn by at positions below `length`, at least; None if nothing."""
        rotaries = self._rotaries()
        if not rotaries:
            return None
        tables = []
        for config, head_size in rotaries:
            table = self._tables.get((config, head_size))
            if table is None or len(table[0]) < length:
                held = 0 if table is None else len(table[0])
                table = rotary_table(config, head_size, max(length, 2 * held, FIRST_TABLE))
                self._tables[config, head_size] = table
            tables.append((*table, config.pairing == "interleaved"))
        return _runtime.kernels.Tables(tables)

    def _rotaries(self):
        blocks = [one.attention for layer in self.layers for one in layer.sub_layers]
        keys = [(b.config.rotary, b.head_size) for b in blocks if b and b.config.rotary]
        return list(dict.fromkeys(keys))

    def apply(
        self,
        rows: Floats,
        sequences: Sequences,
        memory: list[KeysValues] | None = None,
        *,
        mask: NDArray[Any] | None = None,
        memory_mask: NDArray[Any] | None = None,
        attention: list[Floats] | None = None,
        cross_attention: list[Floats] | None = None,
        hidden: list[Floats] | None = None,
    ) -> Floats:
        """rows (N, d_model) -> (N, d_model), unchecked; hidden takes the rows after each layer."""
        kernels, count = _runtime.kernels, self.config.num_layers
        nothing = [None] * count
        if memory is None and attention is None:
            arrays = [kernels.LayerArrays()] * count
        else:
            arrays = [
                kernels.LayerArrays(
                    memory_keys=None if known is None else known.keys,
                    memory_values=None if known is None else known.values,
                    attention=own,
                    cross_attention=cross,
                )
                for known, own, cross in zip(
                    memory or nothing, attention or nothing, cross_attention or nothing, strict=True
                )
            ]
        tables = self.tables(sequences.length)
        passing = kernels.Pass(
            sequences.starts,
            sequences.counts,
            np.zeros(len(sequences.counts), np.int64),
            arrays,
            position_ids=None if tables is None else sequences.position_ids(),
            tables=tables,
            memory_starts=memory[0].starts if memory else None,
            memory_counts=memory[0].counts if memory else None,
            mask=mask,
            memory_mask=memory_mask,
        )
        after = None
        if hidden is not None:
            after = [np.empty((len(rows), self.d_model), np.float32) for _ in range(count)]
            hidden.extend(after)
        out = np.empty((len(rows), self.d_model), np.float32)
        kernels.run_stack(out, rows, self.compiled(), passing, after, _runtime.get_num_threads())
        return out

    def forward(self, rows, run: TrainingPass):
        """rows (N, d_model) -> (N, d_model) on a training run's parameters, with its way back."""
        backs = []
        for layer in self.in_order:
            rows, back = layer.forward(rows, run)
            backs.append(back)
        rows, norm_back = run.normed(self.norm, rows)
        backs.append(norm_back)
        return rows, in_turn(backs)

    def project(self, rows: Floats, sources: Sequences) -> list[KeysValues]:
        """Each layer's keys and values of the memory's rows (N, d_model)."""
        blocks = [layer.cross_attention for layer in self.in_order]
        return [block.project(rows, sources) for block in blocks if block is not None]

    def new_attention(
        self, wanted: bool, batch: int, queries: int, keys: int
    ) -> list[Floats] | None:
        """One array of weights per layer, zeros for padded queries; None where not wanted."""
        shape = (batch, self.num_heads, queries, keys)
        return [np.zeros(shape, np.float32) for _ in self.in_order] if wanted else None
