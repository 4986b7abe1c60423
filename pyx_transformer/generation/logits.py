"""What is done to logits before the softmax: penalties and bans."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, ops

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.generation.options import GenerationOptions


class LogitsRules:
    """The options that change logits, for one batch of sentences.

    numbers (B,): the caller's numbers of these sentences; prefixes: what their hypotheses are
    biased towards, or None.
    """

    def __init__(
        self,
        options: GenerationOptions,
        end_tokens: NDArray[np.int64],
        numbers: NDArray[np.int64],
        prefixes: list[NDArray[np.int64]] | None,
    ):
        self.options = options
        self.end_tokens = end_tokens
        self.numbers = numbers
        self.prefixes = prefixes
        self.suppressed = np.array(options.suppress_tokens, np.int64)
        self.has_own_rows = bool(
            options.repetition_penalty != 1
            or options.no_repeat_ngram_size
            or options.suppress_sequences
            or options.constraint is not None
        )

    def are_in_force(self, count: int) -> bool:
        """Whether any of them changes the logits after `count` tokens."""
        options = self.options
        return bool(
            self.has_own_rows
            or len(self.suppressed)
            or count < options.min_length
            or options.temperature is not None
            or options.logits_processor is not None
            or self.prefixes is not None
        )

    def bans(self) -> list[str]:
        """Names of the options in use that can ban tokens."""
        options = self.options
        is_set = {
            "suppress_tokens": options.suppress_tokens,
            "suppress_sequences": options.suppress_sequences,
            "no_repeat_ngram_size": options.no_repeat_ngram_size,
            "min_length": options.min_length,
            "constraint": options.constraint is not None,
            "logits_processor": options.logits_processor is not None,
        }
        return [name for name, value in is_set.items() if value]

    def apply(
        self,
        logits: NDArray[np.float32],
        sentences: NDArray[np.int64],
        tokens: list[NDArray[np.int64]],
        count: int,
    ) -> NDArray[np.float32]:
        """logits (N, V), changed in place or replaced.

        Row i continues tokens[i], of which `count` come after the forced prefix, in sentence
        sentences[i] of the batch.
        """
        options = self.options
        if options.logits_processor is not None:
            logits = processed(logits, options.logits_processor)
        if self.has_own_rows:
            for row, sentence, own in zip(logits, sentences, tokens, strict=True):
                self._apply_to_row(row, int(self.numbers[sentence]), own)
        if len(self.suppressed):
            logits[:, self.suppressed] = -np.inf
        if count < options.min_length:
            logits[:, self.end_tokens] = -np.inf
        if options.temperature is not None:
            cool(logits, options.temperature)
        if self.prefixes is not None:
            for i, (sentence, own) in enumerate(zip(sentences, tokens, strict=True)):
                self._lean_towards_prefix(logits[i], self.prefixes[sentence], own)
        return logits

    def _apply_to_row(self, row, number, tokens):
        options = self.options
        if options.repetition_penalty != 1:
            there = np.unique(tokens)
            old = row[there].astype(np.float64)
            new = np.where(
                old > 0, old / options.repetition_penalty, old * options.repetition_penalty
            )
            row[there] = np.where(
                np.isinf(old), old, new.clip(-_checks.FLOAT32_MAX, _checks.FLOAT32_MAX)
            )
        if options.no_repeat_ngram_size:
            row[repeating(tokens, options.no_repeat_ngram_size)] = -np.inf
        for *first, last in options.suppress_sequences:
            if not first or tokens[-len(first) :].tolist() == first:
                row[last] = -np.inf
        if options.constraint is not None:
            allowed = options.constraint(number, tokens.copy())
            if allowed is not None:
                allowed = as_allowed(allowed, len(row))
                banned = np.full(len(row), -np.inf, np.float32)
                banned[allowed] = row[allowed]
                row[:] = banned

    def _lean_towards_prefix(self, row, prefix, tokens):
        place = len(tokens)
        if place >= len(prefix) or not np.array_equal(tokens, prefix[:place]):
            return
        if np.isneginf(row).all():  # everything is banned, and what is left of p is no number
            return
        bias = self.options.prefix_bias
        p = np.exp(ops.log_softmax(row).astype(np.float64)) * (1 - bias)
        p[prefix[place]] += bias
        with np.errstate(divide="ignore"):
            row[:] = np.log(p)


def processed(
    logits: NDArray[np.float32], processor: Callable[[ArrayLike], ArrayLike | None]
) -> NDArray[np.float32]:
    """logits (N, V) as a logits_processor gives them back, or as it has changed them."""
    shape = logits.shape
    given = processor(logits)
    if given is None:
        return logits
    name, because = "logits_processor's result", ("the logits", shape)
    changed = _checks.as_float32("generate", name, given, shape, because)
    return logits if changed is logits else changed.copy()  # the caller may keep its own


def cool(logits: NDArray[np.float32], temperature: float) -> None:
    """logits / temperature, each row less its maximum, so that nothing overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        logits -= logits.max(axis=1, keepdims=True).clip(-_checks.FLOAT32_MAX)
        logits /= np.float32(max(temperature, _checks.FLOAT32_TINY))


def refuse_no_numbers(logits: NDArray[np.float32]) -> None:
    """Raise ValueError where no token can be chosen because logits are NaN or infinite."""
    if np.isnan(logits).any() or np.isposinf(logits).any():
        raise ValueError("generate: the model's logits are NaN or infinite, expected numbers")


def as_allowed(ids: Iterable[int], vocabulary: int) -> NDArray[np.int64]:
    """What a constraint returned, as token ids."""
    this, name = "generate", "constraint's result"
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise TypeError(f"{this}: {name} is {ids!r}, expected token ids or None")
    if not isinstance(ids, np.ndarray):
        ids = list(ids)
    return _checks.as_integers(this, name, ids, 0, vocabulary - 1, ("tokens",))


def repeating(tokens: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The tokens that would make the last `size` tokens an n-gram that is there already."""
    if len(tokens) < size:
        return tokens[:0]
    ngrams = np.lib.stride_tricks.sliding_window_view(tokens, size)
    last = tokens[len(tokens) - size + 1 :]
    return ngrams[(ngrams[:, :-1] == last).all(axis=1), -1]
