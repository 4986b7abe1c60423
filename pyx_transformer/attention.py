"""Multi-head attention on the rows of a batch of sequences.

Rows are the real tokens of all sequences one after another, (N, d_model), with a `Sequences` that
tells them apart, so that padding costs nothing.

Size letters: B batch, T target length, S source length, H heads, K head size, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer.layers import Layer, LayerNorm, Linear, as_generator, glorot

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Sequences:
    """Which rows belong to which sequence: counts[b] rows from starts[b] on, both int64 (B,)."""

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    length: int  # of the padded batch
    is_padded: bool

    @classmethod
    def of(cls, batch: int, length: int, lengths: NDArray[np.int64] | None = None) -> Sequences:
        """The sequences of a padded batch (batch, length), real up to `lengths`."""
        if lengths is None or bool((lengths == length).all()):
            counts = np.full(batch, length)
            return cls(np.arange(batch) * length, counts, length, False)
        return cls(np.cumsum(lengths) - lengths, lengths, length, True)

    @classmethod
    def of_counts(cls, counts: NDArray[np.int64]) -> Sequences:
        """Sequences of these lengths, in a batch as long as the longest of them."""
        return cls(np.cumsum(counts) - counts, counts, int(counts.max(initial=0)), True)

    def is_real(self) -> NDArray[np.bool_]:
        """(B, length): whether a row stands there, or padding."""
        return np.arange(self.length) < self.counts[:, None]

    def rows(self, x: NDArray) -> NDArray:
        """The real rows of x (B, length, ...) -> (N, ...)."""
        if self.is_padded:
            return x[self.is_real()]
        return x.reshape(-1, *x.shape[2:])

    def padded(self, rows: NDArray) -> NDArray:
        """Rows (N, D) -> (B, length, D), zeros in the padding."""
        batch = len(self.counts)
        if not self.is_padded:
            return rows.reshape(batch, self.length, rows.shape[-1])
        x = np.zeros((batch, self.length, rows.shape[-1]), rows.dtype)
        x[self.is_real()] = rows
        return x

    def position_ids(self) -> NDArray[np.int64]:
        """Each row's position in its sequence, (N,)."""
        position_ids = np.broadcast_to(np.arange(self.length), (len(self.counts), self.length))
        return np.ascontiguousarray(self.rows(position_ids))


class KeysValues(NamedTuple):
    """Projected keys and values of a batch, where attention reads them.

    keys, values (slots, H, capacity, K); sequence b begins at row starts[b] of the array seen as
    (slots H capacity, K) and has counts[b] keys.
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


class MultiheadAttention(Layer):
    """softmax(Q K^T / sqrt(K)) V for each head, between projections (Vaswani et al. 2017, 3.2.2).

    Parameters as in torch.nn.MultiheadAttention: in_proj_weight (3 d_model, d_model), in_proj_bias,
    out_proj.weight, out_proj.bias; with a kdim or vdim other than d_model, q_proj_weight,
    k_proj_weight (d_model, kdim) and v_proj_weight (d_model, vdim) in place of in_proj_weight.

    num_heads divides d_model, K = d_model / num_heads; kdim and vdim are d_model unless given.
    Initialised as in `Linear`. Raises TypeError or ValueError, naming the argument.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        rng: np.random.Generator | int | None = None,
    ):
        this = "MultiheadAttention"
        self.d_model = _checks.as_integer(this, "d_model", d_model, minimum=1)
        self.num_heads = _checks.as_num_heads(this, num_heads, self.d_model)
        kdim, vdim = (self.d_model if width is None else width for width in (kdim, vdim))
        self.kdim = _checks.as_integer(this, "kdim", kdim, minimum=1)
        self.vdim = _checks.as_integer(this, "vdim", vdim, minimum=1)
        rng = as_generator(this, rng)
        self._load_own(
            {
                name: glorot(rng, *shape) if len(shape) == 2 else np.zeros(shape, np.float32)
                for name, shape in self._own_shapes().items()
            }
        )
        self.out_proj = Linear(d_model, d_model, rng=rng)

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
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
        """query (B, T, d_model) -> (B, T, d_model), and weights (B, H, T, S) if asked for.

        memory (B, S, kdim) is what is attended to, query itself if not given; value (B, S, vdim)
        the values, memory if not given. mask, lengths (B,), is_causal and query_offset, one integer
        or (B,), are those of `ops.scaled_dot_product_attention`. All results are float32.
        Raises TypeError or ValueError, naming the argument.
        """
        this = "MultiheadAttention"
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

        queries = Sequences.of(batch, length)
        sources = Sequences.of(batch, source)
        keys_values = self.project(
            memory.reshape(-1, self.kdim), sources, value_rows=value.reshape(-1, self.vdim)
        )
        if lengths is not None:
            keys_values = keys_values._replace(counts=lengths)
        out = self.attend(
            query.reshape(-1, self.d_model),
            queries,
            keys_values,
            offsets=offsets,
            is_causal=is_causal,
            mask=mask,
            weights=weights,
        ).reshape(query.shape)
        return out if weights is None else (out, weights)

    def project(self, rows, sequences: Sequences, *, value_rows=None) -> KeysValues:
        """Keys and values of rows (N, kdim), and of value_rows (N, vdim) where they differ."""
        batch = len(sequences.counts)
        shape = (batch, self.num_heads, sequences.length, self.d_model // self.num_heads)
        keys_values = KeysValues(
            np.empty(shape, np.float32),
            np.empty(shape, np.float32),
            np.arange(batch) * (self.num_heads * sequences.length),
            sequences.counts,
        )
        _runtime.kernels.project_keys_values(
            keys_values.keys,
            keys_values.values,
            rows,
            rows if value_rows is None else value_rows,
            self._key,
            self._value,
            sequences.starts,
            sequences.counts,
            keys_values.starts,
            np.zeros(batch, np.int64),
            _runtime.get_num_threads(),
        )
        return keys_values

    def attend(
        self,
        rows,
        sequences: Sequences,
        keys_values: KeysValues | None = None,
        *,
        norm: LayerNorm | None = None,
        norm_first: bool = False,
        residual: bool = False,
        offsets=None,
        is_causal: bool = False,
        mask=None,
        weights=None,
    ):
        """Attention of rows (N, d_model) to keys and values -> (N, d_model), unchecked.

        Without them each sequence attends to itself. With norm and residual this is a whole
        sub-layer.
        """
        is_own = keys_values is None
        out = np.empty((len(rows), self.d_model), np.float32)
        _runtime.kernels.attention_block(
            out,
            rows,
            None if norm is None else norm.parameters,
            norm_first,
            residual,
            self.num_heads,
            self._query,
            self._key if is_own else None,
            self._value if is_own else None,
            self.out_proj.packed,
            None if is_own else keys_values.keys,
            None if is_own else keys_values.values,
            sequences.starts,
            sequences.counts,
            sequences.starts if is_own else keys_values.starts,
            sequences.counts if is_own else keys_values.counts,
            np.zeros(len(sequences.counts), np.int64) if offsets is None else offsets,
            is_causal,
            mask,
            weights,
            _runtime.get_num_threads(),
        )
        return out

    @property
    def packed(self):
        """The projections of queries, keys, values and output, as the kernels take them."""
        return self._query, self._key, self._value, self.out_proj.packed

    def _own_shapes(self):
        width = self.d_model
        if self.kdim == self.vdim == width:
            shapes = {"in_proj_weight": (3 * width, width)}
        else:
            shapes = {
                "q_proj_weight": (width, width),
                "k_proj_weight": (width, self.kdim),
                "v_proj_weight": (width, self.vdim),
            }
        return {**shapes, "in_proj_bias": (3 * width,)}

    def _own_parameters(self):
        packed = self._query, self._key, self._value
        weights = [part.unpack() for part in packed]
        bias = np.concatenate([part.bias for part in packed])
        names = list(self._own_shapes())
        if len(names) == 2:
            weights = [np.concatenate(weights)]
        return dict(zip(names, [*weights, bias], strict=True))

    def _load_own(self, arrays):
        if "in_proj_weight" in arrays:
            weights = np.split(arrays["in_proj_weight"], 3)
        else:
            weights = [arrays[f"{part}_proj_weight"] for part in "qkv"]
        biases = np.split(arrays["in_proj_bias"], 3)
        self._query, self._key, self._value = (
            _runtime.kernels.PackedLinear(weight, bias)
            for weight, bias in zip(weights, biases, strict=True)
        )


def _given(function, name, value, otherwise, expected, because):
    """`value` as a float32 array of this shape; where it is None `otherwise`, if that has one."""
    if value is None and otherwise.shape[-1] == expected[-1]:
        return otherwise
    return _checks.as_float32(function, name, value, expected, because)
