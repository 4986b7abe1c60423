"""Stacks of layers, made as their description says (see description.py).

Inside a stack the padding is gone: all real tokens are rows of one matrix (see sequences.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, overload

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer.description import RotaryConfig, StackConfig, plain_stack
from pyx_transformer.layers import DistanceBias, norm_of
from pyx_transformer.parameters import Layer, Rng, as_generator
from pyx_transformer.positions import rotary_table
from pyx_transformer.sequences import KeysValues, Sequences
from pyx_transformer.sub_layers import StackLayer, TrainingPass, in_turn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

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

    @classmethod
    def of(cls, config: StackConfig, rng: Rng = None):
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

    def compiled(self):
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

    def tables(self, length: int):
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
        rows,
        sequences: Sequences,
        memory: list[KeysValues] | None = None,
        *,
        mask=None,
        memory_mask=None,
        attention=None,
        cross_attention=None,
        hidden=None,
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

    def project(self, rows, sources: Sequences) -> list[KeysValues]:
        """Each layer's keys and values of the memory's rows (N, d_model)."""
        blocks = [layer.cross_attention for layer in self.in_order]
        return [block.project(rows, sources) for block in blocks if block is not None]

    def new_attention(self, wanted: bool, batch: int, queries: int, keys: int):
        """One array of weights per layer, zeros for padded queries; None where not wanted."""
        shape = (batch, self.num_heads, queries, keys)
        return [np.zeros(shape, np.float32) for _ in self.in_order] if wanted else None


class TransformerEncoder(Stack):
    """A stack of encoder layers (Vaswani et al. 2017, 3.1).

    num_layers may be 0; num_heads divides d_model. activation as in `ops.linear`. norm_first puts
    each norm before its sub-layer instead of after the residual (Xiong et al. 2020); final_norm
    adds one after the last layer; layer_norm_eps as in `LayerNorm`, rng as in `Linear`. State-dict
    keys are those of torch.nn.TransformerEncoder. `TransformerEncoder.of(config, rng)` makes what a
    `StackConfig` describes. Raises TypeError or ValueError, naming the argument.
    """

    takes_memory = False

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        activation: str | None = "relu",
        norm_first: bool = False,
        final_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        rng: Rng = None,
    ):
        this = "TransformerEncoder"
        config = plain_stack(
            num_layers,
            d_model,
            num_heads,
            d_ff,
            activation=activation,
            norm_first=norm_first,
            final_norm=final_norm,
            layer_norm_eps=layer_norm_eps,
            who=this,
        )
        self._build(config, as_generator(this, rng))

    def __call__(
        self,
        x: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        return_attention: bool = False,
        return_hidden_states: bool = False,
    ):
        """x (B, S, d_model) -> (B, S, d_model) float32, zeros from lengths[b] on.

        lengths (B,) counts the real positions; the cost follows them. mask broadcasts to
        (B, H, S, S): bool, True where a query may attend, or float, added to the scores; it may end
        early as in `ops.scaled_dot_product_attention`. With return_attention, also the list of each
        layer's weights (B, H, S, S); with return_hidden_states, also the list of x, zeros in its
        padding, and of the rows after each layer, before the final norm. Raises TypeError or
        ValueError, naming the argument.
        """
        this = "TransformerEncoder"
        x = _checks.as_float32(this, "x", x, ("B", "S", self.d_model))
        batch, length, _ = x.shape
        if lengths is not None:
            lengths = _checks.as_lengths(this, "lengths", lengths, batch, length, ("x", x.shape))
        if mask is not None:
            mask = _checks.as_mask(this, "mask", mask, (batch, self.num_heads, length, length))
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        attention = self.new_attention(wanted, batch, length, length)
        sequences = Sequences.of(batch, length, lengths)
        rows = sequences.rows(x)
        hidden = new_hidden(this, return_hidden_states, rows)
        out = self.apply(rows, sequences, mask=mask, attention=attention, hidden=hidden)
        return given(sequences.padded(out), attention, padded_hidden(hidden, sequences))


class TransformerDecoder(Stack):
    """A stack of decoder layers (Vaswani et al. 2017, 3.1): causal, with cross-attention.

    Arguments as in `TransformerEncoder`; keys of torch.nn.TransformerDecoder. A stack without
    cross-attention, as `TransformerLM` has it, is made with `TransformerDecoder.of(config, rng)`.
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        activation: str | None = "relu",
        norm_first: bool = False,
        final_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        rng: Rng = None,
    ):
        this = "TransformerDecoder"
        config = plain_stack(
            num_layers,
            d_model,
            num_heads,
            d_ff,
            activation=activation,
            norm_first=norm_first,
            final_norm=final_norm,
            layer_norm_eps=layer_norm_eps,
            is_causal=True,
            has_memory=True,
            who=this,
        )
        self._build(config, as_generator(this, rng))

    def __call__(
        self,
        x: ArrayLike,
        memory: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        memory_lengths: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        return_attention: bool = False,
        return_hidden_states: bool = False,
    ):
        """x (B, T, d_model), memory (B, S, d_model) -> (B, T, d_model), zeros from lengths[b] on.

        lengths and memory_lengths (B,) count the real positions. mask broadcasts to (B, H, T, T)
        and comes on top of causality; memory_mask broadcasts to (B, H, T, S); both are bool or
        float as in `TransformerEncoder`. memory is None for a stack without cross-attention. With
        return_attention, also the lists of each layer's self-attention weights (B, H, T, T) and
        cross-attention weights (B, H, T, S), None without a memory; with return_hidden_states, also
        the list of rows as in `TransformerEncoder`. All results are float32. Raises TypeError or
        ValueError, naming the argument.
        """
        this = "TransformerDecoder"
        x = _checks.as_float32(this, "x", x, ("B", "T", self.d_model))
        batch, length, _ = x.shape
        has_memory = self.config.has_memory
        for name, value in {
            "memory": memory,
            "memory_lengths": memory_lengths,
            "memory_mask": memory_mask,
        }.items():
            if not has_memory and value is not None:
                raise ValueError(f"{this}: {name} was given, expected None without cross-attention")
        source = 0
        if has_memory:
            expected, because = (batch, "S", self.d_model), ("x", x.shape)
            memory = _checks.as_float32(this, "memory", memory, expected, because)
            because, source = ("memory", memory.shape), memory.shape[1]
            if memory_lengths is not None:
                memory_lengths = _checks.as_lengths(
                    this, "memory_lengths", memory_lengths, batch, source, because
                )
            sources = Sequences.of(batch, source, memory_lengths)
            memory_rows = sources.rows(memory)
        if lengths is not None:
            lengths = _checks.as_lengths(this, "lengths", lengths, batch, length, ("x", x.shape))
        if mask is not None:
            mask = _checks.as_mask(this, "mask", mask, (batch, self.num_heads, length, length))
        if memory_mask is not None:
            shape = (batch, self.num_heads, length, source)
            memory_mask = _checks.as_mask(this, "memory_mask", memory_mask, shape)
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        attention = self.new_attention(wanted, batch, length, length)
        cross_attention = self.new_attention(wanted and has_memory, batch, length, source)
        sequences = Sequences.of(batch, length, lengths)
        rows = sequences.rows(x)
        hidden = new_hidden(this, return_hidden_states, rows)
        rows = self.apply(
            rows,
            sequences,
            self.project(memory_rows, sources) if has_memory else None,
            mask=mask,
            memory_mask=memory_mask,
            attention=attention,
            cross_attention=cross_attention,
            hidden=hidden,
        )
        both = (attention, cross_attention) if wanted else None
        return given(sequences.padded(rows), both, padded_hidden(hidden, sequences))


# What a call gives besides its result.


def new_hidden(function: str, wanted: bool, rows: Floats) -> list[Floats] | None:
    """The list of hidden states that begins with these rows; None where it is not wanted."""
    return [rows] if _checks.as_flag(function, "return_hidden_states", wanted) else None


@overload
def padded_hidden(hidden: list[Floats], sequences: Sequences) -> list[Floats]: ...
@overload
def padded_hidden(hidden: None, sequences: Sequences) -> None: ...
def padded_hidden(hidden: list[Floats] | None, sequences: Sequences) -> list[Floats] | None:
    """Hidden states (N, D) as (B, length, D), each an array of its own."""
    return None if hidden is None else [sequences.padded(rows).copy() for rows in hidden]


def given(result, attention, hidden):
    """The result alone, or with what else was asked for: a tuple of attention's weights counts one
    by one."""
    extra = attention if type(attention) is tuple else (attention,)
    wanted = [one for one in (*extra, hidden) if one is not None]
    return (result, *wanted) if wanted else result
