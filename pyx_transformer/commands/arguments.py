"""What subcommands share: notes beside the results, arguments, and texts from them."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap

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
    "src_lang": "--src-lang",
    "tgt_lang": "--tgt-lang",
    "truncate_dim": "--dimension",
    "max_batch_tokens": "--max-batch-tokens",
    "top_k": "--top-k",
    "top_p": "--top-p",
}


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
