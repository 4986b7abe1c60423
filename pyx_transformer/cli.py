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

    0 if it did what was asked, 1 if nobody read all of it or the terminal's encoding lacks a
    character, 2 if it was asked wrongly, failed or was interrupted.
    """
    status = 0
    try:
        status = _run(argv)
        print(end="", flush=True)
    except OSError as error:
        # Python flushes stdout once more as it ends; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader, `head` for one, has seen enough
            return 1
        if status == 0:
            print(f"pyx-transformer: cannot print: {one_line(error)}", file=sys.stderr)
        return 2
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
    try:
        arguments.run(arguments)
    except (ImportError, MemoryError, OSError, TypeError, ValueError) as error:
        if isinstance(error, (BrokenPipeError, UnicodeEncodeError)):
            raise
        print(f"pyx-transformer {arguments.command}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(
            f"pyx-transformer {arguments.command}: {str(error) or 'interrupted'}", file=sys.stderr
        )
        return 2
    return 0


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineErrors(
        prog="pyx-transformer", description="The Transformer on a CPU, in Cython."
    )
    parser.add_argument("--version", action="version", version=f"pyx-transformer {pt.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    _add_explain(commands)
    _add_config(commands)
    _add_vocab(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_translate(commands)
    _add_generate(commands)
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


def _add_vocab(commands):
    command = commands.add_parser("vocab", help="make a vocabulary from files of text")
    command.add_argument("files", nargs="+", metavar="FILE", help="text, a sentence per line")
    command.add_argument("--output", required=True, help="the file to write")
    command.add_argument(
        "--kind", choices=("sentencepiece", "words", "characters"), default="sentencepiece"
    )
    command.add_argument("--size", type=int, help="tokens, the special ones included")
    command.add_argument("--min-count", type=int, default=1, help="how often a token has to occur")
    command.add_argument("--language", default="", help="of words: en or ja")
    command.set_defaults(run=_vocab)


def _vocab(arguments):
    from pyx_transformer import text
    from pyx_transformer.training.recipe import texts_of

    texts = [line for path in arguments.files for line in texts_of(path, arguments.kind)]
    tokenizer = text.make(
        arguments.kind,
        texts,
        size=arguments.size,
        min_count=arguments.min_count,
        language=arguments.language,
    )
    text.save(tokenizer, arguments.output)
    print(f"{arguments.output}: {tokenizer.vocab_size} tokens")


def _add_train(commands):
    command = commands.add_parser("train", help="train a model as a TOML file says")
    command.add_argument("recipe", nargs="?", help="a TOML file; without one, --set says it all")
    command.add_argument("--output", required=True, metavar="FOLDER", help="where all of it goes")
    command.add_argument("--resume", action="store_true", help="go on from FOLDER's checkpoint")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="a value on top of the recipe's, such as training.steps=1000",
    )
    command.add_argument("--plot", metavar="PNG", help="draw the curves of loss and validation")
    command.set_defaults(run=_train)


def _train(arguments):
    from pathlib import Path

    from pyx_transformer import plots
    from pyx_transformer.training import log
    from pyx_transformer.training.recipe import load_recipe
    from pyx_transformer.training.trainer import LOG, MODEL

    recipe = load_recipe(arguments.recipe, dict(map(_change, arguments.set)))
    if arguments.plot:
        plots.require()
    try:
        progress = recipe.run(arguments.output, resume=arguments.resume, report=_reporter())
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{error}; --resume goes on" if error.args else "") from None
    folder = Path(arguments.output)
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
        figures = "  ".join(f"{name} {value:.4g}" for name, value in entry[part].items())
        print(f"{step}  {part}: {figures}", flush=True)
    elif "skipped" in entry:
        print(
            f"{step} skipped: loss {entry['loss']}, gradient norm {entry['gradient_norm']}; "
            f"examples {entry['skipped']}",
            file=sys.stderr,
            flush=True,
        )
    else:
        left = round(entry["seconds_left"])
        print(
            f"{step}  loss {entry['loss']:.4f}  {entry['tokens_per_second']:.0f} tokens/s  "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left",
            flush=True,
        )


def _add_evaluate(commands):
    command = commands.add_parser("evaluate", help="score a model on a source and a target file")
    command.add_argument("--model", required=True, help="a folder, or en-ja")
    command.add_argument("source", help="sentences, one per line; of a language model, its text")
    command.add_argument("target", nargs="?", help="their translations")
    command.add_argument("--beam-size", type=int, default=1)
    command.add_argument("--length-penalty", type=float, default=1.0)
    command.add_argument("--max-length", type=int, default=128, help="tokens of a translation")
    command.set_defaults(run=_evaluate)


def _evaluate(arguments):
    from pyx_transformer.training import corpus
    from pyx_transformer.training.validation import validate
    from pyx_transformer.translation import require_bleu, tokenizer_of

    model = pt.load(arguments.model)
    tokenizer_of("evaluate", model, "tgt_tokenizer")
    settings, with_bleu = {}, False
    if isinstance(model, pt.TransformerLM):
        if arguments.target is not None:
            raise ValueError("target was given, expected none because the model has no source")
        examples = corpus.text_examples(arguments.source, model.tgt_tokenizer, model.config)
    else:
        if arguments.target is None:
            raise ValueError("target is missing, expected the file of the translations")
        examples = corpus.pair_examples(
            arguments.source,
            arguments.target,
            tokenizer_of("evaluate", model, "src_tokenizer"),
            model.tgt_tokenizer,
            model.config,
        )
        try:
            require_bleu()
            with_bleu = True
        except ImportError as error:  # there are other figures
            print(one_line(error), file=sys.stderr)
        settings = {
            "beam_size": arguments.beam_size,
            "length_penalty": arguments.length_penalty,
            "max_length": arguments.max_length,
        }
    examples.check("evaluate", model)
    for name, value in validate(model, examples, with_bleu=with_bleu, **settings).items():
        print(f"{name} {value:.4f}")


def _add_translate(commands):
    command = commands.add_parser("translate", help="translate sentences")
    command.add_argument("texts", nargs="*", metavar="TEXT", help="sentences; else those of stdin")
    command.add_argument("--model", default="en-ja", help="a folder; default: English to Japanese")
    command.add_argument("--beam-size", type=int, default=4)
    command.add_argument("--n-best", type=int, default=1, help="translations of each sentence")
    command.add_argument("--max-length", type=int, default=128, help="tokens of a translation")
    command.add_argument("--scores", action="store_true", help="print each one's score before it")
    command.add_argument(
        "--attention", metavar="PNG", help="draw the cross-attention of the one sentence"
    )
    command.set_defaults(run=_translate)


def _translate(arguments):
    from pyx_transformer import plots
    from pyx_transformer.checkpoints import is_shipped
    from pyx_transformer.translation import translate

    if arguments.attention:
        plots.require()
    if arguments.attention and len(arguments.texts) != 1:
        raise ValueError(f"--attention draws one TEXT, and {len(arguments.texts)} were given")
    model = pt.load(arguments.model)
    if is_shipped(arguments.model):
        print(
            f"{arguments.model} is a small model, trained on short sentences: expect mistakes.",
            file=sys.stderr,
        )
    texts = arguments.texts or [line.rstrip("\n") for line in _stdin()]
    found = translate(
        model,
        texts,
        beam_size=arguments.beam_size,
        num_hypotheses=arguments.n_best,
        max_length=arguments.max_length,
        return_scores=arguments.scores,
        return_attention=bool(arguments.attention),
    )
    if arguments.attention and not len(found[0][0].hypothesis.sequence):
        raise ValueError("--attention: the translation is empty, and there is nothing to draw")
    _print_texts(found, arguments.scores)
    if arguments.attention:
        best = found[0][0].hypothesis
        source = model.src_tokenizer.tokens(model.src_tokenizer.encode(texts[0]))
        target = [*model.tgt_tokenizer.tokens(best.sequence), "</s>"][: best.attention.shape[2]]
        plots.plot_attention(best.attention, source, target, arguments.attention)


def _stdin():
    if sys.stdin is None:
        raise ValueError("standard input is closed, expected sentences there or as TEXT")
    sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    return sys.stdin


def _print_texts(found, with_scores):
    for translations in found:
        for one in translations:
            score = f"{one.hypothesis.score:.4f}\t" if with_scores else ""
            print(score + one.text)


def _add_generate(commands):
    command = commands.add_parser("generate", help="continue texts with a language model")
    command.add_argument("prompts", nargs="*", metavar="PROMPT", help="default: an empty one")
    command.add_argument("--model", required=True, help="a folder")
    command.add_argument("--max-length", type=int, default=200, help="new tokens")
    command.add_argument("--beam-size", type=int, default=1)
    command.add_argument("--temperature", type=float, help="draw tokens, the sharper the lower")
    command.add_argument("--top-k", type=int, help="draw from the k most probable tokens")
    command.add_argument("--top-p", type=float, help="draw from tokens that add up to p")
    command.add_argument("--num-samples", type=int, help="texts drawn for each prompt")
    command.add_argument("--seed", type=int)
    command.add_argument("--scores", action="store_true", help="print each text's score before it")
    command.set_defaults(run=_generate)


def _generate(arguments):
    from pyx_transformer.translation import continue_texts

    names = ("max_length", "beam_size", "temperature", "top_k", "top_p", "num_samples", "seed")
    settings = {name: getattr(arguments, name) for name in names}
    found = continue_texts(
        pt.load(arguments.model),
        arguments.prompts or [""],
        return_scores=arguments.scores,
        **{name: value for name, value in settings.items() if value is not None},
    )
    _print_texts(found, arguments.scores)
