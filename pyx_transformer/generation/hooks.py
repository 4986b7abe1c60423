"""What the compiled search enters Python for: the caller's functions, and errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer import _checks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.generation.options import GenerationOptions

# Options in use that can leave no token to choose.
BANNING = (
    "suppress_tokens",
    "suppress_sequences",
    "no_repeat_ngram_size",
    "min_length",
    "constraint",
    "logits_processor",
)


class Hooks:
    """The functions in the options of a generation; sentences go by the caller's numbers."""

    def __init__(self, options: GenerationOptions):
        self.options = options
        self.on_token = options.on_token
        self.stops = options.stop_when
        self.processor: Any = options.logits_processor
        self.constraint: Any = options.constraint

    def processed(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """logits (N, V) as logits_processor gives them back, or as it has changed them."""
        given = self.processor(logits)
        if given is None:
            return logits
        name, because = "logits_processor's result", ("the logits", logits.shape)
        changed = _checks.as_float32("generate", name, given, logits.shape, because)
        return logits if changed is logits else changed.copy()  # the caller may keep its own

    def ban(self, logits: NDArray[np.float32], number: int, tokens: NDArray[np.int64]) -> None:
        """Ban in a row of logits (V,) what constraint does not allow after these tokens."""
        allowed = self.constraint(number, tokens)
        if allowed is not None:
            banned = np.ones(len(logits), bool)
            banned[as_allowed(allowed, len(logits))] = False
            logits[banned] = -np.inf

    def refuse_no_numbers(self, logits: NDArray[np.float32]) -> None:
        """Raise ValueError where no token can be chosen because logits are NaN or infinite."""
        if np.isnan(logits).any() or np.isposinf(logits).any():
            raise ValueError("generate: the model's logits are NaN or infinite, expected numbers")

    def refuse_dead_end(self, number: int, count: int) -> None:
        """Raise ValueError for a sentence in which nothing can be chosen after `count` tokens."""
        bans = [name for name in BANNING if getattr(self.options, name)]
        raise ValueError(
            f"generate: no token is left for sentence {number} after {count} tokens, expected at "
            f"least one that {', '.join(bans) or 'the model'} allows"
        )


def as_allowed(ids: Iterable[int], vocabulary: int) -> NDArray[np.int64]:
    """What a constraint returned, as token ids."""
    this, name = "generate", "constraint's result"
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise TypeError(f"{this}: {name} is {ids!r}, expected token ids or None")
    if not isinstance(ids, np.ndarray):
        ids = list(ids)
    return _checks.as_integers(this, name, ids, 0, vocabulary - 1, ("tokens",))
