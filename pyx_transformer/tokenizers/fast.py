"""Hugging Face's tokenizers, by the package of that name: `pip install 'pyx-transformer[hf]'`."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer import _checks
from pyx_transformer._kinds import as_ids, as_string
from pyx_transformer.tokenizers.pieces import MOST_IDS, lengths_of_pair
from pyx_transformer.tokenizers.protocol import Reading, Sized, as_settings, told

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.tokenizers.protocol import Frame, Languages

JSON = "tokenizer.json"  # ends the name of its file
AT_ONCE = 1 << 10  # texts: what the package makes of one takes 20 times the memory of its ids
# Base64 in it: where it is none, the package not only raises but writes on standard error.
CHARSMAP = re.compile(rb'"precompiled_charsmap"\s*:\s*"([^"\\]*)"')


class FastTokenizer(Sized):
    """What a tokenizer.json says, read when it is first used.

    content: the bytes of such a file, or what makes a tokenizer of the package, given the package.
    frame: what stands around a text in place of what the file says, as languages need it.
    prompts: texts to put before others, by the names of tasks. The file's own lengths of texts and
    padding do not count, but where it cuts texts, those that are too long for a model are cut.

    The first use raises ImportError, saying what to install, where the package is missing, and
    ValueError for what is malformed.
    """

    kind = "tokenizers"
    start_id = end_id = unknown_id = None
    never_generated: tuple[int, ...] = ()

    def __init__(
        self,
        content: bytes | Callable[[Any], Any],
        *,
        frame: Frame | None = None,
        languages: Languages | None = None,
        start_token: str | None = None,
        longest: int | None = None,
        prompts: Mapping[str, str] | None = None,
        where: str = "",
    ):
        if not callable(content):
            _checks.as_kind("FastTokenizer", "content", content, bytes, bytearray)
        self._content, self.where = content, where
        self.frame, self.languages = frame, languages
        self.start_token, self.longest, self.prompts = told(
            "FastTokenizer", start_token, longest, prompts
        )

    @cached_property
    def _library(self):
        """The package's tokenizer, without lengths of its own."""
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError(
                f"{self.where or 'FastTokenizer'}: the package tokenizers is missing: pip install "
                "'pyx-transformer[hf]'"
            ) from error
        with self._named():
            if callable(self._content):
                made = self._content(tokenizers)
            else:
                for found in CHARSMAP.finditer(self._content):
                    base64.b64decode(found[1], validate=True)
                made = tokenizers.Tokenizer.from_buffer(bytes(self._content))
        self._truncates = made.truncation is not None
        made.no_truncation()
        made.no_padding()
        return made

    @contextmanager
    def _named(self):
        """Make one ValueError that names the file of whatever the package raises."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # what its Rust panics with is no Exception
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.where or 'FastTokenizer'}: no tokenizer: {said}") from error

    @property
    def truncates(self) -> bool:
        """Whether the file says that texts are cut."""
        _ = self._library
        return self._truncates

    @cached_property
    def vocab_size(self) -> int:
        """How many tokens there are, the highest id and one."""
        ids = self._library.get_vocab(with_added_tokens=True).values()
        size = 1 + max(ids, default=-1)
        if size > 2 * len(ids) + 1000:
            raise ValueError(
                f"{self.where or 'FastTokenizer'} has {len(ids)} tokens and ids up to {size - 1}, "
                "expected fewer that stand for nothing"
            )
        return size

    @property
    def vocabulary(self) -> list[str]:
        """The token of every id, "" for one that stands for nothing."""
        tokens = [""] * self.vocab_size
        for token, i in self._library.get_vocab(with_added_tokens=True).items():
            tokens[i] = token
        return tokens

    def token_id(self, token: str) -> int | None:
        """The id of a token, None for one that there is not."""
        return self._library.token_to_id(token)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id, "" for one that there is not."""
        return [self._library.id_to_token(i) or "" for i in as_ids("FastTokenizer", ids, MOST_IDS)]

    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of a text without special tokens around it."""
        text = as_string("FastTokenizer", "text", text)
        library = self._library
        with self._named():
            return np.array(library.encode(text, add_special_tokens=False).ids, np.int64)

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
        inputs = list(texts if pairs is None else zip(texts, pairs, strict=True))
        is_framed = self.frame is not None
        begin, end = self._around(language)
        found = Reading([], None if pairs is None or is_framed else [])
        room = None if longest is None else max(longest - len(begin) - len(end), 0)
        for number, one in enumerate(self._encoded(inputs, with_offsets)):
            kept: Any = slice(None)
            if room is not None and len(one) > room:
                found.cut.append(number)
                kept = kept_of(one, room)
            ids = np.array(one.ids, np.int64)[kept]
            found.ids.append(np.concatenate([begin, ids, end]) if is_framed else ids)
            if found.types is not None:
                found.types.append(np.array(one.type_ids, np.int64)[kept])
            if with_offsets:
                around = (len(begin), len(end))
                offsets = np.array(one.offsets, np.int64).reshape(-1, 2)[kept]
                words = np.array([-1 if word is None else word for word in one.word_ids], np.int64)
                words[np.array(one.special_tokens_mask, bool)] = -1
                found.offsets.append(np.pad(offsets, [around, (0, 0)]))
                found.words.append(np.pad(words[kept], around, constant_values=-1))
        return found

    def _encoded(self, inputs, with_offsets):
        """What the package makes of texts or pairs, which are in memory a part at a time."""
        encode = self._library.encode_batch if with_offsets else self._library.encode_batch_fast
        for first in range(0, len(inputs), AT_ONCE):
            part = inputs[first : first + AT_ONCE]
            with self._named():
                encoded = encode(part, add_special_tokens=self.frame is None)
            yield from encoded

    def _around(self, language):
        """The ids before and behind a text, where the file does not say them."""
        if self.frame is None:
            return [], []
        begin, end = list(self.frame.begin), list(self.frame.end)
        if language is not None:
            place = self.languages and self.languages.source
            (end if place == "after" else begin).append(language)
        return [np.array([self._known(t) for t in tokens], np.int64) for tokens in (begin, end)]

    def _known(self, token):
        found = self.token_id(token)
        if found is None:
            raise ValueError(f"{self.where or 'FastTokenizer'} has no token {token!r}")
        return found

    def decode(self, ids: Iterable[int], *, spaced: bool = False) -> str:
        """The text of these ids without special tokens, the same with spaced."""
        _checks.as_flag("FastTokenizer", "spaced", spaced)
        ids, library = as_ids("FastTokenizer", ids, MOST_IDS), self._library
        with self._named():
            return library.decode(ids, skip_special_tokens=True)

    def spaced(self, text: str) -> str:
        """The text as its tokens give it back."""
        return self.decode(self.encode(text))

    @property
    def settings(self) -> dict[str, Any]:
        """What there is to know besides the file."""
        values = {
            "frame": as_settings(self.frame),
            "languages": as_settings(self.languages),
            "start_token": self.start_token,
            "longest": self.longest,
            "prompts": self.prompts,
        }
        return {"kind": self.kind, **{name: value for name, value in values.items() if value}}

    def files(self) -> dict[str, bytes]:
        """What is saved: a tokenizer.json."""
        if callable(self._content):
            return {JSON: self._library.to_str().encode()}
        return {JSON: bytes(self._content)}

    def __reduce__(self):
        values = {name: value for name, value in self.settings.items() if name != "kind"}
        for name in ("frame", "languages"):
            if name in values:
                values[name] = getattr(self, name)
        return _unpickled, (self.files()[JSON], values)


def kept_of(encoding: Any, room: int) -> NDArray[np.bool_]:
    """Which of the package's tokens are among so many: all special ones, and of a text or a pair
    the first ones. The package's own way makes all that is cut off into more texts."""
    parts = np.array([-1 if part is None else part for part in encoding.sequence_ids])
    kept = parts < 0
    room = max(room - int(kept.sum()), 0)
    counts = lengths_of_pair(int((parts == 0).sum()), int((parts == 1).sum()), room)
    for part, count in enumerate(counts):
        kept[np.flatnonzero(parts == part)[:count]] = True
    return kept


def _unpickled(content, values):
    return FastTokenizer(content, **values)
