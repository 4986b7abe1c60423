"""Text to token ids and back, behind one small protocol.

Every tokenizer has `encode`, `decode`, `tokens`, `vocab_size` and the ids of the special tokens:
0 is the unknown token's, 1 begins a sequence and 2 ends it, as the defaults of `TransformerConfig`
have it; `encode` gives neither of the last two.

`Words` and `Characters` are lists of tokens and need nothing else. `SentencePiece` needs the
package of that name: `pip install 'pyx-transformer[text]'`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pyx_transformer import _checks
from pyx_transformer._files import as_path, as_text, read_bytes, replace_files
from pyx_transformer._kinds import as_ids, as_string, as_texts, each_text
from pyx_transformer.sentence_pieces import imported, trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SPECIAL = ("<unk>", "<s>", "</s>")
KINDS = ("words", "characters", "sentencepiece")
LANGUAGES = ("", "en", "ja")  # of words


class Tokenizer(Protocol):
    """What `encode`s a text as ids and `decode`s ids as a text."""

    kind: str
    unknown_id: int
    start_id: int
    end_id: int

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""

    @property
    def vocabulary(self) -> list[str]:
        """The token of every id."""

    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of a text, without start and end; unknown_id for what the vocabulary lacks."""

    def decode(self, ids: Iterable[int], *, spaced: bool = False) -> str:
        """The text of these ids, without start and end; spaced: words, or characters where those
        are the tokens, stand between spaces, as scores of translations count them."""

    def spaced(self, text: str) -> str:
        """A text as `decode(..., spaced=True)` gives it, were all of it in the vocabulary."""

    @property
    def settings(self) -> dict[str, str]:
        """What there is to know besides `contents`: the kind and, of words, the language."""

    def contents(self) -> bytes:
        """What `save` writes and, with `settings`, all there is to know."""

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id."""


class _Listed:
    """A tokenizer whose vocabulary is a list of tokens, of which the first three are special."""

    unknown_id, start_id, end_id = range(3)

    def __init__(self, vocabulary: Sequence[str]):
        name = type(self).__name__
        self.vocabulary = as_texts(name, "vocabulary", vocabulary)
        if tuple(self.vocabulary[:3]) != SPECIAL:
            raise ValueError(
                f"{name}: vocabulary begins with {self.vocabulary[:3]}, expected {list(SPECIAL)}"
            )
        twice = [token for token, n in Counter(self.vocabulary).items() if n > 1]
        if twice:
            raise ValueError(f"{name}: vocabulary holds {twice[0]!r} more than once")
        # A text that spells out a special token does not hold that token.
        self._ids = {token: i for i, token in enumerate(self.vocabulary) if i >= len(SPECIAL)}

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self.vocabulary)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id."""
        return [self.vocabulary[i] for i in as_ids(type(self).__name__, ids, self.vocab_size)]

    def contents(self) -> bytes:
        """What `save` writes: a token per line."""
        return as_lines(self.vocabulary)

    def _known(self, ids):
        return [token for token in self.tokens(ids) if token not in SPECIAL[1:]]

    def _encoded(self, tokens):
        return np.array([self._ids.get(token, self.unknown_id) for token in tokens], np.int64)


class Words(_Listed):
    """What stands between white space.

    language: "" leaves texts as they are; "en" first lower-cases them and sets punctuation and
    contractions apart, as in "i don 't know ."; "ja" writes tokens without spaces between them.

    Raises ValueError where vocabulary does not begin with SPECIAL or holds a token twice, TypeError
    or ValueError for any other language.
    """

    kind = "words"

    def __init__(self, vocabulary: Sequence[str], language: str = ""):
        super().__init__(vocabulary)
        self.language = _checks.as_choice("Words", "language", language, LANGUAGES)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of the words of a text."""
        return self._encoded(self.spaced(text).split())

    def decode(self, ids: Iterable[int], *, spaced: bool = False) -> str:
        """The words of these ids, spaces between them unless the language has none."""
        spaced = _checks.as_flag("Words", "spaced", spaced)
        return ("" if self.language == "ja" and not spaced else " ").join(self._known(ids))

    def spaced(self, text: str) -> str:
        """The words of a text with one space between them."""
        text = as_string("Words", "text", text)
        return " ".join((english(text) if self.language == "en" else text).split())

    @property
    def settings(self) -> dict[str, str]:
        """What there is to know besides the vocabulary."""
        return {"kind": self.kind, "language": self.language}


class Characters(_Listed):
    """Single characters; in the vocabulary a line break is written as backslash and n.

    Raises ValueError where vocabulary does not begin with SPECIAL or holds a character twice.
    """

    kind = "characters"

    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of the characters of a text."""
        return self._encoded(escaped(text))

    def decode(self, ids: Iterable[int], *, spaced: bool = False) -> str:
        """The characters of these ids; spaced: with spaces between them."""
        if _checks.as_flag("Characters", "spaced", spaced):
            return " ".join(self._known(ids))
        return "".join("\n" if token == "\\n" else token for token in self._known(ids))

    def spaced(self, text: str) -> str:
        """The characters of a text with spaces between them."""
        return " ".join(escaped(text))

    @property
    def settings(self) -> dict[str, str]:
        """What there is to know besides the vocabulary."""
        return {"kind": self.kind}


class SentencePiece:
    """Pieces of words, with a model that `sentencepiece` trained (Kudo and Richardson 2018).

    model: the bytes of its file, whose special ids are 0, 1 and 2 (see the module). Raises
    ValueError where it is none or has others, ImportError where the package is missing.
    """

    kind = "sentencepiece"
    unknown_id, start_id, end_id = range(3)

    def __init__(self, model: bytes):
        self.model = bytes(_checks.as_kind("SentencePiece", "model", model, bytes, bytearray))
        self._processor = imported().SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.model)
        except RuntimeError as error:
            raise ValueError(f"SentencePiece: model is no SentencePiece model: {error}") from error
        ids = [self._processor.unk_id(), self._processor.bos_id(), self._processor.eos_id()]
        if ids != [0, 1, 2]:
            raise ValueError(
                f"SentencePiece: model has {ids} as the ids of {', '.join(SPECIAL)}, expected "
                "[0, 1, 2]"
            )

    @property
    def vocab_size(self) -> int:
        """How many pieces there are."""
        return self._processor.vocab_size()

    @property
    def vocabulary(self) -> list[str]:
        """The piece of every id."""
        return self.tokens(range(self.vocab_size))

    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of the pieces of a text."""
        return np.array(
            self._processor.EncodeAsIds(as_string("SentencePiece", "text", text)), np.int64
        )

    def decode(self, ids: Iterable[int], *, spaced: bool = False) -> str:
        """The text of these pieces, the same with spaced."""
        _checks.as_flag("SentencePiece", "spaced", spaced)
        return self._processor.DecodeIds(as_ids(type(self).__name__, ids, self.vocab_size))

    def spaced(self, text: str) -> str:
        """The text as its pieces give it back."""
        return self.decode(self.encode(text))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The piece of each id."""
        return [
            self._processor.IdToPiece(i) for i in as_ids(type(self).__name__, ids, self.vocab_size)
        ]

    def __reduce__(self):
        return SentencePiece, (self.model,)

    @property
    def settings(self) -> dict[str, str]:
        """What there is to know besides the model."""
        return {"kind": self.kind}

    def contents(self) -> bytes:
        """What `save` writes."""
        return self.model


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


def escaped(text: str) -> list[str]:
    """The characters of a text, line breaks as backslash and n."""
    text = as_string("Characters", "text", text)
    return ["\\n" if character == "\n" else character for character in text]


def save(tokenizer: Tokenizer, path: str | os.PathLike) -> None:
    """Write a vocabulary, a token per line, or the model of SentencePiece.

    Raises IsADirectoryError where path is a folder, FileNotFoundError where it lies in none, and
    OSError where it cannot be written.
    """
    as_tokenizer("text.save", "tokenizer", tokenizer)
    path = as_path("text.save", "path", path)
    if path.is_dir():
        raise IsADirectoryError(f"text.save: {path} is a folder, expected a file to write")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"text.save: {path} cannot be written: there is no such folder")
    if path.exists() and not path.is_file():
        raise OSError(f"text.save: {path} is a pipe or a device, expected a file to write")
    replace_files(path.parent, {path.name: tokenizer.contents()})


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


class Vocabulary:
    """The attribute `src_vocabulary` or `tgt_vocabulary` of a model, beside its tokenizer.

    Its value is the list of the tokenizer's tokens. A list of tokens of which no more is known may
    be set in the tokenizer's place, and None for neither.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.tokenizer = name.replace("vocabulary", "tokenizer")

    def __get__(self, model: object, owner: type | None = None) -> list[str] | None:
        if model is None:
            return self  # type: ignore[return-value]
        tokenizer = getattr(model, self.tokenizer, None)
        return vars(model).get(self.name) if tokenizer is None else tokenizer.vocabulary

    def __set__(self, model: object, tokens: list[str] | None) -> None:
        setattr(model, self.tokenizer, None)
        vars(model)[self.name] = tokens


def tokenizer_of(function: str, model: object, attribute: str) -> Tokenizer:
    """A model's tokenizer of that name. Raises ValueError where it has none, TypeError where it is
    something else."""
    tokenizer: Tokenizer | None = getattr(model, attribute, None)
    if tokenizer is None:
        raise ValueError(
            f"{function}: model has no {attribute}, expected one of pyx_transformer.text"
        )
    return as_tokenizer(function, attribute, tokenizer)


def as_tokenizer(function: str, name: str, value: Tokenizer) -> Tokenizer:
    """`value`, if it has what a tokenizer has."""
    methods = ("encode", "decode", "contents")
    if isinstance(value, type) or not all(hasattr(value, method) for method in methods):
        raise TypeError(
            f"{function}: {name} is {_checks.brief(value)}, expected one of pyx_transformer.text"
        )
    return value


def as_lines(tokens: Sequence[str]) -> bytes:
    """A vocabulary file: a token per line."""
    lines = "".join(f"{token}\n" for token in tokens)
    # A mark that is part of the first token needs one before it, which reading takes off.
    return lines.encode("utf-8-sig" if lines.startswith("\ufeff") else "utf-8")


def from_lines(lines: str) -> list[str]:
    """The tokens of a vocabulary file; its last line may lack its end."""
    return lines.removesuffix("\n").split("\n") if lines else []


def english(text: str) -> str:
    """English as small training corpora have it: "I don't know." -> "i don 't know .".

    Double quotes become two apostrophes; an apostrophe that begins no contraction stands alone, as
    in "my parents ' house" and "say ' but '"; dashes become spaces.
    """
    text = as_string("english", "text", text).replace("´", "'")
    text = unicodedata.normalize("NFKC", text).translate(PLAIN).lower()
    text = re.sub(r"--+|(?<!\S)-+(?!\S)", " ", text.replace("''", '"'))
    text = re.sub(rf"(?<![^\W_])'(?={LETTER})(?!(?:{CONTRACTIONS})\b)", "' ", text)  # opens a quote
    text = re.sub(rf"(?<=[^\W_])'(?={LETTER})", " '", text)
    text = re.sub(rf"'(?!{LETTER})|[!?;:\"()$]|[.,](?!\d)", r" \g<0> ", text)
    return " ".join(text.replace('"', "''").split())


LETTER = r"[^\W\d_]"
# What follows the apostrophe of those that the training text writes as tokens of their own.
CONTRACTIONS = "t|s|m|ll|ve|d|re|clock"
# One writing for each sign; zero-width characters and marks of direction vanish.
PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛ʹʼʻ`′‵＇", "'"),
        **dict.fromkeys("“”„‟«»〝〞〟", '"'),
        **dict.fromkeys("‐‑−", "-"),
        **dict.fromkeys("‒–—―", " "),
        **dict.fromkeys([0xAD, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF]),
    }
)
