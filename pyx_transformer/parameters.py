"""What has parameters: layers as a tree, and the parameters of a training run.

A `Layer` has parameters of its own, or layers as attributes, or both; their dotted names are the
keys of its state. `Parameters` are copies of all of them in one flat array of values and one of
gradients, which the layers of a pass ask their `PassParameters` for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer._keys import listed, prefix_problem
from pyx_transformer._reprs import called, counted

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float32]


class Uninitialised:
    """The rng of layers whose parameters are to be loaded: nothing is drawn and nothing packed."""


UNINITIALISED = Uninitialised()
Rng: TypeAlias = "np.random.Generator | int | Uninitialised | None"


class Deferred:
    """An array of real numbers that is made each time it is asked for: of a file's arrays no second
    copy is held while they are loaded."""

    def __init__(self, shape: tuple[int, ...], read: Callable[[], NDArray[Any]]):
        self.shape = shape
        self._read = read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The array, read anew."""
        return np.asarray(self._read(), dtype)


# Loads the parameters of these layers elsewhere than into memory of their own, each given with the
# function that does it there: see checkpoints/mapped.py.
Loads: TypeAlias = "list[tuple[Layer, Callable[[], None]]]"
PLACE: ContextVar[Callable[[Loads], None] | None] = ContextVar("PLACE", default=None)


class Layer:
    """Something with parameters of its own, or with layers as attributes, or both.

    An attribute whose name begins with an underscore is no part of the layer: it belongs to
    another, or is made anew.
    """

    # Counts what is set on any layer, so that what was compiled before can be told.
    changes: ClassVar[int] = 0
    # The argument that says whether there is a parameter of that key.
    switches: ClassVar[Mapping[str, str]] = {}
    # How often its parameters are used on the way through a model.
    uses: int = 1

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        Layer.changes += 1

    def __repr__(self) -> str:
        return called(self, self.in_words())

    def in_words(self) -> list[str]:
        """What its repr says of it."""
        return [counted(self.num_parameters, "parameter")]

    def state_dict(self) -> dict[str, Floats]:
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
        arrays: dict[str, Floats | Deferred] = {}
        for key in shapes:
            if key in state:
                value = state[key]
                if not isinstance(value, Deferred):
                    value = _checks.as_float32(who, key, value)
                arrays[key] = value
                if arrays[key].shape != shapes[key]:
                    misshapen.append(f"{key} is {arrays[key].shape}, expected {shapes[key]}")
        problems = [
            f"{problem}: {listed(keys)}"
            for problem, keys in [
                ("missing", missing),
                ("unexpected", unexpected),
                ("misshapen", misshapen),
            ]
            if keys
        ]
        if problems:
            problems += prefix_problem(state, shapes) or self._advice(missing, unexpected)
            raise ValueError(f"{who}: {'; '.join(problems)}")
        self._load(arrays)

    def _advice(self, missing: list[str], unexpected: list[str]) -> list[str]:
        """With which arguments these keys are there, or are not."""
        advice = []
        for prefix, layer in self.named_layers():
            for name, argument in layer.switches.items():
                key = f"{prefix}{name}"
                if key in unexpected:
                    advice.append(f"{key} is there with {argument}=True")
                elif key in missing:
                    advice.append(f"{key} is not there with {argument}=False")
        return advice

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(math.prod(shape) for shape in self._all_shapes().values())

    # A layer with parameters of its own overrides these six.

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def _own_parameters(self) -> dict[str, Floats]:
        return {}

    def _load_own(self, arrays: Mapping[str, Floats]) -> None:
        pass

    def _stored(self) -> list[Floats]:
        """Its arrays as they lie in memory, each flat."""
        return []

    def _stored_sizes(self) -> list[int]:
        """How many floats each of them has; known before there are parameters."""
        return []

    def _use(self, stored: Sequence[Floats]) -> None:
        """Have these as parameters, without a copy."""

    # The walk over layers below this one.

    def _children(self) -> Iterator[tuple[str, Layer]]:
        for name, value in vars(self).items():
            if isinstance(value, Layer) and not name.startswith("_"):
                yield name, value

    def named_layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and all below it, with what their parameters' names begin with."""
        yield prefix, self
        for name, child in self._children():
            yield from child.named_layers(f"{prefix}{name}.")

    def _all_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            f"{prefix}{name}": shape
            for prefix, layer in self.named_layers()
            for name, shape in layer._own_shapes().items()
        }

    def _load(self, arrays: Mapping[str, Floats | Deferred]) -> None:
        loads: Loads = [
            (layer, partial(layer._load_part, prefix, arrays))
            for prefix, layer in self.named_layers()
            if layer._own_shapes()
        ]
        place = PLACE.get()
        if place is not None:
            place(loads)
            return
        for _, load in loads:
            load()

    def _load_part(self, prefix: str, arrays: Mapping[str, Floats | Deferred]) -> None:
        """Load what is its own of the arrays of a whole."""
        self._load_own(
            {
                name: np.ascontiguousarray(arrays[f"{prefix}{name}"], np.float32)
                for name in self._own_shapes()
            }
        )

    # Packed weights depend on the instruction set: copies and pickles carry the plain ones.

    def __getstate__(self):
        plain = {
            name: value
            for name, value in vars(self).items()
            if name not in ("_parameters", "_compiled")
            and type(value).__module__ != _runtime.kernels.__name__
        }
        return plain, dict(self._own_parameters())

    def __setstate__(self, state):
        plain, parameters = state
        vars(self).update(plain)
        if parameters:
            self._load_own(parameters)


class PlainLayer(Layer):
    """A layer whose parameters are plain arrays, which can be read but not written to.

    `load_state_dict` is the one way to change them: kernels trust their shapes.
    """

    _parameters: dict[str, Floats]

    @property
    def weight(self) -> Floats:
        """The weight, read-only."""
        return self._parameters["weight"]

    def _own_parameters(self):
        return {name: array.copy() for name, array in self._parameters.items()}

    def _load_own(self, arrays):
        self._use([np.array(arrays[name]) for name in self._own_shapes()])

    def _stored(self):
        return [array.reshape(-1) for array in self._parameters.values()]

    def _stored_sizes(self):
        return [math.prod(shape) for shape in self._own_shapes().values()]

    def _use(self, stored):
        parameters = {}
        for (name, shape), array in zip(self._own_shapes().items(), stored, strict=True):
            parameters[name] = array.reshape(shape)
            parameters[name].flags.writeable = False
        self._parameters = parameters


class PackedLayer(Layer):
    """A layer whose weights are packed, each in an attribute of its own."""

    def _packings(self) -> dict[str, tuple[int, int, bool, float]]:
        """Of each attribute: out_features, in_features, whether it has a bias, its soft cap."""
        raise NotImplementedError

    def _stored(self):
        return [array for name in self._packings() for array in getattr(self, name).arrays]

    def _stored_sizes(self):
        sizes = _runtime.kernels.PackedLinear.sizes
        return [
            size
            for outs, ins, has_bias, _ in self._packings().values()
            for size in sizes(outs, ins, has_bias)
        ]

    def _use(self, stored):
        rest = iter(stored)
        for name, (outs, ins, has_bias, softcap) in self._packings().items():
            arrays = list(islice(rest, 1 + has_bias))
            packed = _runtime.kernels.PackedLinear.of_arrays(arrays, outs, ins, softcap)
            setattr(self, name, packed)


class Parameter(NamedTuple):
    """An array and what its gradient is added to, views of two flat arrays; the gradient is a sum
    over rows, of which those from bounds[i] on, up to bounds[i + 1], are those of shard i."""

    value: Floats
    gradient: Floats
    bounds: NDArray[np.int64]

    def part(self, begin: int, end: int) -> Parameter:
        """The rows from `begin` to `end`."""
        return self._replace(value=self.value[begin:end], gradient=self.gradient[begin:end])


class Parameters:
    """Copies of a model's parameters, and their gradients.

    values and gradients are float32 (P,), in the order of the model's state. A weight that is used
    several times on the way through the model, by several layers that it is tied in or by one, is
    there once.

    Its gradient is the sum of what all its uses give, the last of the model's first, each of them a
    sum over all shards. Where a pass has a part of the shards only, the uses are kept apart until
    the sums of all passes are one: in an array of `size_apart` numbers.
    """

    def __init__(self, model: Any):
        state = model.state_dict()
        self.values = np.concatenate([array.reshape(-1) for array in state.values()])
        self.gradients = np.zeros_like(self.values)
        self.size_apart = self.values.size
        self._places: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        begin = 0
        for key, array in state.items():
            self._places[key] = begin, begin + array.size, array.shape
            begin += array.size
        ties = model.ties()
        self._keys = {
            (id(layer), name): ties.get(f"{prefix}{name}", f"{prefix}{name}")
            for prefix, layer in model.named_layers()
            for name in layer._own_shapes()
        }
        # Where the gradients of each use begin, the last use's where the gradient itself is.
        self._begins: dict[tuple[int, str], list[int]] = {}
        self._further: list[tuple[str, int]] = []
        taken = set()
        for _, layer in reversed([*model.named_layers()]):
            for name in layer._own_shapes():
                key = self._keys[id(layer), name]
                begins = self._begins[id(layer), name] = []
                for _ in range(layer.uses):
                    begin, end, _ = self._places[key]
                    if key in taken:
                        self._further.append((key, self.size_apart))
                        begin, self.size_apart = self.size_apart, self.size_apart + end - begin
                    taken.add(key)
                    begins.insert(0, begin)

    def whole(self) -> PassParameters:
        """For a pass of all shards, whose gradients are added to `gradients`."""
        arrays = {key: self._parameter(key, self.gradients, None) for key in self._keys}
        return PassParameters({key: repeat(pair) for key, pair in arrays.items()})

    def apart(self, sums: Floats) -> PassParameters:
        """For one pass, whose gradients are added to sums (size_apart,), those of each use of a
        parameter apart."""
        return PassParameters(
            {
                key: iter([self._parameter(key, sums, begin) for begin in begins])
                for key, begins in self._begins.items()
            }
        )

    def add_up(self, sums: Floats) -> None:
        """Add to `gradients` the sums of all shards, those of all uses together."""
        self.gradients += sums[: self.gradients.size]
        for key, further in self._further:
            begin, end, _ = self._places[key]
            self.gradients[begin:end] += sums[further : further + end - begin]

    def state_dict(self, values: Floats | None = None) -> dict[str, Floats]:
        """Views of `values` (P,), the parameters' own unless given, by key."""
        values = self.values if values is None else values
        return {
            key: values[begin:end].reshape(shape)
            for key, (begin, end, shape) in self._places.items()
        }

    def _parameter(self, layer_key, gradients, place):
        """The value and the gradient of a layer's own parameter, the latter at a place in the
        gradients, that of the value unless given."""
        begin, end, shape = self._places[self._keys[layer_key]]
        place = begin if place is None else place
        gradient = gradients[place : place + end - begin]
        return self.values[begin:end].reshape(shape), gradient.reshape(shape)


class PassParameters:
    """The parameters that the layers of one pass ask for, each time that they use them.

    bounds say which rows of those that are passed on belong to which shard: see `Parameter`.
    """

    def __init__(
        self,
        uses: dict[tuple[int, str], Iterator[tuple[Floats, Floats]]],
        bounds: NDArray[np.int64] | None = None,
    ):
        self._uses = uses
        self._bounds = bounds

    def over(self, bounds: NDArray[np.int64]) -> PassParameters:
        """The same of this pass, for other rows."""
        return PassParameters(self._uses, bounds)

    def of(self, layer: Layer, name: str) -> Parameter:
        """A layer's own parameter of that name."""
        assert self._bounds is not None
        return Parameter(*next(self._uses[id(layer), name]), self._bounds)

    def get(self, layer: Layer, name: str) -> Parameter | None:
        """A layer's own parameter of that name, None where it has none."""
        return self.of(layer, name) if (id(layer), name) in self._uses else None


def as_generator(function: str, rng: Rng) -> np.random.Generator | Uninitialised:
    """`rng` itself, or a new generator seeded with it."""
    if isinstance(rng, Uninitialised):
        return rng
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


def glorot(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Uniform (rows, columns) within sqrt(6 / (rows + columns)) (Glorot and Bengio 2010)."""
    limit = math.sqrt(6 / (rows + columns))
    values = rng.random((rows, columns), np.float32)
    return (values * np.float32(2 * limit)) - np.float32(limit)
