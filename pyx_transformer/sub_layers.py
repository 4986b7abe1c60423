"""Layers as lists of sub-layers, each a block with norms and a residual (see description.py).

The kernels run what `compiled` gives; training goes through the same objects with `forward`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _runtime
from pyx_transformer.attention import Memory, MultiheadAttention, Rotation
from pyx_transformer.description import (
    AttentionConfig,
    LayerConfig,
    RotaryConfig,
    SubLayerConfig,
)
from pyx_transformer.feed_forward import FeedForward
from pyx_transformer.layers import DistanceBias
from pyx_transformer.norms import norm_of
from pyx_transformer.parameters import Layer, PassParameters, Rng
from pyx_transformer.sequences import Sequences

if TYPE_CHECKING:
    from collections.abc import Callable


class SubLayer:
    """A block with its norms: norm_sum(x + norm_after(block(norm_before(x))))."""

    def __init__(
        self, config: SubLayerConfig, d_model: int, rng: Rng, shared_bias: DistanceBias | None
    ):
        self.config = config
        self.block: MultiheadAttention | FeedForward
        if isinstance(config.block, AttentionConfig):
            bias = shared_bias if config.block.distance_bias is not None else None
            self.block = MultiheadAttention.of(config.block, d_model, rng, bias)
        else:
            self.block = FeedForward.of(config.block, d_model, rng)
        self.norm_before = norm_of(config.norm_before, d_model, rng)
        self.norm_after = norm_of(config.norm_after, d_model, rng)
        self.norm_sum = norm_of(config.norm_sum, d_model, rng)

    @property
    def norms(self):
        """The norms that there are, in the order in which rows meet them."""
        norms = self.norm_before, self.norm_after, self.norm_sum
        return [norm for norm in norms if norm is not None]

    @property
    def attention(self) -> MultiheadAttention | None:
        """The block, if it is an attention."""
        return self.block if isinstance(self.block, MultiheadAttention) else None

    def compiled(self, rotaries: list[tuple[RotaryConfig, int]]):
        """The sub-layer as the kernels run it, its rotary table being one of these."""
        block = self.block.block()
        if self.attention is not None and self.attention.config.rotary is not None:
            number = rotaries.index((self.attention.config.rotary, self.attention.head_size))
            block = self.attention.block(number)
        norms = self.norm_before, self.norm_after, self.norm_sum
        return block.with_norms(*(None if norm is None else norm.parameters for norm in norms))

    def forward(self, x, residual, run: TrainingPass):
        """The sub-layer on rows x, added to the rows `residual`, with dropout on what is added.

        back takes the gradient of what comes out and, unless it is that itself, the gradient of
        `residual` so far; it gives that of x and `residual` together, in the latter's place.
        """
        rows, before_back = run.normed(self.norm_before, x)
        if isinstance(self.block, FeedForward):
            out, block_back = self.block.forward(rows, run.parameters)
        else:
            out, block_back = run.attended(self.block, rows)
        out, after_back = run.normed(self.norm_after, out)
        out, drop_back = run.drop(out, residual)
        out, sum_back = run.normed(self.norm_sum, out)

        def back(grad, grad_residual=None):
            grad = sum_back(grad)
            if grad_residual is None:
                grad_residual = grad
            grad = after_back(drop_back(grad))
            if self.norm_before is None:
                return block_back(grad, grad_residual)
            return np.add(grad_residual, before_back(block_back(grad)), out=grad_residual)

        return out, back


class StackLayer(Layer):
    """The sub-layers of one layer.

    Parameters: self_attn.*, multihead_attn.* (of cross-attention), linear1.*, linear2.*, linear3.*,
    and norm1.*, norm2.*, ..., the norms in the order in which rows meet them: PyTorch's names.
    """

    def __init__(
        self, config: LayerConfig, d_model: int, rng: Rng, shared_bias: DistanceBias | None
    ):
        self.config = config
        self.sub_layers = tuple(
            SubLayer(one, d_model, rng, shared_bias) for one in config.sub_layers
        )

    @property
    def head_size(self) -> int:
        """The width of its own keys and values; 0 without self-attention."""
        blocks = (one.attention for one in self.sub_layers)
        own = [block.head_size for block in blocks if block and not block.config.is_cross]
        return own[0] if own else 0

    @property
    def memory_size(self) -> int:
        """The width of the memory's keys and values; 0 without cross-attention."""
        return self.cross_attention.head_size if self.cross_attention else 0

    @property
    def cross_attention(self) -> MultiheadAttention | None:
        """The attention that reads the memory, if there is one."""
        blocks = (one.attention for one in self.sub_layers)
        return next((block for block in blocks if block and block.config.is_cross), None)

    def compiled(self, rotaries):
        """The layer as the kernels run it."""
        blocks = [one.compiled(rotaries) for one in self.sub_layers]
        return _runtime.kernels.CompiledLayer(blocks, self.config.side_by_side)

    def forward(self, rows, run: TrainingPass):
        """rows (N, d_model) -> (N, d_model), with its way back."""
        x, backs = rows, []
        for sub_layer in self.sub_layers:
            rows, back = sub_layer.forward(x if self.config.side_by_side else rows, rows, run)
            backs.append(back)
        if not self.config.side_by_side:
            return rows, in_turn(backs)

        def back_to_input(grad):
            total = grad.copy()
            while backs:
                total = backs.pop()(grad, total)
            return total

        return rows, back_to_input

    def _children(self):
        for one in self.sub_layers:
            if one.attention is None:
                yield from one.block._children()
            else:
                yield "multihead_attn" if one.attention.config.is_cross else "self_attn", one.block
        norms = [norm for one in self.sub_layers for norm in one.norms]
        yield from ((f"norm{i}", norm) for i, norm in enumerate(norms, 1))


class TrainingPass:
    """What a stack reads besides its rows on the way of a training pass: the parameters, over these
    rows, the dropout, which rows belong to which sequence, and the memory."""

    def __init__(
        self,
        parameters: PassParameters,
        dropout,
        sequences: Sequences,
        memory: Memory | None = None,
    ):
        self.bounds = sequences.shard_rows
        self.parameters = parameters.over(self.bounds)
        self.sequences = sequences
        self.memory = memory
        self._dropout = dropout
        self._rotations: dict[tuple[RotaryConfig, int], Rotation] = {}

    def over(self, bounds) -> TrainingPass:
        """The same for other rows, of which these belong to each shard."""
        other = copy.copy(self)
        other.bounds, other.parameters = bounds, self.parameters.over(bounds)
        return other

    def drop(self, rows, residual=None):
        """residual + dropped rows, with the way back to rows; writes to rows."""
        return self._dropout(rows, residual, self.bounds)

    def normed(self, norm, rows):
        """norm(rows), with its way back; rows themselves without a norm."""
        return (rows, lambda grad: grad) if norm is None else norm.forward(rows, self.parameters)

    def attended(self, attention: MultiheadAttention, rows):
        """attention(rows), with its way back."""
        rotation = None
        if attention.config.rotary is not None:
            key = attention.config.rotary, attention.head_size
            if key not in self._rotations:
                self._rotations[key] = Rotation(*key, self.sequences)
            rotation = self._rotations[key]
        memory = self.memory if attention.config.is_cross else None
        return attention.forward(rows, self.parameters, self.sequences, memory, rotation)


def in_turn(backs: list[Callable]) -> Callable:
    """The way back, once, through what was done one after the other."""

    def back(grad):
        while backs:  # what each held of the way there is free after it
            grad = backs.pop()(grad)
        return grad

    return back
