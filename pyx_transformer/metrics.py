"""How good translations are, by comparison with given ones."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pyx_transformer import _checks
from pyx_transformer._kinds import as_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BLEU_TOKENIZERS", "bleu"]


def __dir__() -> list[str]:
    return sorted(__all__)


# Those of SacreBLEU that need no further package.
BLEU_TOKENIZERS = ("none", "13a", "intl", "char", "zh")


def bleu(texts: Sequence[str], references: Sequence[str], *, tokenizer: str = "none") -> float:
    """BLEU, 0 to 100, of texts (Papineni et al. 2002), by SacreBLEU (Post 2018).

    tokenizer: SacreBLEU's, "none" for what stands between white space, "13a" and "intl" set
    punctuation apart, "char" takes characters, for texts without spaces, "zh" only those of
    Chinese.

    Raises TypeError for what is no list of strings, ValueError unless there are as many texts as
    references, and some, and for any other tokenizer; ImportError where sacrebleu is missing.
    """
    score, _ = bleu_with_signature(texts, references, tokenizer)
    is_of_words = tokenizer in ("none", "13a", "intl")
    is_spaced = bleu_tokenizer_for(references) == "none"
    if is_of_words and is_spaced and max(len(text.split()) for text in texts) == 1:
        warnings.warn(
            "bleu: texts have no spaces between words, and references do: tokenizer='char' "
            "compares them",
            stacklevel=2,
        )
    return score


def bleu_with_signature(
    texts: Sequence[str], references: Sequence[str], tokenizer: str
) -> tuple[float, str]:
    """`bleu`, and how it was measured, as SacreBLEU says it."""
    this = "bleu"
    texts = as_texts(this, "texts", texts)
    references = as_texts(this, "references", references)
    _checks.as_choice(this, "tokenizer", tokenizer, BLEU_TOKENIZERS)
    if not texts or len(texts) != len(references):
        raise ValueError(
            f"{this}: there are {len(texts)} texts and {len(references)} references, expected one "
            "reference for each of at least one text"
        )
    require_bleu()
    import sacrebleu

    measure = sacrebleu.BLEU(tokenize=tokenizer, force=True)
    score = measure.corpus_score(texts, [references]).score
    return score, str(measure.get_signature())


def bleu_tokenizer_for(references: Sequence[str]) -> str:
    """ "char" where most references are written without spaces, "none" otherwise."""
    unspaced = sum(len(reference.split()) < 2 for reference in references)
    return "char" if 2 * unspaced > len(references) else "none"


def require_bleu() -> None:
    """Raise ImportError, saying what to install, where sacrebleu is missing."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "bleu: the package sacrebleu is missing: pip install 'pyx-transformer[train]'"
        ) from error
