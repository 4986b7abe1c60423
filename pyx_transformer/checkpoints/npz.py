"""Files of `numpy.savez`: a zip of arrays, one file `name.npy` each. Nothing in them is ever a
pickle."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pyx_transformer._files import check_file
from pyx_transformer._keys import shortened
from pyx_transformer.checkpoints.pytorch import MALFORMED as BAD_ZIP
from pyx_transformer.checkpoints.tensors import DTYPES, StoredTensors

MALFORMED = (*BAD_ZIP, zlib.error)
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENDING = ".npy"
MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 1 << 16
HEADER = re.compile(
    rb"\{'descr': '[<|]([a-z]\d)', 'fortran_order': (True|False), "
    rb"'shape': \((\d*(?:, ?\d+)*),?\),? ?\} *\n?"
)
# Without the order: a byte has none, and Marian's writer gives it one.
NAMES = {np.dtype(kind).str[1:]: name for name, kind in DTYPES.items() if name != "BF16"}


def read_tensors(path: Path) -> StoredTensors:
    """The arrays of a file by name, each read when it is asked for, those of floats as float32.

    Raises ValueError where the file is malformed or holds anything but arrays of numbers, and what
    `check_file` does.
    """
    check_file(path, who="load: ")
    tensors = StoredTensors(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(info.compress_size for info in members) > path.stat().st_size:
                raise ValueError("its members are larger than the file")
            for info in members:
                name = info.filename.removesuffix(ENDING)
                if name in tensors or name == info.filename:
                    raise ValueError(f"it holds {shortened(info.filename)}, expected arrays")
                if info.compress_type not in COMPRESSIONS:
                    raise ValueError(f"it is compressed in way {info.compress_type}")
                try:
                    with archive.open(info) as file:
                        add(tensors, name, info, file)
                except MALFORMED as error:
                    raise ValueError(f"{shortened(name)}: {error}") from error
    except MALFORMED as error:
        said = shortened(str(error))
        raise ValueError(f"load: {path} cannot be read as NumPy's: {said}") from error
    return tensors


def add(tensors: StoredTensors, name: str, info: zipfile.ZipInfo, file: IO[bytes]) -> None:
    """An array, whose header alone is read."""
    dtype, is_fortran, shape = read_header(file)
    begin = file.tell()
    kind = np.dtype(DTYPES[dtype])
    if begin + math.prod(shape) * kind.itemsize != info.file_size:
        raise ValueError(f"it has {info.file_size - begin} bytes, expected shape {shape} of {kind}")

    def read() -> NDArray[Any]:
        try:
            with zipfile.ZipFile(tensors.path) as archive, archive.open(info) as file:
                content = file.read(info.file_size)
            if len(content) != info.file_size:
                raise ValueError(f"it has {len(content)} bytes, expected {info.file_size}")
        except MALFORMED as error:
            raise ValueError(f"load: {tensors.path}: {shortened(name)}: {error}") from error
        flat = np.frombuffer(content, kind, offset=begin)
        return flat.reshape(shape, order="F" if is_fortran else "C")

    tensors.add(name, dtype, shape, read)


def read_header(file: IO[bytes]) -> tuple[str, bool, tuple[int, ...]]:
    """The dtype, by its name in DTYPES, the order and the shape that an array begins with."""
    start = file.read(8)
    if len(start) < 8 or start[:6] != MAGIC or start[6] not in (1, 2, 3):
        raise ValueError("it does not begin as an array does")
    size = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    if size > LONGEST_HEADER:
        raise ValueError(f"its header has {size} bytes, expected at most {LONGEST_HEADER}")
    header = file.read(size)
    found = HEADER.fullmatch(header) if len(header) == size else None
    if found is None:
        raise ValueError(f"its header is {shortened(repr(header))}")
    descr, order, sizes = found.groups()
    if descr.decode() not in NAMES:
        raise ValueError(f"it has dtype {descr.decode()}, expected one of {', '.join(NAMES)}")
    shape = tuple(int(size) for size in sizes.split(b",") if size.strip())
    return NAMES[descr.decode()], order == b"True", shape
