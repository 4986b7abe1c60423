"""The `pyx-transformer` command.

Each subcommand is one `_add_<name>` function that declares its arguments and names the function to
run; those functions import what they need when they run, so that no subcommand waits for another's
modules. To add one, write both functions and call the first from `_parser`.
"""

from __future__ import annotations

import argparse
import os
import sys

import pyx_transformer as pt


def main(argv: list[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's arguments) and return its exit status.

    0 if it did what was asked, 1 if it could not print it all, 2 if it was asked wrongly.
    """
    try:
        status = _run(argv)
        print(end="", flush=True)
    except BrokenPipeError:
        # The reader, `head` for one, has seen enough. Python flushes stdout once more as it ends;
        # that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UnicodeEncodeError as error:
        print(
            f"pyx-transformer: cannot print in the terminal's encoding, {error.encoding}: "
            "set PYTHONIOENCODING=utf-8",
            file=sys.stderr,
        )
        return 1
    return status


def _run(argv):
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as exit_:  # argparse ends so, after --help and --version too
        return exit_.code
    arguments.run(arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineErrors(
        prog="pyx-transformer", description="The Transformer on a CPU, in Cython."
    )
    parser.add_argument("--version", action="version", version=f"pyx-transformer {pt.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    _add_explain(commands)
    _add_config(commands)
    return parser


class _OneLineErrors(argparse.ArgumentParser):
    """Says what is wrong in one line, instead of printing the usage above it."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _add_explain(commands):
    command = commands.add_parser(
        "explain", help="print the Transformer step by step, with real arrays"
    )
    command.add_argument("--lang", choices=("en", "zh"), default="en", help="language of the text")
    command.add_argument("--part", type=int, choices=range(1, 8), help="print only this part")
    command.set_defaults(run=_explain)


def _explain(arguments):
    from pyx_transformer.explain import explain

    print(explain(arguments.lang, arguments.part))


def _add_config(commands):
    command = commands.add_parser("config", help="print the instruction set and the threads in use")
    command.set_defaults(run=_config)


def _config(_arguments):
    pt.show_config()
