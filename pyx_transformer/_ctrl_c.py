"""Ctrl-C in the `pyx-transformer` command: by default it ends the process, without a traceback.

So from the first import on, if the command is what starts; only within `heard` is it an exception.
In other processes nothing here does anything.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


def heard() -> contextlib.AbstractContextManager[None]:
    """Within, Ctrl-C raises KeyboardInterrupt in the command too."""
    return _handled_by(signal.default_int_handler)


def ending_at_once() -> contextlib.AbstractContextManager[None]:
    """Within, Ctrl-C ends the command: for work in C that hears no signals and writes nothing."""
    return _handled_by(signal.SIG_DFL)


def _is_command():
    """False too where somebody else decides on Ctrl-C: shells ignore it in the background."""
    started = sys.orig_argv[1:3]
    is_command = started == ["-m", "pyx_transformer"] or any(
        name.endswith("/pyx-transformer") for name in started[:1]
    )
    return is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextlib.contextmanager
def _handled_by(handler) -> Iterator[None]:
    if not IS_COMMAND or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


IS_COMMAND = _is_command()
if IS_COMMAND:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
