"""A file that is made in parts, which are kept in a folder beside it until all are there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pyx_transformer._files import read_text

FOLDER = ".parts"  # ends the name of the folder
FINISHED = ".finished"  # ends that of one that is only to be removed
UNFINISHED = ".unfinished"  # ends that of a file on its way
ABOUT = "run.json"
LOCK = "lock"


class Parts:
    """The parts of a file of so many lines, `size` lines in each, in a `with` statement of which no
    other process has a part; when it ends without an exception the folder is removed.

    about: what has to be the same in a run that goes on, such as digests. size is what it was in a
    run that goes on. Raises FileExistsError where there are parts and resume is False, ValueError
    where they are of another run, BlockingIOError where another process is at them.
    """

    def __init__(
        self, target: Path, about: Mapping[str, object], lines: int, size: int, *, resume: bool
    ):
        self.target = target
        self.lines = lines
        self.size = size
        self._about = dict(about)
        self._resume = resume
        self._folder = Path(f"{target}{FOLDER}")

    def __enter__(self) -> Parts:
        finished = Path(f"{self._folder}{FINISHED}")
        shutil.rmtree(finished, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        self._lock = open(self._folder / LOCK, "wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._go_on()
        except BlockingIOError:
            self._lock.close()
            raise BlockingIOError(f"run: another process is at work in {self._folder}") from None
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            finished = Path(f"{self._folder}{FINISHED}")
            self._folder.rename(finished)
            shutil.rmtree(finished, ignore_errors=True)
        self._lock.close()

    def _go_on(self):
        """Take over what is there, or begin."""
        path = self._folder / ABOUT
        if not path.exists():
            content = {**self._about, "size": self.size}
            self._replace(path, json.dumps(content, indent=2).encode())
            return
        if not self._resume:
            raise FileExistsError(
                f"run: {self._folder} has a part of {self.target}: go on with resume=True, or "
                "remove it"
            )
        try:
            held = json.loads(read_text(path))
            self.size = held.pop("size")
        except (AttributeError, KeyError, ValueError) as error:
            raise ValueError(f"run: {path} is damaged: {error!r}") from error
        for name, value in self._about.items():
            if held.get(name) != value:
                raise ValueError(
                    f"run: {self._folder} is of another run: {name} was {held.get(name)}, now it "
                    f"is {value}: remove it to begin anew"
                )

    @property
    def total(self) -> int:
        """How many parts there are to be: one where there are no lines, too."""
        return max(-(-self.lines // self.size), 1)

    @property
    def done(self) -> int:
        """How many lines are in the parts that are there."""
        return sum(self.count(number) for number in range(self.total) if self.has(number))

    def begin(self, number: int) -> int:
        """The first line of a part, counted from 0."""
        return number * self.size

    def count(self, number: int) -> int:
        """How many lines a part has."""
        return min(self.size, self.lines - self.begin(number))

    def has(self, number: int) -> bool:
        """Whether a part is there."""
        return self._path(number).exists()

    def write(self, number: int, content: bytes) -> None:
        """Keep a part, whole or not at all."""
        self._replace(self._path(number), content)

    def read(self, number: int) -> bytes:
        """A part."""
        return self._path(number).read_bytes()

    @contextmanager
    def target_file(self) -> Iterator[IO[bytes]]:
        """A file to write, which becomes the target when it is whole."""
        path = self._folder / self.target.name
        with open(path, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        path.replace(self.target)

    def _path(self, number):
        return self._folder / f"{number:08}"

    def _replace(self, path, content):
        unfinished = Path(f"{path}{UNFINISHED}")
        with open(unfinished, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
