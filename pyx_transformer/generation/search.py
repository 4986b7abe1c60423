"""The step loop that greedy decoding, beam search and sampling share.

A sentence is decoded by one unit or, where samples or alternatives are asked for, by several. A
unit has up to beam_size rows, each a hypothesis in play, one below the other in order of rank; the
rows of all units that are not done make up the step's batch. A row's keys and values are in slot
unit * beam_size + rank of the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyx_transformer import _runtime
from pyx_transformer.generation.cache import KeyValueCache
from pyx_transformer.generation.logits import LogitsRules, refuse_no_numbers
from pyx_transformer.generation.results import Hypothesis
from pyx_transformer.generation.sampling import draw, uniform_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.generation.options import GenerationOptions
    from pyx_transformer.generation.protocols import Decoding
    from pyx_transformer.sequences import KeysValues


class Sentences(NamedTuple):
    """What a batch of sentences, none of them with an empty source, is decoded from."""

    numbers: NDArray[np.int64]  # the caller's
    prefixes: list[NDArray[np.int64]]  # what hypotheses begin with, forced or not
    memory: list[KeysValues] | None  # of each decoder layer
    sources: list[NDArray[np.int64]]  # token ids, from which samples are seeded


class Search:
    """The search for all sentences of one batch; `run` gives what each unit has found."""

    def __init__(
        self,
        model: Decoding,
        sentences: Sentences,
        options: GenerationOptions,
        max_length: int,
    ):
        batch = len(sentences.numbers)
        end_tokens = (model.config.end_id,) if options.end_tokens is None else options.end_tokens
        self.model = model
        self.sentences = sentences
        self.options = options
        self.max_length = max_length
        self.end_tokens = np.array(end_tokens, np.int64)
        self.is_sampling = options.is_sampling
        self.beams = options.beam_size
        self.branches = options.branches
        self.enough = max(1, int(options.beam_size * options.patience + 0.5))
        self.prefixes = sentences.prefixes
        if options.prefix_bias:
            self.prefixes = [prefix[:0] for prefix in sentences.prefixes]
        self.rules = LogitsRules(
            options,
            self.end_tokens,
            sentences.numbers,
            sentences.prefixes if options.prefix_bias else None,
        )
        self.prefix_lengths = np.array([len(prefix) for prefix in self.prefixes], np.int64)
        capacity = int(self.prefix_lengths.max(initial=0)) + max_length
        width = self.branches * self.beams
        self.cache = KeyValueCache(model, batch, capacity, width=width, memory=sentences.memory)
        self.uniform = None
        if self.is_sampling:
            self.uniform = uniform_numbers(
                options.seed, sentences.sources, self.branches, max_length
            )
        # Candidates that a unit's step looks at. Greedy search ends with the first end token, and
        # needs no candidate behind it.
        self.most = self.beams * (1 + len(self.end_tokens))
        if self.beams == self.enough == 1 and options.early_stopping is True:
            self.most = 1
        self.most = min(self.most, model.config.tgt_vocab_size * self.beams)
        self.is_plain = (
            not options.is_sampling
            and not options.coverage_penalty
            and options.on_token is None
            and options.stop_when is None
        )
        self.count = 0  # tokens after the prefix
        self.found: list[list[Hypothesis]] = [[] for _ in range(batch * self.branches)]
        self.streamed = [0] * batch
        # One entry per row, first one row for the prefix of each sentence.
        self.unit = np.arange(batch) * self.branches
        self.slot = np.arange(batch) * width
        self.length = self.prefix_lengths.copy()
        self.sum = np.zeros(batch)
        self.last = np.empty(0, np.int64)  # tokens
        self.tokens = np.zeros((batch, capacity), np.int64)
        self.token_scores = np.zeros((batch, max_length), np.float32)
        for row, prefix in zip(self.tokens, self.prefixes, strict=True):
            row[: len(prefix)] = prefix
        self.coverage = None
        if options.coverage_penalty and sentences.memory:
            self.coverage = np.zeros((batch, sentences.memory[0].keys.shape[2]))

    def run(self) -> list[list[Hypothesis]]:
        """The hypotheses of each unit, best first."""
        if self.max_length == 0:
            self.cut(range(len(self.unit)))
            return self.found
        logits = self.first_logits()
        while True:
            if not self.rules.are_in_force(self.count):
                if self.goes_straight_on():
                    self.run_straight(logits)
            else:
                sentences = self.unit // self.branches
                logits = self.rules.apply(logits, sentences, self.known_tokens(), self.count)
            if self.uniform is not None:
                self.sample(logits, self.uniform[self.unit, self.count])
            elif self.count == 0 and self.options.return_alternatives:
                self.branch_out(logits)
            else:
                self.choose(logits)
            if not len(self.unit):
                return self.found
            logits = None  # there is room for the next ones only
            logits = self.next_logits()

    # Steps through the model.

    def first_logits(self):
        """Start and prefix of each sentence in one pass, then its rows."""
        start = self.model.config.start_id
        ids = np.concatenate([[start, *prefix] for prefix in self.prefixes]).astype(np.int64)
        counts = self.prefix_lengths + 1
        rows = self.forward(ids, counts)[counts.cumsum() - 1]
        if self.is_sampling and self.branches > 1:
            rows = np.repeat(rows, self.branches, axis=0)
            self.take(
                np.repeat(np.arange(len(self.unit)), self.branches),
                np.arange(len(rows)),
                np.zeros(len(rows), np.int64),
            )
        return self.model.output_projection.apply(rows)

    def next_logits(self):
        rows = self.forward(self.last, np.ones_like(self.last))
        return self.model.output_projection.apply(rows)

    def forward(self, ids, counts):
        """Rows of the decoder for the next counts[i] tokens of each row."""
        if self.coverage is None:
            return self.cache.append(ids, self.slot, counts)
        sentence = self.unit // self.branches
        first = run_starts(sentence)
        places = np.add.reduceat(counts, first)
        heads, source = self.model.decoder.num_heads, self.coverage.shape[1]
        weights = np.zeros((len(first), heads, int(places.max()), source), np.float32)
        rows = self.cache.append(ids, self.slot, counts, weights)
        means = weights.mean(axis=1, dtype=np.float64)
        group = np.repeat(np.arange(len(first)), places)
        place = np.arange(len(group)) - np.repeat(places.cumsum() - places, places)
        # A prefix's last step chooses the first free token: the steps before chose what was forced.
        self.coverage = self.coverage + means[group, place][counts.cumsum() - 1]
        return rows

    def goes_straight_on(self):
        """Whether steps in which no row ends only replace the rows: each unit has all of its own,
        and has not found enough."""
        if not self.is_plain or (self.count == 0 and self.options.return_alternatives):
            return False
        units = self.unit[run_starts(self.unit)]
        return len(self.unit) == len(units) * self.beams and all(
            len(self.found[unit]) < self.enough for unit in units
        )

    def run_straight(self, logits):
        """All steps in which no row ends, in one compiled call; logits become those after them.
        Rules in force for one of these steps would be so for the first."""
        self.count += self.cache.append_best(
            logits,
            self.beams,
            self.slot,
            self.sum,
            self.tokens,
            self.length,
            self.token_scores,
            self.count,
            self.end_tokens,
        )

    # What becomes of the rows.

    def choose(self, logits):
        """Greedy and beam search: the best candidates of each unit."""
        first = np.arange(len(self.unit)) if self.beams == 1 else run_starts(self.unit)
        values, tokens, parents, scores = self.candidates(logits, first, self.most)
        is_end = self.is_end(tokens)
        if is_end[:, : self.beams].any():
            for unit, column in np.argwhere(is_end[:, : self.beams]):
                parent = parents[unit, column]
                self.finish(parent, values[unit, column], scores[unit, column])
        goes_on = (parents >= 0) & ~is_end
        rank = goes_on.cumsum(axis=1) - 1
        chosen = (goes_on & (rank < self.beams)).nonzero()
        rows = parents[chosen]
        units = self.unit[rows]
        self.go_on(rows, units, rank[chosen], values[chosen], tokens[chosen], scores[chosen])

    def sample(self, logits, numbers):
        """One drawn token for each row."""
        tokens, scores = draw(logits, numbers, self.options)
        if (tokens < 0).any():
            refuse_no_numbers(logits)
        is_end = self.is_end(tokens)
        sums = self.sum + scores
        for row in np.flatnonzero(is_end):
            self.finish(row, sums[row], scores[row])
        rows = np.flatnonzero((tokens >= 0) & ~is_end)
        ranks = np.zeros_like(rows)
        self.go_on(rows, self.unit[rows], ranks, sums[rows], tokens[rows], scores[rows])

    def branch_out(self, logits):
        """The best tokens of each sentence, each for a unit of its own."""
        most = min(self.branches, logits.shape[1])
        values, tokens, _, scores = self.candidates(logits, np.arange(len(self.unit)), most)
        sentence, branch = np.nonzero(tokens >= 0)
        units = sentence * self.branches + branch
        values, tokens, scores = (a[sentence, branch] for a in (values, tokens, scores))
        is_end = self.is_end(tokens)
        for i in np.flatnonzero(is_end):
            self.finish(sentence[i], values[i], scores[i], units[i])
        on = ~is_end
        ranks = np.zeros(np.count_nonzero(on), np.int64)
        self.go_on(sentence[on], units[on], ranks, values[on], tokens[on], scores[on])

    def candidates(self, logits, first, most):
        """The best of each unit, whose rows begin at first: values, tokens, rows, scores."""
        groups = len(first)
        values, scores = np.empty((groups, most)), np.empty((groups, most), np.float32)
        tokens, parents = np.empty((2, groups, most), np.int64)
        _runtime.kernels.candidates(
            values,
            tokens,
            parents,
            scores,
            logits,
            self.sum,
            np.append(first, len(self.unit)),
            _runtime.get_num_threads(),
        )
        if (parents[:, 0] < 0).any():
            refuse_no_numbers(logits)
        return values, tokens, parents, scores

    def go_on(self, parents, units, ranks, sums, tokens, scores):
        """The next rows: each a parent with one more token. Then see which units are done."""
        waiting = set(self.unit.tolist())
        self.take(parents, units, ranks)
        self.sum = sums
        self.last = tokens
        self.tokens[np.arange(len(units)), self.length] = tokens
        self.token_scores[:, self.count] = scores
        self.length = self.length + 1
        self.count += 1
        stays = np.ones(len(units), bool)
        if self.options.stop_when is not None:
            for row in range(len(units)):
                stays[row] = not self.is_stopped(row, self.options.stop_when)
        if self.count == self.max_length:
            self.cut(np.flatnonzero(stays))
            stays[:] = False
        self.leave(stays, waiting)

    def take(self, parents, units, ranks):
        """Rows that continue these parents, in the slots of these ranks of these units."""
        slots = units * self.beams + ranks
        if self.cache.width > 1:
            self.cache.reorder(slots, self.slot[parents])
        self.unit, self.slot = units, slots
        if len(parents) != len(self.length) or (parents != np.arange(len(parents))).any():
            self.sum, self.length = self.sum[parents], self.length[parents]
            self.tokens = self.tokens[parents]
            self.token_scores = self.token_scores[parents]
            if self.coverage is not None:
                self.coverage = self.coverage[parents]

    def leave(self, stays, waiting):
        """Drop the rows that do not stay, and those of the units that are done."""
        rest = set(self.unit[stays].tolist())
        done = waiting - rest
        for unit in rest:
            if self.is_done(unit, stays):
                done.add(unit)
        for unit in done:
            self.found[unit].sort(key=lambda one: -one.score)
            first = unit - unit % self.branches
            siblings = range(first, first + self.branches)
            if not any(other in rest or self.found[other] for other in siblings):
                raise ValueError(self.dead_end(unit))
        if done:
            stays &= ~np.isin(self.unit, list(done))
        if self.options.on_token is not None:
            self.stream(stays, done, self.options.on_token)
        if not stays.all():
            self.unit, self.slot, self.sum = self.unit[stays], self.slot[stays], self.sum[stays]
            self.length, self.last = self.length[stays], self.last[stays]
            self.tokens, self.token_scores = self.tokens[stays], self.token_scores[stays]
            if self.coverage is not None:
                self.coverage = self.coverage[stays]

    def is_done(self, unit, stays):
        """Whether a unit with rows in play needs none of them any more."""
        found = self.found[unit]
        if len(found) < self.enough:
            return False
        if self.options.early_stopping is True:
            return True
        found.sort(key=lambda one: -one.score)
        del found[self.enough :]
        best = self.sum[np.flatnonzero(stays & (self.unit == unit))[0]]
        length = self.count
        if self.options.early_stopping == "never" and self.options.length_penalty > 0:
            length = self.max_length
        return per_length(best, length, self.options.length_penalty) <= found[-1].score

    # Hypotheses.

    def finish(self, row, total, score, unit=None):
        """A row that its end token ends."""
        scores = np.append(self.token_scores[row, : self.count], score)
        self.add(row, self.unit[row] if unit is None else unit, total, scores, True)

    def is_stopped(self, row, stop_when):
        """Ask stop_when about a row, and take it for finished if so."""
        number = self.sentences.numbers[self.unit[row] // self.branches]
        tokens = self.tokens[row, : self.length[row]].copy()
        stopped = stop_when(int(number), tokens)
        if stopped:
            self.keep(row, True)
        return stopped

    def cut(self, rows):
        """Rows that have reached max_length."""
        for row in rows:
            self.keep(row, False)

    def keep(self, row, is_finished):
        """A row as it is."""
        scores = self.token_scores[row, : self.count]
        self.add(row, self.unit[row], self.sum[row], scores, is_finished)

    def add(self, row, unit, total, scores, is_finished):
        options, length = self.options, len(scores)
        score = per_length(total, length, options.length_penalty)
        sentence = unit // self.branches
        if self.coverage is not None and length:
            real = len(self.sentences.sources[sentence])
            with np.errstate(divide="ignore"):
                logs = np.log(np.minimum(self.coverage[row, :real], 1.0))
            score += options.coverage_penalty * float(logs.sum())
        prefix = self.prefix_lengths[sentence]
        tokens = self.tokens[row, : prefix + self.count].copy()
        scores = np.concatenate([np.zeros(prefix, np.float32), scores])
        self.found[unit].append(Hypothesis(tokens, is_finished, score, scores))

    # What the above asks and tells.

    def is_end(self, tokens):
        if len(self.end_tokens) == 1:
            return tokens == self.end_tokens[0]
        return np.isin(tokens, self.end_tokens)

    def known_tokens(self):
        return [row[:length] for row, length in zip(self.tokens, self.length, strict=True)]

    def stream(self, stays, done, on_token):
        """Hand on the tokens that all hypotheses of a unit agree on."""
        known = self.known_tokens()
        for unit in sorted({*done, *self.unit[stays].tolist()}):
            number = int(self.sentences.numbers[unit])
            rivals = [one.sequence for one in self.found[unit]]
            if unit in done:
                agreed = rivals[0]
            else:
                own = np.flatnonzero(stays & (self.unit == unit))
                agreed = common_start(rivals + [known[row] for row in own])
            first = self.prefix_lengths[unit] + self.streamed[unit]
            for token in agreed[first:]:
                on_token(number, int(token))
                self.streamed[unit] += 1

    def dead_end(self, unit):
        number = self.sentences.numbers[unit // self.branches]
        return (
            f"generate: no token is left for sentence {number} after {self.count - 1} tokens, "
            f"expected at least one that {', '.join(self.rules.bans()) or 'the model'} allows"
        )


def per_length(total: float, length: int, penalty: float) -> float:
    """total / length ** penalty, without a limit to the penalty; the total of no token is 0."""
    if length == 0:
        return float(total)
    with np.errstate(all="ignore"):
        return float(np.float64(total) / np.float64(length) ** penalty)


def common_start(sequences: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The longest beginning that all of them share."""
    shortest = min(map(len, sequences))
    table = np.array([sequence[:shortest] for sequence in sequences])
    differs = (table != table[0]).any(axis=0)
    return table[0, : int(differs.argmax()) if differs.any() else shortest]


def run_starts(numbers: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where each run of equal numbers begins."""
    is_first = np.ones(len(numbers), bool)
    np.not_equal(numbers[1:], numbers[:-1], out=is_first[1:])
    return is_first.nonzero()[0]
