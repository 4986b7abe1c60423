"""What subcommands share: notes beside the results, arguments, and texts from them."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time

# What errors of Python functions are about, as the commands have it.
OPTION_OF = {
    "bleu_tokenizer": "--bleu-tokenizer",
    "beam_size": "--beam-size",
    "length_penalty": "--length-penalty",
    "max_length": "--max-length",
    "min_count": "--min-count",
    "num_hypotheses": "--n-best",
    "num_samples": "--num-samples",
    "pooling": "--pooling",
    "prompt": "--prompt",
    "resume=True": "--resume",
    "workers": "--workers",
    "src_lang": "--src-lang",
    "tgt_lang": "--tgt-lang",
    "truncate_dim": "--dimension",
    "max_batch_tokens": "--max-batch-tokens",
    "top_k": "--top-k",
    "top_p": "--top-p",
}

SECONDS_BETWEEN_NOTES = 5.0
MOST_FAILURES = 20  # that are told one by one


def note(text: str, command: str = "") -> None:
    """Say something beside the results, on standard error. Where that is full they still come."""
    try:
        print(f"{f'pyx-transformer {command}'.rstrip()}: {text}", file=sys.stderr, flush=True)
    except OSError:  # Python flushes it once more as it ends; that must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def path(text: str) -> str:
    """The name of a file or folder, as an argument."""
    if text in ("", "-"):
        raise argparse.ArgumentTypeError(f"is {text or 'empty'}, expected a path")
    return text


def add_search(command, beams):
    command.add_argument(
        "--beam-size",
        type=int,
        metavar="N",
        help=f"hypotheses side by side; default: the model's, or {beams}",
    )
    command.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="new tokens at most; default: the model's, or 256, or as far as its positions reach",
    )


def add_workers(command, target="OUT"):
    """Declare what takes a file through a pool of processes, in place of texts."""
    command.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"the two TEXTs are files, IN and {target}, and N processes write a line of {target} "
        "for each of IN, or a JSON object where its name ends in .jsonl; they share out the CPUs "
        "unless OMP_NUM_THREADS says how many threads each has; default: TEXTs are texts",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        default=None,
        help="go on from what a run with --workers that was stopped has left, if it has",
    )
    command.add_argument(
        "--on-error",
        choices=("raise", "keep"),
        help="what a line that the model cannot read does to a run with --workers: ends it, or is "
        "left empty and told at the end; default: raise",
    )


def run_in_pool(arguments, make, others=()):
    """What `add_workers` declares. make: the job with its settings, given on_error; others: names
    of arguments that are for texts only."""
    from pyx_transformer.pool import run

    for name in others:
        if getattr(arguments, name):
            raise ValueError(
                f"--{name.replace('_', '-')} is for texts, expected none with --workers"
            )
    if len(arguments.texts) != 2:
        raise ValueError(
            f"{len(arguments.texts)} files were given, expected two with --workers: what to read "
            "and what to write"
        )
    job = make(on_error=arguments.on_error or "raise")
    pace = Pace(arguments.command)
    try:
        failures = run(
            job,
            *arguments.texts,
            workers=arguments.workers,
            resume=bool(arguments.resume),
            report=pace.report,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; --resume goes on") from None
    for failure in failures[:MOST_FAILURES]:
        note(f"line {failure.line} is empty: {failure.reason}")
    if len(failures) > MOST_FAILURES:
        note(f"{len(failures) - MOST_FAILURES} more lines are empty")


def check_alone(arguments):
    """Raise ValueError for what belongs to --workers without it."""
    for name in ("resume", "on_error"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for files, expected --workers too")


class Pace:
    """Tells how far a run is, how fast, and how long it may take, every few seconds."""

    def __init__(self, command: str):
        self._command = command
        self._begun = self._told = time.monotonic()
        self._first: int | None = None

    def report(self, done: int, lines: int) -> None:
        """Tell it, where it is time to; at the end in any case."""
        now = time.monotonic()
        if self._first is None:  # what was there already is no work
            self._first, self._begun = done, now
            return
        if done < lines and now - self._told < SECONDS_BETWEEN_NOTES:
            return
        self._told = now
        rate = (done - self._first) / max(now - self._begun, 1e-9)
        left = round((lines - done) / max(rate, 1e-9))
        note(
            f"{done:,} of {lines:,} lines, {rate:,.1f} a second, "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left",
            self._command,
        )


def add_languages(command):
    """Declare the languages of a translator that has several."""
    for name, what in (("src", "sources"), ("tgt", "translations")):
        command.add_argument(
            f"--{name}-lang",
            metavar="CODE",
            help=f"language of the {what}, where the model has several: eng_Latn, en_XX, en; "
            "default: the folder's",
        )


def given(arguments, *names):
    """The settings that flags were given for."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def texts_of(arguments, verb, one):
    """The texts that arguments are or, of -, the lines of standard input; "text" or "line".

    Tells what they may have been taken for.
    """
    if arguments == ["-"]:
        return lines_of_stdin(), "line"
    if "-" in arguments:
        raise ValueError("- is among other texts, expected it alone: the lines of standard input")
    for text in arguments:
        if os.path.isfile(text):
            note(f"{text} is taken as a text; to {verb} the lines of the file: - < {text}")
    if len(arguments) > 1 and not any(len(text.split()) > 1 for text in arguments):
        words = textwrap.shorten(" ".join(arguments), 60, placeholder=" ...")
        note(f'{len(arguments)} texts of one word each; to {verb} {one}: "{words}"')
    return arguments, "text"


def lines_of_stdin():
    from pyx_transformer._files import as_text

    if sys.stdin is None:
        raise ValueError("standard input is closed, expected sentences there or as TEXT")
    text = as_text("standard input", sys.stdin.buffer.read())
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []
