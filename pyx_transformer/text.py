"""Text to token ids and back: tokenizers for models that are trained here.

Every tokenizer has `encode`, `decode`, `tokens`, `vocab_size` and the ids of the special tokens:
0 is the unknown token's, 1 begins a sequence and 2 ends it, as the defaults of `TransformerConfig`
have it; `encode` gives neither of the last two.

`Words` and `Characters` are lists of tokens and need nothing else. `SentencePiece` needs the
package of that name: `pip install 'pyx-transformer[text]'`. Those of other people's models are read
with them: see `tokenizers`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

from pyx_transformer import _checks
from pyx_transformer._files import as_path, as_text, check_target, read_bytes, replace_file
from pyx_transformer._kinds import as_texts, each_text
from pyx_transformer.tokenizers.english import english
from pyx_transformer.tokenizers.listed import (
    LANGUAGES,
    SPECIAL,
    Characters,
    Words,
    escaped,
    from_lines,
)
from pyx_transformer.tokenizers.protocol import Tokenizer, as_tokenizer
from pyx_transformer.tokenizers.trained import SentencePiece, trained

__all__ = ["Characters", "SentencePiece", "Tokenizer", "Words", "english", "load", "make", "save"]


def __dir__() -> list[str]:
    return sorted(__all__)


KINDS = ("words", "characters", "sentencepiece")


def make(
    kind: str,
    texts: Iterable[str],
    *,
    size: int | None = None,
    min_count: int = 1,
    language: str = "",
) -> Tokenizer:
    """A tokenizer for these texts: "words", "characters" or "sentencepiece".

    size: how many tokens at most, the most frequent ones, special ones included; SentencePiece
    has to be told (byte-pair encoding, in no piece of which the sign U+2585 can be). min_count: how
    often a word or character has to occur. language: that of `Words`.

    Raises TypeError or ValueError for bad arguments, those that the kind has no use for among them,
    and for texts that do not suffice; ImportError where sentencepiece is needed and missing.
    """
    this = "text.make"
    _check_kind(this, kind, language)
    min_count = _checks.as_integer(this, "min_count", min_count, minimum=1)
    if kind == "sentencepiece" and min_count > 1:
        raise ValueError(f"{this}: min_count is {min_count}, expected 1 with sentencepiece")
    if size is not None:
        size = _checks.as_integer(this, "size", size, minimum=4)
    texts = each_text(this, "texts", texts)
    if kind == "sentencepiece":
        if size is None:
            raise ValueError(f"{this}: size is None, expected a number for sentencepiece")
        return SentencePiece(trained(as_texts(this, "texts", texts), size))
    counts: Counter[str] = Counter()
    for line in texts:
        if kind == "characters":
            counts.update(escaped(line))
        else:
            counts.update((english(line) if language == "en" else line).split())
    for token in SPECIAL:
        counts.pop(token, None)
    # Equal counts in the order of the tokens: the same texts give the same vocabulary.
    order = sorted(counts, key=lambda token: (-counts[token], token))
    kept = [token for token in order if counts[token] >= min_count]
    vocabulary = [*SPECIAL, *kept][:size]
    if not kept:
        raise ValueError(f"{this}: texts have no token that occurs min_count = {min_count} times")
    return Words(vocabulary, language) if kind == "words" else Characters(vocabulary)


def _check_kind(function, kind, language):
    _checks.as_choice(function, "kind", kind, KINDS)
    _checks.as_choice(function, "language", language, LANGUAGES if kind == "words" else ("",))


def save(tokenizer: Tokenizer, path: str | os.PathLike) -> None:
    """Write a vocabulary, a token per line, or the model of SentencePiece.

    Raises ValueError for a tokenizer of several files, IsADirectoryError where path is a folder,
    FileNotFoundError where it lies in none, and OSError where it cannot be written.
    """
    files = as_tokenizer("text.save", "tokenizer", tokenizer).files()
    if len(files) != 1:
        names = ", ".join(files)
        raise ValueError(
            f"text.save: tokenizer has several files ({names}), expected one; `model.save` writes "
            "them with the model"
        )
    path = as_path("text.save", "path", path)
    check_target(path, "text.save: path")
    if path.exists() and not path.is_file():
        raise OSError(f"text.save: {path} is a pipe or a device, expected a file to write")
    (content,) = files.values()
    replace_file(path, content)


def load(kind: str, path: str | os.PathLike, *, language: str = "") -> Tokenizer:
    """The tokenizer that `save` wrote.

    Raises FileNotFoundError or IsADirectoryError, and ValueError, naming the file, for one that is
    malformed, or for a kind or language that there is not.
    """
    _check_kind("text.load", kind, language)
    path = as_path("text.load", "path", path)
    content = read_bytes(path, who="text.load: ", may_be_pipe=True)
    try:
        if kind == "sentencepiece":
            return SentencePiece(content)
        vocabulary = from_lines(as_text("vocabulary", content))
        return Words(vocabulary, language) if kind == "words" else Characters(vocabulary)
    except ValueError as error:
        raise ValueError(f"text.load: {path}: {error}") from error
