"""The subcommands of models that read texts: vectors, rankings, labels."""

from __future__ import annotations

import io
import json
from functools import partial

from pyx_transformer.commands.arguments import (
    add_command,
    add_texts,
    add_workers,
    check_alone,
    given,
    path,
    run_in_pool,
)
from pyx_transformer.commands.lines import answer, everything, numbered, results, texts_of

FORMATS = (".npy", ".jsonl")


def add_embed(commands):
    """Declare `embed`."""
    command = add_command(
        commands,
        "embed",
        "texts to vectors",
        """
        Print a JSON object for each text, with the text and its embedding, or write all vectors to
        a file: (N, dimension) float32 as .npy, or the same objects as .jsonl.
        """,
        """
        pyx-transformer embed --model all-MiniLM-L6-v2 "It is sunny." "It rains."
        pyx-transformer embed --model all-MiniLM-L6-v2 --input lines.txt --output vectors.npy
        pyx-transformer embed --model e5-small --prompt "query: " --normalize --dimension 128 -
        """,
    )
    _add_texts(command)
    command.add_argument(
        "--normalize",
        action="store_true",
        default=None,
        help="divide each vector by its length; default: as the folder says",
    )
    command.add_argument(
        "--dimension", type=int, dest="truncate_dim", metavar="N", help="numbers to keep of each"
    )
    command.add_argument(
        "--prompt", metavar="NAME", help="one of the folder's prompts, or a text, before each text"
    )
    command.add_argument(
        "--pooling",
        help="cls, mean, max, last, weighted_mean or mean_sqrt_len; default: the folder's, or mean",
    )
    add_workers(command, "OUT.npy or OUT.jsonl")
    command.set_defaults(run=_embed)


def _add_texts(command):
    add_texts(command, "TEXT", "texts")
    command.add_argument("--model", required=True, type=path, help="a folder")
    command.add_argument(
        "--max-batch-tokens", type=int, metavar="N", help="tokens at a time; default: 4096"
    )


def _embed(arguments):
    import numpy as np

    from pyx_transformer._files import as_path, check_target, whole_file
    from pyx_transformer.pipelines import SentenceEncoder

    settings = given(arguments, "normalize", "truncate_dim", "prompt", "max_batch_tokens")
    if arguments.workers is not None:
        from pyx_transformer.batch import Embed

        make = partial(Embed, arguments.model, pooling=arguments.pooling, **settings)
        run_in_pool(arguments, make)
        return
    check_alone(arguments)
    output = None
    if arguments.output not in (None, "-"):
        output = as_path("embed", "--output", arguments.output)
        if output.suffix not in FORMATS:
            raise ValueError(f"--output is {arguments.output}, expected a .npy or .jsonl file")
        check_target(output, "--output")
    encoder = SentenceEncoder(arguments.model, pooling=arguments.pooling)
    vectors = [encoder.encode([], **settings)]  # what cannot be is told before there is a text

    def work(texts, _):
        found = encoder.encode(texts, **settings)
        if output is not None and output.suffix == ".npy":
            vectors.append(found)
            return
        for text, vector in zip(texts, found, strict=True):
            yield as_line({"text": text, "embedding": vector.tolist()})

    if output is None or output.suffix == ".jsonl":
        with results(arguments) as out, texts_of(arguments, "embed", "one text") as source:
            answer(source, work, out)
        return
    with whole_file(output) as file, texts_of(arguments, "embed", "one text") as source:
        answer(source, work, io.StringIO())
        np.save(file, np.concatenate(vectors))


def as_line(values: dict[str, object]) -> str:
    """An object as a line of JSON."""
    return json.dumps(values, ensure_ascii=False) + "\n"


def add_rank(commands):
    """Declare `rank`."""
    command = add_command(
        commands,
        "rank",
        "order texts by how well they fit a query",
        """
        Print texts, the one that fits the query best first, each after its score and a tab. All are
        read before the first is printed.
        """,
        """
        pyx-transformer rank --model ms-marco-MiniLM-L6-v2 "Who wrote Hamlet?" "It rains." "He did."
        pyx-transformer rank --model ms-marco-MiniLM-L6-v2 --top-k 3 "Who?" --input lines.txt
        """,
    )
    command.add_argument("query", metavar="QUERY", help="what to look for")
    _add_texts(command)
    command.add_argument("--top-k", type=int, metavar="N", help="texts to print; default: all")
    command.add_argument(
        "--json", action="store_true", help="print a JSON object for each: text, score"
    )
    command.set_defaults(run=_rank)


def _rank(arguments):
    from pyx_transformer.pipelines import CrossEncoder

    encoder = CrossEncoder(arguments.model)
    settings = given(arguments, "top_k", "max_batch_tokens")
    with results(arguments) as out, texts_of(arguments, "rank", "one text") as source:
        texts = everything(source)
        with numbered(source.unit, 0, len(texts)):
            for one in encoder.rank(arguments.query, texts, **settings):
                if arguments.json:
                    out.write(as_line({"text": one.text, "score": one.score}))
                else:
                    out.write(f"{one.score:.6f}\t{one.text}\n")


def add_classify(commands):
    """Declare `classify`."""
    command = add_command(
        commands,
        "classify",
        "label texts",
        """
        Print the label of each text, after its score and a tab with --scores.
        """,
        """
        pyx-transformer classify --model my-classifier --scores "What a day!"
        pyx-transformer classify --model my-classifier --input lines.txt --output labels.txt
        """,
    )
    _add_texts(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument("--scores", action="store_true", help="print the label's score before it")
    form.add_argument(
        "--json", action="store_true", help="print a JSON object for each: text, label, score"
    )
    form.add_argument(
        "--all", action="store_true", help="print the scores of all labels, a JSON object per text"
    )
    command.set_defaults(run=_classify)


def _classify(arguments):
    from pyx_transformer.pipelines import TextClassifier

    classifier = TextClassifier(arguments.model)
    settings = given(arguments, "max_batch_tokens")

    def work(texts, _):
        if arguments.all:
            for row in classifier.scores(texts, **settings):
                yield as_line(dict(zip(classifier.labels, map(float, row), strict=True)))
            return
        for text, one in zip(texts, classifier.classify(texts, **settings), strict=True):
            if arguments.json:
                yield as_line({"text": text, **one._asdict()})
            else:
                yield f"{one.score:.6f}\t{one.label}\n" if arguments.scores else f"{one.label}\n"

    with results(arguments) as out, texts_of(arguments, "classify", "one text") as source:
        answer(source, work, out)


def add_tag(commands):
    """Declare `tag`."""
    command = add_command(
        commands,
        "tag",
        "label parts of texts",
        """
        Print a JSON object for each text: the text, and its spans with label, score, start and end,
        counted in characters.
        """,
        """
        pyx-transformer tag --model my-tagger "Tom Smith went to Tokyo."
        pyx-transformer tag --model my-tagger --aggregation first --input lines.txt
        """,
    )
    _add_texts(command)
    command.add_argument(
        "--aggregation",
        choices=("none", "simple", "first", "max"),
        default="simple",
        help="what a span is: a token, tokens of one label, or words labelled by their first or "
        "surest token; default: %(default)s",
    )
    command.set_defaults(run=_tag)


def _tag(arguments):
    from pyx_transformer.pipelines import TokenClassifier

    classifier = TokenClassifier(arguments.model)
    settings = given(arguments, "max_batch_tokens")

    def work(texts, _):
        found = classifier.tag(texts, arguments.aggregation, **settings)
        for text, spans in zip(texts, found, strict=True):
            yield as_line({"text": text, "spans": [span._asdict() for span in spans]})

    with results(arguments) as out, texts_of(arguments, "tag", "one text") as source:
        answer(source, work, out)
