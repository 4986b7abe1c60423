"""Texts in as they come, a part at a time, and results out after each part."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TextIO, TypeVar

from pyx_transformer._files import as_path, check_file, check_target, whole_file
from pyx_transformer.commands.arguments import note, note_taken_for, one_line

T = TypeVar("T")

READ_BYTES = 1 << 16
# Lines of a part: so many that it takes some seconds, within these bounds.
FIRST, MOST = 4, 512
SHORTEST, LONGEST = 2.0, 10.0
PROMPT = "> "
INDEXED = re.compile(r"\b(?:texts|prompts|translations)\[(\d+)\]")


class Source(Protocol[T]):
    """What there is to work on."""

    unit: str  # "text" or "line", as messages number them
    total: int | None  # how many there are, None where nobody knows
    is_typed: bool  # on a terminal, by somebody who waits for each answer

    def take(self, most: int) -> list[T]:
        """The next ones: those that are there, at most so many, but at least one; none at the
        end."""


class Given(Generic[T]):
    """Texts, or anything else, that are all there."""

    is_typed = False

    def __init__(self, values: list[T], unit: str):
        self._values, self.unit = values, unit
        self.total: int | None = len(values)
        self._taken = 0

    def take(self, most: int) -> list[T]:
        begin, self._taken = self._taken, self._taken + most
        return self._values[begin : self._taken]


class Lines:
    """The lines of a binary file, which may be a pipe that pauses. Raises ValueError, naming the
    line, where one is not UTF-8."""

    unit = "line"
    is_typed = False

    def __init__(self, file: Any, name: str):
        self._file, self._name = file, name
        self._whole: list[bytes] = []  # lines that were read and not yet taken
        self._rest = bytearray()  # and the beginning of the next
        self._taken = 0
        self._is_at_end = False
        self.total = lines_left(file)

    def take(self, most: int) -> list[str]:
        while not self._is_at_end and self._wants_more(most):
            content = self._file.read1(READ_BYTES)
            self._is_at_end = not content
            self._rest += content
            if b"\n" in content or (self._is_at_end and self._rest):
                *lines, rest = bytes(self._rest).split(b"\n")
                if self._is_at_end:
                    lines, rest = [*lines, rest], b""
                self._whole += lines
                self._rest = bytearray(rest)
        taken, self._whole = self._whole[:most], self._whole[most:]
        return [self._as_text(line) for line in taken]

    def _wants_more(self, most):
        """Whether to read on: there is no whole line, or not so many, and more can be had without
        waiting."""
        return not self._whole or (len(self._whole) < most and is_ready(self._file))

    def _as_text(self, line):
        self._taken += 1
        try:
            text = line.decode("utf-8-sig" if self._taken == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self._name}, line {self._taken} is not UTF-8: {error.reason}"
            ) from error
        return text.rstrip("\r")


class Typed:
    """Lines that somebody types after a prompt, until Ctrl-D."""

    unit = "line"
    total: int | None = None
    is_typed = True

    def __init__(self, lines: Lines):
        self._lines = lines
        self._edits = sys.stdout.isatty()  # Python shows its prompt there
        if self._edits:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - arrow keys, and the lines before

    def take(self, most: int) -> list[str]:
        try:
            if self._edits:
                return [input(PROMPT)]
            print(PROMPT, end="", file=sys.stderr, flush=True)
            line = self._lines.take(1)
        except EOFError:
            line = []
        if not line:
            print(file=sys.stderr)
        return line


def is_ready(file: Any) -> bool:
    """Whether reading a file would not wait: there is something, or its end."""
    try:
        return bool(select.select([file], [], [], 0)[0])
    except (OSError, ValueError):  # nothing that one could wait for
        return True


def lines_left(file: Any) -> int | None:
    """How many lines a file has from where it stands; None of what may have no end."""
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
    except OSError:  # it has no number
        return None
    here, count, last = file.tell(), 0, b"\n"
    while content := file.read(READ_BYTES):
        count += content.count(b"\n")
        last = content[-1:]
    file.seek(here)
    return count + (last != b"\n")


@contextmanager
def texts_of(arguments: Any, verb: str, one: str) -> Iterator[Source[str]]:
    """The texts that arguments are, or the lines of --input or standard input.

    Tells what they may have been taken for: to `verb` them, or `one`.
    """
    texts, file = arguments.texts, arguments.input
    if file is not None and texts:
        raise ValueError(f"--input and {len(texts)} TEXTs were given, expected one of them")
    if "-" in texts and texts != ["-"]:
        raise ValueError("- is among other texts, expected it alone: the lines of standard input")
    if texts and texts != ["-"]:
        note_taken_for(texts, verb, one)
        yield Given(texts, "text")
    elif file is None or file == "-":
        yield standard_input(verb)
    else:
        path = as_path(arguments.command, "--input", file)
        check_file(path, may_be_pipe=True)
        with open(path, "rb") as opened:
            yield Lines(opened, str(path))


def standard_input(verb: str) -> Lines | Typed:
    """The lines of standard input, with a prompt where it is a terminal."""
    if sys.stdin is None:
        raise ValueError("standard input is closed, expected lines there, TEXTs or --input")
    lines = Lines(sys.stdin.buffer, "standard input")
    if not sys.stdin.isatty():
        return lines
    note(f"to {verb} a line, type it and press Enter; Ctrl-D ends")
    return Typed(lines)


def answer(
    source: Source[T],
    work: Callable[[list[T], int], Iterable[str]],
    out: TextIO,
    *,
    at_once: bool = False,
) -> None:
    """Write what `work` gives for each part of a source, being told how many texts came before.

    The next part is what is there by then, so that no answer waits for what comes later. at_once:
    each piece of an answer is shown as it is found. Somebody who types is told of an error, and
    asked again.
    """
    from pyx_transformer.pipelines.progress import progress

    size, begin = FIRST, 0
    is_watched = source.is_typed or out.isatty()  # so that answers show how far it is
    with progress(source.total, source.unit, say=note, with_bar=not is_watched):
        while texts := source.take(size):
            begun = time.monotonic()
            try:
                with numbered(source.unit, begin, len(texts)):
                    for piece in work(texts, begin):
                        out.write(piece)
                        if at_once:
                            out.flush()
            except ValueError as error:
                if not source.is_typed or isinstance(error, UnicodeError):
                    raise
                note(one_line(error))
            out.flush()
            begin += len(texts)
            seconds = time.monotonic() - begun
            if seconds < SHORTEST:
                size = min(2 * size, MOST)
            elif seconds > LONGEST:
                size = max(size // 2, 1)


def everything(source: Source[T]) -> list[T]:
    """All that there is."""
    found: list[T] = []
    while part := source.take(MOST):
        found += part
    return found


@contextmanager
def numbered(unit: str, begin: int, count: int) -> Iterator[None]:
    """Errors and warnings about `count` texts, so many others being before them, as such of all."""
    where = f"{unit}s {begin + 1} to {begin + count}: " if begin else ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_: note(where + one_line(message))
            yield
    except UnicodeError:
        raise
    except ValueError as error:
        said = INDEXED.sub(lambda found: f"{unit} {begin + int(found[1]) + 1}", str(error))
        raise ValueError(said) from error


@contextmanager
def results(arguments: Any) -> Iterator[TextIO]:
    """Standard output, or --output, which is there when it is whole."""
    if arguments.output in (None, "-"):
        yield sys.stdout
        return
    path = as_path(arguments.command, "--output", arguments.output)
    check_target(path, "--output")
    with whole_file(path) as binary:
        out = io.TextIOWrapper(binary, "utf-8", newline="\n")
        try:
            yield out
        finally:
            out.detach()
