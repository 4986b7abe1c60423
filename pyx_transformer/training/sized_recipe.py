"""A recipe for two files of text and nothing more: sizes follow how much text there is."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from typing import Any

from pyx_transformer._checks import as_kind
from pyx_transformer._files import as_path
from pyx_transformer.tokenizers.trained import SentencePiece, trained
from pyx_transformer.training.corpus import read_pairs
from pyx_transformer.training.recipe import Recipe, recipe_of

# For fewer pairs than that: pieces, layers of each stack, sizes of the model, and its training. The
# second is near bench/recipes/en_ja.toml, whose scores are in bench/results/.
SIZES: tuple[tuple[float, int, int, dict[str, int], dict[str, float]], ...] = (
    (
        10_000,
        3_000,
        2,
        {"d_model": 128, "num_heads": 4, "d_ff": 512},
        {"peak_rate": 2e-3, "dropout": 0.3},
    ),
    (
        200_000,
        10_000,
        3,
        {"d_model": 256, "num_heads": 4, "d_ff": 1024},
        {"peak_rate": 1.5e-3, "dropout": 0.3},
    ),
    (
        math.inf,
        20_000,
        4,
        {"d_model": 512, "num_heads": 8, "d_ff": 2048},
        {"peak_rate": 7e-4, "dropout": 0.1},
    ),
)
BYTES_OF_TOKEN = 4  # about: of English a piece, of Japanese a character and a third
OF_A_PIECE = 32  # tokens of both sides
PASSES = 30  # over the examples
STEPS = 1_000, 20_000  # at least and at most
BATCH_TOKENS = 1_024, 4_096
VALIDATED = 500  # examples at most, and at most a tenth
VALIDATIONS = 10  # in a run
AVERAGED = 20  # of as many parts of a run, the last is averaged
LONGEST = 256  # tokens of a translation that validation lets come
TRIED = 20_000  # lines that tell whether there are as many pieces, before all have to


def recipe_for(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    changes: dict[str, object] | None = None,
) -> Recipe:
    """A recipe for a translator from two files of text, line n of one being the translation of line
    n of the other: `recipe_for("train.en", "train.de").run("runs/en-de").model`.

    Tokens are SentencePiece's, the same on both sides. The last lines, a tenth or 500, are not
    trained on but validated with, unless changes name "data.dev_source" and "data.dev_target". How
    many tokens, layers and steps there are follows the number and the length of the lines; the
    recipe's `text`, `model` and `training` say what was chosen. changes, such as
    {"training.steps": 500, "text.kind": "words"}, come on top, as in `load_recipe`.

    Raises ValueError, naming file and line, for files that are no text, of which one has more
    lines, or of fewer than two; ImportError where sentencepiece is needed and missing; and what
    `load_recipe` does for changes.
    """
    this = "recipe_for"
    source, target = as_path(this, "source", source), as_path(this, "target", target)
    texts = read_pairs(source, target)
    pairs = len(texts[0])
    if pairs < 2:
        raise ValueError(f"{this}: {source} has {pairs} line, expected at least 2")
    asked = {} if changes is None else as_kind(this, "changes", changes, dict)
    values = sized(pairs, max(map(tokens_in, texts)), asked.get("training.steps"))
    values["data"] |= {"train_source": str(source), "train_target": str(target)}
    if {"data.dev_source", "data.dev_target"} & asked.keys():
        del values["data"]["dev_share"]
    if asked.get("text.kind", "sentencepiece") != "sentencepiece":
        del values["text"]["size"]  # of others all
    elif "text.size" not in asked:
        values["text"]["size"] = pieces_of(texts, values["text"]["size"])
    return recipe_of(values, changes, this)


def sized(pairs: int, tokens: int, asked: object = None) -> dict[str, dict[str, Any]]:
    """What a recipe says of so many pairs with about so many tokens of a side; asked: its number of
    steps, if that is one."""
    pieces, layers, model, training = next(sizes[1:] for sizes in SIZES if pairs < sizes[0])
    batch_tokens = between(BATCH_TOKENS, tokens // 32)
    steps = between(STEPS, PASSES * tokens // batch_tokens)
    if isinstance(asked, int) and asked > 0:
        steps = asked
    return {
        "data": {"dev_share": min(0.1, VALIDATED / pairs)},
        "text": {"size": min(pieces, 2 * tokens // OF_A_PIECE), "shared": True},
        "model": {
            **model,
            "num_encoder_layers": layers,
            "num_decoder_layers": layers,
            "norm_first": True,
            "final_norm": True,
            "share_embeddings": True,
            "tie_output": True,
        },
        "training": {
            **training,
            "steps": steps,
            "batch_tokens": batch_tokens,
            "warmup": max(steps // 8, 1),
            "schedule": "cosine",
            "average_decay": round(max(1 - AVERAGED / steps, 0), 4),
            "max_norm": 1.0,
            "validate_every": max(steps // VALIDATIONS, 1),
            "max_length": between((16, LONGEST), 3 * tokens // pairs),
        },
    }


def between(bounds: tuple[int, int], value: int) -> int:
    """The value, or the bound that it is beyond."""
    return min(max(value, bounds[0]), bounds[1])


def tokens_in(texts: list[str]) -> int:
    """About how many tokens texts have."""
    return sum(len(text.encode()) for text in texts) // BYTES_OF_TOKEN + len(texts)


def pieces_of(sides: Collection[list[str]], most: int) -> int:
    """How many of SentencePiece's pieces texts have, `most` at most, but half as many more as they
    have characters."""
    characters = set().union(*(text for texts in sides for text in texts))
    most = max(most, len(characters) * 3 // 2 + 16)
    pairs = max(map(len, sides))
    for lines in dict.fromkeys((min(TRIED, pairs), pairs)):  # the first may be more alike than all
        tried = [text for texts in sides for text in texts[:lines]]
        found = SentencePiece(trained(tried, most, at_most=True)).vocab_size
        if found == most:
            break
    return found
