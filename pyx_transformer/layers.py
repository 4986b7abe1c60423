"""Layers with parameters: linear, embedding, norms, feed-forward.

A layer is called with arrays and returns a new array; batch first, features last. Parameters carry
PyTorch's names, so that `load_state_dict` takes the arrays of a torch module as they are. Linear
weights live only in the packed form that the matrix product reads. `apply` methods take rows
(N, features), the form that the kernels work on, and check nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, _runtime

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Layer:
    """Something with parameters of its own, or with layers as attributes, or both."""

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Copies of all parameters by their dotted PyTorch names."""
        state = dict(self._own_parameters())
        for name, child in self._children():
            state.update({f"{name}.{key}": value for key, value in child.state_dict().items()})
        return state

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Replace all parameters by those of `state`.

        Raises ValueError where a key is missing, unexpected or misshapen, the one message listing
        them all, and TypeError for what is no array of real numbers. Then nothing has changed.
        """
        who = f"{type(self).__name__}.load_state_dict"
        state = as_state(who, state)
        shapes = self._all_shapes()
        missing = [key for key in shapes if key not in state]
        unexpected = [str(key) for key in state if key not in shapes]
        misshapen = []
        arrays = {}
        for key in shapes:
            if key in state:
                arrays[key] = _checks.as_float32(who, key, state[key])
                if arrays[key].shape != shapes[key]:
                    misshapen.append(f"{key} is {arrays[key].shape}, expected {shapes[key]}")
        problems = [
            f"{problem}: {', '.join(sorted(keys))}"
            for problem, keys in [
                ("missing", missing),
                ("unexpected", unexpected),
                ("misshapen", misshapen),
            ]
            if keys
        ]
        if problems:
            raise ValueError(f"{who}: {'; '.join(problems)}")
        self._load(arrays)

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(math.prod(shape) for shape in self._all_shapes().values())

    # A layer with parameters of its own overrides these three.

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def _own_parameters(self) -> dict[str, NDArray[np.float32]]:
        return {}

    def _load_own(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        pass

    # The walk over attributes that are layers, and over the list `layers` of a stack.

    def _children(self):
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                yield name, value
            elif name == "layers":
                yield from ((f"{name}.{i}", layer) for i, layer in enumerate(value))

    def _all_shapes(self):
        shapes = dict(self._own_shapes())
        for name, child in self._children():
            shapes.update({f"{name}.{key}": shape for key, shape in child._all_shapes().items()})
        return shapes

    def _load(self, arrays):
        self._load_own({key: arrays[key] for key in self._own_shapes()})
        for name, child in self._children():
            child._load({key: arrays[f"{name}.{key}"] for key in child._all_shapes()})

    # Packed weights depend on the instruction set: copies and pickles carry the plain ones.

    def __getstate__(self):
        parameters = dict(self._own_parameters())
        plain = {
            name: value
            for name, value in vars(self).items()
            if name != "_parameters" and type(value).__module__ != _runtime.kernels.__name__
        }
        return plain, parameters

    def __setstate__(self, state):
        plain, parameters = state
        vars(self).update(plain)
        if parameters:
            self._load_own(parameters)


class Linear(Layer):
    """activation(x W^T + b) with packed weights. Parameters: weight (out, in), bias (out,).

    Initialised as in Glorot and Bengio 2010 (uniform), bias 0, drawn from rng: a generator, a seed
    or None. Raises TypeError or ValueError, naming the argument.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        rng: np.random.Generator | int | None = None,
    ):
        self.in_features = _checks.as_integer("Linear", "in_features", in_features, minimum=1)
        self.out_features = _checks.as_integer("Linear", "out_features", out_features, minimum=1)
        self.has_bias = _checks.as_flag("Linear", "bias", bias)
        self._load_own(
            {
                "weight": glorot(as_generator("Linear", rng), self.out_features, self.in_features),
                "bias": np.zeros(self.out_features, np.float32),
            }
        )

    def __call__(self, x: ArrayLike, *, activation: str | None = None) -> NDArray[np.float32]:
        """x (..., in_features) -> (..., out_features) float32; activation as in `ops.linear`.

        Raises TypeError or ValueError, naming the argument.
        """
        x = _checks.as_float32("Linear", "x", x, (..., self.in_features))
        _checks.as_choice("Linear", "activation", activation, _runtime.kernels.ACTIVATIONS)
        rows = x.reshape(math.prod(x.shape[:-1]), self.in_features)
        return self.apply(rows, activation).reshape(*x.shape[:-1], self.out_features)

    def apply(self, rows: NDArray[np.float32], activation: str | None = None):
        """rows (N, in_features) -> (N, out_features), unchecked."""
        out = np.empty((len(rows), self.out_features), np.float32)
        _runtime.kernels.linear(
            out,
            rows,
            self.packed,
            None,
            _runtime.kernels.ACTIVATIONS[activation],
            _runtime.get_num_threads(),
        )
        return out

    @property
    def weight(self) -> NDArray[np.float32]:
        """A copy of the weight (out_features, in_features)."""
        return self.packed.unpack()

    @property
    def bias(self) -> NDArray[np.float32] | None:
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
        self.packed = _runtime.kernels.PackedLinear(arrays["weight"], bias)


class PlainLayer(Layer):
    """A layer whose parameters are plain arrays, which can be read but not written to.

    `load_state_dict` is the one way to change them: kernels trust their shapes.
    """

    @property
    def weight(self) -> NDArray[np.float32]:
        """The weight, read-only."""
        return self._parameters["weight"]

    def _own_parameters(self):
        return {name: array.copy() for name, array in self._parameters.items()}

    def _load_own(self, arrays):
        self._parameters = {name: np.array(array) for name, array in arrays.items()}
        for array in self._parameters.values():
            array.flags.writeable = False


class Embedding(PlainLayer):
    """Rows of a table by token id. Parameters: weight (num_embeddings, d_model).

    Initialised normal with standard deviation d_model^-0.5, drawn from rng as in `Linear`.
    Raises TypeError or ValueError, naming the argument.
    """

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        *,
        rng: np.random.Generator | int | None = None,
    ):
        self.num_embeddings = _checks.as_integer(
            "Embedding", "num_embeddings", num_embeddings, minimum=1
        )
        self.d_model = _checks.as_integer("Embedding", "d_model", d_model, minimum=1)
        table = as_generator("Embedding", rng).standard_normal(
            (self.num_embeddings, self.d_model), np.float32
        )
        self._load_own({"weight": table * np.float32(self.d_model**-0.5)})

    def __call__(self, ids: ArrayLike) -> NDArray[np.float32]:
        """ids (...), integers from 0 to num_embeddings - 1 -> (..., d_model) float32.

        Raises TypeError or ValueError, naming the argument.
        """
        ids = _checks.as_token_ids("Embedding", "ids", ids, self.weight.shape)
        return self.apply(ids.reshape(-1), 1.0, None, None).reshape(*ids.shape, self.d_model)

    def apply(self, ids, scale, positions, position_ids):
        """weight[ids] scale + positions[position_ids], ids (N,) -> (N, d_model), unchecked."""
        out = np.empty((len(ids), self.d_model), np.float32)
        _runtime.kernels.embedding(
            out, ids, self.weight, scale, positions, position_ids, _runtime.get_num_threads()
        )
        return out

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


class LayerNorm(PlainLayer):
    """Layer norm over the last axis (Ba, Kiros and Hinton 2016). Parameters: weight, bias (d,).

    eps is added to the variance, and is at least 0: see `ops.layer_norm`. Raises TypeError or
    ValueError, naming the argument.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5):
        self.d_model = _checks.as_integer("LayerNorm", "d_model", d_model, minimum=1)
        self.eps = _checks.as_number("LayerNorm", "eps", eps, minimum=0)
        self._load_own(
            {"weight": np.ones(d_model, np.float32), "bias": np.zeros(d_model, np.float32)}
        )

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """x (..., d_model) -> the same shape, float32.

        Raises TypeError or ValueError, naming the argument.
        """
        x = _checks.as_float32("LayerNorm", "x", x, (..., self.d_model))
        return self.apply(x.reshape(-1, self.d_model)).reshape(x.shape)

    @property
    def bias(self) -> NDArray[np.float32]:
        """The bias (d_model,), read-only."""
        return self._parameters["bias"]

    def apply(self, rows):
        """rows (N, d_model) -> (N, d_model), unchecked."""
        out = np.empty_like(rows)
        _runtime.kernels.layer_norm(
            out, rows, self.weight, self.bias, self.eps, _runtime.get_num_threads()
        )
        return out

    def _own_shapes(self):
        return {"weight": (self.d_model,), "bias": (self.d_model,)}

    def _load_own(self, arrays):
        super()._load_own(arrays)
        self.parameters = _runtime.kernels.NormParameters(self.weight, self.bias, self.eps)


class RMSNorm(PlainLayer):
    """RMS norm over the last axis (Zhang and Sennrich 2019). Parameters: weight (d,).

    eps is added to the mean square, and is at least 0: see `ops.rms_norm`. Raises TypeError or
    ValueError, naming the argument.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-6):
        self.d_model = _checks.as_integer("RMSNorm", "d_model", d_model, minimum=1)
        self.eps = _checks.as_number("RMSNorm", "eps", eps, minimum=0)
        self._load_own({"weight": np.ones(d_model, np.float32)})

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """x (..., d_model) -> the same shape, float32.

        Raises TypeError or ValueError, naming the argument.
        """
        x = _checks.as_float32("RMSNorm", "x", x, (..., self.d_model))
        out = np.empty_like(x)
        _runtime.kernels.rms_norm(
            out.reshape(-1, self.d_model),
            x.reshape(-1, self.d_model),
            self.weight,
            self.eps,
            _runtime.get_num_threads(),
        )
        return out

    def _own_shapes(self):
        return {"weight": (self.d_model,)}


class FeedForward(Layer):
    """W2 f(W1 x + b1) + b2 (Vaswani et al. 2017, 3.3). Parameters: linear1.*, linear2.*.

    W1 (d_ff, d_model), W2 (d_model, d_ff), initialised as in `Linear`; activation f as in
    `ops.linear`. Raises TypeError or ValueError, naming the argument.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        activation: str = "relu",
        rng: np.random.Generator | int | None = None,
    ):
        this = "FeedForward"
        d_model = _checks.as_integer(this, "d_model", d_model, minimum=1)
        d_ff = _checks.as_integer(this, "d_ff", d_ff, minimum=1)
        rng = as_generator(this, rng)
        self.activation = as_activation(this, activation)
        self.linear1 = Linear(d_model, d_ff, rng=rng)
        self.linear2 = Linear(d_ff, d_model, rng=rng)

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """x (..., d_model) -> the same shape, float32.

        Raises TypeError or ValueError, naming the argument.
        """
        x = _checks.as_float32("FeedForward", "x", x, (..., self.linear1.in_features))
        rows = x.reshape(-1, self.linear1.in_features)
        return feed_forward(rows, self.linear1, self.linear2, self.activation).reshape(x.shape)


def feed_forward(
    rows,
    linear1: Linear,
    linear2: Linear,
    activation: str | None,
    *,
    norm: LayerNorm | None = None,
    norm_first: bool = False,
    residual: bool = False,
):
    """rows (N, d_model) -> (N, d_model), unchecked; a whole sub-layer with norm and residual."""
    out = np.empty((len(rows), linear2.out_features), np.float32)
    _runtime.kernels.feed_forward_block(
        out,
        rows,
        None if norm is None else norm.parameters,
        norm_first,
        residual,
        linear1.packed,
        linear2.packed,
        _runtime.kernels.ACTIVATIONS[activation],
        _runtime.get_num_threads(),
    )
    return out


def as_activation(function: str, value: str | None) -> str | None:
    """The name of an activation that the kernels have."""
    return _checks.as_choice(function, "activation", value, _runtime.kernels.ACTIVATIONS)


def as_generator(function: str, rng: np.random.Generator | int | None) -> np.random.Generator:
    """`rng` itself, or a new generator seeded with it."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{function}: rng is {rng!r}, expected a numpy.random.Generator, a seed or None"
        ) from error


def as_state(function: str, state: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """The entries of `state` in a dict of their own."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"{function}: state is of type {type(state).__name__}, expected a mapping of names to "
            "arrays"
        )
    return dict(state)


def glorot(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    """Uniform (rows, columns) within sqrt(6 / (rows + columns)) (Glorot and Bengio 2010)."""
    limit = math.sqrt(6 / (rows + columns))
    values = rng.random((rows, columns), np.float32)
    return (values * np.float32(2 * limit)) - np.float32(limit)
