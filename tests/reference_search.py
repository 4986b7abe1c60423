"""The float64 specification of generation: greedy, beams, samples and alternatives of one sentence.

Like reference.py it is written to be read, not to be fast: the model is a function from all tokens
so far to the logits of the next one, asked anew at every step. Where the package disagrees with
this file, this file is right.

    search(next_logits, max_length=..., end_tokens=..., beam_size=4, ...).hypotheses

Words. A row is a partial hypothesis. Its tokens are all ids after the start, a prefix included; its
count is how many of them come after the forced prefix, and every length is such a count. Its value
is the sum of the log-probabilities of the tokens counted. A candidate is a row and a next token.

Where a float32 model is compared with this one, a value may fall on the other side of another
value. `Result.margin` says how near any decision was: the smallest gap between two values of which
the larger went first, was let in, or stopped the search. A test takes only cases with
`assume(margin > 1e-4)`: rows of a few tokens differ by about 1e-5 between float32 and float64, so
that no decision beyond that margin can differ, and all the rest of the result has to be equal. A
tie has margin 0: ties are tested with logits that are exactly equal in both.

Points that the options' short descriptions leave open, as decided here:
    - A forced prefix may hold banned tokens. A prefix_bias, which comes after the bans, lets banned
      tokens of the prefix in, and nothing else. A last_token passes over both, and over a row of
      which everything is banned.
    - Where every token of a row is banned, it has no candidates, prefix_bias or not.
    - Coverage counts no step of a forced prefix: nothing was chosen there (so CTranslate2).
    - What max_length cuts off counts beside what is finished, even where the same step finished
      enough hypotheses to stop.
    - early_stopping False and "never" forget all but the N best finished hypotheses whenever they
      ask whether to stop, which is while rows are left. Where patience makes N smaller than
      num_hypotheses, fewer than that may come back.
    - stop_when is asked about the first token of an alternative too.
    - A sample in which every token is banned is left out; the others keep their order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from reference import f64, log_softmax


class Hypothesis(NamedTuple):
    """sequence: ids without start and end, the prefix included. token_scores: one per id, 0.0 in a
    forced prefix, and one for the end where an end token came."""

    sequence: list[int]
    score: float
    token_scores: list[float]
    is_finished: bool


class Result(NamedTuple):
    """hypotheses: none at all where everything was banned, which is an error of `generate`."""

    hypotheses: list[Hypothesis]
    margin: float


class Row(NamedTuple):
    tokens: list[int]
    value: float
    token_scores: list[float]

    def extended(self, token, logp):
        return Row([*self.tokens, token], self.value + logp, [*self.token_scores, logp])


class Candidate(NamedTuple):
    """rank: that of the row. logp: of the token, which adds up to value."""

    value: float
    token: int
    rank: int
    logp: float


def search(next_logits, **options):
    """The Result of one sentence. options are the fields of `Search`."""
    return Search(next_logits, **options).run()


@dataclass
class Search:
    """next_logits(tokens) -> (V,), next_attention(tokens) -> (S,): the last layer's cross-attention
    of the same step, averaged over heads. sentence: what callbacks are told. source_ids: what the
    draws are seeded with besides seed. All else is called as in `generate`; prefix is this
    sentence's own."""

    next_logits: Callable
    max_length: int
    end_tokens: Sequence[int]
    next_attention: Callable | None = None
    sentence: int = 0
    source_ids: Sequence[int] = ()

    beam_size: int = 1
    num_hypotheses: int = 1
    min_length: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = True
    patience: float = 1.0
    coverage_penalty: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    suppress_tokens: Sequence[int] = ()
    suppress_sequences: Sequence[Sequence[int]] = ()
    prefix: Sequence[int] = ()
    prefix_bias: float = 0.0
    last_token: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    num_samples: int | None = None
    seed: int | None = None
    logits_processor: Callable | None = None
    constraint: Callable | None = None
    stop_when: Callable | None = None
    return_alternatives: bool = False

    margin: float = field(default=np.inf, init=False)

    def run(self):
        forced = self.forced_prefix()
        start = Row(forced, 0.0, [0.0] * len(forced))
        if self.max_length == 0:
            hypotheses = [Hypothesis(forced, 0.0, start.token_scores, False)]
        elif self.is_sampling():
            drawn = [self.sample(start, i) for i in range(self.num_samples or 1)]
            hypotheses = [hypothesis for hypothesis in drawn if hypothesis is not None]
        elif self.return_alternatives:
            hypotheses = self.alternatives(start)
        else:
            hypotheses = self.best(self.beam_search([start]), self.num_hypotheses)
        return Result(hypotheses, self.margin)

    def is_sampling(self):
        settings = (self.temperature, self.top_k, self.top_p, self.min_p)
        return any(x is not None for x in (*settings, self.num_samples, self.seed))

    def forced_prefix(self):
        return [] if self.prefix_bias else list(self.prefix)

    def count(self, row):
        return len(row.tokens) - len(self.forced_prefix())

    # How near the decisions were.

    def note_gap(self, a, b):
        """a was preferred to b. Two of -infinity are a tie of both models."""
        if a != b or np.isfinite(a):
            self.margin = min(self.margin, abs(a - b))

    def note_order(self, values):
        """Every one of these was preferred to the next."""
        for a, b in pairwise(values):
            self.note_gap(a, b)

    # The log-probabilities of one step.

    def next_logp(self, rows):
        """log-probabilities (rows, V) of each row's next token; -infinity is never chosen."""
        z = np.stack([f64(self.next_logits(row.tokens)) for row in rows])
        if self.logits_processor is not None:
            processed = self.logits_processor(z)
            z = z if processed is None else f64(processed)
        return np.stack([self.logp(row, z_row) for row, z_row in zip(rows, z, strict=True)])

    def logp(self, row, z):
        if self.last_token is not None and self.count(row) == self.max_length - 1:
            return np.where(np.arange(len(z)) == self.last_token, 0.0, -np.inf)
        z = z.copy()
        for v in set(row.tokens):
            z[v] = z[v] / self.repetition_penalty if z[v] > 0 else z[v] * self.repetition_penalty
        allowed = None
        if self.constraint is not None:
            allowed = self.constraint(self.sentence, row.tokens[:])
        allowed = set(range(len(z)) if allowed is None else allowed)
        for v in range(len(z)):
            if v not in allowed or self.is_banned(row, v):
                z[v] = -np.inf
        if self.temperature is not None:
            z = z / self.temperature
        if not np.max(z) > -np.inf:
            return np.full(len(z), -np.inf)

        logp = log_softmax(z)
        place = len(row.tokens)
        follows = place < len(self.prefix) and row.tokens == list(self.prefix[:place])
        if self.prefix_bias and follows:
            mixed = (1 - self.prefix_bias) * np.exp(logp)
            mixed[self.prefix[place]] += self.prefix_bias
            with np.errstate(divide="ignore"):
                logp = np.log(mixed)
        return logp

    def is_banned(self, row, v):
        tokens, n = [*row.tokens, v], self.no_repeat_ngram_size
        if v in self.suppress_tokens:
            return True
        if v in self.end_tokens and self.count(row) < self.min_length:
            return True
        for sequence in self.suppress_sequences:
            if tokens[-len(sequence) :] == list(sequence):
                return True
        earlier = [tokens[i : i + n] for i in range(len(tokens) - n)]
        return n > 0 and tokens[-n:] in earlier

    # The score of a hypothesis.

    def hypothesis(self, row, is_finished, end=None):
        """The row, which an end token finished (the Candidate `end`), or stop_when, or nobody."""
        value, count, token_scores = row.value, self.count(row), row.token_scores
        if end is not None:
            value, count, token_scores = end.value, count + 1, [*token_scores, end.logp]
        score = value / count**self.length_penalty
        if self.coverage_penalty:
            score += self.coverage_penalty * self.log_coverage(row.tokens, end is not None)
        return Hypothesis(row.tokens, score, token_scores, is_finished)

    def log_coverage(self, tokens, has_end):
        """sum_j log(min(sum_t a_tj, 1)) over the steps t that chose these tokens, and the end.

        j are the places of the source. Wu et al., 2016, equation 14, without its factor.
        """
        free = range(len(self.forced_prefix()), len(tokens) + has_end)
        steps = [self.next_attention(tokens[:t]) for t in free]
        with np.errstate(divide="ignore"):
            return float(np.sum(np.log(np.minimum(np.sum(f64(steps), axis=0), 1.0))))

    def best(self, hypotheses, most):
        """The best of them by score; of equal ones those that came first."""
        ordered = sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)
        self.note_order([hypothesis.score for hypothesis in ordered[: most + 1]])
        return ordered[:most]

    # Beams; greedy is one of them.

    def beam_search(self, rows):
        """All hypotheses of a search from these rows, in the order in which they came."""
        hypotheses = []
        while rows:
            rows, ended = self.step(rows)
            rows, hypotheses = self.settle(rows, hypotheses + ended)
        return hypotheses

    def step(self, rows):
        """One token more: the next rows in order, and the hypotheses that an end token finished."""
        logp = self.next_logp(rows)
        candidates = [
            Candidate(row.value + logp[rank, v], v, rank, logp[rank, v])
            for rank, row in enumerate(rows)
            for v in range(logp.shape[1])
            if logp[rank, v] > -np.inf
        ]
        candidates.sort(key=lambda c: (-c.value, c.token, c.rank))

        ended, following, decided = [], [], 0
        for place, candidate in enumerate(candidates):
            if len(following) == self.beam_size:
                break
            decided = place + 1
            row = rows[candidate.rank]
            if candidate.token not in self.end_tokens:
                following.append(row.extended(candidate.token, candidate.logp))
            elif place < self.beam_size:
                ended.append(self.hypothesis(row, True, candidate))
        self.note_order([candidate.value for candidate in candidates[: decided + 1]])
        return following, ended

    def settle(self, rows, hypotheses):
        """After a step: which rows go on, and all hypotheses so far."""
        stopped = [self.is_stopped(row) for row in rows]
        hypotheses = [
            *hypotheses,
            *(self.hypothesis(row, True) for row, stop in zip(rows, stopped, strict=True) if stop),
        ]
        rows = [row for row, stop in zip(rows, stopped, strict=True) if not stop]
        if rows and self.count(rows[0]) == self.max_length:
            return [], hypotheses + [self.hypothesis(row, False) for row in rows]

        enough = max(1, int(np.floor(self.beam_size * self.patience + 0.5)))
        if not rows or len(hypotheses) < enough:
            return rows, hypotheses
        if self.early_stopping is True:
            return [], hypotheses
        hypotheses = self.best(hypotheses, enough)
        length = self.count(rows[0])
        if self.early_stopping == "never" and self.length_penalty > 0:
            length = self.max_length
        hope = max(row.value for row in rows) / length**self.length_penalty
        self.note_gap(hope, hypotheses[-1].score)
        return ([] if hope <= hypotheses[-1].score else rows), hypotheses

    def is_stopped(self, row):
        return self.stop_when is not None and bool(self.stop_when(self.sentence, row.tokens[:]))

    def alternatives(self, start):
        """The best first tokens, in order, each with the best of a search of its own behind it."""
        logp = self.next_logp([start])[0]
        order = sorted(range(len(logp)), key=lambda v: (-logp[v], v))
        order = [v for v in order if logp[v] > -np.inf]
        self.note_order([logp[v] for v in order[: self.num_hypotheses + 1]])
        found = []
        for v in order[: self.num_hypotheses]:
            if v in self.end_tokens:
                found.append(self.hypothesis(start, True, Candidate(logp[v], v, 0, logp[v])))
                continue
            rows, hypotheses = self.settle([start.extended(v, logp[v])], [])
            found += self.best(hypotheses + self.beam_search(rows), 1)
        return found

    # Samples.

    def sample(self, row, number):
        """The sample of that number, or None where everything was banned."""
        seeds = np.random.SeedSequence([self.seed, *self.source_ids], spawn_key=(number,))
        raw = np.random.Philox(seeds).random_raw(self.max_length)
        uniform = (raw >> 11) * 2.0**-53
        while True:
            logp = self.next_logp([row])[0]
            if np.max(logp) == -np.inf:
                return None
            v = self.draw(logp, uniform[self.count(row)])
            if v in self.end_tokens:
                return self.hypothesis(row, True, Candidate(row.value + logp[v], v, 0, logp[v]))
            row = row.extended(v, logp[v])
            if self.is_stopped(row):
                return self.hypothesis(row, True)
            if self.count(row) == self.max_length:
                return self.hypothesis(row, False)

    def draw(self, logp, uniform):
        """The token at `uniform`, in [0, 1), of what top_k, then top_p, then min_p keep."""
        order = np.array(sorted(range(len(logp)), key=lambda v: (-logp[v], v)))
        p = np.exp(logp[order])
        kept = len(p)
        if self.top_k is not None and self.top_k < kept:
            kept = self.top_k
            self.note_gap(logp[order[kept - 1]], logp[order[kept]])
            p = p[:kept] / np.sum(p[:kept])
        if self.top_p is not None:
            reached = np.cumsum(p)
            kept = 1 + int(np.sum(reached[:-1] < self.top_p))
            for i in range(len(p) - 1):
                # Whether a next token as rare as this is kept or not, no draw can tell.
                if p[i + 1] > 1e-7:
                    self.note_gap(reached[i], self.top_p)
        if self.min_p is not None:
            if self.min_p > 0:
                with np.errstate(divide="ignore"):
                    for share in np.log(p[1:kept]) - np.log(p[0]):
                        self.note_gap(share, np.log(self.min_p))
            kept = int(np.sum(p[:kept] >= self.min_p * p[0]))

        reached = np.cumsum(p[:kept])
        aim = uniform * reached[-1]
        place = int(np.argmax(reached > aim))
        for i in range(kept - 1):
            self.note_gap(reached[i], aim)
        # With these neighbours the token drawn could change places.
        self.note_order(logp[order[max(place - 1, 0) : place + 2]])
        return int(order[place])
