"""Arrays in a safetensors file, those that are stored as int8 with their scales."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from pyx_transformer._files import read_bytes
from pyx_transformer._keys import shortened

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


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, those with scales multiplied by them.

    Warns of the first array that holds anything but finite numbers. Raises ValueError where the
    file is malformed, and what `read_bytes` does.
    """
    content = read_bytes(path, who="load: ")
    try:
        if content[8:9] not in (b"{", b""):
            raise ValueError(f"its header begins with {content[8:9]!r}, expected b'{{'")
        tensors = safetensors.deserialize(content)
        arrays = {name: as_array(name, **tensor) for name, tensor in tensors}
        for name in [name for name in arrays if name.endswith(SCALES)]:
            scales, key = arrays.pop(name), name.removesuffix(SCALES)
            if key not in arrays or scales.shape != (*arrays[key].shape[:1], 1):
                raise ValueError(f"{name} has shape {scales.shape}, which fits no {key}")
            with np.errstate(all="ignore"):  # what is not finite is told below
                arrays[key] = arrays[key].astype(np.float32) * scales
    except (safetensors.SafetensorError, ValueError) as error:
        said = shortened(str(error))
        raise ValueError(f"load: {path} cannot be read as safetensors: {said}") from error
    for name in sorted(arrays):
        if not is_finite(arrays[name]):
            warnings.warn(
                f"load: {path}: {name} holds values that are not finite as float32", stacklevel=3
            )
            break
    return arrays


def is_finite(array: NDArray[Any]) -> bool:
    """Whether all of an array is finite as float32."""
    largest = np.finfo(np.float32).max
    return not array.size or bool(-largest <= array.min() and array.max() <= largest)


def as_array(name: str, dtype: str, shape: list[int], data: bytes) -> NDArray[Any]:
    """A tensor of a safetensors file as an array; BF16 becomes float32."""
    if dtype not in DTYPES:
        raise ValueError(f"{name} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
    array = np.frombuffer(data, DTYPES[dtype])
    if dtype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    return array.reshape(shape)
