"""A file of texts through a pool of processes of this machine, line by line to a file of results.

Lines go in chunks to so many processes, and what comes back is kept in a folder beside the target
until all is there: after a kill those chunks need not be computed again, and the target appears
whole or not at all. Its bytes do not depend on the number of processes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyx_transformer import _runtime
from pyx_transformer._checks import as_flag, as_integer, as_kind
from pyx_transformer._files import as_path, check_file, check_target, followed, in_one_line
from pyx_transformer._jobs import REASON, Job, RowError
from pyx_transformer._kinds import check_function
from pyx_transformer._parts import Parts
from pyx_transformer._version import __version__
from pyx_transformer.checkpoints import native

__all__ = ["Failure", "run"]


def __dir__() -> list[str]:
    return sorted(__all__)


# Lines of a chunk: so that each worker gets so many chunks, within these bounds.
CHUNKS_EACH = 16
FEWEST, MOST = 16, 1000
READ_AHEAD = 2  # chunks for each worker that wait


class Failure(NamedTuple):
    """A line, counted from 1, that the model could not read, and why."""

    line: int
    reason: str


def run(
    job: Job,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    workers: int,
    resume: bool = False,
    report: Callable[[int, int], object] | None = None,
) -> list[Failure]:
    """Write what a job makes of each line of a file; return the lines that failed, which have no
    result, where the job goes on at errors.

    job: one of `batch` that reads one column. target: a file of one line for each, line breaks in a
    result being spaces; if it ends in .jsonl, of JSON objects with "text" and the job's output; of
    vectors this, or with .npy an array (lines, dimension) float32. workers: processes; they share
    out the CPUs, unless PYX_TRANSFORMER_NUM_THREADS or OMP_NUM_THREADS says how many threads each
    has. resume: go on from what a run that was stopped has left, if it has. report(done, lines) is
    called at the beginning and after each chunk.

    Raises FileExistsError where there is something to go on from and resume is False, ValueError
    where that is of another run, or naming the line where a text cannot be read, BlockingIOError
    where another process is at the same target, ChildProcessError where a worker has died, and what
    the job and files raise. What is done is kept for the next run, to resume.
    """
    this = "run"
    as_kind(this, "job", job, Job)
    workers = as_integer(this, "workers", workers, minimum=1)
    as_flag(this, "resume", resume)
    check_function(this, "report", report)
    source, target = as_path(this, "source", source), as_path(this, "target", target)
    form = form_of(this, job, target)
    target = followed(target)
    check_file(source)
    check_target(target, f"{this}: target")
    if target.exists():
        check_file(target, who=f"{this}: ")
    lines, digest = surveyed(source)
    job.check()
    about = {
        "version": __version__,
        "source": digest,
        "job": said_of(job),
        "format": form,
    }
    size = min(max(math.ceil(lines / (CHUNKS_EACH * workers)), FEWEST), MOST)
    with Parts(target, about, lines, size, resume=resume) as parts:
        done = parts.done
        if report is not None:
            report(done, lines)
        for number, content in computed(job, form, source, parts, workers):
            parts.write(number, content)
            done += parts.count(number)
            if report is not None:
                report(done, lines)
        return joined(form, parts)


def form_of(function: str, job: Job, target: Path) -> str:
    """How results are written: "npy", "jsonl" or "txt"."""
    if len(job.columns) != 1 or len(job.outputs()) > 1 + (job.on_error == "keep"):
        raise ValueError(
            f"{function}: job is {job.name}, expected one of one column and one output"
        )
    form = target.suffix.removeprefix(".")
    if job.kind == "vector":
        if form not in ("npy", "jsonl"):
            raise ValueError(f"{function}: target is {target}, expected a .npy or .jsonl file")
        if form == "npy" and job.on_error == "keep":
            raise ValueError(
                f"{function}: target is {target}, expected a .jsonl file, which can tell why a "
                "line has no vector"
            )
        return form
    return "jsonl" if form == "jsonl" else "txt"


def said_of(job: Job) -> str:
    """All that decides what a job writes, whole: what shows options leaves out what is long."""
    told = {k: vars(v) if is_dataclass(v) else v for k, v in job.told().items()}
    digest = job.digest
    if digest is None:  # it has a model, and no path
        files = native.files_of(job.model)
        digest = hashlib.sha256(b"".join(files.values())).hexdigest()
    return f"{job.name} {digest} {told}"


def surveyed(source: Path) -> tuple[int, str]:
    """How many lines a file has, and its digest. Raises ValueError, naming the line, where one is
    not UTF-8."""
    count, digest = 0, hashlib.sha256()
    with open(source, "rb") as file:
        for line in file:
            count += 1
            digest.update(line)
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{source}, line {count} is not UTF-8: {error.reason}") from error
    return count, digest.hexdigest()


def chunks_of(source: Path, parts: Parts) -> Iterator[tuple[int, list[str]]]:
    """The texts of the chunks that are missing, with their numbers."""
    with open(source, encoding="utf-8-sig", newline="\n") as file:
        for number in range(parts.total):
            lines = [next(file) for _ in range(parts.count(number))]
            if not parts.has(number):
                yield number, [line.removesuffix("\n").rstrip("\r") for line in lines]


def computed(
    job: Job, form: str, source: Path, parts: Parts, workers: int
) -> Iterator[tuple[int, bytes]]:
    """The contents of the missing parts, as they are found."""
    given = _runtime.threads_are_given()
    threads = None if given else max(_runtime.get_num_threads() // workers, 1)
    chunks = chunks_of(source, parts)
    waiting: dict[Future[bytes], int] = {}
    pool = ProcessPoolExecutor(workers, initializer=begin, initargs=(job, form, threads))
    try:
        while True:
            while len(waiting) < READ_AHEAD * workers and (chunk := next(chunks, None)):
                number, texts = chunk
                waiting[pool.submit(work, texts)] = number
            if not waiting:
                break
            ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ready:
                number = waiting.pop(future)
                yield number, result_of(future, source, parts.begin(number))
    except BaseException as error:
        # Nothing is to wait for what is still being computed. Other children of this process stay:
        # before Python 3.14 there is no public way to tell those of the pool.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        if isinstance(error, BrokenProcessPool):  # of a result, or of the next that is submitted
            raise ChildProcessError(
                "run: a worker has died, of a signal or for lack of memory; what is done is kept"
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def result_of(future: Future[bytes], source: Path, begin: int) -> bytes:
    """What a worker has computed of the lines from `begin` on, or why it has not."""
    try:
        return future.result()
    except RowError as error:
        raise ValueError(f"{source}, line {begin + error.number + 1}: {error.reason}") from error


# In the workers.

_JOB: tuple[Job, str] | None = None


def begin(job: Job, form: str, threads: int | None) -> None:
    """The first thing in a worker: Ctrl-C is for the process above, and its end is the worker's."""
    global _JOB
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    if threads is not None:
        _runtime.set_num_threads(threads)
    _JOB = job, form


def end_with_parent() -> None:
    """End the process when the one that has started it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def work(texts: list[str]) -> bytes:
    """A part: a line that says what failed, and what the results are as a file has them."""
    assert _JOB is not None
    job, form = _JOB
    (column,) = job.columns
    column_of_texts = np.empty(len(texts), object)
    column_of_texts[:] = texts
    found = job({column: column_of_texts})
    values, reasons = found[job.output], found.get(f"{job.output}{REASON}", [None] * len(texts))
    head = {"failed": [[i, reason] for i, reason in enumerate(reasons) if reason is not None]}
    if form == "npy":
        head["dimension"] = values.shape[1]
        content = values.tobytes()
    else:
        written = written_as_json if form == "jsonl" else written_as_text
        rows = zip(texts, values, reasons, strict=True)
        content = "".join(written(job, *row) + "\n" for row in rows).encode()
    return json.dumps(head).encode() + b"\n" + content


def written_as_json(job: Job, text: str, value: Any, reason: str | None) -> str:
    """A line of .jsonl."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    row = {"text": text, job.output: value}
    if reason is not None:
        row[f"{job.output}{REASON}"] = reason
    return json.dumps(row, ensure_ascii=False)


def written_as_text(job: Job, text: str, value: str | None, reason: str | None) -> str:
    """A line of text."""
    return in_one_line(value or "")


# When all is there.


def joined(form: str, parts: Parts) -> list[Failure]:
    """Put all parts together as the target, and tell the failures."""
    failures: list[Failure] = []
    dimension = 0
    with parts.target_file() as file:
        for number in range(parts.total):
            head, _, content = parts.read(number).partition(b"\n")
            about = json.loads(head)
            failures += [
                Failure(parts.begin(number) + row + 1, reason) for row, reason in about["failed"]
            ]
            if form == "npy" and number == 0:
                dimension = about["dimension"]
                file.write(npy_header(parts.lines, dimension))
            file.write(content)
    return failures


def npy_header(lines: int, dimension: int) -> bytes:
    """What is before the numbers of an array (lines, dimension) float32 in a .npy file."""
    header = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (lines, dimension)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()
