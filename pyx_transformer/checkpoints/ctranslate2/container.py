"""model.bin of CTranslate2: variables by name, one after the other.

    uint32 version; text name of the spec; uint32 its revision; uint32 count, and so many variables:
        text name; uint8 rank, uint32 each of its sizes; uint8 type; uint32 bytes; the numbers
    uint32 count, and so many aliases: text alias, text name        (since version 3)

A text is a uint16 length, that many bytes of UTF-8, the last of them 0. Before version 4 the type
is the size of a number, and the bytes are counted in numbers. All is little-endian.

A variable without sizes is an attribute of the model. Weights of int8 and int16 have a scale beside
them, one for each row or one for all.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyx_transformer._files import check_file
from pyx_transformer._keys import shortened
from pyx_transformer.checkpoints.tensors import DTYPES, StoredTensors

VERSIONS = range(2, 7)
TYPES = ("F32", "I8", "I16", "I32", "F16", "BF16")  # by number
TYPES_BY_SIZE = {4: "F32", 2: "I16", 1: "I8"}
FLOATS = ("F32", "F16", "BF16")
QUANTISED = ("I8", "I16")
SCALE = "_scale"  # ends the name of a weight's scale
OLD_SCALE = 1000.0  # of int16 that has none of its own


class Variable(NamedTuple):
    """Where the numbers of a variable are, and what they are."""

    dtype: str
    shape: tuple[int, ...]
    begin: int


class SpecFile(NamedTuple):
    """What a file holds. tensors: floats, or what scales make them; an alias is the same tensor.
    attributes: single numbers, and texts."""

    version: int
    spec: str
    revision: int
    tensors: StoredTensors
    attributes: dict[str, Any]


def read_file(path: Path) -> SpecFile:
    """The variables of a file, each tensor to be read when it is asked for.

    Raises ValueError where the file is malformed, and what `check_file` does.
    """
    check_file(path, who="load: ")
    try:
        with open(path, "rb") as file:
            return Header(path, file).read()
    except (ValueError, EOFError) as error:
        said = shortened(str(error))
        raise ValueError(f"load: {path} cannot be read as CTranslate2's: {said}") from error


class Header:
    """All of a file but its tensors; of anything no more is read than the file has."""

    def __init__(self, path: Path, file: IO[bytes]):
        self.path = path
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    def read(self) -> SpecFile:
        """All that there is. Raises ValueError or EOFError for what is malformed."""
        version = self.number("I")
        if version not in VERSIONS:
            raise ValueError(
                f"it begins with {version}, expected a version from {VERSIONS[0]} to {VERSIONS[-1]}"
            )
        spec, revision = self.text(), self.number("I")
        variables: dict[str, Variable] = {}
        for _ in range(self.number("I")):
            name = self.text()
            if name in variables:
                raise ValueError(f"it has two variables {name}")
            variables[name] = self.variable(name, version)
        found = SpecFile(version, spec, revision, StoredTensors(self.path), {})
        for name, variable in variables.items():
            if not name.endswith(f"weight{SCALE}"):
                self.add(found, variables, name, variable)
        for _ in range(self.number("I") if version >= 3 else 0):
            alias, name = self.text(), self.text()
            if name not in variables or alias in variables:
                raise ValueError(f"it has an alias {alias} of {name}, expected a variable's")
            variables[alias] = variables[name]
            for kind in (found.tensors, found.attributes):
                if name in kind:
                    kind[alias] = kind[name]
        if self.file.tell() != self.size:
            raise ValueError(f"it has {self.size - self.file.tell()} bytes behind its end")
        return found

    def bytes(self, count: int) -> bytes:
        """The next ones. Raises EOFError where there are fewer."""
        content = self.file.read(count)
        if len(content) < count:
            raise EOFError(f"it ends at byte {self.size}, within what it holds")
        return content

    def number(self, kind: str) -> int:
        """The next one of that kind, as `struct` calls it."""
        (number,) = struct.unpack(f"<{kind}", self.bytes(struct.calcsize(kind)))
        return number

    def text(self) -> str:
        """The next text."""
        content = self.bytes(self.number("H"))
        if content[-1:] != b"\0" or b"\0" in content[:-1]:
            raise ValueError(f"it holds {shortened(repr(content))}, expected a text that ends in 0")
        return content[:-1].decode()

    def variable(self, name: str, version: int) -> Variable:
        """The next one, its numbers passed over."""
        shape = tuple(self.number("I") for _ in range(self.number("B")))
        number, count = self.number("B"), self.number("I")
        if version < 4:
            dtype = TYPES_BY_SIZE.get(number)
            count *= number
        else:
            dtype = TYPES[number] if number < len(TYPES) else None
        if dtype is None:
            raise ValueError(f"{name} has a type {number}, which there is not")
        expected = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if count != expected:
            raise ValueError(f"{name} has {count} bytes, expected {expected} for shape {shape}")
        begin = self.file.tell()
        if count > self.size - begin:
            raise EOFError(f"it ends within {name}")
        self.file.seek(count, os.SEEK_CUR)
        return Variable(dtype, shape, begin)

    def add(
        self, found: SpecFile, variables: dict[str, Variable], name: str, variable: Variable
    ) -> None:
        """Put a variable where it belongs."""
        dtype, shape = variable.dtype, variable.shape
        if not shape:
            found.attributes[name] = as_float(read(self.path, variable), dtype).item()
        elif dtype in FLOATS:
            found.tensors.add(name, dtype, shape, lambda: read(self.path, variable))
        elif name.endswith("weight") and dtype in QUANTISED:
            scale = variables.get(name + SCALE)
            if scale is None and dtype == "I8":
                raise ValueError(f"{name} is int8 without its {name + SCALE}")
            if scale is not None and (
                scale.shape not in ((), shape[:1]) or scale.dtype not in FLOATS
            ):
                raise ValueError(f"{name + SCALE} has shape {scale.shape}, which fits no {name}")
            found.tensors.add(name, "F32", shape, lambda: dequantised(self.path, variable, scale))
        elif dtype == "I8" and len(shape) == 1:
            found.attributes[name] = read(self.path, variable).tobytes().decode()
        else:
            raise ValueError(
                f"{name} has type {dtype}, expected one of {', '.join(FLOATS + QUANTISED)}: other "
                "quantisations, such as AWQ, cannot be read"
            )


def read(path: Path, variable: Variable) -> NDArray[Any]:
    """A variable's numbers, as they are stored."""
    count = math.prod(variable.shape)
    array = np.fromfile(path, DTYPES[variable.dtype], count, offset=variable.begin)
    if len(array) != count:
        raise ValueError(f"load: {path} has become shorter since it was opened")
    return array.reshape(variable.shape)


def as_float(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Numbers as they are meant: float32 for the upper halves of such."""
    return (array.astype("<u4") << 16).view("<f4") if dtype == "BF16" else array


def dequantised(path: Path, variable: Variable, scale: Variable | None) -> NDArray[np.float32]:
    """Whole numbers times 1 / scale in float32, as CTranslate2 has it, which may differ from their
    quotient in the last bit."""
    scales = np.array(OLD_SCALE) if scale is None else as_float(read(path, scale), scale.dtype)
    with np.errstate(all="ignore"):
        factors = np.float32(1) / scales.astype(np.float32)
        if factors.ndim:
            factors = factors.reshape(-1, *[1] * (len(variable.shape) - 1))
        return read(path, variable).astype(np.float32) * factors
