"""The text of each side of a model as files: a tokenizer, or a list of tokens alone.

source_vocabulary.txt and target_vocabulary.txt list one token a line, the id being the line number
from 0; where there is a list alone, the last id may have no line: it then stands for unknown
tokens. A tokenizer that is no list, SentencePiece, is source_sentencepiece.model or
target_sentencepiece.model. tokenizers.json says what kind of tokenizer a side has, and is absent
where none has any.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyx_transformer._checks import brief
from pyx_transformer._files import read_bytes, read_text
from pyx_transformer._keys import wrong_keys
from pyx_transformer.config import as_object
from pyx_transformer.text import (
    Characters,
    SentencePiece,
    Words,
    as_lines,
    as_tokenizer,
    from_lines,
)

if TYPE_CHECKING:
    from pyx_transformer.config import TokenConfig
    from pyx_transformer.text import Tokenizer
    from pyx_transformer.token_model import TokenModel

TOKENIZERS = "tokenizers.json"
MADE_BY: dict[str, Callable[..., Tokenizer]] = {
    kind.kind: kind for kind in (Words, Characters, SentencePiece)
}


class Side(NamedTuple):
    """What one side is called: in names of files, and in attributes of models and configs."""

    name: str
    short: str

    @property
    def tokenizer(self) -> str:
        """The model's attribute."""
        return f"{self.short}_tokenizer"

    @property
    def vocabulary(self) -> str:
        """The model's attribute of the tokens alone."""
        return f"{self.short}_vocabulary"

    @property
    def vocab_size(self) -> str:
        """The config's field."""
        return f"{self.short}_vocab_size"

    @property
    def list_file(self) -> str:
        """The file of a list of tokens."""
        return f"{self.name}_vocabulary.txt"

    @property
    def sentencepiece_file(self) -> str:
        """The file of a model of SentencePiece."""
        return f"{self.name}_sentencepiece.model"


SIDES = (Side("source", "src"), Side("target", "tgt"))
# Every file that there may be.
FILES = (
    TOKENIZERS,
    *(side.list_file for side in SIDES),
    *(side.sentencepiece_file for side in SIDES),
)


def sides_of(model: TokenModel) -> list[Side]:
    """The sides that a model has."""
    return [side for side in SIDES if hasattr(model, side.tokenizer)]


def files_of(model: TokenModel) -> dict[str, bytes]:
    """The files of a model's sides. Raises TypeError or ValueError for what does not fit the
    config, or for tokens that are no lines."""
    check_tokenizers("save", model)
    files, settings = {}, {}
    for side in sides_of(model):
        tokenizer, tokens = getattr(model, side.tokenizer), getattr(model, side.vocabulary)
        if tokenizer is not None:
            is_listed = not isinstance(tokenizer, SentencePiece)
            files[side.list_file if is_listed else side.sentencepiece_file] = tokenizer.contents()
            settings[side.name] = tokenizer.settings
        elif tokens is not None:
            check_tokens(f"save: {side.vocabulary}", side, tokens, model.config)
            files[side.list_file] = as_lines(tokens)
    if settings:
        files[TOKENIZERS] = (json.dumps(settings, indent=2) + "\n").encode()
    return files


def load_sides(model: TokenModel, directory: Path) -> None:
    """Give a model what `files_of` wrote. Raises ValueError, naming the file, for what is
    malformed or does not fit the config."""
    for side in sides_of(model):
        path = directory / side.list_file
        if path.exists():
            tokens = from_lines(read_text(path, who="load: "))
            check_tokens(f"load: {path}", side, tokens, model.config)
            setattr(model, side.vocabulary, tokens)
    path = directory / TOKENIZERS
    if not path.exists():
        return
    text = read_text(path, who="load: ")
    try:
        settings = as_object("load", text)
        known = {side.name for side in SIDES}
        if unknown := settings.keys() - known:
            raise ValueError(wrong_keys(unknown, (), known))
        for side in sides_of(model):
            if side.name in settings:
                tokenizer = tokenizer_of(model, side, dict(settings[side.name]), directory)
                setattr(model, side.tokenizer, tokenizer)
    except (TypeError, ValueError) as error:
        raise ValueError(f"load: {path}: {error}") from error
    check_tokenizers(f"load: {path}", model)


def tokenizer_of(
    model: TokenModel, side: Side, settings: dict[str, Any], directory: Path
) -> Tokenizer:
    """The tokenizer of these settings, on the tokens that the model has."""
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in MADE_BY:
        known = ", ".join(MADE_BY)
        raise ValueError(f"{side.name} has kind {brief(kind)}, expected one of {known}")
    content: Any
    if kind == SentencePiece.kind:
        file = side.sentencepiece_file
        content = read_bytes(directory / file, who="load: ")
    else:
        file, content = side.list_file, getattr(model, side.vocabulary)
        if content is None:
            raise ValueError(f"{side.name} is {kind}, but {file} is missing")
    try:
        return MADE_BY[kind](content, **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{side.name} with {file}: {error}") from error


def check_tokenizers(who: str, model: TokenModel) -> None:
    """Raise TypeError or ValueError unless a model's tokenizers are such, with the ids of its
    config."""
    config = model.config
    for side in sides_of(model):
        tokenizer = getattr(model, side.tokenizer)
        if tokenizer is None:
            continue
        as_tokenizer(who, side.tokenizer, tokenizer)
        size = getattr(config, side.vocab_size)
        if getattr(config, "mask_id", None) == size - 1 == tokenizer.vocab_size:
            continue  # masks are the model's own token
        if tokenizer.vocab_size != size:
            raise ValueError(
                f"{who}: {side.tokenizer} has {tokenizer.vocab_size} tokens, expected {size}, the "
                f"config's {side.vocab_size}"
            )
        ids = tokenizer.start_id, tokenizer.end_id
        if side.name == "target" and ids != (config.start_id, config.end_id):
            raise ValueError(
                f"{who}: {side.tokenizer} starts with id {ids[0]} and ends with {ids[1]}, expected "
                f"the config's start_id = {config.start_id} and end_id = {config.end_id}"
            )


def check_tokens(who: str, side: Side, tokens: object, config: TokenConfig) -> None:
    """Raise TypeError or ValueError unless these can be the lines of a side's list of tokens."""
    if not isinstance(tokens, (list, tuple)):
        raise TypeError(f"{who} is of type {type(tokens).__name__}, expected a list of tokens")
    size = getattr(config, side.vocab_size)
    if len(tokens) not in (size - 1, size):
        raise ValueError(
            f"{who} has {len(tokens)} tokens, expected {size} (or {size - 1}, the last id then "
            f"being that of unknown tokens) because {side.vocab_size} is {size}"
        )
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(f"{who} holds {brief(token)}, expected strings")
        if "\n" in token:
            raise ValueError(f"{who} holds {brief(token)}, expected no line breaks")
        try:
            token.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{who} holds {brief(token)}, which is no Unicode text") from error
