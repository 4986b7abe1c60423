"""The subcommands that make and measure models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyx_transformer as pt
from pyx_transformer.commands.arguments import (
    INTERRUPTED,
    add_command,
    add_search,
    given,
    note,
    path,
)


def add_vocab(commands):
    """Declare `vocab`."""
    command = add_command(
        commands,
        "vocab",
        "make a vocabulary from files of text",
        """
        Make a vocabulary from files of text, a sentence per line, to be named in a recipe. Without
        one, `train` makes its own from the texts that it trains on.
        """,
        """
        pyx-transformer vocab train.en --size 8000 --output en.model
        pyx-transformer vocab train.en --kind words --language en --min-count 2 --output words.txt
        """,
    )
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
    note(f"{arguments.output}: {tokenizer.vocab_size} tokens")


def add_train(commands):
    """Declare `train`."""
    command = add_command(
        commands,
        "train",
        "train a model as a recipe says, or on two files",
        """
        Train a model as a recipe says: a TOML file, or the name of one that comes with the package
        with its data (reverse). Or train a translator on two files of text, of which line n of one
        translates line n of the other: sizes and steps then follow how much text there is. FOLDER
        gets model/, the best weights so far, log.jsonl, and
        checkpoint.safetensors, from which --resume goes on; at the end curves.png and, of a
        translator, attention.html, what it attends to as it translates one text. At Ctrl-C the step
        is finished and a checkpoint saved; a second one stops at once.
        """,
        """
        pyx-transformer train reverse
        pyx-transformer train train.en train.ja --output runs/mine
        pyx-transformer train recipe.toml --output runs/mine --set training.steps=1000
        pyx-transformer train recipe.toml --output runs/mine --resume
        pyx-transformer translate --model runs/mine/model "a sentence ."
        """,
    )
    command.add_argument(
        "recipe",
        nargs="*",
        type=path,
        metavar="FILE",
        help="a recipe, a TOML file or reverse, or two files of text; else --set says it all",
    )
    command.add_argument(
        "--output",
        type=path,
        metavar="FOLDER",
        help="where the model, the checkpoint and the log go; default: runs/ and the recipe's name",
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
        "--plot",
        type=path,
        metavar="FILE",
        help="draw the curves of loss, validation and learning rate there: .png, .svg or .pdf; "
        "default: FOLDER/curves.png",
    )
    command.set_defaults(run=_train)


def _train(arguments):
    from pyx_transformer.training.ranks import Ranks, launched

    ranks = Ranks(launched())
    try:
        _train_together(arguments, ranks)
    except (Exception, KeyboardInterrupt) as error:
        if ranks.is_first:
            raise
        is_stopped = isinstance(error, KeyboardInterrupt)
        raise SystemExit(INTERRUPTED if is_stopped else 2) from None  # the first rank says why


def _train_together(arguments, ranks):
    from pyx_transformer import plots
    from pyx_transformer.pipelines.inspection import inspect
    from pyx_transformer.training import pictures
    from pyx_transformer.training.recipe import load_recipe
    from pyx_transformer.training.sized_recipe import recipe_for
    from pyx_transformer.training.trainer import MODEL

    if ranks.size > 1:
        ranks.share_cpus()
    with ranks.together():
        files, changes = arguments.recipe, dict(map(_change, arguments.set))
        if len(files) > 2:
            raise ValueError(f"{len(files)} files were given, expected a recipe or two texts")
        if not files and not changes:
            raise ValueError("recipe is missing, expected a TOML file, or reverse, or --set")
        if len(files) == 2:
            recipe = recipe_for(files[0], files[1], changes)
        else:
            recipe = load_recipe(files[0] if files else None, changes)
        output = arguments.output or _default_output(files)
        if arguments.plot:
            plots.require(arguments.plot)
    try:
        run = recipe.run(output, resume=arguments.resume, comm=ranks.comm)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{error}; --resume goes on" if error.args else "") from None
    if not ranks.is_first:
        return
    for file in pictures.draw(recipe, run, arguments.plot):
        note(f"drawn: {file}")
    if commands := inspect(run.folder / MODEL)["commands"]:
        note(f"try it: pyx-transformer {commands[0]} --model {run.folder / MODEL}")


def _default_output(files):
    """The folder of a run whose recipe, or first text, has that name."""
    if not files:
        raise ValueError("--output is missing, expected a folder because there is no recipe")
    return os.path.join("runs", Path(files[0]).stem)


def _change(text):
    """A key and its value: a number, true or false, or else the text itself."""
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise ValueError(f"--set is {text!r}, expected TABLE.KEY=VALUE")
    try:
        return key, json.loads(value)
    except RecursionError as error:
        raise ValueError(f"--set {key} is nested too deeply") from error
    except ValueError:
        return key, value


def add_evaluate(commands):
    """Declare `evaluate`."""
    command = add_command(
        commands,
        "evaluate",
        "score a model on a source and a target file",
        """
        Print the figures of a model on files: of a translator the loss, BLEU, and how many
        translations are the expected ones or cut off; of a classifier the loss and the share of
        right labels; of others the loss.
        """,
        """
        pyx-transformer evaluate --model runs/mine/model test.en test.de --beam-size 5
        pyx-transformer evaluate --model runs/lm/model test.txt --json
        """,
    )
    command.add_argument(
        "--model", required=True, type=path, help="a folder, or en-ja or shakespeare"
    )
    command.add_argument(
        "source", type=path, help="sentences, one per line; of other than a translator, its text"
    )
    command.add_argument("target", nargs="?", type=path, help="their translations, or labels")
    add_search(command, beams="1")
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
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(run=_evaluate)


def _evaluate(arguments):
    from pyx_transformer._run_log import finite
    from pyx_transformer.checkpoints import load_model
    from pyx_transformer.metrics import require_bleu
    from pyx_transformer.training.validation import evaluate

    settings = given(arguments, "beam_size", "max_length", "length_penalty")
    model = load_model("evaluate", arguments.model)
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
    if arguments.json:
        print(json.dumps(finite(figures)))
        return
    for name, value in figures.items():
        print(name, value if isinstance(value, str) else f"{value:.4f}")
