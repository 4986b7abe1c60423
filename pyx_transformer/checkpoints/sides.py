"""The text of each side of a model as files: a tokenizer, or a list of tokens alone.

source_vocabulary.txt and target_vocabulary.txt list one token a line, the id being the line number
from 0; where there is a list alone, the last id may have no line: it then stands for unknown
tokens. Of tokenizers that are no lists source_sentencepiece.model is SentencePiece's model and
source_tokenizer.json Hugging Face's tokenizer, and so for the target. tokenizers.json says what
kind of tokenizer a side has, and is absent where none has any.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyx_transformer._checks import brief
from pyx_transformer._fields import as_object
from pyx_transformer._files import read_bytes, read_text
from pyx_transformer._keys import wrong_keys
from pyx_transformer.tokenizers import listed, trained
from pyx_transformer.tokenizers.fast import JSON, FastTokenizer
from pyx_transformer.tokenizers.listed import as_lines, from_lines
from pyx_transformer.tokenizers.pieces import Pieces
from pyx_transformer.tokenizers.protocol import Frame, Languages, as_tokenizer

if TYPE_CHECKING:
    from pyx_transformer.config import TokenConfig
    from pyx_transformer.token_model import TokenModel
    from pyx_transformer.tokenizers.protocol import Tokenizer

TOKENIZERS = "tokenizers.json"
# What makes the tokenizer of each kind, and the endings of the files whose contents it is made of.
MADE_BY: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "words": (listed.Words, (listed.LIST,)),
    "characters": (listed.Characters, (listed.LIST,)),
    "sentencepiece": (trained.SentencePiece, (trained.MODEL,)),
    "pieces": (Pieces, (trained.MODEL, listed.LIST)),
    "tokenizers": (FastTokenizer, (JSON,)),
}
PARTS: dict[str, Callable[..., Any]] = {"frame": Frame, "languages": Languages}
SAME = "source"  # the kind of a target's tokenizer that is the source's


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

    def file(self, ending: str) -> str:
        """The name of a file, such as source_vocabulary.txt."""
        return f"{self.name}_{ending}"


SIDES = (Side("source", "src"), Side("target", "tgt"))
# Every file that there may be.
FILES = (
    TOKENIZERS,
    *(side.file(ending) for side in SIDES for ending in (listed.LIST, trained.MODEL, JSON)),
)


def sides_of(model: TokenModel) -> list[Side]:
    """The sides that a model has."""
    return [side for side in SIDES if hasattr(model, side.tokenizer)]


def files_of(model: TokenModel) -> dict[str, bytes]:
    """The files of a model's sides. Raises TypeError or ValueError for what does not fit the
    config, or for tokens that are no lines."""
    files, settings = {}, {}
    for side in sides_of(model):
        tokenizer = getattr(model, side.tokenizer)
        if tokenizer is None:
            tokens = getattr(model, side.vocabulary)
            if tokens is not None:
                check_tokens(f"save: {side.vocabulary}", side, tokens, model.config)
                files[side.file(listed.LIST)] = as_lines(tokens)
            continue
        check_tokenizer("save", model, side, tokenizer)
        if side.name == "target" and tokenizer is getattr(model, SIDES[0].tokenizer, None):
            settings[side.name] = {"kind": SAME}
        else:
            for ending, content in tokenizer.files().items():
                files[side.file(ending)] = content
            settings[side.name] = tokenizer.settings
    if settings:
        files[TOKENIZERS] = (json.dumps(settings, indent=2) + "\n").encode()
    return files


def load_sides(model: TokenModel, directory: Path) -> None:
    """Give a model what `files_of` wrote. Raises ValueError, naming the file, for what is
    malformed or does not fit the config."""
    path = directory / TOKENIZERS
    settings: dict[str, Any] = {}
    if path.exists():
        text = read_text(path, who="load: ")
        try:
            settings = as_object("load", text)
            known = {side.name for side in SIDES}
            if unknown := settings.keys() - known:
                raise ValueError(wrong_keys(unknown, (), known))
        except ValueError as error:
            raise ValueError(f"load: {path}: {error}") from error
    for side in sides_of(model):
        file = directory / side.file(listed.LIST)
        if side.name in settings:
            try:
                tokenizer = tokenizer_of(model, side, settings[side.name], directory)
            except (TypeError, ValueError) as error:
                raise ValueError(f"load: {path}: {error}") from error
            setattr(model, side.tokenizer, tokenizer)
        elif file.exists():
            tokens = from_lines(read_text(file, who="load: "))
            check_tokens(f"load: {file}", side, tokens, model.config)
            setattr(model, side.vocabulary, tokens)


def tokenizer_of(model: TokenModel, side: Side, settings: Any, directory: Path) -> Tokenizer:
    """The tokenizer of these settings, with its files in a directory."""
    if not isinstance(settings, dict):
        raise TypeError(f"{side.name} is {brief(settings)}, expected a table")
    settings = dict(settings)
    kind = settings.pop("kind", None)
    if kind == SAME and side.name == "target" and not settings:
        same = getattr(model, SIDES[0].tokenizer, None)
        if same is None:
            raise ValueError(f"{side.name} is that of the source, which has none")
        return same
    if not isinstance(kind, str) or kind not in MADE_BY:
        raise ValueError(
            f"{side.name} has kind {brief(kind)}, expected one of {', '.join(MADE_BY)}"
        )
    make, endings = MADE_BY[kind]
    contents: list[Any] = []
    for ending in endings:
        file = directory / side.file(ending)
        if not file.exists():
            raise ValueError(f"{side.name} is {kind}, but {file.name} is missing")
        is_list = ending == listed.LIST
        contents.append(from_lines(read_text(file)) if is_list else read_bytes(file))
    names = ", ".join(side.file(ending) for ending in endings)
    try:
        for name, part in PARTS.items():
            if name in settings:
                if not isinstance(settings[name], dict):
                    raise TypeError(f"{name} is {brief(settings[name])}, expected a table")
                settings[name] = part(**settings[name])
        if kind in (Pieces.kind, FastTokenizer.kind):
            settings["where"] = f"load: {directory / side.file(endings[0])}"
        tokenizer = make(*contents, **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{side.name} with {names}: {error}") from error
    check_tokenizer(names, model, side, tokenizer)
    return tokenizer


def check_tokenizers(who: str, model: TokenModel) -> None:
    """`check_tokenizer` of all that a model has."""
    for side in sides_of(model):
        tokenizer = getattr(model, side.tokenizer)
        if tokenizer is not None:
            check_tokenizer(who, model, side, tokenizer)


def check_tokenizer(who: str, model: TokenModel, side: Side, tokenizer: Tokenizer) -> None:
    """Raise TypeError or ValueError unless this is a tokenizer; one that is made here has to have
    the ids of the model's config."""
    config = model.config
    as_tokenizer(who, side.tokenizer, tokenizer)
    if tokenizer.start_id is None:
        return  # somebody else's: a config's sizes and ids are not its own
    size = getattr(config, side.vocab_size)
    if getattr(config, "mask_id", None) == size - 1 == tokenizer.vocab_size:
        return  # masks are the model's own token
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
