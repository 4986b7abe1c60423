"""A terminal for the command: what a user types, and what the screen has got."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from functools import partial

COMMAND = [sys.executable, "-m", "pyx_transformer"]
CTRL_C, CTRL_D = b"\x03", b"\x04"


class Screen:
    """The user's end of a terminal at which a process runs."""

    def __init__(self, number, process):
        self._number = number
        self.process = process
        self.shown = ""  # since what was waited for
        self.all = ""

    def type(self, keys):
        """Press these keys."""
        os.write(self._number, keys if isinstance(keys, bytes) else keys.encode())

    def until(self, text, seconds=60):
        """What is shown up to this text, which has to come."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            left = end - time.monotonic()
            ready = left > 0 and select.select([self._number], [], [], left)[0]
            assert ready, f"{text!r} did not come after {self.shown!r}"
            self.shown += self._read() or f" (the end, before {text!r})"
            assert "(the end, before" not in self.shown, self.shown
        begin, _, self.shown = self.shown.partition(text)
        return begin + text

    def rest(self, seconds=60):
        """All that comes until the process ends, and its status."""
        while content := self._read():
            self.shown += content
        return self.shown, self.process.wait(timeout=seconds)

    def _read(self):
        try:
            content = os.read(self._number, 1 << 16).decode(errors="replace")
        except OSError:  # nobody has the other end any more
            return ""
        self.all += content
        return content


def in_foreground(number):
    """Make a terminal this process's: Ctrl-C on it is heard here."""
    os.setsid()
    os.close(os.open(os.ttyname(number), os.O_RDWR))
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def terminal(arguments, streams="in out err", command=COMMAND, **settings):
    """A process whose named streams are a terminal, in whose foreground it is."""
    user, own = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    names = {"in": "stdin", "out": "stdout", "err": "stderr"}
    ends = {names[name]: own for name in streams.split()}
    environment = {**os.environ, "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        [*command, *arguments],
        **{name: ends.get(name, subprocess.PIPE) for name in names.values()},
        env=environment,
        preexec_fn=partial(in_foreground, own),
        **settings,
    )
    os.close(own)
    try:
        yield Screen(user, process)
    finally:
        process.kill()
        process.communicate()
        os.close(user)
