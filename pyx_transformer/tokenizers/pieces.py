"""SentencePiece's models with token ids of their own (Kudo and Richardson 2018)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer import _checks
from pyx_transformer._kinds import as_ids, as_string, as_texts
from pyx_transformer.tokenizers.listed import LIST, as_lines
from pyx_transformer.tokenizers.protocol import Frame, Languages, Reading, as_settings
from pyx_transformer.tokenizers.trained import MODEL, imported

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUNDARY = "\u2581"  # begins a piece that begins a word
SENTINEL = re.compile(r"<extra_id_\d+>")  # T5's


class Pieces:
    """Pieces of a SentencePiece model, whose ids are their places in `vocabulary`.

    model: the bytes of its file. vocabulary: a token per id, "" for an id that stands for nothing,
    or what makes such a list of the model's own pieces. unknown: what stands for pieces that the
    vocabulary lacks; it and `special`, those of them that there are, are left out by `decode`.
    frame: what stands around a text. Tokens of languages whose target is "source" may begin a text;
    with sentinels, tokens such as <extra_id_0> may stand in one. normalize: "albert" lower-cases
    and strips accents first, "albert-cased" strips accents only. prompts: texts to put before
    others, by the names of tasks.

    The first use raises ImportError where the package sentencepiece is missing, and ValueError for
    a model that is none, or tokens that the vocabulary lacks.
    """

    kind = "pieces"
    start_id = end_id = None
    truncates = False
    never_generated: tuple[int, ...] = ()

    def __init__(
        self,
        model: bytes,
        vocabulary: Sequence[str] | Callable[[list[str]], list[str]],
        *,
        unknown: str,
        special: Sequence[str] = (),
        frame: Frame | None = None,
        languages: Languages | None = None,
        sentinels: bool = False,
        normalize: str | None = None,
        start_token: str | None = None,
        longest: int | None = None,
        prompts: Mapping[str, str] | None = None,
        where: str = "",
    ):
        this = "Pieces"
        self.model = bytes(_checks.as_kind(this, "model", model, bytes, bytearray))
        self._made: list[str] | Callable[[list[str]], list[str]] = (
            vocabulary if callable(vocabulary) else as_texts(this, "vocabulary", vocabulary)
        )
        self.frame = Frame() if frame is None else frame
        self.languages = languages
        self.special = tuple(as_texts(this, "special", special))
        self.sentinels = _checks.as_flag(this, "sentinels", sentinels)
        choices = (None, "albert", "albert-cased")
        self.normalize = _checks.as_choice(this, "normalize", normalize, choices)
        self.unknown, self.start_token, self.longest = unknown, start_token, longest
        self.prompts = dict(prompts or {})
        self.where = where  # the file that the model is of

    @cached_property
    def _processor(self):
        processor = imported().SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.model)
        except RuntimeError as error:
            message = f"{self.where or 'Pieces'} is no SentencePiece model: {error}"
            raise ValueError(message) from error
        return processor

    @cached_property
    def vocabulary(self) -> list[str]:
        """The token of every id, "" for one that stands for nothing."""
        if not callable(self._made):
            return self._made
        own = self._processor
        return self._made([own.IdToPiece(i) for i in range(own.GetPieceSize())])

    @cached_property
    def _ids(self):
        """The ids of tokens."""
        ids = {token: i for i, token in enumerate(self.vocabulary) if token}
        for token in (self.unknown, *self.frame.begin, *self.frame.end, *self.frame.between):
            if token not in ids:
                raise ValueError(f"{self.where or 'Pieces'}: no token {_checks.brief(token)}")
        return ids

    @property
    def unknown_id(self) -> int:
        """The id that stands for what the vocabulary lacks."""
        return self._ids[self.unknown]

    @cached_property
    def _left_out(self):
        """The ids that no text has."""
        return {self._ids[token] for token in (self.unknown, *self.special) if token in self._ids}

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return len(self.vocabulary)

    def token_id(self, token: str) -> int | None:
        """The id of a token, None for one that there is not."""
        return self._ids.get(token)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id, "" for one that there is not."""
        known = self.vocabulary
        return [known[i] if i < len(known) else "" for i in as_ids("Pieces", ids, MOST_IDS)]

    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of the pieces of a text."""
        return self._found(as_string("Pieces", "text", text))[0]

    def read(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        language: str | None = None,
        longest: int | None = None,
        with_offsets: bool = False,
    ) -> Reading:
        """Texts with the special tokens around them: see `Tokenizer`."""
        found = Reading([], None if pairs is None or not self.frame.types else [])
        for number, text in enumerate(texts):
            parts = [self._found(text, with_offsets)]
            if pairs is not None:
                parts.append(self._found(pairs[number]))
            begin, between, end = self._around(language, len(parts) == 2)
            if longest is not None:
                room = longest - len(begin) - len(between) - len(end)
                if shortened(parts, max(room, 0)):
                    found.cut.append(number)
            first, second = parts[0][0], [] if len(parts) == 1 else parts[1][0]
            found.ids.append(np.concatenate([begin, first, between, second, end]).astype(np.int64))
            before, after = len(begin), len(between) + len(second) + len(end)
            if found.types is not None:
                zeros = before + len(first) + len(between)
                found.types.append(np.repeat([0, 1], [zeros, len(second) + len(end)]))
            if with_offsets:
                _, offsets, words = parts[0]
                found.offsets.append(np.pad(offsets, [(before, after), (0, 0)]))
                found.words.append(np.pad(words, (before, after), constant_values=-1))
        return found

    def _around(self, language, is_pair):
        """The ids before a text, between those of a pair, and behind."""
        frame = self.frame
        begin, between, end = (
            [self._ids[token] for token in tokens]
            for tokens in (frame.begin, frame.between if is_pair else (), frame.end)
        )
        if language is not None:
            place = self.languages and self.languages.source
            (end if place == "after" else begin).append(self._ids[language])
        return begin, between, end

    def _found(self, text, with_offsets=False):
        """The ids of a text, with the offsets of each, and the number of its word."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        words: list[int] = []
        for part, begin, token in self._parts(text):
            if token is not None:
                ids.append(self._ids[token])
                offsets.append((begin, begin + len(part)))
                words.append(words[-1] + 1 if words else 0)
            elif not with_offsets:
                pieces = self._processor.EncodeAsPieces(self._normalized(part))
                ids += [self._ids.get(piece, self.unknown_id) for piece in pieces]
            else:
                proto = self._processor.Encode(self._normalized(part), out_type="immutable_proto")
                for piece in proto.pieces:
                    ids.append(self._ids.get(piece.piece, self.unknown_id))
                    offsets.append((begin + piece.begin, begin + piece.end))
                    is_new = not words or piece.piece.startswith(BOUNDARY)
                    words.append((words[-1] if words else -1) + is_new)
        return np.array(ids, np.int64), np.array(offsets, np.int64).reshape(-1, 2), np.array(words)

    def _parts(self, text):
        """Stretches of a text with where each begins, and the token that one is, if it is one."""
        begin = 0
        languages = self.languages
        if languages is not None and languages.target == "source":
            code = text[: text.find("<<") + 2] if text.startswith(">>") else ""
            if code in self._ids:
                yield code, 0, code
                begin = len(code)
        for found in SENTINEL.finditer(text, begin) if self.sentinels else ():
            if found.group() not in self._ids:
                continue
            if found.start() > begin:
                yield text[begin : found.start()], begin, None
            yield found.group(), found.start(), found.group()
            begin = found.end()
        if begin < len(text):
            yield text[begin:], begin, None

    def _normalized(self, text):
        if self.normalize is None:
            return text
        text = unicodedata.normalize("NFKD", text.replace("``", '"').replace("''", '"'))
        text = "".join(c for c in text if not unicodedata.combining(c))
        return text.lower() if self.normalize == "albert" else text

    def decode(self, ids: Iterable[int], *, spaced: bool = False) -> str:
        """The text of these pieces, the same with spaced; special tokens are left out."""
        _checks.as_flag("Pieces", "spaced", spaced)
        text = ""
        pieces: list[str] = []
        for i in as_ids("Pieces", ids, MOST_IDS):
            token = self.vocabulary[i] if i < len(self.vocabulary) else ""
            if not token or i in self._left_out:
                continue
            if self._is_no_piece(token):
                text, pieces = text + self._processor.DecodePieces(pieces) + token + " ", []
            else:
                pieces.append(token)
        # Pieces that the model does not know are as they were.
        return (text + self._processor.DecodePieces(pieces)).replace(BOUNDARY, " ").strip()

    def _is_no_piece(self, token):
        """Whether a token stands in a text as it is."""
        if self.sentinels and SENTINEL.fullmatch(token):
            return True
        return self.languages is not None and token in self.languages.tokens.values()

    def spaced(self, text: str) -> str:
        """The text as its pieces give it back."""
        return self.decode(self.encode(text))

    @property
    def settings(self) -> dict[str, Any]:
        """What there is to know besides the model and the vocabulary."""
        values = {
            "unknown": self.unknown,
            "special": list(self.special),
            "frame": as_settings(self.frame),
            "languages": as_settings(self.languages),
            "sentinels": self.sentinels,
            "normalize": self.normalize,
            "start_token": self.start_token,
            "longest": self.longest,
            "prompts": self.prompts,
        }
        return {"kind": self.kind, **{name: value for name, value in values.items() if value}}

    def files(self) -> dict[str, bytes]:
        """What is saved: the model, and the vocabulary, a token per line."""
        return {MODEL: self.model, LIST: as_lines(self.vocabulary)}

    def __reduce__(self):
        values = {name: getattr(self, name) for name in self.settings if name != "kind"}
        return _unpickled, (self.model, self.vocabulary, values)


def _unpickled(model, vocabulary, values):
    return Pieces(model, vocabulary, **values)


MOST_IDS = 1 << 40  # a model may have ids that its tokenizer has no token for


def shortened(parts: list[tuple], room: int) -> bool:
    """Cut a text or a pair, each as (ids, offsets, words), to so many tokens; whether there was
    something to cut."""
    counts = [len(ids) for ids, *_ in parts]
    if sum(counts) <= room:
        return False
    kept = (room,) if len(parts) == 1 else lengths_of_pair(counts[0], counts[1], room)
    parts[:] = [tuple(one[:n] for one in part) for part, n in zip(parts, kept, strict=True)]
    return True


def lengths_of_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each of a pair are kept: the longer one is cut, until both are equal."""
    if first > second:
        second, first = lengths_of_pair(second, first, room)
        return first, second
    second = max(first, room - first)
    if first + second > room:
        first, second = room // 2, room - room // 2
    return first, second
