"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

ANSWER = b"the step is finished and saved first; Ctrl-C again stops at once\n"


class Interrupts:
    """Within `with`, the first Ctrl-C is kept in `came` and answered on standard error; the next
    one is heard at once.

    Only where Ctrl-C would raise KeyboardInterrupt: in the main thread, and with no other handler.
    """

    def __init__(self):
        self.came = False
        self._replaces = False

    def __enter__(self) -> Interrupts:
        is_main = threading.current_thread() is threading.main_thread()
        self._replaces = is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._replaces:
            signal.signal(signal.SIGINT, self._keep)
        return self

    def __exit__(self, *_):
        if self._replaces:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _keep(self, *_):
        self.came = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if sys.stderr is None:
            return
        with contextlib.suppress(OSError, ValueError):  # closed, full, or no file
            # Past its buffer: this may have come into a write to it. A terminal shows ^C before it.
            number = sys.stderr.fileno()
            os.write(number, b"\n" * os.isatty(number) + ANSWER)
