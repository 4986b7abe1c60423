"""Weights that all processes of a machine have once: a file of them as they lie in memory, mapped.

The first process to need it writes the file, in a folder of the user's own below that of temporary
files; the last one to have it takes it away or, where a signal has ended that, the one that made
the job or the next to need such a file. Each that has it holds a shared lock on it, which ends with
the process, however that ends.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import mmap
import os
import stat
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import IO

import numpy as np

from pyx_transformer import _runtime
from pyx_transformer.parameters import PLACE, Layer, Loads

LINE = 16  # floats of a cache line, which each array begins at
ENDING = ".weights"
UNFINISHED = ".part"


@contextmanager
def mapped_weights(key: str) -> Iterator[None]:
    """Within, models that are loaded share their weights with the other processes that load the
    same ones with the same key, such as a digest of their files. Where there is no room for that
    they have their own, with a warning."""
    numbers = count()
    token = PLACE.set(lambda loads: share(f"{key}-{next(numbers)}", loads))
    try:
        yield
    finally:
        PLACE.reset(token)


def share(key: str, loads: Loads) -> None:
    """Have the parameters of these layers in a file, whose name has key, that is written if it is
    not there yet."""
    file = None
    try:
        with locked_folder() as folder:
            path = folder / f"{key}-{layout(loads)}{ENDING}"
            remove_unused(folder, path)
            size = 4 * sum(sum(places(layer)) for layer, _ in loads)
            file = held(path, size) or written(path, size, loads)
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if file is not None:
            file.close()
        warnings.warn(f"the weights are not shared with other processes: {error}", stacklevel=2)
        for _, load in loads:
            load()
        return
    use(loads, mapping)
    weakref.finalize(mapping, release, file, path, os.getpid())


def held(path: Path, size: int) -> IO[bytes] | None:
    """A file with a shared lock on it; None where there is none of that name and size."""
    with suppress(FileNotFoundError):
        file = open(path, "rb")  # noqa: SIM115 - open, and with it locked, as long as the mapping
        fcntl.flock(file, fcntl.LOCK_SH)
        if is_at(path, file) and os.fstat(file.fileno()).st_size == size:
            return file
        file.close()
    return None


def written(path: Path, size: int, loads: Loads) -> IO[bytes]:
    """`held` of a new file, into which the layers are loaded."""
    part = path.with_suffix(UNFINISHED)
    file = open(part, "w+b")  # noqa: SIM115 - as above
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # no room is an error now, and not later
        else:
            file.truncate(size)
        mapping = mmap.mmap(file.fileno(), size)
        use(loads, mapping, is_new=True)
        mapping.flush()
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        file.close()
        raise
    return file


def use(loads: Loads, mapping: mmap.mmap, *, is_new: bool = False) -> None:
    """Have layers use a file; where it is new they are loaded into it, one after the other, so that
    there is no second copy of them all."""
    everything = np.frombuffer(mapping, np.float32)
    begin = 0
    for layer, load in loads:
        stored = []
        for length, room in zip(layer._stored_sizes(), places(layer), strict=True):
            stored.append(everything[begin : begin + length])
            begin += room
        if is_new:
            load()
            for place, array in zip(stored, layer._stored(), strict=True):
                place[:] = array
        layer._use(stored)


def places(layer: Layer) -> list[int]:
    """How many floats each array of a layer takes in a file: whole cache lines."""
    return [-(-size // LINE) * LINE for size in layer._stored_sizes()]


def layout(loads: Loads) -> str:
    """What says which arrays there are and how they lie in memory: the layers' shapes, the
    instruction set, and the build of its kernels."""
    shapes = [(type(layer).__name__, layer._own_shapes()) for layer, _ in loads]
    shown = hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]
    built = os.stat(str(_runtime.kernels.__file__))
    return f"{shown}-{_runtime.kernels.ISA_NAME}-{built.st_size:x}-{built.st_mtime_ns:x}"


@contextmanager
def locked_folder() -> Iterator[Path]:
    """The user's own folder, nobody else writing to it meanwhile. Raises OSError where there can be
    none, or where it belongs to somebody else."""
    folder = Path(tempfile.gettempdir(), f"pyx_transformer-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder that only this user writes to")
    with open(folder / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@cache
def clean_at_exit() -> None:
    """Have this process end with `clean`."""
    atexit.register(clean)


def clean() -> None:
    """Take away what processes that a signal has ended have left behind, as those of a pool do."""
    with suppress(OSError), locked_folder() as folder:
        remove_unused(folder)


def remove_unused(folder: Path, wanted: Path | None = None) -> None:
    """Take away what other processes have left behind, but for what is wanted."""
    for part in folder.glob(f"*{UNFINISHED}"):
        part.unlink(missing_ok=True)
    for path in folder.glob(f"*{ENDING}"):
        if path != wanted:
            with suppress(FileNotFoundError), open(path, "rb") as file:  # its last process ended
                remove_if_unused(file, path)


def release(file: IO[bytes], path: Path, process: int) -> None:
    """The end of a mapping of this process; a fork of it has the same lock."""
    with file:
        if process == os.getpid():
            remove_if_unused(file, path)


def remove_if_unused(file: IO[bytes], path: Path) -> None:
    """Take a file away unless another process has it. One that is about to have it, and has opened
    it only, sees in `held` that it is gone."""
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(path, file):
            path.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_UN)


def is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether a file is the one of that name still."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
