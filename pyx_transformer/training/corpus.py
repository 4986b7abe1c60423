"""Files of text, a sentence per line, or lists of them, as examples to train on and to score; and
of labels, one per line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer._checks import brief
from pyx_transformer._files import as_path, read_text
from pyx_transformer._keys import listed
from pyx_transformer._kinds import as_texts
from pyx_transformer.encoder_model import EncoderModel
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
Given = str | os.PathLike[str] | Iterable[str]  # the path of a file, or texts


@dataclass(frozen=True)
class Lines:
    """Some texts, none of which is empty; what errors call all of them, and their file, if any."""

    texts: list[str]
    name: str
    file: Path | None = None

    def place(self, index: int) -> str:
        """What errors call one of them, counted from 0."""
        return f"{self.name}[{index}]" if self.file is None else f"{self.file}, line {index + 1}"


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


def lines_of(who: str, name: str, given: Given) -> Lines:
    """The lines of a file, or the texts of a list. Raises what `read_lines` does, TypeError for
    what is neither, and ValueError for a list that is empty or has an empty text."""
    if isinstance(given, (str, os.PathLike)):
        path = as_path(who, name, given)
        return Lines(read_lines(path), str(path), path)
    lines = Lines([text.strip() for text in as_texts(who, name, given)], f"{who}: {name}")
    if not lines.texts:
        raise ValueError(f"{lines.name} is empty, expected at least one text")
    for i, text in enumerate(lines.texts):
        if not text:
            raise ValueError(f"{lines.place(i)} is empty, expected a sentence")
    return lines


def read_pairs(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """The lines of two files, line n of one being the translation, or label, of line n of the
    other.

    Raises ValueError where there are not as many in both, and what `read_lines` does.
    """
    sources, targets = paired("read_pairs", source, target)
    return sources.texts, targets.texts


def paired(who: str, source: Given, target: Given) -> tuple[Lines, Lines]:
    """Two files or lists that belong together: see `read_pairs` and `lines_of`."""
    sources, targets = lines_of(who, "source", source), lines_of(who, "target", target)
    if len(sources.texts) != len(targets.texts):
        unit = "texts" if sources.file is None else "lines"
        raise ValueError(
            f"{sources.name} has {len(sources.texts)} {unit}, expected {len(targets.texts)} "
            f"because {targets.name.removeprefix(f'{who}: ')} has as many"
        )
    return sources, targets


def read(who: str, model: Model, *given: Given) -> Corpus:
    """What files or lists of texts hold for a model: a translator's source and target, a
    classifier's text and labels, or the text of another.

    Each line is an example; but of characters a file that stands alone is one text, cut into parts
    of at most config.max_length tokens: see `parts_of`. A translation whose first token is forced
    begins with it.
    Raises ValueError, as `who`, for a missing tokenizer, naming the place of a text without tokens
    or with more than learned positions reach, or of a label that there is not, and what reading
    does.
    """
    if isinstance(model, EncoderModel):
        src_tokenizer, head = tokenizer_of(who, model, "src_tokenizer"), model.config.head
        if not isinstance(head, ClassifierConfig):
            return Texts(of_text(who, given[0], src_tokenizer, model.config, 0))
        lines, labels = paired(who, *given)
        sources = encoded(lines, src_tokenizer, model.config, 0)
        return Labelled(sources, as_labels(who, labels, head))
    tokenizer, config = tokenizer_of(who, model, "tgt_tokenizer"), model.config
    sources = references = None
    if model.has_encoder:
        src_tokenizer = tokenizer_of(who, model, "src_tokenizer")
        lines, translations = paired(who, *given)
        references = translations.texts
        sources = encoded(lines, src_tokenizer, config, 0)
        forced = getattr(getattr(model, "generation_options", None), "first_token", None)
        first = [] if forced is None else [forced]
        targets = encoded(translations, tokenizer, config, 1, first, is_target=True)
    else:
        targets = of_text(who, given[0], tokenizer, config, 1)
    return Examples(
        sources, targets, start_id=config.start_id, end_id=config.end_id, references=references
    )


def has_labels(model: Model) -> bool:
    """Whether what a model learns is labels."""
    return isinstance(model, EncoderModel) and isinstance(model.config.head, ClassifierConfig)


def of_text(who: str, given: Given, tokenizer: Tokenizer, config: TokenConfig, more: int):
    """The ids of the examples of a file that stands alone, or a list, each read with `more`
    tokens."""
    if tokenizer.kind != "characters" or not isinstance(given, (str, os.PathLike)):
        return encoded(lines_of(who, "source", given), tokenizer, config, more)
    path = as_path(who, "source", given)
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


def language_of(lines: Lines, tokenizer: Tokenizer) -> str | None:
    """The token of the language of a source, where a model is told it."""
    languages = tokenizer.languages
    if languages is None or languages.source is None:
        return None
    token = languages.token("train", "src_lang", None, languages.default_source)
    if token is None:
        raise ValueError(
            f"{lines.name}: the language of the sources is not known, expected src_lang in the "
            "model's tokenizer_config.json"
        )
    return token


def as_labels(who: str, lines: Lines, head: ClassifierConfig):
    """The numbers of these names of labels, or the scores that the lines are, where those are what
    a head gives."""
    if head.of_tokens:
        raise ValueError(
            f"{who}: the model gives each token a label, expected one of the whole text because "
            f"{lines.name} has one per line (see training.Labelled)"
        )
    if not is_score(head):
        numbers = {label: i for i, label in enumerate(head.labels)}
        for i, label in enumerate(lines.texts):
            if label not in numbers:
                raise ValueError(
                    f"{lines.place(i)} is {brief(label)}, expected one of the model's labels: "
                    f"{listed(head.labels)}"
                )
        return np.array([numbers[label] for label in lines.texts])
    scores = []
    for i, label in enumerate(lines.texts):
        try:
            scores.append(float(label))
        except ValueError as error:
            raise ValueError(
                f"{lines.place(i)} is {brief(label)}, expected a number because the model has one "
                "label"
            ) from error
    return scores


def encoded(
    lines: Lines,
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
        found = [tokenizer.encode(text) for text in lines.texts]
    else:
        found = tokenizer.read(lines.texts, language=language_of(lines, tokenizer)).ids
    for i, ids in enumerate(found):
        if not len(ids):
            raise ValueError(f"{lines.place(i)} has no token, expected a sentence")
        if ids[: len(first)].tolist() != [*first]:
            ids = np.concatenate([first, ids])
        if len(ids) + more > config.longest:
            raise ValueError(
                f"{lines.place(i)} has {len(ids) + more} tokens, expected at most the config's"
                f" max_length = {config.max_length} because positions are learned"
            )
        examples.append(ids)
    return examples
