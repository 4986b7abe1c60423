"""The subcommands that generate and score texts."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pyx_transformer as pt
from pyx_transformer.commands.arguments import (
    add_languages,
    add_search,
    add_workers,
    check_alone,
    given,
    note,
    path,
    run_in_pool,
    texts_of,
)

SMALL = "{} is a small model, trained on short sentences: expect mistakes"


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
    add_search(command, beams="4")
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
        metavar="FILE",
        help="write what the one sentence's words attend to, in every layer and head: a page to "
        "look at (.html), or a picture of the cross-attention (.png, .svg, .pdf)",
    )
    add_languages(command)
    add_workers(command)
    command.set_defaults(run=_translate)


def _translate(arguments):
    from pyx_transformer.checkpoints import is_shipped
    from pyx_transformer.pages.attention import check_path
    from pyx_transformer.pipelines import Translator

    if arguments.workers is not None:
        _translate_files(arguments)
        return
    check_alone(arguments)
    if arguments.attention:
        check_path("--attention", arguments.attention)
    translator = Translator(arguments.model)
    if is_shipped(arguments.model):
        note(SMALL.format(arguments.model))
    texts, unit = texts_of(arguments.texts or ["-"], "translate", "one sentence")
    if arguments.attention and len(texts) != 1:
        raise ValueError(f"--attention draws one TEXT, and {len(texts)} were given")
    settings = given(arguments, "beam_size", "max_length", "num_hypotheses", "src_lang", "tgt_lang")
    found = translator.hypotheses(texts, **settings)
    print_texts(found, arguments.scores, arguments.num_hypotheses)
    note_losses(translator.source, texts, found, unit)
    if arguments.attention:
        translator.attention(*texts, **settings).save(arguments.attention)


def _translate_files(arguments):
    from pyx_transformer.batch import Translate
    from pyx_transformer.checkpoints import is_shipped

    settings = given(arguments, "beam_size", "max_length", "src_lang", "tgt_lang")
    make = partial(Translate, arguments.model, **settings)
    if is_shipped(arguments.model):
        note(SMALL.format(arguments.model))
    run_in_pool(arguments, make, ("num_hypotheses", "scores", "attention"))


def note_losses(tokenizer, texts, found, unit):
    """Tell which texts were cut off, and which have words that the vocabulary lacks."""
    from pyx_transformer.pipelines.texts import numbered, told_unknown

    is_cut = [not all(one.finished for one in of_text) for of_text in found]
    cut = [i for i, value in enumerate(is_cut) if value]
    if cut:
        note(f"cut off at the maximum length (--max-length): {numbered(unit, cut)}")
    if unknown := told_unknown(tokenizer, map(tokenizer.encode, texts), unit):
        note(unknown)


def print_texts(found, with_scores, count=None):
    """A row for each text; where there are fewer than elsewhere, of no probability and empty."""
    count = max([count or 1, *map(len, found)])
    for translations in found:
        rows = [(one.score, one) for one in translations]
        for score, text in [*rows, *[(-math.inf, "")] * (count - len(rows))]:
            print(f"{score:.4f}\t{text}" if with_scores else text)


def add_generate(commands):
    """Declare `generate`."""
    command = commands.add_parser("generate", help="continue texts with a language model")
    command.add_argument(
        "texts",
        nargs="*",
        metavar="PROMPT",
        help="texts to continue; default: one that is empty; -: the lines of standard input",
    )
    command.add_argument("--model", required=True, type=path, help="a folder")
    add_search(command, beams="1")
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
    command.add_argument(
        "--stream", action="store_true", help="print the text of the one prompt as it grows"
    )
    add_workers(command)
    command.set_defaults(run=_generate)


def _generate(arguments):
    from pyx_transformer.pipelines import TextGenerator

    names = ("max_length", "beam_size", "temperature", "top_k", "top_p", "num_samples", "seed")
    if arguments.workers is not None:
        _generate_files(arguments, given(arguments, *names))
        return
    check_alone(arguments)
    generator = TextGenerator(arguments.model)
    prompts, unit = texts_of(arguments.texts or [""], "continue", "one text")
    settings = given(arguments, *names)
    if arguments.stream:
        if len(prompts) != 1:
            raise ValueError(f"--stream shows one PROMPT, and {len(prompts)} were given")
        parts = generator.stream(prompts[0], **settings)
        print(prompts[0], end="", flush=True)
        for part in parts:
            print(part, end="", flush=True)
        print()
        return
    found = generator.hypotheses(prompts, **settings)
    print_texts(found, arguments.scores)
    note_losses(generator.tokenizer, prompts, found, unit)


def _generate_files(arguments, settings):
    from pyx_transformer.batch import Generate

    settings.pop("num_samples", None)
    make = partial(Generate, arguments.model, **settings)
    run_in_pool(arguments, make, ("num_samples", "scores", "stream"))


def add_score(commands):
    """Declare `score`."""
    command = commands.add_parser(
        "score",
        help="print how probable texts or translations are",
        description="Print the natural logarithm of the probability of each translation or, of a "
        "language model, of each text, with its end.",
    )
    command.add_argument("--model", required=True, type=path, help="a folder, or en-ja")
    command.add_argument(
        "source", type=path, help="a file of sentences, one per line; of a language model, its text"
    )
    command.add_argument("target", nargs="?", type=path, help="a file of their translations")
    command.add_argument(
        "--per-token", action="store_true", help="print the mean of all tokens, not their sum"
    )
    add_languages(command)
    command.set_defaults(run=_score)


def _score(arguments):
    from pyx_transformer._files import as_path
    from pyx_transformer.pipelines import TextGenerator, Translator
    from pyx_transformer.training.corpus import read_lines, read_pairs

    model: Any = pt.load(arguments.model)
    source = as_path("score", "source", arguments.source)
    languages = given(arguments, "src_lang", "tgt_lang")
    if isinstance(model, pt.TransformerLM):
        for name, value in {"target": arguments.target, **languages}.items():
            if value is not None:
                raise ValueError(f"{name} was given, expected none of a language model")
        scores = TextGenerator(model).score(read_lines(source))
    else:
        translator = Translator(model)
        if arguments.target is None:
            raise ValueError("target is missing, expected the file of the translations")
        pairs = read_pairs(source, as_path("score", "target", arguments.target))
        scores = translator.score(*pairs, **languages)
    for one in scores:
        total = float(one.sum(dtype=float))
        print(f"{total / len(one) if arguments.per_token else total:.4f}")
