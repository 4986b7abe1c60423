"""SentencePiece's models that are trained here."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, _ctrl_c
from pyx_transformer._kinds import as_ids, as_string
from pyx_transformer.tokenizers.listed import SPECIAL, Plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = "sentencepiece.model"  # ends the name of a file of a model

# SentencePiece leaves out longer texts, in bytes, and those with its mark between words.
LONGEST_TEXT = 1 << 30
BOUNDARY = "\u2585"
# What SentencePiece says of texts that do not suffice, and what that means.
REFUSALS = {
    r"too high \((\d+)\).*<= (\d+)": "size is {0}, expected at most {1} because of the texts",
    r"required_chars\. (\d+) vs (\d+)": "size is {0}, expected at least {1}, the characters of the "
    "texts and the special tokens",
    r"sentences_\.empty|all_chars_count": "texts have no token, expected some text",
}


class SentencePiece(Plain):
    """Pieces of words, with a model that `sentencepiece` trained (Kudo and Richardson 2018)."""

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        """model: the bytes of its file, whose special ids are 0, 1 and 2.

        Raises ValueError where it is none or has others, ImportError where the package is missing.
        """
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

    def files(self) -> dict[str, bytes]:
        """What is saved: the model."""
        return {MODEL: self.model}


def trained(texts: list[str], size: int, *, at_most: bool = False) -> bytes:
    """The model of so many pieces of texts, by byte-pair encoding; no text is left out. With
    at_most there are fewer where texts do not suffice for more.

    Raises ValueError where the texts do not suffice, or one is too long, ImportError where the
    package is missing.
    """
    model, kept = io.BytesIO(), []
    for i, text in enumerate(texts):
        if len(text) > LONGEST_TEXT // 4 and len(text.encode()) > LONGEST_TEXT:
            raise ValueError(
                f"text.make: texts[{i}] has {len(text.encode())} bytes, expected at most "
                f"{LONGEST_TEXT} for sentencepiece"
            )
        kept.append(text.replace(BOUNDARY, " "))
    try:
        with _ctrl_c.ending_at_once():
            imported().SentencePieceTrainer.Train(
                sentence_iterator=iter(kept),
                max_sentence_length=LONGEST_TEXT,
                model_writer=model,
                vocab_size=size,
                hard_vocab_limit=not at_most,
                model_type="bpe",
                character_coverage=1.0,
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=-1,
                minloglevel=2,
            )
    except RuntimeError as error:
        for pattern, meaning in REFUSALS.items():
            if found := re.search(pattern, str(error)):
                raise ValueError(f"text.make: {meaning.format(*found.groups())}") from error
        raise ValueError(f"text.make: sentencepiece cannot train: {error}") from error
    return model.getvalue()


def imported():
    """The package. Raises ImportError, saying what to install, where it is missing."""
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "SentencePiece: the package sentencepiece is missing: pip install "
            "'pyx-transformer[text]'"
        ) from error
    return sentencepiece
