"""Ctrl-C while the command loads ends it by the signal, without a traceback.

So from the first import on, if the command is what loads, until it calls `handle_interrupts`.
"""

import signal
import sys
import threading


def handle_interrupts() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again, now that somebody catches it."""
    _exchange(signal.SIG_DFL, signal.default_int_handler)


def _is_command():
    started = sys.orig_argv[1:3]
    return started == ["-m", "pyx_transformer"] or any(
        name.endswith("/pyx-transformer") for name in started[:1]
    )


def _exchange(old, new):
    """Only where nobody else has decided what Ctrl-C does: a shell ignores it in the background."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is old:
        signal.signal(signal.SIGINT, new)


if _is_command():
    _exchange(signal.default_int_handler, signal.SIG_DFL)
