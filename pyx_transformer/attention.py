"""Multi-head attention between its projections, on the rows of a batch (see sequences.py).

Size letters: B batch, T target length, S source length, H heads, Hkv key/value heads, K head size,
N rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer._reprs import counted
from pyx_transformer.description import AttentionConfig, RotaryConfig
from pyx_transformer.layers import DistanceBias, Linear, linear_forward
from pyx_transformer.norms import norm_of
from pyx_transformer.parameters import (
    PackedLayer,
    PassParameters,
    Rng,
    Uninitialised,
    as_generator,
    glorot,
)
from pyx_transformer.positions import rotary_table
from pyx_transformer.sequences import KeysValues, Sequences

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer._kernels import _entry
    from pyx_transformer.layers import Back

    Floats = NDArray[np.float32]


class MultiheadAttention(PackedLayer):
    """softmax(Q K^T / sqrt(K)) V for each head, between projections (Vaswani et al. 2017, 3.2.2).

    Parameters as in torch.nn.MultiheadAttention: in_proj_weight (3 d_model, d_model), in_proj_bias,
    out_proj.weight, out_proj.bias; with a kdim or vdim other than d_model, q_proj_weight,
    k_proj_weight (d_model, kdim) and v_proj_weight (d_model, vdim) in place of in_proj_weight.

    Initialised as in `Linear`.

    Those of a stack may have more, as their `AttentionConfig` says: in_proj_weight is then (H K +
    2 Hkv K, d_model), and there may be q_norm.*, k_norm.* and distance_bias.weight.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        rng: Rng = None,
    ):
        """d_model: the width of queries and of the result; num_heads: a divisor of it, the size of
        a head being K = d_model / num_heads. kdim, vdim: the widths of what keys and values are
        projected from, d_model unless given. rng as in `Linear`.

        Raises TypeError or ValueError, naming the argument.
        """
        this = "MultiheadAttention"
        d_model = _checks.as_size(this, "d_model", d_model)
        num_heads = _checks.as_num_heads(this, num_heads, d_model)
        kdim, vdim = (d_model if width is None else width for width in (kdim, vdim))
        kdim = _checks.as_size(this, "kdim", kdim)
        vdim = _checks.as_size(this, "vdim", vdim)
        rng = as_generator(this, rng)
        self._build(AttentionConfig(num_heads), d_model, kdim, vdim, rng, None)

    @classmethod
    def of(
        cls, config: AttentionConfig, d_model: int, rng: Rng, shared_bias: DistanceBias | None
    ) -> MultiheadAttention:
        """What a description asks for; shared_bias belongs to the stack."""
        attention = cls.__new__(cls)
        attention._build(config, d_model, d_model, d_model, rng, shared_bias)
        return attention

    def _build(self, config, d_model, kdim, vdim, rng, shared_bias):
        self.config = config
        self.d_model, self.kdim, self.vdim = d_model, kdim, vdim
        self.num_heads = config.num_heads
        self.head_size = config.head_size or d_model // config.num_heads
        # Rows of the projections of queries, keys and values.
        self._widths = tuple(
            heads * self.head_size
            for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        )
        if not isinstance(rng, Uninitialised):
            self._load_own(
                {
                    name: glorot(rng, *shape) if len(shape) == 2 else np.zeros(shape, np.float32)
                    for name, shape in self._own_shapes().items()
                }
            )
        self.out_proj = Linear(self._widths[0], d_model, bias=config.output_bias, rng=rng)
        self.q_norm = norm_of(config.head_norm, self.head_size, rng)
        self.k_norm = norm_of(config.head_norm, self.head_size, rng)
        self._bias = shared_bias  # the one that is used
        if config.distance_bias is not None and not config.distance_bias.shared:
            self.distance_bias = self._bias = DistanceBias(
                config.distance_bias, self.num_heads, rng
            )

    def in_words(self) -> list[str]:
        heads = counted(self.num_heads, "head")
        return [f"d_model={self.d_model}", heads, *super().in_words()]

    @overload
    def __call__(
        self,
        query: ArrayLike,
        memory: ArrayLike | None = None,
        value: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        is_causal: bool = False,
        query_offset: ArrayLike = 0,
        return_weights: Literal[False] = False,
    ) -> Floats: ...
    @overload
    def __call__(
        self,
        query: ArrayLike,
        memory: ArrayLike | None = None,
        value: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        is_causal: bool = False,
        query_offset: ArrayLike = 0,
        return_weights: Literal[True],
    ) -> tuple[Floats, Floats]: ...
    @overload
    def __call__(
        self,
        query: ArrayLike,
        memory: ArrayLike | None = None,
        value: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        is_causal: bool = False,
        query_offset: ArrayLike = 0,
        return_weights: bool,
    ) -> Floats | tuple[Floats, Floats]: ...
    def __call__(
        self,
        query: ArrayLike,
        memory: ArrayLike | None = None,
        value: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        is_causal: bool = False,
        query_offset: ArrayLike = 0,
        return_weights: bool = False,
    ) -> Floats | tuple[Floats, Floats]:
        """query (B, T, d_model) -> (B, T, d_model), and weights (B, H, T, S) if asked for.

        memory (B, S, kdim) is what is attended to, query itself if not given; value (B, S, vdim)
        the values, memory if not given. mask, lengths (B,), is_causal and query_offset, one integer
        or (B,), are those of `ops.scaled_dot_product_attention`. All results are float32.
        Raises TypeError or ValueError, naming the argument.
        """
        this = "MultiheadAttention"
        if self.config.rotary is not None:
            raise ValueError(f"{this}: it has rotary positions, expected a call of its whole stack")
        query = _checks.as_float32(this, "query", query, ("B", "T", self.d_model))
        batch, length, _ = query.shape
        of_query = ("query", query.shape)
        attended = "query" if memory is None else "memory"
        memory = _given(this, "memory", memory, query, (batch, "S", self.kdim), of_query)
        because, source = (attended, memory.shape), memory.shape[1]
        value = _given(this, "value", value, memory, (batch, source, self.vdim), because)
        if lengths is not None:
            lengths = _checks.as_lengths(this, "lengths", lengths, batch, source, because)
        offsets = _checks.as_positions(this, "query_offset", query_offset, batch, of_query)
        is_causal = _checks.as_flag(this, "is_causal", is_causal)
        if mask is not None:
            mask = _checks.as_mask(this, "mask", mask, (batch, self.num_heads, length, source))
        weights = None
        if _checks.as_flag(this, "return_weights", return_weights):
            weights = np.zeros((batch, self.num_heads, length, source), np.float32)

        kernels = _runtime.kernels
        queries, sources = Sequences.of(batch, length), Sequences.of(batch, source)
        block = self.block(reads_memory=True)
        memory, value = memory.reshape(-1, self.kdim), value.reshape(-1, self.vdim)
        known = self._projected(memory, value, sources, block)
        arrays = kernels.LayerArrays(
            memory_keys=known.keys, memory_values=known.values, cross_attention=weights
        )
        passing = kernels.Pass(
            queries.starts,
            queries.counts,
            offsets,
            [arrays],
            memory_starts=known.starts,
            memory_counts=known.counts if lengths is None else lengths,
            memory_mask=mask,
            memory_is_causal=is_causal,
        )
        out = np.empty((batch * length, self.d_model), np.float32)
        rows = query.reshape(-1, self.d_model)
        kernels.run_block(out, rows, block, passing, _runtime.get_num_threads())
        out = out.reshape(query.shape)
        return out if weights is None else (out, weights)

    def block(self, rotary: int = -1, *, reads_memory: bool | None = None) -> _entry.Block:
        """The layer as the kernels run it; rotary is the number of its table among the stack's."""
        config = self.config
        left, right = config.window or (None, None)
        return _runtime.kernels.attention_block(
            self._query,
            self._key,
            self._value,
            self.out_proj.packed,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            is_cross=config.is_cross if reads_memory is None else reads_memory,
            is_causal=config.is_causal,
            left=-1 if left is None else left,
            right=-1 if right is None else right,
            softcap=config.softcap or 0.0,
            scale=self.scale,
            rotary=rotary,
            query_norm=None if self.q_norm is None else self.q_norm.parameters,
            key_norm=None if self.k_norm is None else self.k_norm.parameters,
            distance_bias=None if self._bias is None else self._bias.table(),
        )

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        return 1 / math.sqrt(self.head_size) if self.config.scale is None else self.config.scale

    def project(self, rows: Floats, sequences: Sequences) -> KeysValues:
        """Keys and values of a memory's rows (N, kdim)."""
        return self._projected(rows, rows, sequences, self.block(reads_memory=True))

    def _projected(self, rows, value_rows, sequences, block):
        width = self.config.num_kv_heads * self.head_size
        keys, values = np.empty((2, len(rows), width), np.float32)
        kernels, threads = _runtime.kernels, _runtime.get_num_threads()
        kernels.project_memory(keys, values, rows, value_rows, block, threads)
        return KeysValues(keys, values, sequences.starts, sequences.counts)

    def forward(
        self,
        rows,
        parameters: PassParameters,
        sequences: Sequences,
        memory: Memory | None = None,
        rotation: Rotation | None = None,
    ):
        """rows (N, d_model) -> (N, d_model) with its way back, which adds `residual`.

        parameters are those over these rows. memory is for cross-attention: the way back adds to
        its gradient. Raises ValueError where heads are too wide for it.
        """
        widest = _runtime.kernels.WIDEST_HEAD
        if self.head_size > widest:
            raise ValueError(
                f"MultiheadAttention: head_size is {self.head_size}, expected at most {widest} to "
                "train"
            )
        weight, bias = parameters.of(self, "in_proj_weight"), parameters.get(self, "in_proj_bias")
        of_distance = None if self._bias is None else parameters.of(self._bias, "weight")
        known, ends = sequences, np.cumsum(self._widths)[:-1]
        row_bounds = [sequences.shard_rows] * 2
        if memory is None:
            projected, project_back = linear_forward(rows, weight, bias)
            parts = np.split(projected, ends, axis=1)
        else:
            known = memory.sequences
            row_bounds[1] = known.shard_rows
            queries, query_back = linear_forward(rows, *_rows_of(weight, bias, 0, ends[0]))
            of_memory, memory_back = linear_forward(
                memory.rows,
                *_rows_of(weight, bias, ends[0], sum(self._widths), bounds=row_bounds[1]),
            )
            parts = [queries, *np.split(of_memory, 2, axis=1)]
        norm_backs: list[Back | None] = [None, None]
        for i, norm in enumerate((self.q_norm, self.k_norm)):
            if norm is not None:
                over = parameters.over(row_bounds[i] * (self._widths[i] // self.head_size))
                normed, norm_backs[i] = norm.forward(self._heads(parts[i]), over)
                parts[i][:] = normed.reshape(parts[i].shape)  # in place: gradients lie as these do
        if rotation is not None:
            rotation.turn(parts[:2], self.head_size)
        job = self._job(parts, of_distance, sequences, known)
        job.run(_runtime.get_num_threads())
        out, out_back = self.out_proj.forward(job.out, parameters)

        def back(grad, residual=None):
            if memory is None:
                grad_projected = np.zeros_like(projected)
                grads = np.split(grad_projected, ends, axis=1)
            else:
                grad_queries, grad_memory = np.zeros_like(queries), np.zeros_like(of_memory)
                grads = [grad_queries, *np.split(grad_memory, 2, axis=1)]
            shards, grad_bias = sequences.shards, None
            if self._bias is not None:
                grad_bias = self._bias.empty_gradient(len(shards) - 1)
            job.gradient(*grads, out_back(grad), grad_bias, shards, _runtime.get_num_threads())
            if self._bias is not None:
                self._bias.add_gradient(of_distance, grad_bias)
            if rotation is not None:
                rotation.turn(grads[:2], self.head_size, inverse=True)
            for part, norm_back in zip(grads[:2], norm_backs, strict=True):
                if norm_back is not None:
                    part[:] = norm_back(self._heads(part)).reshape(part.shape)
            if memory is None:
                return project_back(grad_projected, residual)
            memory.gradient = memory_back(grad_memory, memory.gradient)
            return query_back(grad_queries, residual)

        return out, back

    def _heads(self, rows):
        """A copy of rows (N, heads K) as (N heads, K)."""
        return np.array(rows).reshape(-1, self.head_size)

    def _job(self, parts, of_distance, sequences, known):
        config = self.config
        left, right = config.window or (None, None)
        query, key, value = parts
        return _runtime.kernels.RowsJob(
            query,
            key,
            value,
            config.num_heads,
            config.num_kv_heads,
            sequences.starts,
            sequences.counts,
            known.starts,
            known.counts,
            is_causal=config.is_causal,
            left=-1 if left is None else left,
            right=-1 if right is None else right,
            softcap=config.softcap or 0.0,
            scale=self.scale,
            bias=None if self._bias is None else self._bias.table(of_distance.value),
        )

    def _own_shapes(self):
        widths = self._widths
        if self.kdim == self.vdim == self.d_model:
            shapes = {"in_proj_weight": (sum(widths), self.d_model)}
        else:
            shapes = {
                "q_proj_weight": (widths[0], self.d_model),
                "k_proj_weight": (widths[1], self.kdim),
                "v_proj_weight": (widths[2], self.vdim),
            }
        return {**shapes, "in_proj_bias": (sum(widths),)} if self.config.bias else shapes

    def _own_parameters(self):
        packed = self._query, self._key, self._value
        weights = [part.unpack() for part in packed]
        if self.kdim == self.vdim == self.d_model:
            weights = [np.concatenate(weights)]
        if self.config.bias:
            weights.append(np.concatenate([part.bias for part in packed]))
        return dict(zip(self._own_shapes(), weights, strict=True))

    def _load_own(self, arrays):
        ends = np.cumsum(self._widths)[:-1]
        if "in_proj_weight" in arrays:
            weights = np.split(arrays["in_proj_weight"], ends)
        else:
            weights = [arrays[f"{part}_proj_weight"] for part in "qkv"]
        biases = np.split(arrays["in_proj_bias"], ends) if self.config.bias else [None] * 3
        self._query, self._key, self._value = (
            _runtime.kernels.PackedLinear(weight, bias)
            for weight, bias in zip(weights, biases, strict=True)
        )

    def _packings(self):
        widths = zip(self._widths, (self.d_model, self.kdim, self.vdim), strict=True)
        names = ("_query", "_key", "_value")
        return {
            name: (*shape, self.config.bias, 0.0) for name, shape in zip(names, widths, strict=True)
        }


class Memory:
    """An encoder's rows as a training run's decoder attends to them, and what they all get back."""

    def __init__(self, rows, sequences: Sequences):
        self.rows = rows
        self.sequences = sequences
        self.gradient: NDArray[np.float32] | None = None


class Rotation:
    """How far the rows of a batch turn."""

    def __init__(self, config: RotaryConfig, head_size: int, sequences: Sequences):
        self._tables = rotary_table(config, head_size, sequences.length)
        self._is_interleaved = config.pairing == "interleaved"
        self._position_ids = sequences.position_ids()

    def turn(self, parts, head_size: int, *, inverse: bool = False) -> None:
        """Turn the heads of queries and keys (N, heads K), in place; inverse: back."""
        for part in parts:
            _runtime.kernels.rotate(
                part,
                part.shape[1] // head_size,
                head_size,
                *self._tables,
                self._is_interleaved,
                self._position_ids,
                inverse,
                _runtime.get_num_threads(),
            )


def _rows_of(weight, bias, begin, end, **changes):
    """Some rows of a projection's parameters, with other bounds where `changes` has such."""
    parts = [None if one is None else one.part(begin, end) for one in (weight, bias)]
    return [None if one is None else one._replace(**changes) for one in parts]


def _given(function, name, value, otherwise, expected, because) -> NDArray[np.float32]:
    """`value` as a float32 array of this shape; where it is None `otherwise`, if that has one."""
    if value is None and otherwise.shape[-1] == expected[-1]:
        return otherwise
    return _checks.as_float32(function, name, value, expected, because)
