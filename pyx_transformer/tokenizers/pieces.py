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
from pyx_transformer.tokenizers.protocol import Frame, Languages, Reading, Sized, as_settings, told
from pyx_transformer.tokenizers.trained import MODEL, imported

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUNDARY = "\u2581"  # begins a piece that begins a word
SENTINEL = re.compile(r"<extra_id_\d+>")  # T5's
QUOTES_OR_ANY = re.compile("``|''|.", re.DOTALL)


class Pieces(Sized):
    """Pieces of a SentencePiece model, whose ids are their places in `vocabulary`.

    model: the bytes of its file. vocabulary: a token per id, "" for an id that stands for nothing,
    or what makes such a list of the model's own pieces; an empty one stands for these. unknown:
    what stands for pieces that the vocabulary lacks; it and `special`, those of them that there
    are, are left out by `decode`, and stand for themselves in a text that spells them out, as in
    the library transformers. frame: what stands around a text. Tokens of languages whose target is
    "source" may begin a text; with sentinels, tokens such as <extra_id_0> may stand in one, and
    `decode` keeps both. normalize: "albert" lower-cases and strips accents first, "albert-cased"
    strips accents only. prompts: texts to put before others, by the names of tasks.

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
            vocabulary if callable(vocabulary) else as_texts(this, "vocabulary", vocabulary) or list
        )
        self.frame = Frame() if frame is None else frame
        self.languages = languages
        self.special = tuple(as_texts(this, "special", special))
        self.sentinels = _checks.as_flag(this, "sentinels", sentinels)
        choices = (None, "albert", "albert-cased")
        self.normalize = _checks.as_choice(this, "normalize", normalize, choices)
        self.unknown = as_string(this, "unknown", unknown)
        self.start_token, self.longest, self.prompts = told(this, start_token, longest, prompts)
        self.where = where  # the file that the model is of

    @cached_property
    def _processor(self):
        processor = imported().SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.model)
            self._own = [processor.IdToPiece(i) for i in range(processor.GetPieceSize())]
        except (RuntimeError, UnicodeDecodeError) as error:
            message = f"{self.where or 'Pieces'} is no SentencePiece model: {error}"
            raise ValueError(message) from error
        return processor

    @cached_property
    def vocabulary(self) -> list[str]:
        """The token of every id, "" for one that stands for nothing."""
        if not callable(self._made):
            return self._made
        _ = self._processor
        return self._made(self._own)

    @cached_property
    def _ids(self):
        """The ids of tokens."""
        ids = {token: i for i, token in enumerate(self.vocabulary) if token}
        for token in (self.unknown, *self.frame.begin, *self.frame.end, *self.frame.between):
            if token not in ids:
                raise ValueError(f"{self.where or 'Pieces'} has no token {_checks.brief(token)}")
        return ids

    def _known(self, token):
        if token not in self._ids:
            raise ValueError(f"{self.where or 'Pieces'} has no token {_checks.brief(token)}")
        return self._ids[token]

    @property
    def unknown_id(self) -> int:
        """The id that stands for what the vocabulary lacks."""
        return self._ids[self.unknown]

    @cached_property
    def _left_out(self):
        """The ids that no text has."""
        return {self._ids[token] for token in (self.unknown, *self.special) if token in self._ids}

    @cached_property
    def _keeps_spaces(self):
        """Whether spaces around a text are part of it."""
        return bool(self._processor.EncodeAsPieces(" "))

    @cached_property
    def _codes(self):
        """The tokens of languages."""
        return frozenset(() if self.languages is None else self.languages.tokens.values())

    @cached_property
    def _spelled(self):
        """What finds tokens that a text spells out, the longest of those that begin alike."""
        tokens = {self.unknown, *self.special} & self._ids.keys()
        if self.sentinels:
            tokens |= {token for token in self._ids if SENTINEL.fullmatch(token)}
        return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))

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
            (end if place == "after" else begin).append(self._known(language))
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
                continue
            normalized, places = self._normalized(part)
            if not with_offsets:
                pieces = self._processor.EncodeAsPieces(normalized)
                ids += [self._ids.get(piece, self.unknown_id) for piece in pieces]
                continue
            for piece, (first, last) in spans(self._processor, normalized):
                ids.append(self._ids.get(piece, self.unknown_id))
                first += len(normalized[first:last]) - len(normalized[first:last].lstrip())
                # One character may have become several, of which a piece has some.
                end = max(places[last], places[last - 1] + 1) if last > first else places[first]
                offsets.append((begin + places[first], begin + end))
                is_new = not words or piece.startswith(BOUNDARY)
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
        for found in self._spelled.finditer(text, begin):
            if found.start() > begin:
                yield text[begin : found.start()], begin, None
            yield found.group(), found.start(), found.group()
            begin = found.end()
        if begin < len(text):
            yield text[begin:], begin, None

    def _normalized(self, text):
        """A text as the model reads it, with the place that each character and the end had."""
        if self.normalize is None:
            return text, range(len(text) + 1)
        normalized: list[str] = []
        places: list[int] = []
        for found in QUOTES_OR_ANY.finditer(text):
            one = found.group() if len(found.group()) == 1 else '"'
            one = "".join(
                c for c in unicodedata.normalize("NFKD", one) if not unicodedata.combining(c)
            )
            normalized += one.lower() if self.normalize == "albert" else one
            places += [found.start()] * (len(normalized) - len(places))
        return "".join(normalized), [*places, len(text)]

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
        text += self._processor.DecodePieces(pieces)
        text = text.replace(BOUNDARY, " ")  # of pieces that the model does not know
        return text if self._keeps_spaces else text.strip()

    def _is_no_piece(self, token):
        """Whether a token stands in a text as it is."""
        if self.sentinels and SENTINEL.fullmatch(token):
            return True
        return token in self._codes

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
        """What is saved: the model, and the vocabulary, a token per line, none for its own pieces.

        Raises ValueError where other tokens are no lines.
        """
        tokens = [] if self._made is list else self.vocabulary
        wrong = next((token for token in tokens if "\n" in token), None)
        if wrong is not None:
            where = self.where or "Pieces"
            raise ValueError(
                f"{where} has the token {_checks.brief(wrong)}, expected no line breaks"
            )
        return {MODEL: self.model, LIST: as_lines(tokens)}

    def __reduce__(self):
        values = {name: getattr(self, name) for name in self.settings if name != "kind"}
        vocabulary = [] if self._made is list else self.vocabulary
        return _unpickled, (self.model, vocabulary, values)


def _unpickled(model, vocabulary, values):
    return Pieces(model, vocabulary, **values)


MOST_IDS = 1 << 31  # a model may have ids that its tokenizer has no token for


def spans(processor: Any, text: str) -> list[tuple[str, tuple[int, int]]]:
    """The pieces of a text, each with its begin and end there."""
    if hasattr(processor, "EncodeAsOffsetMapping"):
        found = processor.EncodeAsOffsetMapping(text)
        return list(zip(found["pieces"], found["offsets"], strict=True))
    found = processor.Encode(text, out_type="immutable_proto")  # gone where there is the other
    return [(piece.piece, (piece.begin, piece.end)) for piece in found.pieces]


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
