"""The subcommands that make, train and use models, each over the Python function that does it."""

from __future__ import annotations

import argparse
import math
import os
import sys
import textwrap
from typing import Any

import pyx_transformer as pt

# What errors of Python functions are about, as the commands have it.
OPTION_OF = {
    "bleu_tokenizer": "--bleu-tokenizer",
    "beam_size": "--beam-size",
    "length_penalty": "--length-penalty",
    "max_length": "--max-length",
    "min_count": "--min-count",
    "num_hypotheses": "--n-best",
    "num_samples": "--num-samples",
    "resume=True": "--resume",
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


def add_vocab(commands):
    """Declare `vocab`."""
    command = commands.add_parser("vocab", help="make a vocabulary from files of text")
    command.add_argument(
        "files", nargs="+", type=path, metavar="FILE", help="text, a sentence per line"
    )
    command.add_argument("--output", required=True, type=path, help="the file to write")
    command.add_argument(
        "--kind",
        choices=("sentencepiece", "words", "characters"),
        default="sentencepiece",
        help="what a token is; default: %(default)s, pieces of words",
    )
    command.add_argument(
        "--size",
        type=int,
        help="tokens at most, the special ones included; sentencepiece has to be told, others keep "
        "all by default",
    )
    command.add_argument(
        "--min-count",
        type=int,
        default=1,
        help="how often a word or character has to occur; default: %(default)s",
    )
    command.add_argument(
        "--language",
        default="",
        help="of words: en sets punctuation and contractions apart, ja writes no spaces; default: "
        "neither",
    )
    command.set_defaults(run=_vocab)


def _vocab(arguments):
    from pyx_transformer import text
    from pyx_transformer.training.recipe import texts_of

    if arguments.kind == "sentencepiece" and arguments.size is None:
        raise ValueError("--size is missing, expected a number of tokens for sentencepiece")
    texts = [line for file in arguments.files for line in texts_of(file, arguments.kind)]
    tokenizer = text.make(
        arguments.kind,
        texts,
        size=arguments.size,
        min_count=arguments.min_count,
        language=arguments.language,
    )
    text.save(tokenizer, arguments.output)
    print(f"{arguments.output}: {tokenizer.vocab_size} tokens")


def add_train(commands):
    """Declare `train`."""
    command = commands.add_parser(
        "train",
        help="train a model as a TOML file says",
        description="Train a model as a TOML file says. At Ctrl-C the step is finished and a "
        "checkpoint saved; a second one stops at once.",
    )
    command.add_argument(
        "recipe", nargs="?", type=path, help="a TOML file; without one, --set says it all"
    )
    command.add_argument(
        "--output",
        required=True,
        type=path,
        metavar="FOLDER",
        help="where the model, the checkpoint and the log go",
    )
    command.add_argument(
        "--resume", action="store_true", help="go on from FOLDER's checkpoint, if there is one"
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="a value on top of the recipe's, such as training.steps=1000; may be repeated",
    )
    command.add_argument(
        "--plot", type=path, metavar="PNG", help="draw the curves of loss and validation at the end"
    )
    command.set_defaults(run=_train)


def _train(arguments):
    from pyx_transformer import plots
    from pyx_transformer._files import as_path
    from pyx_transformer.training import log
    from pyx_transformer.training.recipe import load_recipe
    from pyx_transformer.training.trainer import LOG, MODEL

    recipe = load_recipe(arguments.recipe, dict(map(_change, arguments.set)))
    if arguments.plot:
        plots.require(arguments.plot)
    try:
        progress = recipe.run(arguments.output, resume=arguments.resume, report=_reporter())
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{error}; --resume goes on" if error.args else "") from None
    folder = as_path("train", "output", arguments.output)
    if arguments.plot:
        plots.plot_curves(log.read(folder / LOG), arguments.plot)
    print(f"{progress.step} steps; the best model is in {folder / MODEL}")


def _change(text):
    """A key and its value: a number, true or false, or else the text itself."""
    import json

    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise ValueError(f"--set is {text!r}, expected TABLE.KEY=VALUE")
    try:
        return key, json.loads(value)
    except RecursionError as error:
        raise ValueError(f"--set {key} is nested too deeply") from error
    except ValueError:
        return key, value


def _reporter():
    """`_print_entry`, until there is nowhere to print: that ends no run."""
    is_open = True

    def report(entry):
        nonlocal is_open
        try:
            if is_open:
                _print_entry(entry)
        except OSError:
            is_open = False

    return report


def _print_entry(entry):
    step = f"step {entry['step']}"
    part = next((part for part in ("validation", "test") if part in entry), None)
    if part is not None:
        figures = "  ".join(
            f"{name} {value if isinstance(value, str) else format(value, '.4g')}"
            for name, value in entry[part].items()
        )
        print(f"{step}  {part}: {figures}", flush=True)
    elif "skipped" in entry:
        note(
            f"{step} skipped: loss {entry['loss']}, gradient norm {entry['gradient_norm']}; "
            f"examples {entry['skipped']}"
        )
    else:
        left = round(entry["seconds_left"])
        print(
            f"{step}  loss {entry['loss']:.4f}  {entry['tokens_per_second']:.0f} tokens/s  "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left",
            flush=True,
        )


def add_evaluate(commands):
    """Declare `evaluate`."""
    command = commands.add_parser("evaluate", help="score a model on a source and a target file")
    command.add_argument("--model", required=True, type=path, help="a folder, or en-ja")
    command.add_argument(
        "source", type=path, help="sentences, one per line; of other than a translator, its text"
    )
    command.add_argument("target", nargs="?", type=path, help="their translations")
    _add_search(command, beams="1")
    command.add_argument(
        "--length-penalty",
        type=float,
        help="scores are divided by length to this power; default: the model's, or 1",
    )
    command.add_argument(
        "--bleu-tokenizer",
        default="auto",
        metavar="NAME",
        help="what BLEU counts: none (words as they stand), 13a, intl, char or zh; default, auto: "
        "words, or the characters of text without spaces",
    )
    command.set_defaults(run=_evaluate)


def _add_search(command, beams):
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


def _evaluate(arguments):
    from pyx_transformer.metrics import require_bleu
    from pyx_transformer.training.validation import evaluate

    settings = _given(arguments, "beam_size", "max_length", "length_penalty")
    model = pt.load(arguments.model)
    with_bleu = isinstance(model, pt.Transformer)
    try:
        if with_bleu:
            require_bleu()
    except ImportError as error:  # there are other figures
        note(str(error))
        with_bleu = False
    figures = evaluate(
        model,
        arguments.source,
        arguments.target,
        with_bleu=with_bleu,
        bleu_tokenizer=arguments.bleu_tokenizer,
        **settings,
    )
    for name, value in figures.items():
        print(name, value if isinstance(value, str) else f"{value:.4f}")


def _given(arguments, *names):
    """The settings that flags were given for."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def add_translate(commands):
    """Declare `translate`."""
    command = commands.add_parser("translate", help="translate sentences")
    command.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="sentences; default, or -: the lines of standard input",
    )
    command.add_argument(
        "--model", default="en-ja", type=path, help="a folder; default: English to Japanese"
    )
    _add_search(command, beams="4")
    command.add_argument(
        "--n-best",
        type=int,
        dest="num_hypotheses",
        metavar="N",
        help="translations of each sentence, a line for each; default: the model's, or 1",
    )
    command.add_argument(
        "--scores", action="store_true", help="print each one's score and a tab before it"
    )
    command.add_argument(
        "--attention",
        type=path,
        metavar="PNG",
        help="draw the cross-attention of the one sentence, every layer and head",
    )
    command.set_defaults(run=_translate)


def _translate(arguments):
    from pyx_transformer import plots
    from pyx_transformer.checkpoints import is_shipped
    from pyx_transformer.pipelines import translate

    if arguments.attention:
        plots.require(arguments.attention)
    model: Any = pt.load(arguments.model)
    if is_shipped(arguments.model):
        note(f"{arguments.model} is a small model, trained on short sentences: expect mistakes")
    texts, unit = _texts_of(arguments.texts or ["-"], "translate", "one sentence")
    if arguments.attention and len(texts) != 1:
        raise ValueError(f"--attention draws one TEXT, and {len(texts)} were given")
    settings = _given(arguments, "beam_size", "max_length", "num_hypotheses")
    if getattr(model, "generation_options", None) is None:
        settings.setdefault("beam_size", 4)
    found = translate(
        model,
        texts,
        return_scores=arguments.scores,
        return_attention=bool(arguments.attention),
        **settings,
    )
    if arguments.attention and not len(found[0][0].hypothesis.sequence):
        raise ValueError("--attention: the translation is empty, and there is nothing to draw")
    _print_texts(found, arguments.scores, arguments.num_hypotheses)
    _note_losses(model.src_tokenizer, texts, found, unit)
    if arguments.attention:
        _draw_attention(model, texts[0], found[0][0].hypothesis, arguments.attention)


def _texts_of(arguments, verb, one):
    """The texts that arguments are or, of -, the lines of standard input; "text" or "line".

    Tells what they may have been taken for.
    """
    if arguments == ["-"]:
        return _lines_of_stdin(), "line"
    if "-" in arguments:
        raise ValueError("- is among other texts, expected it alone: the lines of standard input")
    for text in arguments:
        if os.path.isfile(text):
            note(f"{text} is taken as a text; to {verb} the lines of the file: - < {text}")
    if len(arguments) > 1 and not any(len(text.split()) > 1 for text in arguments):
        words = textwrap.shorten(" ".join(arguments), 60, placeholder=" ...")
        note(f'{len(arguments)} texts of one word each; to {verb} {one}: "{words}"')
    return arguments, "text"


def _note_losses(tokenizer, texts, found, unit):
    """Tell which texts were cut off, and which have words that the vocabulary lacks."""
    from pyx_transformer.pipelines.texts import numbered, told_unknown

    is_cut = [not all(one.hypothesis.is_finished for one in of_text) for of_text in found]
    cut = [i for i, value in enumerate(is_cut) if value]
    if cut:
        note(f"cut off at the maximum length (--max-length): {numbered(unit, cut)}")
    if unknown := told_unknown(tokenizer, map(tokenizer.encode, texts), unit):
        note(unknown)


def _draw_attention(model, text, best, file):
    """The cross-attention of a text's best translation."""
    from pyx_transformer import plots

    source = model.src_tokenizer.tokens(model.src_tokenizer.encode(text))
    target = [*model.tgt_tokenizer.tokens(best.sequence), "</s>"][: best.attention.shape[2]]
    plots.plot_attention(best.attention, source, target, file)


def _lines_of_stdin():
    from pyx_transformer._files import as_text

    if sys.stdin is None:
        raise ValueError("standard input is closed, expected sentences there or as TEXT")
    text = as_text("standard input", sys.stdin.buffer.read())
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _print_texts(found, with_scores, count=None):
    """A row for each text; where there are fewer than elsewhere, of no probability and empty."""
    count = max([count or 1, *map(len, found)])
    for translations in found:
        rows = [(one.hypothesis.score, one.text) for one in translations]
        for score, text in [*rows, *[(-math.inf, "")] * (count - len(rows))]:
            print(f"{score:.4f}\t{text}" if with_scores else text)


def add_generate(commands):
    """Declare `generate`."""
    command = commands.add_parser("generate", help="continue texts with a language model")
    command.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="texts to continue; default: one that is empty; -: the lines of standard input",
    )
    command.add_argument("--model", required=True, type=path, help="a folder")
    _add_search(command, beams="1")
    command.add_argument(
        "--temperature",
        type=float,
        help="draw tokens, the more probable ones the more often the lower this is; default, as of "
        "all that follow: the model's, or not to draw",
    )
    command.add_argument("--top-k", type=int, help="draw from the k most probable tokens")
    command.add_argument(
        "--top-p", type=float, help="draw from the most probable tokens that add up to p"
    )
    command.add_argument("--num-samples", type=int, help="texts to draw for each prompt")
    command.add_argument("--seed", type=int, help="draw the same again with the same seed")
    command.add_argument(
        "--scores", action="store_true", help="print each text's score and a tab before it"
    )
    command.set_defaults(run=_generate)


def _generate(arguments):
    from pyx_transformer.pipelines import continue_texts

    names = ("max_length", "beam_size", "temperature", "top_k", "top_p", "num_samples", "seed")
    model: Any = pt.load(arguments.model)
    prompts, unit = _texts_of(arguments.prompts or [""], "continue", "one text")
    found = continue_texts(
        model,
        prompts,
        return_scores=arguments.scores,
        **_given(arguments, *names),
    )
    _print_texts(found, arguments.scores)
    _note_losses(model.tgt_tokenizer, prompts, found, unit)
