"""Paths, and files as wholes: UTF-8 text, and files put in place all at once or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pyx_transformer._checks import brief

STAGED = ".saving."  # begins the names of folders of files on their way
BREAKS = str.maketrans(dict.fromkeys("\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029", " "))


def as_path(function: str, name: str, path: object) -> Path:
    """`path` as a Path, a `~` or `~user` that it begins with being that home directory.

    Raises TypeError for what is no path, ValueError for one that no file can have.
    """
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        shown = repr(path) if isinstance(path, bytes) else brief(path)
        raise TypeError(f"{function}: {name} is {shown}, expected a path")
    expanded = os.path.expanduser(path)
    try:
        can_be = b"\0" not in os.fsencode(expanded)
    except UnicodeEncodeError:
        can_be = False
    if not can_be:
        raise ValueError(f"{function}: {name} is {path!r}, expected a path")
    # "./~" is no home directory, and is not to become one when it comes here as a Path.
    return Path(expanded).absolute() if str(Path(expanded)).startswith("~") else Path(expanded)


def read_text(path: Path, *, who: str = "", may_be_pipe: bool = False) -> str:
    """All of a UTF-8 file. Raises what `read_bytes` does, and ValueError as `as_text` does."""
    return as_text(f"{who}{path}", read_bytes(path, who=who, may_be_pipe=may_be_pipe))


def read_bytes(path: Path, *, who: str = "", may_be_pipe: bool = False) -> bytes:
    """All of a file. who: what begins an error's message, such as "load: ".

    Raises what `check_file` does, and MemoryError, naming the file.
    """
    check_file(path, who=who, may_be_pipe=may_be_pipe)
    try:
        return path.read_bytes()
    except MemoryError as error:
        raise MemoryError(f"{who}no memory for {path}") from error


def check_file(path: Path, *, who: str = "", may_be_pipe: bool = False) -> None:
    """Raise FileNotFoundError, IsADirectoryError or OSError, naming the file, where there is none,
    or a folder or a device, which may have no end. A pipe can be waited for without end too, and
    passes where it may be one."""
    if path.is_dir():
        raise IsADirectoryError(f"{who}{path} is a folder, expected a file")
    if not path.exists():
        raise FileNotFoundError(f"{who}{path} is missing")
    mode = path.stat().st_mode
    is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
    if not stat.S_ISREG(mode) and not (is_pipe and may_be_pipe):
        raise OSError(f"{who}{path} is a {'pipe' if is_pipe else 'device'}, expected a file")


def as_text(name: str, content: bytes) -> str:
    """UTF-8 as text, without the byte-order mark that some editors put before it.

    Raises ValueError with the name of the file, or of what it is, and the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{name}, line {number} is not UTF-8: {error.reason}") from error


def in_one_line(text: str) -> str:
    """A text as a line of a file has it, with spaces for line breaks."""
    return text.translate(BREAKS)


def check_target(path: Path, name: str) -> None:
    """Raise IsADirectoryError or FileNotFoundError, as the argument `name`, where no file can be
    written."""
    if path.is_dir():
        raise IsADirectoryError(f"{name} is {path}, a folder, expected a file")
    folder = followed(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: there is no folder {folder}")


def followed(path: Path) -> Path:
    """What a link leads to, which is written in its place: /dev/stdout is to stay one."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which is at `path` once it is whole; after an exception all is as it was.

    A device or a pipe is written to as it is, a link stays.
    """
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
        return
    path = followed(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=STAGED) as staged:
        with open(Path(staged, path.name), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as `whole_file` does."""
    with whole_file(path) as file:
        file.write(content)


def replace_files(directory: Path, files: dict[str, bytes], removed: Iterable[str] = ()) -> None:
    """Put files in place, each whole, and take those of the names in `removed` away.

    None is renamed before all are on the disk, so that a full disk changes nothing; after an
    exception all is as it was.
    """
    with tempfile.TemporaryDirectory(dir=directory, prefix=STAGED) as staged:
        new, old = (Path(staged, name) for name in ("new", "old"))
        new.mkdir()
        old.mkdir()
        for name, content in files.items():
            with open(new / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name in files:
            if os.path.lexists(directory / name):
                _keep(directory / name, old / name)
        removed = [name for name in removed if os.path.lexists(directory / name)]
        try:
            for name in files:
                os.replace(new / name, directory / name)
            for name in removed:
                os.replace(directory / name, old / name)
        except BaseException:
            for name in (*files, *removed):
                if os.path.lexists(old / name):
                    os.rename(old / name, directory / name)
                elif name in files:
                    (directory / name).unlink(missing_ok=True)
            raise


def _keep(path, copy):
    """A second name for a file or, where there are no hard links, a copy."""
    try:
        os.link(path, copy, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copyfile(path, copy)
