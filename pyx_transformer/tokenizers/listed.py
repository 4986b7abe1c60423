"""Tokenizers of models that are trained here: lists of tokens, and what all of them share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pyx_transformer import _checks
from pyx_transformer._kinds import as_ids, as_string, as_texts
from pyx_transformer.tokenizers.english import english
from pyx_transformer.tokenizers.protocol import Reading, Sized

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPECIAL = ("<unk>", "<s>", "</s>")
LANGUAGES = ("", "en", "ja")  # of words
LIST = "vocabulary.txt"  # ends the name of a file of tokens


class Plain(Sized):
    """What reads a text as its tokens and nothing else: a model adds the start of a target itself.

    The unknown token is 0, 1 begins a sequence and 2 ends it, as `TransformerConfig` has it unless
    told otherwise.
    """

    unknown_id, start_id, end_id = range(3)
    languages = None
    start_token = None
    longest = None
    truncates = False
    never_generated: ClassVar[tuple[int, ...]] = (0,)
    prompts: ClassVar[dict[str, str]] = {}

    def read(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        language: str | None = None,
        longest: int | None = None,
        with_offsets: bool = False,
    ) -> Reading:
        """The ids of texts. Raises ValueError for pairs, languages, offsets."""
        this = type(self).__name__
        for name, value in (("pairs", pairs), ("language", language), ("offsets", with_offsets)):
            if value:
                raise ValueError(f"{this}: {name} are asked for, expected none of this tokenizer")
        found = Reading([self.encode(text) for text in texts])  # type: ignore[attr-defined]
        if longest is not None:
            found.cut = [i for i, ids in enumerate(found.ids) if len(ids) > longest]
            found.ids = [ids[:longest] for ids in found.ids]
        return found

    def token_id(self, token: str) -> int | None:
        """The id of a token, None for one that there is not."""
        vocabulary = self.vocabulary  # type: ignore[attr-defined]
        return vocabulary.index(token) if token in vocabulary else None


class Listed(Plain):
    """A tokenizer whose vocabulary is a list of tokens, of which the first three are special."""

    def __init__(self, vocabulary: Sequence[str]):
        """vocabulary: the token of every id, the first three being SPECIAL.

        Raises TypeError for what is no list of strings, ValueError where it does not begin so or
        holds a token twice.
        """
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

    def files(self) -> dict[str, bytes]:
        """What is saved: a token per line."""
        return {LIST: as_lines(self.vocabulary)}

    def _known(self, ids):
        return [token for token in self.tokens(ids) if token not in SPECIAL[1:]]

    def _encoded(self, tokens):
        return np.array([self._ids.get(token, self.unknown_id) for token in tokens], np.int64)


class Words(Listed):
    """What stands between white space."""

    kind = "words"

    def __init__(self, vocabulary: Sequence[str], language: str = ""):
        """vocabulary: the token of every id, the first three being SPECIAL. language: "" leaves
        texts as they are; "en" first lower-cases them and sets punctuation and contractions apart,
        as in "i don 't know ."; "ja" writes tokens without spaces between them.

        Raises ValueError where vocabulary does not begin with SPECIAL or holds a token twice,
        TypeError or ValueError for any other language.
        """
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


class Characters(Listed):
    """Single characters; in the vocabulary a line break is written as backslash and n."""

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


def escaped(text: str) -> list[str]:
    """The characters of a text, line breaks as backslash and n."""
    text = as_string("Characters", "text", text)
    return ["\\n" if character == "\n" else character for character in text]


def as_lines(tokens: Sequence[str]) -> bytes:
    """A vocabulary file: a token per line."""
    lines = "".join(f"{token}\n" for token in tokens)
    # A mark that is part of the first token needs one before it, which reading takes off.
    return lines.encode("utf-8-sig" if lines.startswith("\ufeff") else "utf-8")


def from_lines(lines: str) -> list[str]:
    """The tokens of a vocabulary file; its last line may lack its end."""
    return lines.removesuffix("\n").split("\n") if lines else []
