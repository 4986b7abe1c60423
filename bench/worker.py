"""A contestant in a process of its own: where threads that wait in a loop would meet others."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence

from bench import footprint

DONE = "done "


class Worker:
    """A process that does some work each time that this is called. It ends with this object.

    module: that of this folder whose `work(*arguments)` gives what is called there, arguments being
    what JSON can hold. A call returns what the work does, if JSON can hold it. before: what starts
    the process, such as a launcher of MPI, of whose processes the first is called.
    """

    def __init__(self, module: str, *arguments, before: Sequence[str] = ()):
        paths = [str(footprint.REPOSITORY), str(footprint.REPOSITORY / "tests")]
        code = (
            f"import sys; sys.path += {paths}; from bench import {module}, worker; "
            f"worker.serve({module}.work, {json.dumps(arguments)!r})"
        )
        self._process = subprocess.Popen(
            [*before, sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=footprint.PACKAGE.parent,  # where the same package is found
        )
        weakref.finalize(self, self._process.stdin.close)
        self()

    def __call__(self):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("work\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer.startswith(DONE):
            raise RuntimeError("a process of the benchmark has ended before its work was done")
        return json.loads(answer.removeprefix(DONE))


def serve(work: Callable, arguments: str) -> None:
    """Do the work once for each line that comes."""
    with work(*json.loads(arguments)) as call:
        for _ in sys.stdin:
            found = call()
            print(f"{DONE}{json.dumps(found)}", flush=True)
