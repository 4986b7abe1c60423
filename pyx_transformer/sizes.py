"""How many numbers and operations a stack takes, counted from the shapes of its layers.

Configurations, benchmarks and estimates all count here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from pyx_transformer.description import StackConfig
from pyx_transformer.layers import DistanceBias
from pyx_transformer.parameters import UNINITIALISED
from pyx_transformer.stack import Stack
from pyx_transformer.sub_layers import StackLayer


def num_parameters(config: StackConfig) -> int:
    """How many numbers the parameters of such a stack hold, from one layer of each description."""
    few = replace(config, num_layers=min(config.num_layers, len(config.layers)))
    stack = Stack.of(few, UNINITIALISED)
    each = [layer.num_parameters for layer in stack.layers]
    count = len(each) if config.share_weights else config.num_layers
    return stack.num_parameters - sum(each) + sum(each[i % len(each)] for i in range(count))


def row_weights(config: StackConfig) -> int:
    """Weights that each row of the stack is multiplied by: a step of decoding reads them once.

    The memory's keys and values have theirs, which are not among them.
    """
    return sum(map(_row_weights, Stack.of(config, UNINITIALISED).in_order))


def operations(config: StackConfig, lengths: Iterable[int]) -> int:
    """Of the products of an encoder on sequences of these lengths, a multiply-add counting two."""
    lengths = list(lengths)
    pairs = sum(length**2 for length in lengths)
    layers = Stack.of(config, UNINITIALISED).in_order
    blocks = [one.attention for layer in layers for one in layer.sub_layers if one.attention]
    attention = sum(4 * block.num_heads * block.head_size for block in blocks)
    return 2 * sum(lengths) * row_weights(config) + pairs * attention


def _row_weights(layer: StackLayer) -> int:
    return _matrices(layer) - _memory_weights(layer)


def _memory_weights(layer: StackLayer) -> int:
    block = layer.cross_attention
    return 2 * block.config.num_kv_heads * block.head_size * block.d_model if block else 0


def _matrices(layer: StackLayer) -> int:
    shapes = [
        shape
        for _, part in layer.named_layers()
        for shape in part._own_shapes().values()
        if not isinstance(part, DistanceBias)
    ]
    return sum(math.prod(shape) for shape in shapes if len(shape) == 2)
