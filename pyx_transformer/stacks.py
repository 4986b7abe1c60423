"""Encoder and decoder layers and the stacks of them.

Inside a stack the padding is gone: all real tokens are rows of one matrix (see
attention.Sequences).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer.attention import KeysValues, MultiheadAttention, Sequences
from pyx_transformer.layers import (
    Layer,
    LayerNorm,
    Linear,
    as_activation,
    as_generator,
    feed_forward,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class _StackLayer(Layer):
    """What the layers of both stacks share: their sub-layers, each with residual and norm."""

    self_attn: MultiheadAttention
    linear1: Linear
    linear2: Linear
    norm1: LayerNorm
    activation: str | None
    norm_first: bool

    def _attend(self, attention, norm, rows, sequences, memory=None, **options):
        return attention.attend(
            rows,
            sequences,
            memory,
            norm=norm,
            norm_first=self.norm_first,
            residual=True,
            **options,
        )

    def _feed_forward(self, norm, rows):
        return feed_forward(
            rows,
            self.linear1,
            self.linear2,
            self.activation,
            norm=norm,
            norm_first=self.norm_first,
            residual=True,
        )

    def _with_cache(self, last_norm, keys, values, **cross):
        query, key, value, output = self.self_attn.packed
        return _runtime.kernels.CachedLayer(
            query=query,
            key=key,
            value=value,
            output=output,
            norm1=self.norm1.parameters,
            linear1=self.linear1.packed,
            linear2=self.linear2.packed,
            norm3=last_norm.parameters,
            norm_first=self.norm_first,
            activation=_runtime.kernels.ACTIVATIONS[self.activation],
            keys=keys,
            values=values,
            **cross,
        )


class TransformerEncoderLayer(_StackLayer):
    """Self-attention and feed-forward, each with residual and norm."""

    def __init__(self, d_model, num_heads, d_ff, activation, norm_first, layer_norm_eps, rng):
        self.activation = activation
        self.norm_first = norm_first
        self.self_attn = MultiheadAttention(d_model, num_heads, rng=rng)
        self.linear1 = Linear(d_model, d_ff, rng=rng)
        self.linear2 = Linear(d_ff, d_model, rng=rng)
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps)

    def apply(self, rows, sequences: Sequences, mask, weights, is_causal=False):
        """rows (N, d_model) -> (N, d_model)."""
        options = {"is_causal": is_causal, "mask": mask, "weights": weights}
        rows = self._attend(self.self_attn, self.norm1, rows, sequences, **options)
        return self._feed_forward(self.norm2, rows)

    def with_cache(self, keys, values, memory=None):
        """This layer, causal, for decoding step by step into caches (slots, H, capacity, K)."""
        return self._with_cache(
            self.norm2,
            keys,
            values,
            cross_query=None,
            cross_output=None,
            norm2=None,
            memory_keys=None,
            memory_values=None,
        )


class TransformerDecoderLayer(_StackLayer):
    """Causal self-attention, cross-attention and feed-forward, each with residual and norm."""

    def __init__(self, d_model, num_heads, d_ff, activation, norm_first, layer_norm_eps, rng):
        self.activation = activation
        self.norm_first = norm_first
        self.self_attn = MultiheadAttention(d_model, num_heads, rng=rng)
        self.multihead_attn = MultiheadAttention(d_model, num_heads, rng=rng)
        self.linear1 = Linear(d_model, d_ff, rng=rng)
        self.linear2 = Linear(d_ff, d_model, rng=rng)
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps)
        self.norm3 = LayerNorm(d_model, eps=layer_norm_eps)

    def apply(
        self,
        rows,
        sequences: Sequences,
        memory: KeysValues,
        mask=None,
        memory_mask=None,
        weights=None,
        memory_weights=None,
    ):
        """rows (N, d_model) -> (N, d_model)."""
        options = {"is_causal": True, "mask": mask, "weights": weights}
        rows = self._attend(self.self_attn, self.norm1, rows, sequences, **options)
        options = {"mask": memory_mask, "weights": memory_weights}
        rows = self._attend(self.multihead_attn, self.norm2, rows, sequences, memory, **options)
        return self._feed_forward(self.norm3, rows)

    def with_cache(self, keys, values, memory: KeysValues):
        """This layer for decoding step by step into caches (slots, H, capacity, K)."""
        cross_query, _, _, cross_output = self.multihead_attn.packed
        return self._with_cache(
            self.norm3,
            keys,
            values,
            cross_query=cross_query,
            cross_output=cross_output,
            norm2=self.norm2.parameters,
            memory_keys=memory.keys,
            memory_values=memory.values,
        )


class _Stack(Layer):
    """num_layers layers of one kind, and a final norm where asked for."""

    _layer_type: type[Layer]

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        activation: str = "relu",
        norm_first: bool = False,
        final_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        rng: np.random.Generator | int | None = None,
    ):
        this = type(self).__name__
        num_layers = _checks.as_integer(this, "num_layers", num_layers, minimum=0)
        self.d_model = d_model = _checks.as_integer(this, "d_model", d_model, minimum=1)
        self.num_heads = num_heads = _checks.as_num_heads(this, num_heads, d_model)
        d_ff = _checks.as_integer(this, "d_ff", d_ff, minimum=1)
        activation = as_activation(this, activation)
        norm_first = _checks.as_flag(this, "norm_first", norm_first)
        layer_norm_eps = _checks.as_number(this, "layer_norm_eps", layer_norm_eps, minimum=0)
        rng = as_generator(this, rng)
        self.layers = [
            self._layer_type(d_model, num_heads, d_ff, activation, norm_first, layer_norm_eps, rng)
            for _ in range(num_layers)
        ]
        self.norm = None
        if _checks.as_flag(this, "final_norm", final_norm):
            self.norm = LayerNorm(d_model, eps=layer_norm_eps)

    def finish(self, rows):
        """The final norm, where there is one."""
        return rows if self.norm is None else self.norm.apply(rows)

    def new_weights(self, wanted, batch, queries, keys):
        """One array of weights per layer, zeros for padded queries; None per layer otherwise."""
        shape = (batch, self.num_heads, queries, keys)
        return [np.zeros(shape, np.float32) if wanted else None for _ in self.layers]


class TransformerEncoder(_Stack):
    """A stack of encoder layers (Vaswani et al. 2017, 3.1).

    num_layers may be 0; num_heads divides d_model. activation as in `ops.linear`. norm_first puts
    each norm before its sub-layer instead of after the residual (Xiong et al. 2020); final_norm
    adds one after the last layer; layer_norm_eps as in `LayerNorm`, rng as in `Linear`. State-dict
    keys are those of torch.nn.TransformerEncoder. Raises TypeError or ValueError, naming the
    argument.
    """

    _layer_type = TransformerEncoderLayer

    def __call__(
        self,
        x: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        return_attention: bool = False,
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """x (B, S, d_model) -> (B, S, d_model) float32, zeros from lengths[b] on.

        lengths (B,) counts the real positions; the cost follows them. mask broadcasts to
        (B, H, S, S): bool, True where a query may attend, or float, added to the scores; it may end
        early as in `ops.scaled_dot_product_attention`. With return_attention, also the list of each
        layer's weights (B, H, S, S). Raises TypeError or ValueError, naming the argument.
        """
        this = "TransformerEncoder"
        x = _checks.as_float32(this, "x", x, ("B", "S", self.d_model))
        batch, length, _ = x.shape
        if lengths is not None:
            lengths = _checks.as_lengths(this, "lengths", lengths, batch, length, ("x", x.shape))
        if mask is not None:
            mask = _checks.as_mask(this, "mask", mask, (batch, self.num_heads, length, length))
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        weights = self.new_weights(wanted, batch, length, length)
        sequences = Sequences.of(batch, length, lengths)
        out = sequences.padded(self.apply(sequences.rows(x), sequences, mask, weights))
        out = own_array(out, x)
        return (out, weights) if wanted else out

    def apply(self, rows, sequences: Sequences, mask=None, weights=None, is_causal=False):
        """rows (N, d_model) -> (N, d_model), unchecked."""
        for layer, layer_weights in zip(
            self.layers, weights or [None] * len(self.layers), strict=True
        ):
            rows = layer.apply(rows, sequences, mask, layer_weights, is_causal)
        return self.finish(rows)


class TransformerDecoder(_Stack):
    """A stack of decoder layers (Vaswani et al. 2017, 3.1): causal, with cross-attention.

    Arguments as in `TransformerEncoder`; keys of torch.nn.TransformerDecoder.
    """

    _layer_type = TransformerDecoderLayer

    def __call__(
        self,
        x: ArrayLike,
        memory: ArrayLike,
        lengths: ArrayLike | None = None,
        memory_lengths: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        return_attention: bool = False,
    ) -> (
        NDArray[np.float32]
        | tuple[NDArray[np.float32], list[NDArray[np.float32]], list[NDArray[np.float32]]]
    ):
        """x (B, T, d_model), memory (B, S, d_model) -> (B, T, d_model), zeros from lengths[b] on.

        lengths and memory_lengths (B,) count the real positions. mask broadcasts to (B, H, T, T)
        and comes on top of causality; memory_mask broadcasts to (B, H, T, S); both are bool or
        float as in `TransformerEncoder`. With return_attention, also the lists of each layer's
        self-attention weights (B, H, T, T) and cross-attention weights (B, H, T, S). All results
        are float32. Raises TypeError or ValueError, naming the argument.
        """
        this = "TransformerDecoder"
        x = _checks.as_float32(this, "x", x, ("B", "T", self.d_model))
        batch, length, _ = x.shape
        memory = _checks.as_float32(
            this, "memory", memory, (batch, "S", self.d_model), ("x", x.shape)
        )
        source = memory.shape[1]
        if lengths is not None:
            lengths = _checks.as_lengths(this, "lengths", lengths, batch, length, ("x", x.shape))
        if memory_lengths is not None:
            memory_lengths = _checks.as_lengths(
                this, "memory_lengths", memory_lengths, batch, source, ("memory", memory.shape)
            )
        if mask is not None:
            mask = _checks.as_mask(this, "mask", mask, (batch, self.num_heads, length, length))
        if memory_mask is not None:
            shape = (batch, self.num_heads, length, source)
            memory_mask = _checks.as_mask(this, "memory_mask", memory_mask, shape)
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        weights = self.new_weights(wanted, batch, length, length)
        memory_weights = self.new_weights(wanted, batch, length, source)
        sequences = Sequences.of(batch, length, lengths)
        sources = Sequences.of(batch, source, memory_lengths)
        rows = self.apply(
            sequences.rows(x),
            sequences,
            self.project(sources.rows(memory), sources),
            mask=mask,
            memory_mask=memory_mask,
            weights=weights,
            memory_weights=memory_weights,
        )
        out = own_array(sequences.padded(rows), x)
        return (out, weights, memory_weights) if wanted else out

    def project(self, rows, sources: Sequences) -> list[KeysValues]:
        """Each layer's keys and values of the memory's rows (N, d_model)."""
        return [layer.multihead_attn.project(rows, sources) for layer in self.layers]

    def apply(
        self,
        rows,
        sequences: Sequences,
        memory: list[KeysValues],
        mask=None,
        memory_mask=None,
        weights=None,
        memory_weights=None,
    ):
        """rows (N, d_model) -> (N, d_model), unchecked."""
        nothing = [None] * len(self.layers)
        for layer, layer_memory, own_weights, cross_weights in zip(
            self.layers, memory, weights or nothing, memory_weights or nothing, strict=True
        ):
            rows = layer.apply(
                rows, sequences, layer_memory, mask, memory_mask, own_weights, cross_weights
            )
        return self.finish(rows)


def own_array(out, x):
    """out, copied where it is x itself: a stack without layers changes nothing."""
    return out.copy() if np.may_share_memory(out, x) else out
