"""What subcommands share: notes beside the results, arguments, and runs with --workers."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from functools import partial

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

INTERRUPTED = 128 + 2  # as a shell has it of a process that SIGINT ended
MOST_FAILURES = 20  # that are told one by one


def note(text: str, command: str = "") -> None:
    """Say something beside the results, on standard error. Where that is full they still come."""
    line = f"{f'pyx-transformer {command}'.rstrip()}: {text}"
    bars = sys.modules.get("tqdm")
    try:
        if bars is not None:  # one may be on the terminal
            bars.tqdm.write(line, file=sys.stderr)
            sys.stderr.flush()
        else:
            print(line, file=sys.stderr, flush=True)
    except OSError:  # Python flushes it once more as it ends; that must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def one_line(error: Warning | Exception | str) -> str:
    """What an error or a warning says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def add_command(commands, name: str, summary: str, description: str, examples: str):
    """Declare a command, with what its help says."""
    return commands.add_parser(
        name,
        help=summary,
        description=textwrap.dedent(description).strip(),
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def path(text: str) -> str:
    """The name of a file or folder, as an argument."""
    if text in ("", "-"):
        raise argparse.ArgumentTypeError(f"is {text or 'empty'}, expected a path")
    return text


def stream(text: str) -> str:
    """The name of a file, or - for a standard stream, as an argument."""
    return text if text == "-" else path(text)


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


def add_texts(command, name: str, what: str):
    """Declare the texts that a command reads, and where its results go."""
    command.add_argument(
        "texts",
        nargs="*",
        metavar=name,
        help=f"{what}; default, or -: the lines of --input",
    )
    command.add_argument(
        "--input",
        type=stream,
        metavar="FILE",
        help=f"read {what} from FILE, one per line; default, or -: standard input, each line being "
        "answered as it comes",
    )
    command.add_argument(
        "--output",
        type=stream,
        metavar="FILE",
        help="write the results to FILE, which appears when it is whole, and after Ctrl-C is as it "
        "was; default, or -: standard output, which gets them as they are found, and after Ctrl-C "
        "has those",
    )


def add_workers(command, target="OUT"):
    """Declare what takes a file through a pool of processes."""
    command.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"N processes take a file to another, IN to {target}, which stand in the place of "
        "texts or are --input and --output: a line for each line, or a JSON object where the name "
        "ends in .jsonl; they share out the CPUs unless OMP_NUM_THREADS says how many threads each "
        "has; default: this process does it",
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
    of arguments that such a run cannot have."""
    from contextlib import ExitStack

    from pyx_transformer.pipelines.progress import progress
    from pyx_transformer.pool import run

    for name in others:
        if getattr(arguments, name) not in (None, False):
            option = OPTION_OF.get(name, f"--{name}")
            raise ValueError(f"{option} was given, expected none with --workers")
    files = _files_of(arguments)
    job = make(on_error=arguments.on_error or "raise")
    told = None
    with ExitStack() as stack:

        def report(done, lines):
            nonlocal told
            if told is None:
                bar = progress(lines, "line", begun=done, say=partial(note, command=command))
                told = done, stack.enter_context(bar)
            before, tell = told
            tell(done - before)
            told = done, tell

        command = arguments.command
        try:
            failures = run(
                job,
                *files,
                workers=arguments.workers,
                resume=bool(arguments.resume),
                report=report,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; --resume goes on") from None
    for failure in failures[:MOST_FAILURES]:
        note(f"line {failure.line} is empty: {failure.reason}")
    if len(failures) > MOST_FAILURES:
        note(f"{len(failures) - MOST_FAILURES} more lines are empty")


def _files_of(arguments):
    """What a run with --workers reads and writes."""
    named = {"--input": arguments.input, "--output": arguments.output}
    if not arguments.texts:
        files = list(named.values())
    elif any(named.values()):
        raise ValueError("files and --input or --output were given, expected one of them")
    else:
        files = arguments.texts
    if len(files) != 2:
        raise ValueError(
            f"{len(files)} files were given, expected two with --workers: what to read and what to "
            "write"
        )
    for name, file in zip(named, files, strict=True):
        if file in (None, "", "-"):
            raise ValueError(f"{name} is missing, expected a file because of --workers")
    return files


def check_alone(arguments):
    """Raise ValueError for what belongs to --workers without it."""
    for name in ("resume", "on_error"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} was given, expected --workers too")


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


def note_taken_for(texts: list[str], verb: str, one: str) -> None:
    """Tell what texts may have been taken for: to `verb` them, or `one`."""
    for text in texts:
        if os.path.isfile(text):
            note(f"{text} is taken as a text; to {verb} the lines of the file: --input {text}")
    if len(texts) > 1 and not any(len(text.split()) > 1 for text in texts):
        words = textwrap.shorten(" ".join(texts), 60, placeholder=" ...")
        note(f'{len(texts)} texts of one word each; to {verb} {one}: "{words}"')
