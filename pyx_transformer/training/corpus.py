"""Files of text, a sentence per line, as examples to train on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyx_transformer._files import read_text
from pyx_transformer.training.batches import Examples

if TYPE_CHECKING:
    from pyx_transformer.config import TransformerConfig
    from pyx_transformer.text import Tokenizer


def read_lines(path: str | os.PathLike) -> list[str]:
    """The lines of a UTF-8 file.

    Raises FileNotFoundError or IsADirectoryError, and ValueError naming file and line where one is
    empty or not UTF-8.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    if lines and not lines[-1]:  # after the last line break
        lines.pop()
    for number, text in enumerate(lines, 1):
        if not text:
            raise ValueError(f"{path}, line {number} is empty, expected a sentence")
    if not lines:
        raise ValueError(f"{path} is empty, expected a sentence per line")
    return lines


def read_pairs(source, target) -> tuple[list[str], list[str]]:
    """The lines of two files, line n of one being the translation of line n of the other.

    Raises ValueError where there are not as many in both, and what `read_lines` does.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise ValueError(
            f"{source} has {len(sources)} lines, expected {len(targets)} because {target} has as "
            "many"
        )
    return sources, targets


def pair_examples(
    source, target, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer, config
) -> Examples:
    """The examples of two files.

    Raises ValueError naming file and line for a text without tokens, or with more than learned
    positions reach, and what `read_pairs` does.
    """
    sources, targets = read_pairs(source, target)
    return Examples(
        encoded(source, sources, source_tokenizer, config, 0),
        encoded(target, targets, target_tokenizer, config, 1),
        start_id=config.start_id,
        end_id=config.end_id,
        references=targets,
    )


def text_examples(path, tokenizer: Tokenizer, config: TransformerConfig) -> Examples:
    """The examples of one file, for a language model.

    A file of characters is one text: it is cut into examples of config.max_length - 1 tokens. Of
    any other each line is an example. Raises ValueError as `pair_examples` does, and what reading
    does.
    """
    if tokenizer.kind == "characters":
        ids = tokenizer.encode(read_text(path))
        if not len(ids):
            raise ValueError(f"{path} is empty, expected a text")
        size = max(config.max_length - 1, 1)
        parts = [ids[i : i + size] for i in range(0, len(ids), size)]
    else:
        parts = encoded(path, read_lines(path), tokenizer, config, 1)
    return Examples(None, parts, start_id=config.start_id, end_id=config.end_id)


def encoded(path, texts: list[str], tokenizer: Tokenizer, config: TransformerConfig, more: int):
    """The ids of texts, each of which, with `more` tokens, the positions have to reach."""
    examples = []
    for number, text in enumerate(texts, 1):
        ids = tokenizer.encode(text)
        if not len(ids):
            raise ValueError(f"{path}, line {number} has no token, expected a sentence")
        if len(ids) + more > config.longest:
            raise ValueError(
                f"{path}, line {number} has {len(ids) + more} tokens, expected at most max_length ="
                f" {config.max_length} because positions are learned"
            )
        examples.append(ids)
    return examples
