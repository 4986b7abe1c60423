"""How good translations are, by comparison with given ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """BLEU, 0 to 100, of texts whose tokens stand between spaces (Papineni et al. 2002).

    sacrebleu's, on the tokens as they are. Raises ImportError where that package is missing.
    """
    require_bleu()
    import sacrebleu

    return sacrebleu.corpus_bleu(list(texts), [list(references)], tokenize="none", force=True).score


def require_bleu() -> None:
    """Raise ImportError, saying what to install, where sacrebleu is missing."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "bleu: the package sacrebleu is missing: pip install 'pyx-transformer[train]'"
        ) from error
