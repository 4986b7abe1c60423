"""Layers with parameters: linear, embedding, the bias by distance; and what all layers have.

A layer is called with arrays and returns a new array; batch first, features last. Parameters carry
PyTorch's names, so that `load_state_dict` takes the arrays of a torch module as they are. Linear
weights live only in the packed form that the matrix product reads.

`apply` methods take rows (N, features), the form that the kernels work on, and check nothing.
`forward` methods do the same on the `PassParameters` of a training pass, and also give the function
`back`, which takes the gradient of what came out, adds to the gradients of the parameters, once to
each, and gives the gradient of what came in. The sums are those of `apply`, to the bit.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer._reprs import counted
from pyx_transformer.description import DistanceBiasConfig
from pyx_transformer.parameters import (
    PackedLayer,
    Parameter,
    PassParameters,
    PlainLayer,
    Rng,
    Uninitialised,
    as_generator,
    glorot,
)
from pyx_transformer.positions import distance_buckets

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float32]
    Ids = NDArray[np.int64]
    Back = Callable[..., Floats]


class Linear(PackedLayer):
    """activation(x W^T + b) with packed weights. Parameters: weight (out, in), bias (out,).

    linear(x) takes x (..., in_features) to (..., out_features). Initialised as in Glorot and Bengio
    2010 (uniform), bias 0.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        softcap: float | None = None,
        rng: Rng = None,
    ):
        """in_features, out_features: the widths of what comes in and goes out. bias: whether there
        is one. softcap: the activation is softcap tanh(y / softcap) unless another is given (Gemma
        Team 2024). rng: what the weights are drawn from, a numpy.random.Generator, a seed, or None
        for other ones each time.

        Raises TypeError or ValueError, naming the argument.
        """
        self.in_features = _checks.as_size("Linear", "in_features", in_features)
        self.out_features = _checks.as_size("Linear", "out_features", out_features)
        self.has_bias = _checks.as_flag("Linear", "bias", bias)
        self.softcap = softcap
        if softcap is not None:
            self.softcap = _checks.as_number(
                "Linear", "softcap", softcap, minimum=_checks.FLOAT32_TINY
            )
        generator = as_generator("Linear", rng)
        if isinstance(generator, Uninitialised):
            return
        weight = glorot(generator, self.out_features, self.in_features)
        self._load_own({"weight": weight, "bias": np.zeros(self.out_features, np.float32)})

    def in_words(self) -> list[str]:
        words = [str(self.in_features), str(self.out_features)]
        if not self.has_bias:
            words.append("bias=False")
        return words if self.softcap is None else [*words, f"softcap={self.softcap}"]

    def __call__(self, x: ArrayLike, *, activation: str | None = None) -> Floats:
        """x (..., in_features) -> (..., out_features) float32; activation as in `ops.linear`.

        Raises TypeError or ValueError, naming the argument.
        """
        x = _checks.as_float32("Linear", "x", x, (..., self.in_features))
        _checks.as_choice("Linear", "activation", activation, _runtime.kernels.ACTIVATIONS)
        rows = x.reshape(math.prod(x.shape[:-1]), self.in_features)
        return self.apply(rows, activation).reshape(*x.shape[:-1], self.out_features)

    def apply(self, rows: Floats, activation: str | None = None) -> Floats:
        """rows (N, in_features) -> (N, out_features)."""
        return multiplied(rows, self.packed, activation=activation)

    def forward(
        self, rows: Floats, parameters: PassParameters, activation: str | None = None
    ) -> tuple[Floats, Back]:
        """`apply`; back takes the gradient before the activation, and what to add to the rows'."""
        return linear_forward(
            rows, parameters.of(self, "weight"), parameters.get(self, "bias"), activation
        )

    @property
    def weight(self) -> Floats:
        """A copy of the weight (out_features, in_features)."""
        return self.packed.unpack()

    @property
    def bias(self) -> Floats | None:
        """A copy of the bias (out_features,)."""
        return self.packed.bias

    def _own_shapes(self):
        shapes = {"weight": (self.out_features, self.in_features)}
        return {**shapes, "bias": (self.out_features,)} if self.has_bias else shapes

    def _own_parameters(self):
        parameters = {"weight": self.weight}
        return {**parameters, "bias": self.bias} if self.has_bias else parameters

    def _load_own(self, arrays):
        bias = arrays["bias"] if self.has_bias else None
        self.packed = _runtime.kernels.PackedLinear(
            arrays["weight"], bias, False, _runtime.get_num_threads(), self.softcap or 0.0
        )

    def _packings(self):
        shape = self.out_features, self.in_features
        return {"packed": (*shape, self.has_bias, self.softcap or 0.0)}


def linear_forward(
    rows: Floats, weight: Parameter, bias: Parameter | None, activation: str | None = None
) -> tuple[Floats, Back]:
    """activation(rows W^T + b); see `Linear.forward`."""
    out = multiplied(rows, packed(weight, bias), activation=activation)

    def back(grad, residual=None):
        add_linear_gradients(weight, bias, grad, rows)
        return multiplied(grad, transposed(weight), residual)

    return out, back


def multiplied(rows, weights, residual=None, activation: str | None = None) -> Floats:
    """activation(rows W^T + b) + residual, for packed weights."""
    kernels = _runtime.kernels
    out = np.empty((len(rows), weights.out_features), np.float32)
    number = kernels.ACTIVATIONS[activation]
    kernels.linear(out, rows, weights, None, residual, number, _runtime.get_num_threads())
    return out


def add_linear_gradients(weight: Parameter, bias: Parameter | None, grad, rows) -> None:
    """What a product's weight and bias get from the gradient (N, out) of its output."""
    _runtime.kernels.linear_weight_gradient(
        weight.gradient,
        None if bias is None else bias.gradient,
        grad,
        rows,
        weight.bounds,
        _runtime.get_num_threads(),
    )


def packed(weight: Parameter, bias: Parameter | None, softcap: float | None = None):
    """A run's weights as the product reads them."""
    bias_value = None if bias is None else bias.value
    return _runtime.kernels.PackedLinear(
        weight.value, bias_value, False, _runtime.get_num_threads(), softcap or 0.0
    )


def transposed(weight: Parameter):
    """A run's weights as the gradient of the product's input reads them."""
    return _runtime.kernels.PackedLinear(weight.value, None, True, _runtime.get_num_threads())


class Embedding(PlainLayer):
    """Rows of a table by token id. Parameters: weight (num_embeddings, d_model).

    embedding(ids) takes whole numbers (...) to (..., d_model). Initialised normal with standard
    deviation d_model^-0.5.
    """

    def __init__(self, num_embeddings: int, d_model: int, *, rng: Rng = None):
        """num_embeddings: how many ids there are; d_model: the width of a row; rng as in `Linear`.

        Raises TypeError or ValueError, naming the argument.
        """
        self.num_embeddings = _checks.as_size("Embedding", "num_embeddings", num_embeddings)
        self.d_model = _checks.as_size("Embedding", "d_model", d_model)
        generator = as_generator("Embedding", rng)
        if isinstance(generator, Uninitialised):
            return
        table = generator.standard_normal((self.num_embeddings, self.d_model), np.float32)
        self._load_own({"weight": table * np.float32(self.d_model**-0.5)})

    def in_words(self) -> list[str]:
        return [str(self.num_embeddings), str(self.d_model)]

    def __call__(self, ids: ArrayLike) -> Floats:
        """ids (...), integers from 0 to num_embeddings - 1 -> (..., d_model) float32.

        Raises TypeError or ValueError, naming the argument.
        """
        ids = _checks.as_token_ids("Embedding", "ids", ids, self.weight.shape)
        return self.apply(ids.reshape(-1), 1.0, None, None).reshape(*ids.shape, self.d_model)

    def apply(
        self, ids: Ids, scale: float, positions: Floats | None, position_ids: Ids | None
    ) -> Floats:
        """weight[ids] scale + positions[position_ids], ids (N,) -> (N, d_model)."""
        return _looked_up(ids, self.weight, scale, positions, position_ids)

    def forward(
        self,
        ids: Ids,
        parameters: PassParameters,
        scale: float = 1.0,
        positions: Floats | None = None,
        position_ids: Ids | None = None,
    ) -> tuple[Floats, Callable[[Floats], None]]:
        """`apply`; back gives nothing, ids having no gradient."""
        table = parameters.of(self, "weight")
        out = _looked_up(ids, table.value, scale, positions, position_ids)
        return out, lambda grad: add_embedding_gradient(table, ids, grad, scale)

    def share(self, other: Embedding) -> None:
        """Use the table of another embedding, without a copy.

        Raises TypeError for what is no Embedding, ValueError for another shape.
        """
        this = "Embedding.share"
        if not isinstance(other, Embedding):
            raise TypeError(
                f"{this}: other is of type {type(other).__name__}, expected an Embedding"
            )
        because = ("the own table", self.weight.shape)
        _checks.check_shape(this, "other", other.weight.shape, self.weight.shape, because)
        self._parameters = other._parameters

    def _own_shapes(self):
        return {"weight": (self.num_embeddings, self.d_model)}


def _looked_up(ids, table, scale, positions, position_ids):
    out = np.empty((len(ids), table.shape[1]), np.float32)
    _runtime.kernels.embedding(
        out, ids, table, scale, positions, position_ids, _runtime.get_num_threads()
    )
    return out


def add_embedding_gradient(table: Parameter, ids, grad, scale: float = 1.0) -> None:
    """What the rows `ids` of a table get from the gradient (N, D) of table[ids] scale."""
    _runtime.kernels.embedding_gradient(
        table.gradient, ids, grad, scale, table.bounds, _runtime.get_num_threads()
    )


class DistanceBias(PlainLayer):
    """A learned bias of the scores: see `DistanceBiasConfig`. Parameters: weight (num_buckets, H).

    Initialised with zeros.
    """

    def __init__(self, config: DistanceBiasConfig, num_heads: int, rng: Rng):
        self.num_heads = num_heads
        self.config = config
        if not isinstance(rng, Uninitialised):
            self._load_own({"weight": np.zeros((config.num_buckets, num_heads), np.float32)})

    def in_words(self) -> list[str]:
        return [counted(self.config.num_buckets, "bucket"), counted(self.num_heads, "head")]

    @cached_property
    def buckets(self) -> NDArray[np.int64]:
        """The bucket of each distance, key less query, up to the furthest that is told apart."""
        return distance_buckets(self.config)

    def table(self, weight: Floats | None = None) -> Floats:
        """The bias by head and distance as the kernels read it, from the own weight unless given
        another."""
        weight = self.weight if weight is None else weight
        pad = _runtime.kernels.BIAS_PAD
        return np.ascontiguousarray(np.pad(weight[self.buckets].T, ((0, 0), (pad, pad)), "edge"))

    def empty_gradient(self, shards: int) -> Floats:
        """Room for the gradients (shards, H, distances) of the bias by distance, zeros."""
        return np.zeros((shards, self.num_heads, len(self.buckets)), np.float32)

    def add_gradient(self, weight: Parameter, grads: Floats) -> None:
        """What the buckets get from the gradients (shards, H, distances) of the bias by
        distance."""
        sums = np.zeros((len(grads), *weight.value.shape))
        for own, grad in zip(sums, grads, strict=True):
            np.add.at(own, self.buckets, grad.T)
        leaves = sums.astype(np.float32).reshape(len(grads), -1)
        bounds = np.arange(len(grads) + 1)
        _runtime.kernels.sum_rows(weight.gradient.reshape(-1), leaves, bounds, 1)

    def _own_shapes(self):
        return {"weight": (self.config.num_buckets, self.num_heads)}
