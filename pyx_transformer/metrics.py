"""How good translations are, by comparison with given ones."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

from pyx_transformer import _checks
from pyx_transformer.text import as_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_NGRAM = 4
BLEU_TOKENIZERS = ("none", "13a", "char")
# What "13a" sets apart, in this order.
SET_APART = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def bleu(texts: Sequence[str], references: Sequence[str], *, tokenizer: str = "none") -> float:
    """BLEU, 0 to 100, of texts (Papineni et al. 2002), as SacreBLEU computes it (Post 2018).

    tokenizer: "none" takes what stands between white space, "13a" sets punctuation apart as the WMT
    do for languages of Europe, "char" takes characters, for texts without spaces. `bleu_signature`
    says what else there is to know.

    Raises TypeError for what is no list of strings, ValueError unless there are as many texts as
    references, and some, and for any other tokenizer.
    """
    this = "bleu"
    texts = as_texts(this, "texts", texts)
    references = as_texts(this, "references", references)
    _checks.as_choice(this, "tokenizer", tokenizer, BLEU_TOKENIZERS)
    if not texts or len(texts) != len(references):
        raise ValueError(
            f"{this}: there are {len(texts)} texts and {len(references)} references, expected one "
            "reference for each of at least one text"
        )
    length = reference_length = 0
    correct, total = [0] * LONGEST_NGRAM, [0] * LONGEST_NGRAM
    for text, reference in zip(texts, references, strict=True):
        tokens, expected = as_tokens(text, tokenizer), as_tokens(reference, tokenizer)
        length += len(tokens)
        reference_length += len(expected)
        for i in range(LONGEST_NGRAM):
            found = ngrams(tokens, i + 1)
            correct[i] += (found & ngrams(expected, i + 1)).total()
            total[i] += found.total()
    if not all(total) or not any(correct):
        return 0.0
    logs, halved = 0.0, 1
    for right, number in zip(correct, total, strict=True):
        if not right:  # each order without a match counts half as much as the one before
            halved *= 2
        logs += math.log(100 * right / number if right else 100 / (halved * number))
    brevity = min(0.0, 1 - reference_length / length)
    return math.exp(brevity + logs / LONGEST_NGRAM)


def bleu_signature(tokenizer: str) -> str:
    """How `bleu` measures with a tokenizer, in the words of SacreBLEU's signatures."""
    return f"nrefs:1|case:mixed|eff:no|tok:{tokenizer}|smooth:exp"


def bleu_tokenizer_for(references: Sequence[str]) -> str:
    """ "char" where most references are written without spaces, "none" otherwise."""
    unspaced = sum(len(reference.split()) < 2 for reference in references)
    return "char" if 2 * unspaced > len(references) else "none"


def as_tokens(text: str, tokenizer: str) -> list[str]:
    """What `bleu` counts in a text."""
    if tokenizer == "char":
        return list("".join(text.split()))
    if tokenizer == "13a":
        text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
        for entity, character in ENTITIES:
            text = text.replace(entity, character)
        text = f" {text} "
        for pattern, replacement in SET_APART:
            text = pattern.sub(replacement, text)
    return text.split()


def ngrams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each sequence of n tokens is there."""
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
