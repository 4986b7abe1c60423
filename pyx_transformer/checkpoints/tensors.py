"""Tensors of a file, read when they are asked for, and a model's state made of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyx_transformer._keys import listed
from pyx_transformer.parameters import Deferred

KINDS = ("weight", "bias")
SCALES = ".scales"  # ends the key of the scales of an int8 matrix
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # the upper half of an F32; NumPy has no such type
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}

# Buffers that some files hold beside the weights: what they say is known.
BUFFERS = (
    "position_ids",
    "rotary_emb.inv_freq",
    "attn.bias",
    "attn.masked_bias",
    "attention.bias",
    "attention.masked_bias",
    "embed_positions.weights",
    "EncDecAttention.relative_attention_bias.weight",
)


class Tensor(Deferred):
    """A tensor of a file, or what is made of some: its name there, its shape, and how to read it.

    What changes one gives another and reads nothing.
    """

    def __init__(self, name: str, shape: tuple[int, ...], read: Callable[[], NDArray[Any]]):
        super().__init__(shape, read)
        self.name = name

    def changed(
        self, change: Callable[[NDArray[Any]], NDArray[Any]], shape: tuple[int, ...] | None = None
    ) -> Tensor:
        """The tensor after a change, of its own shape unless another is given."""
        return Tensor(
            self.name, self.shape if shape is None else shape, lambda: change(np.asarray(self))
        )

    @property
    def T(self) -> Tensor:
        """The transposed matrix."""
        return self.changed(np.transpose, self.shape[::-1])

    def rows(self, begin: int, end: int | None = None) -> Tensor:
        """Rows begin ... end - 1."""
        count = len(range(*slice(begin, end).indices(self.shape[0] if self.shape else 0)))
        return self.changed(lambda array: array[begin:end], (count, *self.shape[1:]))


def stacked(tensors: list[Tensor]) -> Tensor:
    """Tensors one below the other."""
    first, *others = tensors
    if not others:
        return first
    # What does not fit is told by its shape, before anything is read.
    rows = sum(tensor.shape[0] if tensor.shape else 0 for tensor in tensors)
    return Tensor(
        ", ".join(tensor.name for tensor in tensors),
        (rows, *first.shape[1:]),
        lambda: np.concatenate([np.asarray(tensor, np.float32) for tensor in tensors]),
    )


class StoredTensors(dict[str, Tensor]):
    """The tensors of a file by name, each read when it is asked for."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.not_finite: set[str] = set()  # of those that were read
        self.dtypes: dict[str, str] = {}  # as they are stored

    def warn(self, stacklevel: int) -> None:
        """Warn of the first tensor read that held anything but finite numbers."""
        if self.not_finite:
            warnings.warn(
                f"load: {self.path}: {min(self.not_finite)} holds values that are not finite as "
                "float32",
                stacklevel=stacklevel + 1,
            )

    def add(
        self, name: str, dtype: str, shape: tuple[int, ...], stored: Callable[[], NDArray[Any]]
    ) -> None:
        """A tensor of one of DTYPES, as it is stored; floats become float32."""
        if dtype not in DTYPES:
            raise ValueError(f"{name} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
        np.broadcast_to(np.int8(0), shape)  # refuses a shape that no array can have

        def read():
            array = stored()
            if dtype == "BF16":
                array = (array.astype("<u4") << 16).view("<f4")
            if not is_finite(array):
                self.not_finite.add(name.removesuffix(SCALES))
            if array.dtype.kind == "f":
                with np.errstate(all="ignore"):  # what becomes infinite is told
                    array = array.astype(np.float32, copy=False)
            return array

        self[name] = Tensor(name, shape, read)
        self.dtypes[name] = dtype


def is_finite(array: NDArray[Any]) -> bool:
    """Whether all of an array is finite as float32."""
    largest = np.finfo(np.float32).max
    return not array.size or bool(-largest <= array.min() and array.max() <= largest)


class Renaming:
    """The state of a model of ours, made of a file's tensors.

    state: tensors by our keys. names: what each key that was looked for is called in the file,
    there or not. used: names of tensors that have a place.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors
        self.state: dict[str, Tensor] = {}
        self.names: dict[str, str] = {}
        self.used: set[str] = set()

    def unused(self) -> list[str]:
        """The tensors that have no place, buffers that are known left out."""
        return [
            name for name in self.tensors if name not in self.used and not name.endswith(BUFFERS)
        ]

    def take(self, ours: str, *theirs: str) -> None:
        """These tensors, one below the other, under our key, if all are there."""
        self.names[ours] = ", ".join(theirs)
        if all(name in self.tensors for name in theirs):
            self.state[ours] = stacked([self.tensors[name] for name in theirs])
            self.used.update(theirs)

    def move(self, names: Mapping[str, str]) -> None:
        """The weights and biases of layers, their names by ours."""
        for ours, their in names.items():
            for kind in KINDS:
                self.take(f"{ours}.{kind}", f"{their}.{kind}")

    def move_attention(self, ours: str, inputs: list[str], output: str) -> None:
        """An attention: the projections of queries, keys and values one below the other."""
        self.move({f"{ours}.out_proj": output})
        for kind in KINDS:
            self.take(f"{ours}.in_proj_{kind}", *(f"{name}.{kind}" for name in inputs))

    def move_layers(
        self,
        ours: str,
        their: str,
        count: int,
        names: Mapping[str, str],
        self_attn: list[str],
        multihead_attn: list[str] | None = None,
    ) -> None:
        """All layers of a stack; {} in `their` stands for the number of one. Of an attention the
        last name is that of its output."""
        for i in range(count):
            inner, outer = f"{ours}.layers.{i}", their.format(i)
            self.move({f"{inner}.{a}": f"{outer}.{b}" for a, b in names.items()})
            for name, parts in (("self_attn", self_attn), ("multihead_attn", multihead_attn)):
                if parts is not None:
                    *inputs, output = (f"{outer}.{part}" for part in parts)
                    self.move_attention(f"{inner}.{name}", inputs, output)


def check_size(who: str, tensors: Mapping[str, Tensor], expected: int, because: str) -> None:
    """Raise ValueError where a file holds so few numbers that a model is not built to find out
    which parameters differ. because: what the config was made of."""
    held = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if expected > 2 * held + 1_000_000:
        raise ValueError(f"{who} holds {held} numbers, expected {expected} because of {because}")


def compared(renaming: Renaming, model: Any) -> tuple[list[str], list[str], list[str]]:
    """What is missing, more than the model has, and misshapen, by its names in the file."""
    shapes = {key: shape for key, shape in model._all_shapes().items() if key not in model.ties()}
    state, names = renaming.state, renaming.names
    missing = [names.get(key, key) for key in shapes if key not in state]
    unexpected = [names[key] for key in state if key not in shapes]
    misshapen = [
        f"{names[key]} is {state[key].shape}, expected {shape}"
        for key, shape in shapes.items()
        if key in state and state[key].shape != shape
    ]
    return missing, unexpected, misshapen


def check_state(who: str, renaming: Renaming, model: Any, because: str) -> None:
    """Raise ValueError for all that is missing, misshapen or more than the model has, by its names
    in the file; warn of what has no place. because: what the config was made of."""
    kinds = ("missing", f"unexpected because of {because}", "misshapen")
    found = zip(kinds, compared(renaming, model), strict=True)
    if problems := [f"{kind}: {listed(names)}" for kind, names in found if names]:
        raise ValueError(f"{who}: {'; '.join(problems)}")
    if unused := renaming.unused():
        warnings.warn(f"{who}: these tensors are not used: {listed(unused)}", stacklevel=4)
