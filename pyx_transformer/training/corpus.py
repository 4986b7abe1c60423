"""Files of text, a sentence per line, as examples to train on, and of labels, one per line."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer._checks import brief
from pyx_transformer._files import as_path, read_text
from pyx_transformer._keys import listed
from pyx_transformer.head_configs import ClassifierConfig
from pyx_transformer.tokenizers.protocol import tokenizer_of
from pyx_transformer.training.batches import Examples
from pyx_transformer.training.labelled import Labelled, is_score
from pyx_transformer.training.masking import Texts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.config import TokenConfig
    from pyx_transformer.tokenizers.protocol import Tokenizer

Corpus = Examples | Texts | Labelled


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file.

    Raises FileNotFoundError or IsADirectoryError, and ValueError naming file and line where one is
    empty or not UTF-8.
    """
    lines = [line.strip() for line in read_text(path, may_be_pipe=True).split("\n")]
    if lines and not lines[-1]:  # after the last line break
        lines.pop()
    for number, text in enumerate(lines, 1):
        if not text:
            raise ValueError(f"{path}, line {number} is empty, expected a sentence")
    if not lines:
        raise ValueError(f"{path} is empty, expected a sentence per line")
    return lines


def read_pairs(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """The lines of two files, line n of one being the translation, or label, of line n of the
    other.

    Raises ValueError where there are not as many in both, and what `read_lines` does.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise ValueError(
            f"{source} has {len(sources)} lines, expected {len(targets)} because {target} has as "
            "many"
        )
    return sources, targets


def read(who: str, model: Model, *paths: str | os.PathLike) -> Corpus:
    """What files hold for a model: a translator's source and target, a classifier's text and
    labels, or the text of another.

    Each line is an example; but of characters a file that stands alone is one text, cut into parts
    of at most config.max_length tokens: see `parts_of`. A translation whose first token is forced
    begins with it.
    Raises ValueError, as `who`, for a missing tokenizer, naming file and line for a text without
    tokens or with more than learned positions reach, or a label that there is not, and what reading
    does.
    """
    files = [
        as_path(who, name, path) for name, path in zip(("source", "target"), paths, strict=False)
    ]
    if not model.has_decoder:
        src_tokenizer, config = tokenizer_of(who, model, "src_tokenizer"), model.config
        if not isinstance(config.head, ClassifierConfig):
            return Texts(of_text(files[0], src_tokenizer, config, 0))
        lines, labels = read_pairs(*files)
        sources = encoded(files[0], lines, src_tokenizer, config, 0)
        return Labelled(sources, as_labels(who, files[1], labels, config.head))
    tokenizer, config = tokenizer_of(who, model, "tgt_tokenizer"), model.config
    sources = references = None
    if model.has_encoder:
        src_tokenizer = tokenizer_of(who, model, "src_tokenizer")
        lines, references = read_pairs(*files)
        sources = encoded(files[0], lines, src_tokenizer, config, 0)
        forced = getattr(getattr(model, "generation_options", None), "first_token", None)
        first = [] if forced is None else [forced]
        targets = encoded(files[1], references, tokenizer, config, 1, first, is_target=True)
    else:
        targets = of_text(files[0], tokenizer, config, 1)
    return Examples(
        sources, targets, start_id=config.start_id, end_id=config.end_id, references=references
    )


def has_labels(model: Model) -> bool:
    """Whether what a model learns is labels."""
    return not model.has_decoder and isinstance(model.config.head, ClassifierConfig)


def of_text(path: Path, tokenizer: Tokenizer, config: TokenConfig, more: int):
    """The ids of the examples of a file that stands alone, each read with `more` tokens."""
    if tokenizer.kind != "characters":
        return encoded(path, read_lines(path), tokenizer, config, more)
    parts = parts_of(read_text(path, may_be_pipe=True), max(config.max_length - more, 1))
    if not parts:
        raise ValueError(f"{path} is empty, expected a text")
    return [tokenizer.encode(part) for part in parts]


def parts_of(text: str, size: int) -> list[str]:
    """A text in parts of at most so many characters, without the line breaks around them.

    A part ends at the last empty line that it reaches, or else at the last line's end, or else
    anywhere: so what begins and ends an example is what begins and ends a paragraph.
    """
    parts, end = [], 0
    while first := re.compile(r"[^\n]").search(text, end):
        begin = first.start()
        end = begin + size
        if end < len(text):
            found = (text.rfind(sign, begin, end + len(sign)) for sign in ("\n\n", "\n"))
            end = next((place for place in found if place > 0), end)
        parts.append(text[begin:end].rstrip("\n"))
    return parts


def language_of(path: Path, tokenizer: Tokenizer) -> str | None:
    """The token of the language of a source, where a model is told it."""
    languages = tokenizer.languages
    if languages is None or languages.source is None:
        return None
    token = languages.token("train", "src_lang", None, languages.default_source)
    if token is None:
        raise ValueError(
            f"{path}: the language of the sources is not known, expected src_lang in the model's "
            "tokenizer_config.json"
        )
    return token


def as_labels(who: str, path: Path, lines: list[str], head: ClassifierConfig):
    """The numbers of these names of labels, or the scores that the lines are, where those are what
    a head gives."""
    if head.of_tokens:
        raise ValueError(
            f"{who}: the model gives each token a label, expected one of the whole text because "
            f"{path} has one per line (see training.Labelled)"
        )
    if not is_score(head):
        numbers = {label: i for i, label in enumerate(head.labels)}
        for number, label in enumerate(lines, 1):
            if label not in numbers:
                raise ValueError(
                    f"{path}, line {number} is {brief(label)}, expected one of the model's labels: "
                    f"{listed(head.labels)}"
                )
        return np.array([numbers[label] for label in lines])
    scores = []
    for number, label in enumerate(lines, 1):
        try:
            scores.append(float(label))
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number} is {brief(label)}, expected a number because the model has "
                "one label"
            ) from error
    return scores


def encoded(
    path: Path,
    texts: list[str],
    tokenizer: Tokenizer,
    config: TokenConfig,
    more: int,
    first: Sequence[int] = (),
    *,
    is_target: bool = False,
):
    """The ids of texts, each of which, with `more` tokens, the positions have to reach. All begin
    with `first`, whether it is from the tokenizer or not; what else a model reads around a text is
    there unless it is a translation."""
    examples = []
    if is_target:
        found = [tokenizer.encode(text) for text in texts]
    else:
        found = tokenizer.read(texts, language=language_of(path, tokenizer)).ids
    for number, ids in enumerate(found, 1):
        if not len(ids):
            raise ValueError(f"{path}, line {number} has no token, expected a sentence")
        if ids[: len(first)].tolist() != [*first]:
            ids = np.concatenate([first, ids])
        if len(ids) + more > config.longest:
            raise ValueError(
                f"{path}, line {number} has {len(ids) + more} tokens, expected at most the config's"
                f" max_length = {config.max_length} because positions are learned"
            )
        examples.append(ids)
    return examples
