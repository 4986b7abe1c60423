"""What is done to logits before the softmax: penalties and bans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, ops

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
            logits = self._processed(logits)
        if self.has_own_rows:
            for row, sentence, own in zip(logits, sentences, tokens, strict=True):
                self._apply_to_row(row, int(self.numbers[sentence]), own)
        if len(self.suppressed):
            logits[:, self.suppressed] = -np.inf
        if count < options.min_length:
            logits[:, self.end_tokens] = -np.inf
        if options.temperature is not None:
            logits /= np.float32(options.temperature)
        if self.prefixes is not None:
            for i, (sentence, own) in enumerate(zip(sentences, tokens, strict=True)):
                self._lean_towards_prefix(logits[i], self.prefixes[sentence], own)
        return logits

    def _processed(self, logits):
        this = "generate"
        shape = logits.shape
        changed = self.options.logits_processor(logits)
        if changed is None:
            return logits
        because = ("the logits", shape)
        changed = _checks.as_float32(this, "logits_processor's result", changed, shape, because)
        return changed if changed.flags.writeable else changed.copy()

    def _apply_to_row(self, row, number, tokens):
        options = self.options
        if options.repetition_penalty != 1:
            there = np.unique(tokens)
            penalty = np.float32(options.repetition_penalty)
            row[there] = np.where(row[there] > 0, row[there] / penalty, row[there] * penalty)
        if options.no_repeat_ngram_size:
            row[repeating(tokens, options.no_repeat_ngram_size)] = -np.inf
        for *first, last in options.suppress_sequences:
            if not first or tokens[-len(first) :].tolist() == first:
                row[last] = -np.inf
        if options.constraint is not None:
            allowed = options.constraint(number, tokens.copy())
            if allowed is not None:
                allowed = _checks.as_token_ids(
                    "generate", "constraint's result", np.array(list(allowed), np.int64), row.shape
                )
                banned = np.full(len(row), -np.inf, np.float32)
                banned[allowed] = row[allowed]
                row[:] = banned

    def _lean_towards_prefix(self, row, prefix, tokens):
        place = len(tokens)
        if place >= len(prefix) or not np.array_equal(tokens, prefix[:place]):
            return
        bias = self.options.prefix_bias
        p = np.exp(ops.log_softmax(row).astype(np.float64)) * (1 - bias)
        p[prefix[place]] += bias
        with np.errstate(divide="ignore"):
            row[:] = np.log(p)


def repeating(tokens: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The tokens that would make the last `size` tokens an n-gram that is there already."""
    if len(tokens) < size:
        return tokens[:0]
    ngrams = np.lib.stride_tricks.sliding_window_view(tokens, size)
    last = tokens[len(tokens) - size + 1 :]
    return ngrams[(ngrams[:, :-1] == last).all(axis=1), -1]
