"""How good translations are, by comparison with given ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyx_transformer.text import as_texts

if TYPE_CHECKING:
    from collections.abc import Sequence


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """BLEU, 0 to 100, of texts whose tokens stand between spaces (Papineni et al. 2002).

    sacrebleu's, on the tokens as they are. Raises TypeError for what is no list of strings,
    ValueError unless there are as many texts as references, and some; ImportError where that
    package is missing.
    """
    this = "bleu"
    texts = as_texts(this, "texts", texts)
    references = as_texts(this, "references", references)
    if not texts or len(texts) != len(references):
        raise ValueError(
            f"{this}: there are {len(texts)} texts and {len(references)} references, expected one "
            "reference for each of at least one text"
        )
    require_bleu()
    import sacrebleu

    return sacrebleu.corpus_bleu(texts, [references], tokenize="none", force=True).score


def require_bleu() -> None:
    """Raise ImportError, saying what to install, where sacrebleu is missing."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "bleu: the package sacrebleu is missing: pip install 'pyx-transformer[train]'"
        ) from error
