"""English as small training corpora write it."""

from __future__ import annotations

import re
import unicodedata

from pyx_transformer._kinds import as_string


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
