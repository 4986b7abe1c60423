"""The subcommands of models that read texts: vectors, rankings, labels."""

from __future__ import annotations

import json
from functools import partial

from pyx_transformer.commands.arguments import (
    add_workers,
    check_alone,
    given,
    path,
    run_in_pool,
    texts_of,
)

FORMATS = ("npy", "jsonl")


def add_embed(commands):
    """Declare `embed`."""
    command = commands.add_parser("embed", help="texts to vectors")
    _add_texts(command)
    command.add_argument(
        "--output",
        type=path,
        metavar="FILE",
        help="a .npy file of all vectors, (N, dimension) float32, or a .jsonl file; default: JSON "
        "lines on standard output",
    )
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
    command.add_argument(
        "texts", nargs="*", metavar="TEXT", help="default, or -: the lines of standard input"
    )
    _add_model(command)


def _add_model(command):
    command.add_argument("--model", required=True, type=path, help="a folder")
    command.add_argument(
        "--max-batch-tokens", type=int, metavar="N", help="tokens at a time; default: 4096"
    )


def _embed(arguments):
    import io

    import numpy as np

    from pyx_transformer._files import as_path, replace_files
    from pyx_transformer.pipelines import SentenceEncoder

    settings = given(arguments, "normalize", "truncate_dim", "prompt", "max_batch_tokens")
    if arguments.workers is not None:
        from pyx_transformer.batch import Embed

        make = partial(Embed, arguments.model, pooling=arguments.pooling, **settings)
        run_in_pool(arguments, make, ("output",))
        return
    check_alone(arguments)
    output = None if arguments.output is None else as_path("embed", "output", arguments.output)
    if output is not None:
        if output.suffix.removeprefix(".") not in FORMATS:
            raise ValueError(f"--output is {arguments.output}, expected a .npy or .jsonl file")
        if output.is_dir():
            raise IsADirectoryError(f"--output is {arguments.output}, a folder, expected a file")
        if not output.parent.is_dir():
            raise FileNotFoundError(f"--output: there is no folder {output.parent}")
    encoder = SentenceEncoder(arguments.model, pooling=arguments.pooling)
    texts, _ = texts_of(arguments.texts or ["-"], "embed", "one text")
    vectors = encoder.encode(texts, **settings)
    if output is not None and output.suffix == ".npy":
        content = io.BytesIO()
        np.save(content, vectors)
        replace_files(output.parent, {output.name: content.getvalue()})
        return
    lines = (
        json.dumps({"text": text, "embedding": vector.tolist()}, ensure_ascii=False)
        for text, vector in zip(texts, vectors, strict=True)
    )
    if output is not None:
        replace_files(output.parent, {output.name: "".join(f"{line}\n" for line in lines).encode()})
        return
    for line in lines:
        print(line)


def add_rank(commands):
    """Declare `rank`."""
    command = commands.add_parser(
        "rank",
        help="order texts by how well they fit a query",
        description="Print texts, the one that fits the query best first, each after its score and "
        "a tab.",
    )
    command.add_argument("query", metavar="QUERY", help="what to look for")
    _add_texts(command)
    command.add_argument("--top-k", type=int, metavar="N", help="texts to print; default: all")
    command.set_defaults(run=_rank)


def _rank(arguments):
    from pyx_transformer.pipelines import CrossEncoder

    encoder = CrossEncoder(arguments.model)
    texts, _ = texts_of(arguments.texts or ["-"], "rank", "one text")
    for one in encoder.rank(
        arguments.query, texts, **given(arguments, "top_k", "max_batch_tokens")
    ):
        print(f"{one.score:.6f}\t{one.text}")


def add_classify(commands):
    """Declare `classify`."""
    command = commands.add_parser(
        "classify",
        help="label texts",
        description="Print the label of each text, after its score and a tab with --scores.",
    )
    _add_texts(command)
    command.add_argument("--scores", action="store_true", help="print the label's score before it")
    command.add_argument(
        "--all", action="store_true", help="print the scores of all labels, a JSON object per text"
    )
    command.set_defaults(run=_classify)


def _classify(arguments):
    from pyx_transformer.pipelines import TextClassifier

    classifier = TextClassifier(arguments.model)
    texts, _ = texts_of(arguments.texts or ["-"], "classify", "one text")
    settings = given(arguments, "max_batch_tokens")
    if arguments.all:
        for row in classifier.scores(texts, **settings):
            values = dict(zip(classifier.labels, map(float, row), strict=True))
            print(json.dumps(values, ensure_ascii=False))
        return
    for one in classifier.classify(texts, **settings):
        print(f"{one.score:.6f}\t{one.label}" if arguments.scores else one.label)


def add_tag(commands):
    """Declare `tag`."""
    command = commands.add_parser(
        "tag",
        help="label parts of texts",
        description="Print a JSON object for each text: the text, and its spans with label, score, "
        "start and end, counted in characters.",
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
    texts, _ = texts_of(arguments.texts or ["-"], "tag", "one text")
    found = classifier.tag(texts, arguments.aggregation, **given(arguments, "max_batch_tokens"))
    for text, spans in zip(texts, found, strict=True):
        values = {"text": text, "spans": [span._asdict() for span in spans]}
        print(json.dumps(values, ensure_ascii=False))
