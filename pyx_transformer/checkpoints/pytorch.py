"""Files that `torch.save` wrote: a zip of a pickle and storages, or the stream of before 1.6."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pyx_transformer._files import check_file
from pyx_transformer._keys import shortened
from pyx_transformer.checkpoints import pickles
from pyx_transformer.checkpoints.pickles import Storage, View
from pyx_transformer.checkpoints.tensors import DTYPES, StoredTensors

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Under one of these a checkpoint of training has the model's state beside other things.
STATES = ("state_dict", "model_state_dict", "model")
Reader = Callable[[Storage], bytes]
# What the readers of zips, pickles and numbers raise for what is none.
MALFORMED = (
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,  # zips with a password, or nested too deep
    struct.error,
    zipfile.BadZipFile,
)


def read_tensors(path: Path) -> StoredTensors:
    """The tensors of a file by name, each read when it is asked for, those of floats as float32.

    Raises ValueError where the file is malformed or holds anything but tensors and plain
    containers, before anything of it is run, and what `check_file` does.
    """
    check_file(path, who="load: ")
    try:
        if zipfile.is_zipfile(path):
            held, read = from_zip(path)
        else:
            held, read = from_stream(path)
        tensors = StoredTensors(path)
        for name, view in state_of(held).items():
            if isinstance(view, View):
                add(tensors, name, view, read)
        if not tensors:
            raise ValueError("it holds no tensors by name")
    except MALFORMED as error:
        said = shortened(str(error))
        raise ValueError(f"load: {path} cannot be read as PyTorch's: {said}") from error
    return tensors


def state_of(held: Any) -> dict[str, Any]:
    """The dict of tensors by name."""
    if isinstance(held, dict) and not any(isinstance(value, View) for value in held.values()):
        for name in STATES:
            if isinstance(held.get(name), dict):
                held = held[name]
                break
    if not isinstance(held, dict):
        raise ValueError("it holds no dict of tensors")
    return {str(name): value for name, value in held.items()}


def add(tensors: StoredTensors, name: str, view: View, read: Reader) -> None:
    """A tensor of a storage."""
    storage, kind = view.storage, np.dtype(DTYPES[view.storage.dtype])
    strides = [step * kind.itemsize for step in view.strides]

    def array() -> NDArray[Any]:
        try:
            content = read(storage)
        except MALFORMED as error:
            raise ValueError(f"load: {tensors.path}: storage {storage.key}: {error}") from error
        if len(content) < storage.size * kind.itemsize:
            raise ValueError(f"load: {tensors.path} is shorter than its storage {storage.key}")
        flat = np.frombuffer(content, kind, storage.size)[view.offset :]
        return np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False)

    tensors.add(name, storage.dtype, view.shape, array)


def from_zip(path: Path) -> tuple[Any, Reader]:
    """What a zip's data.pkl holds, and how to read a storage."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        names = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"it has {len(names)} files data.pkl, expected one")
        folder = names[0].removesuffix("data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("it is compressed, which torch.save does not do")
        size = path.stat().st_size
        if any(not info.file_size == info.compress_size <= size for info in members.values()):
            raise ValueError("it has a member that is larger than the file")
        order = members.get(f"{folder}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise ValueError("its numbers are not little-endian")
        with archive.open(names[0]) as file:
            held = pickles.read(file)

    def read(storage: Storage) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{folder}data/{storage.key}")

    return held, read


class Bounded:
    """A file of which nobody can ask for more than there is: lengths in it are anybody's."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, count: int) -> bytes:
        """At most so many bytes."""
        return self._file.read(max(0, min(count, self._size - self._file.tell())))

    def readline(self) -> bytes:
        """A line."""
        return self._file.readline()


def from_stream(path: Path) -> tuple[Any, Reader]:
    """What the stream of before 1.6 holds: some pickles, then all storages."""
    places: dict[str, tuple[int, int]] = {}
    with open(path, "rb") as file:
        bounded: Any = Bounded(file)
        if pickles.read(bounded) != MAGIC or pickles.read(bounded) != PROTOCOL:
            raise ValueError("it begins with other numbers than torch.save writes")
        storages: dict[str, Storage] = {}
        about, held, keys = (pickles.read(bounded, storages) for _ in range(3))
        if not isinstance(about, dict) or about.get("little_endian") is not True:
            raise ValueError("its numbers are not little-endian")
        if not isinstance(keys, list):
            raise ValueError("it has no list of storages")
        end = os.fstat(file.fileno()).st_size
        for key in keys:
            if key not in storages:
                raise ValueError("it has a storage that belongs to no tensor")
            (count,) = struct.unpack("<q", bounded.read(8))
            size = np.dtype(DTYPES[storages[key].dtype]).itemsize
            if not 0 <= count <= (end - file.tell()) // size:
                raise ValueError(f"it ends within its storage {shortened(key)}")
            places[key] = file.tell(), count * size
            file.seek(count * size, os.SEEK_CUR)
        if missing := storages.keys() - places.keys():
            raise ValueError(f"it lacks its storage {shortened(min(missing))}")

    def read(storage: Storage) -> bytes:
        begin, size = places[storage.key]
        with open(path, "rb") as file:
            file.seek(begin)
            return file.read(size)

    return held, read
