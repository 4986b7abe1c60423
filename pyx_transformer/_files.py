"""Files as wholes: UTF-8 text, and files that are put in place all at once or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

STAGED = ".saving."  # begins the names of folders of files on their way


def read_text(path: str | os.PathLike[str], *, who: str = "") -> str:
    """All of a UTF-8 file. Raises what `read_bytes` does, and ValueError as `as_text` does."""
    return as_text(f"{who}{path}", read_bytes(path, who=who))


def read_bytes(path: str | os.PathLike[str], *, who: str = "") -> bytes:
    """All of a file. who: what begins an error's message, such as "load: ".

    Raises FileNotFoundError or IsADirectoryError, naming the file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{who}{path} is a folder, expected a file")
    if not path.exists():
        raise FileNotFoundError(f"{who}{path} is missing")
    return path.read_bytes()


def as_text(name: str, content: bytes) -> str:
    """UTF-8 as text, without the byte-order mark that some editors put before it.

    Raises ValueError with the name of the file, or of what it is, and the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{name}, line {number} is not UTF-8: {error.reason}") from error


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
