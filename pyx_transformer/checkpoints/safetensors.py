"""Arrays in a safetensors file, those that are stored as int8 with their scales."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from pyx_transformer._files import check_file
from pyx_transformer._keys import shortened
from pyx_transformer.checkpoints.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

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


def contents(state: Mapping[str, NDArray[np.float32]], dtype: str) -> bytes:
    """The file of these arrays; dtype: "float32" or "int8", as in `checkpoints.save`."""
    return safetensors.numpy.save(dict(state) if dtype == "float32" else as_int8(state))


def as_int8(state: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """The matrices of a state as int8, each row's scale beside them."""
    stored: dict[str, NDArray[Any]] = {}
    for key, array in state.items():
        stored[key] = array
        if array.ndim == 2:
            if not is_finite(array):
                raise ValueError(f"save: {key} is not finite, expected finite numbers for int8")
            scales = np.abs(array).max(axis=1, keepdims=True) / np.float32(127)
            whole = np.divide(array, scales, out=np.zeros_like(array), where=scales > 0)
            stored[key] = np.rint(whole).astype(np.int8)
            stored[key + SCALES] = scales
    return stored


class StoredTensors(dict[str, Tensor]):
    """The tensors of a safetensors file by name, each read when it is asked for."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.not_finite: set[str] = set()  # of those that were read

    def warn(self, stacklevel: int) -> None:
        """Warn of the first tensor read that held anything but finite numbers."""
        if self.not_finite:
            warnings.warn(
                f"load: {self.path}: {min(self.not_finite)} holds values that are not finite as "
                "float32",
                stacklevel=stacklevel + 1,
            )

    def add(self, begin: int, name: str, dtype: str, shape: list[int], data_offsets: list[int]):
        """A tensor whose bytes lie behind `begin`."""
        if dtype not in DTYPES:
            raise ValueError(f"{name} has dtype {dtype}, expected one of {', '.join(DTYPES)}")

        def read():
            count = math.prod(shape)
            array = np.fromfile(self.path, DTYPES[dtype], count, offset=begin + data_offsets[0])
            if len(array) != count:
                raise ValueError(f"load: {self.path} has become shorter since it was opened")
            if dtype == "BF16":
                array = (array.astype("<u4") << 16).view("<f4")
            if not is_finite(array):
                self.not_finite.add(name.removesuffix(SCALES))
            if array.dtype.kind == "f":
                with np.errstate(all="ignore"):  # what becomes infinite is told
                    array = array.astype(np.float32, copy=False)
            return array.reshape(shape)

        np.broadcast_to(np.int8(0), shape)  # refuses a shape that no array can have
        self[name] = Tensor(name, tuple(shape), read)


def read_tensors(path: Path) -> StoredTensors:
    """The tensors of a safetensors file, those of floats as float32, those that have scales
    multiplied by them.

    Raises ValueError where the file is malformed, and what `check_file` does.
    """
    check_file(path, who="load: ")
    tensors = StoredTensors(path)
    try:
        with open(path, "rb") as file:
            length, first = file.read(8), file.read(1)
            if first not in (b"{", b""):
                raise ValueError(f"its header begins with {first!r}, expected b'{{'")
            # The library has checked the header, its lengths and its places, once this is open.
            safetensors.safe_open(path, "np")
            begin = 8 + int.from_bytes(length, "little")
            file.seek(8)
            header = json.loads(file.read(begin - 8))
        header.pop("__metadata__", None)
        for name, about in header.items():
            tensors.add(begin, name, **about)
        for name in [name for name in tensors if name.endswith(SCALES)]:
            scales, key = tensors.pop(name), name.removesuffix(SCALES)
            if key not in tensors or scales.shape != (*tensors[key].shape[:1], 1):
                raise ValueError(f"{name} has shape {scales.shape}, which fits no {key}")
            tensors[key] = scaled(tensors[key], scales)
    except (safetensors.SafetensorError, ValueError) as error:
        said = shortened(str(error))
        raise ValueError(f"load: {path} cannot be read as safetensors: {said}") from error
    return tensors


def scaled(whole: Tensor, scales: Tensor) -> Tensor:
    """Whole numbers times the scale of their row."""

    def change(array):
        with np.errstate(all="ignore"):
            return array.astype(np.float32) * np.asarray(scales)

    return whole.changed(change)


def is_finite(array: NDArray[Any]) -> bool:
    """Whether all of an array is finite as float32."""
    largest = np.finfo(np.float32).max
    return not array.size or bool(-largest <= array.min() and array.max() <= largest)
