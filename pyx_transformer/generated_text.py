"""Texts that a model has generated: strings that tell what else is known of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pyx_transformer.pages import AttentionView

    Tokens = Sequence[str] | Callable[[], list[str]]


class GeneratedText(str):
    """A generated text: a str wherever one is wanted, with what is known of it beside.

    score: by which it ranks, see `GenerationOptions`. finished: its end came, or stop_when said so;
    False where the longest length cut it off. ids, int64 (T,): what was generated, a forced prefix
    and the end token included; where several tokens end a text, the first of them stands for all.
    token_scores, float32 (T,): the log-probability of each, 0 in a forced prefix. attention,
    float32 (layers, heads, T, S): how much each of `tokens` attends to each of `source_tokens`;
    None unless return_attention, which translations have.

    Slices, upper case and the like are plain strings.
    """

    score: float
    finished: bool
    ids: NDArray[np.int64]
    token_scores: NDArray[np.float32]
    attention: NDArray[np.float32] | None

    def __new__(
        cls,
        text: str,
        score: float,
        finished: bool,
        ids: NDArray[np.int64],
        tokens: Tokens,
        source_tokens: Tokens,
        token_scores: NDArray[np.float32],
        attention: NDArray[np.float32] | None = None,
    ) -> GeneratedText:
        """text, with what is known of it: score, finished, ids, token_scores, and attention, None
        where it was not asked for; tokens, source_tokens: lists, or functions that give them when
        they are asked for."""
        self = super().__new__(cls, text)
        self.score, self.finished, self.ids = score, finished, ids
        self._tokens, self._source_tokens = tokens, source_tokens
        self.token_scores, self.attention = token_scores, attention
        return self

    _tokens: Tokens
    _source_tokens: Tokens

    @property
    def text(self) -> str:
        """The text as a plain str."""
        return str(self)

    @cached_property
    def tokens(self) -> list[str]:
        """The token of each of ids (T)."""
        return listed(self._tokens)

    @cached_property
    def source_tokens(self) -> list[str]:
        """What the encoder has read (S), special tokens and languages included; of a language model
        the prompt's tokens."""
        return listed(self._source_tokens)

    def view(self) -> AttentionView:
        """The cross-attention to look at: a page, or a picture of it. Raises ValueError where it
        was not asked for, there is nothing to look at, or more than a page has room for."""
        from pyx_transformer.pages import AttentionMap, AttentionView

        if self.attention is None:
            raise ValueError(
                "GeneratedText: it has no attention, expected a translation with "
                "return_attention=True"
            )
        return AttentionView(
            [AttentionMap("cross", self.attention, self.tokens, self.source_tokens)], self.text
        )

    def _repr_html_(self) -> str | None:
        """The attention, in notebooks, where there is one that a page has room for."""
        try:
            return self.view()._repr_html_()
        except ValueError:
            return None

    def __reduce__(self) -> tuple[Any, ...]:
        """The tokens go with it, tokenizers do not."""
        return type(self), (
            self.text,
            self.score,
            self.finished,
            self.ids,
            self.tokens,
            self.source_tokens,
            self.token_scores,
            self.attention,
        )


class NBest(list[GeneratedText]):
    """The generated texts of one source or prompt: the best, or first drawn, first."""

    def _repr_html_(self) -> str:
        """A table of them, for notebooks."""
        rows = "".join(
            f"<tr><td>{rank}</td><td>{one.score:.4f}</td>"
            f'<td dir="auto" style="text-align: left">{escape(one)}</td></tr>'
            for rank, one in enumerate(self, 1)
        )
        head = "<th>rank</th><th>score</th><th>text</th>"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def listed(tokens: Tokens) -> list[str]:
    """The tokens, as they are or as the function gives them."""
    return tokens() if callable(tokens) else list(tokens)
