"""The subcommands that generate and score texts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pyx_transformer as pt
from pyx_transformer._files import in_one_line
from pyx_transformer.commands.arguments import (
    add_command,
    add_languages,
    add_search,
    add_texts,
    add_workers,
    check_alone,
    given,
    note,
    path,
    run_in_pool,
    stream,
)
from pyx_transformer.commands.lines import Given, answer, results, texts_of

# What to expect of models that come with the package.
EXPECT = {
    "en-ja": "en-ja is a small model, trained on short sentences: expect mistakes",
    "shakespeare": "shakespeare is a small model, trained on plays alone: expect little sense",
}


def add_translate(commands):
    """Declare `translate`."""
    command = add_command(
        commands,
        "translate",
        "translate sentences",
        """
        Translate sentences: those given as TEXT, or the lines of a file or of standard input, a
        line for each. Lines are answered as they come; where many are there, some hundreds at a
        time. A line's translation does not depend on the others.
        """,
        """
        pyx-transformer translate "i love music ."
        pyx-transformer translate                              # ask for a line at a time
        pyx-transformer translate --input in.txt --output out.txt
        tail -f chat.log | pyx-transformer translate
        pyx-transformer translate --n-best 3 --json "i love music ."
        pyx-transformer translate "i love music ." --attention attention.png
        pyx-transformer translate --model nllb --src-lang eng_Latn --tgt-lang fra_Latn "Good day."
        pyx-transformer translate --workers 4 in.txt out.txt
        """,
    )
    add_texts(command, "TEXT", "sentences")
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
    _add_form(command)
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


def _add_form(command):
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--scores", action="store_true", help="print each one's score and a tab before it"
    )
    form.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object for each: text, score, tokens, source_tokens, and whether it is "
        "finished, not cut off",
    )


def _translate(arguments):
    from pyx_transformer.pages.attention import check_path
    from pyx_transformer.pipelines import Translator

    if arguments.workers is not None:
        _translate_files(arguments)
        return
    check_alone(arguments)
    if arguments.attention:
        check_path("--attention", arguments.attention)
        if len(arguments.texts) != 1 or arguments.texts == ["-"]:
            raise ValueError(f"--attention draws one TEXT, and {len(arguments.texts)} were given")
    translator = Translator(arguments.model)
    _note_expected(arguments.model)
    settings = given(arguments, "beam_size", "max_length", "num_hypotheses", "src_lang", "tgt_lang")
    translator.hypotheses([], **settings)  # what cannot be is told before there is a text
    meant = ("translate", "one sentence")
    _answer(arguments, meant, translator, translator.source, settings, written=in_one_line)
    if arguments.attention:
        translator.attention(*arguments.texts, **settings).save(arguments.attention)


def _note_expected(model):
    from pyx_transformer.checkpoints import is_shipped

    if is_shipped(model):
        note(EXPECT[model])


def _answer(arguments, meant, pipeline, tokenizer, settings, *, written=str):
    """Print the hypotheses of a pipeline for texts, and then what was lost. written: what a text is
    written as, but in JSON."""
    options = pipeline.model.generation_options or pt.GenerationOptions()
    count = settings.get("num_hypotheses") or options.num_hypotheses
    shown: Any = as_json
    if not arguments.json:
        shown = partial(as_scored if arguments.scores else as_plain, written)
    with results(arguments) as out, texts_of(arguments, *meant) as source:
        by_source = options.max_length_factor is not None and "max_length" not in settings
        losses = Losses(tokenizer, source.unit, by_source)

        def work(texts, begin):
            found = pipeline.hypotheses(texts, **settings)
            losses.add(texts, found, begin)
            for of_text in found:
                yield from map(shown, of_text)
                # Where there are fewer than elsewhere, of no probability and empty.
                yield from [shown(None)] * (count - len(of_text))
            if source.is_typed:
                losses.tell()

        answer(source, work, out)
    losses.tell()


def as_plain(written: Callable[[str], str], one: pt.GeneratedText | None) -> str:
    """The text."""
    return f"{written(one or '')}\n"


def as_scored(written: Callable[[str], str], one: pt.GeneratedText | None) -> str:
    """The score and the text."""
    return f"{-math.inf if one is None else one.score:.4f}\t{written(one or '')}\n"


def as_json(one: pt.GeneratedText | None) -> str:
    """A line: an object."""
    values: dict[str, Any] = {
        "text": "",
        "score": None,
        "tokens": [],
        "source_tokens": [],
        "finished": False,
    }
    if one is not None:
        values = {name: getattr(one, name) for name in values}
        if not math.isfinite(values["score"]):  # which JSON has no word for
            values["score"] = None
    return json.dumps(values, ensure_ascii=False) + "\n"


OF_SOURCE = "the model's own of so short a text; --max-length sets another"


class Losses:
    """Which texts were cut off, and which have words that the vocabulary lacks."""

    def __init__(self, tokenizer: Any, unit: str, by_source: bool):
        """by_source: the limit is the model's own, which follows the length of a source."""
        self._tokenizer, self._unit = tokenizer, unit
        self._limit = OF_SOURCE if by_source else "--max-length"
        self._cut: list[int] = []
        self._unknown: dict[int, int] = {}  # how many, by the number of the text

    def add(self, texts: list[str], found: list[pt.NBest], begin: int) -> None:
        """What was lost of more texts, before which there were so many."""
        from pyx_transformer.pipelines.texts import unknown_in

        for number, of_text in enumerate(found, begin):
            if not all(one.finished for one in of_text):
                self._cut.append(number)
        ids = map(self._tokenizer.encode, texts)
        self._unknown.update(unknown_in(self._tokenizer, ids, begin))

    def tell(self) -> None:
        """Tell what was not told yet."""
        from pyx_transformer.pipelines.texts import numbered, told_unknown

        if self._cut:
            cut = numbered(self._unit, self._cut)
            note(f"cut off at the maximum length ({self._limit}): {cut}")
        if self._unknown:
            note(told_unknown(self._unknown, self._unit))
        self._cut, self._unknown = [], {}


def _translate_files(arguments):
    from pyx_transformer.batch import Translate

    settings = given(arguments, "beam_size", "max_length", "src_lang", "tgt_lang")
    make = partial(Translate, arguments.model, **settings)
    _note_expected(arguments.model)
    run_in_pool(arguments, make, ("num_hypotheses", "scores", "json", "attention"))


def add_generate(commands):
    """Declare `generate`."""
    command = add_command(
        commands,
        "generate",
        "continue texts with a language model",
        """
        Print texts with what follows them. The text of a single PROMPT is shown on a terminal as it
        grows; so are those of prompts that are typed.
        """,
        """
        pyx-transformer generate "ROMEO:"
        pyx-transformer generate "ROMEO:" --temperature 0.8 --max-length 500 --seed 1
        pyx-transformer generate                               # ask for a prompt at a time
        pyx-transformer generate --model TinyLlama-1.1B --input prompts.txt --json
        pyx-transformer generate --model TinyLlama-1.1B --stream "It was" | tee story.txt
        """,
    )
    add_texts(command, "PROMPT", "prompts")
    command.add_argument(
        "--model",
        default="shakespeare",
        type=path,
        help="a folder; default: a small one, of Shakespeare's plays",
    )
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
    _add_form(command)
    command.add_argument(
        "--stream", action="store_true", help="print texts as they grow, one after the other"
    )
    add_workers(command)
    command.set_defaults(run=_generate)


def _generate(arguments):
    from pyx_transformer.pipelines import TextGenerator

    names = ("max_length", "beam_size", "temperature", "top_k", "top_p", "num_samples", "seed")
    settings = given(arguments, *names)
    if arguments.workers is not None:
        _generate_files(arguments, settings)
        return
    check_alone(arguments)
    if arguments.stream and (arguments.json or arguments.scores):
        form = "json" if arguments.json else "scores"
        raise ValueError(f"--{form} and --stream were given, expected one of them")
    generator = TextGenerator(arguments.model)
    _note_expected(arguments.model)
    generator.hypotheses([], **settings)  # what cannot be is told before there is a text
    if arguments.stream or _is_watched(arguments, generator, settings):
        _stream(arguments, generator, settings)
    else:
        _answer(arguments, ("continue", "one text"), generator, generator.tokenizer, settings)


def _is_watched(arguments, generator, settings):
    """Whether somebody waits at a terminal for the one text of a prompt."""
    from pyx_transformer.pipelines.texts import options_of

    options = options_of("generate", generator.model, settings)
    is_one = options.branches == options.num_hypotheses == 1
    is_plain = not (arguments.json or arguments.scores) and arguments.output in (None, "-")
    is_typed = not arguments.texts and arguments.input is None and sys.stdin.isatty()
    return is_one and is_plain and sys.stdout.isatty() and (len(arguments.texts) == 1 or is_typed)


def _stream(arguments, generator, settings):
    def work(prompts, _):
        for prompt in prompts:
            parts = generator.stream(prompt, **settings)
            yield prompt
            yield from parts
            yield "\n"

    with results(arguments) as out, texts_of(arguments, "continue", "one text") as source:
        answer(source, work, out, at_once=True)


def _generate_files(arguments, settings):
    from pyx_transformer.batch import Generate

    settings.pop("num_samples", None)
    make = partial(Generate, arguments.model, **settings)
    _note_expected(arguments.model)
    run_in_pool(arguments, make, ("num_samples", "scores", "json", "stream"))


def add_score(commands):
    """Declare `score`."""
    command = add_command(
        commands,
        "score",
        "print how probable texts or translations are",
        """
        Print the natural logarithm of the probability of each translation or, of a language model,
        of each text, with its end.
        """,
        """
        pyx-transformer score --model en-ja source.txt target.txt
        pyx-transformer score --model TinyLlama-1.1B text.txt --per-token
        """,
    )
    command.add_argument(
        "--model", required=True, type=path, help="a folder, or en-ja or shakespeare"
    )
    command.add_argument(
        "source", type=path, help="a file of sentences, one per line; of a language model, its text"
    )
    command.add_argument("target", nargs="?", type=path, help="a file of their translations")
    command.add_argument(
        "--output",
        type=stream,
        metavar="FILE",
        help="write to FILE, which appears when it is whole; default, or -: standard output",
    )
    command.add_argument(
        "--per-token", action="store_true", help="print the mean of all tokens, not their sum"
    )
    add_languages(command)
    command.set_defaults(run=_score)


def _score(arguments):
    from pyx_transformer._files import as_path
    from pyx_transformer.pipelines import TextGenerator, Translator
    from pyx_transformer.pipelines.progress import progress
    from pyx_transformer.training.corpus import read_lines, read_pairs

    model: Any = pt.load(arguments.model)
    file = as_path("score", "source", arguments.source)
    languages = given(arguments, "src_lang", "tgt_lang")
    scores: Any
    rows: list[tuple[str, ...]]
    if isinstance(model, pt.TransformerLM):
        for name, value in {"target": arguments.target, **languages}.items():
            if value is not None:
                raise ValueError(f"{name} was given, expected none of a language model")
        scores, rows = TextGenerator(model).score, [(line,) for line in read_lines(file)]
    else:
        scores = partial(Translator(model).score, **languages)
        if arguments.target is None:
            raise ValueError("target is missing, expected the file of the translations")
        pairs = read_pairs(file, as_path("score", "target", arguments.target))
        rows = list(zip(*pairs, strict=True))

    def work(rows, _):
        with progress(len(rows), "line") as done:
            for one in scores(*map(list, zip(*rows, strict=True))):
                total = float(one.sum(dtype=float))
                yield f"{total / len(one) if arguments.per_token else total:.4f}\n"
            done(len(rows))

    with results(arguments) as out:
        answer(Given(rows, "line"), work, out)
