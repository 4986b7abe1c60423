"""What the package sentencepiece does for `text`."""

from __future__ import annotations

import io
import re

from pyx_transformer import _ctrl_c

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


def trained(texts: list[str], size: int) -> bytes:
    """The model of so many pieces of texts, by byte-pair encoding; no text is left out.

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
