"""Arrays in a safetensors file, those that are stored as int8 with their scales."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from pyx_transformer._files import check_file
from pyx_transformer._keys import shortened
from pyx_transformer.checkpoints.tensors import (
    DTYPES,
    SCALES,
    StoredTensors,
    Tensor,
    is_finite,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


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
            add(tensors, begin, name, **about)
        for name in [name for name in tensors if name.endswith(SCALES)]:
            scales, key = tensors.pop(name), name.removesuffix(SCALES)
            del tensors.dtypes[name]
            if key not in tensors or scales.shape != (*tensors[key].shape[:1], 1):
                raise ValueError(f"{name} has shape {scales.shape}, which fits no {key}")
            tensors[key] = scaled(tensors[key], scales)
    except (safetensors.SafetensorError, ValueError) as error:
        said = shortened(str(error))
        raise ValueError(f"load: {path} cannot be read as safetensors: {said}") from error
    return tensors


def add(
    tensors: StoredTensors,
    begin: int,
    name: str,
    dtype: str,
    shape: list[int],
    data_offsets: list[int],
) -> None:
    """A tensor whose bytes lie behind `begin`."""

    def read():
        count, path = math.prod(shape), tensors.path
        array = np.fromfile(path, DTYPES[dtype], count, offset=begin + data_offsets[0])
        if len(array) != count:
            raise ValueError(f"load: {path} has become shorter since it was opened")
        return array.reshape(shape)

    tensors.add(name, dtype, tuple(shape), read)


def scaled(whole: Tensor, scales: Tensor) -> Tensor:
    """Whole numbers times the scale of their row."""

    def change(array):
        with np.errstate(all="ignore"):
            return array.astype(np.float32) * np.asarray(scales)

    return whole.changed(change)
