"""The `pyx-transformer` command.

Each subcommand is one `add_<name>` function that declares its arguments and names the function to
run; those functions import what they need when they run, so that no subcommand waits for another's
modules. To add one, write both functions, here or in `commands`, and name the first in ADDED.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Mapping
from difflib import get_close_matches

import pyx_transformer as pt
from pyx_transformer import _ctrl_c, commands
from pyx_transformer.commands.arguments import (
    INTERRUPTED,
    OPTION_OF,
    add_command,
    note,
    one_line,
    path,
)

# What begins the errors of the functions behind a command, where that is not its own name.
FUNCTIONS = {
    "explain": ("write_html",),
    "vocab": ("text.save",),
    "translate": ("Translator", "Transformer.generate_as_completed", "AttentionView.save", "plots"),
    "generate": ("TextGenerator", "stream", "TransformerLM.generate_as_completed"),
    "score": ("Translator", "TextGenerator"),
    "embed": ("SentenceEncoder", "encode"),
    "rank": ("CrossEncoder",),
    "classify": ("TextClassifier", "scores"),
    "tag": ("TokenClassifier",),
}
EPILOG = """\
pyx-transformer COMMAND --help says what each of them does, with examples.

Results are on standard output, all else is on standard error. Exit status:
  0    all was done
  1    not all results were read, as by `head`, or the terminal cannot show them
  2    it was asked wrongly, or failed; one line on standard error says why
  130  it was interrupted (Ctrl-C)
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's arguments) and return its exit status.

    0 if it did what was asked, 1 if nobody read all of it or the terminal's encoding lacks a
    character, 2 if it was asked wrongly or failed, 130 if it was interrupted.
    """
    if sys.stderr is None:  # closed: what is opened next would take its place, and its messages
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open as long as the process is
    if sys.stdout is None:
        note("cannot print: standard output is closed")
        return 2
    status = 0
    try:
        status = _run(argv)
        print(end="", flush=True)
    except OSError as error:
        # Python flushes stdout once more as it ends; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader, `head` for one, has seen enough
            return status or 1
        if status == 0:
            note(f"cannot print: {one_line(error)}")
        return 2
    except UnicodeEncodeError as error:
        note(
            f"cannot print in the terminal's encoding, {error.encoding}: "
            "set PYTHONIOENCODING=utf-8",
        )
        return 1
    return status


def _run(argv):
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as exit_:  # argparse ends so, after --help and --version too
        return exit_.code
    command = arguments.command
    try:
        with _ctrl_c.heard(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: note(one_line(message))
            arguments.run(arguments)
    except (ImportError, MemoryError, OSError, TypeError, ValueError) as error:
        if isinstance(error, (BrokenPipeError, UnicodeEncodeError)):
            raise
        said = one_line(error)
        for function in (command, *FUNCTIONS.get(command, ())):
            said = said.removeprefix(f"{function}: ")
        note(in_options(said, arguments), command)
        return 2
    except KeyboardInterrupt as error:
        if sys.stderr.isatty():  # behind the ^C that it shows
            print(file=sys.stderr)
        note(str(error) or "interrupted", command)
        return INTERRUPTED
    return 0


def in_options(message: str, arguments: argparse.Namespace) -> str:
    """An error of a Python function, with the options that the command has for its arguments."""
    for name, option in OPTION_OF.items():
        if name.partition("=")[0] in arguments:
            message = re.sub(rf"(?<![\w.-])(?<!config's ){name}(?!\w)", option, message)
    return message


def parser() -> argparse.ArgumentParser:
    """What reads the arguments: `--help` of each command is made of it."""
    whole = _OneLineErrors(
        prog="pyx-transformer",
        description="The Transformer on a CPU: translate, generate, embed, label, train, study.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"pyx-transformer {pt.__version__}")
    added = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in ADDED:
        add(added)
    whole.commands = added.choices
    return whole


class _OneLineErrors(argparse.ArgumentParser):
    """Says what is wrong, and what may have been meant, in one line, instead of printing the usage
    above it."""

    commands: Mapping[str, argparse.ArgumentParser]

    def parse_args(self, args=None, namespace=None):
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = self.commands[found.command]
            options = [name for name in command._option_string_actions if name.startswith("--")]
            near = [get_close_matches(one.partition("=")[0], options, 1) for one in unknown]
            meant = ", ".join(name for names in near for name in names)
            hint = f" (did you mean {meant}?)" if meant else ""
            command.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_explain(added):
    """Declare `explain`."""
    command = add_command(
        added,
        "explain",
        "tell the Transformer step by step, with real arrays, as text or as a page",
        """
        Print the seven parts of the Transformer, each with its formula, what it is for, and real
        arrays that flow through this library's own kernels; or make a page for the browser of them.
        """,
        """
        pyx-transformer explain --html page.html --sentence "i love music ."
        pyx-transformer explain | less
        pyx-transformer explain --lang zh --part 2
        """,
    )
    command.add_argument(
        "--lang",
        choices=("en", "zh"),
        default="en",
        help="language of the text; default: %(default)s",
    )
    command.add_argument(
        "--part", type=int, choices=range(1, 8), help="print only this part; default: all"
    )
    command.add_argument(
        "--html",
        type=path,
        metavar="FILE",
        help="write a page to look at, with pictures and all parts in each language, --lang first",
    )
    command.add_argument(
        "--sentence",
        metavar="TEXT",
        help="the English sentence whose translation the page shows; default: one of a cat",
    )
    command.set_defaults(run=_explain)


def _explain(arguments):
    from pyx_transformer.explain import explain, write_html

    if arguments.html is None:
        if arguments.sentence is not None:
            raise ValueError("--sentence is for a page, expected --html too")
        print(explain(arguments.lang, arguments.part))
        return
    if arguments.part is not None:
        raise ValueError("--part is for text, expected none with --html")
    settings = {} if arguments.sentence is None else {"sentence": arguments.sentence}
    write_html(arguments.html, language=arguments.lang, **settings)


def add_config(added):
    """Declare `config`."""
    command = add_command(
        added,
        "config",
        "print the instruction set and the threads in use",
        """
        Print what the kernels run on: the instruction set that was chosen, those that there are,
        and how many threads there may be.
        """,
        """
        pyx-transformer config
        PYX_TRANSFORMER_NUM_THREADS=1 pyx-transformer config
        """,
    )
    command.set_defaults(run=_config)


def _config(_arguments):
    pt.show_config()


ADDED = (add_explain, add_config, *commands.ADDED)
