"""Sentences that are decoded side by side, those that wait taking the places of those that end."""

from __future__ import annotations

import secrets
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyx_transformer import _runtime
from pyx_transformer.generation.cache import decoder_cache, remember
from pyx_transformer.generation.hooks import Hooks
from pyx_transformer.generation.results import Hypothesis
from pyx_transformer.sequences import Sequences

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from pyx_transformer.generation.options import GenerationOptions
    from pyx_transformer.generation.protocols import Decoding

# Hypotheses in play. More rows at once share more of what is read of the weights, and take more
# memory.
MOST_ROWS = 256
# Tokens, of sources and of all rows, that the sentences in play may hold.
MOST_TOKENS = 1 << 16
# Tokens that are encoded, or prompts that are read, at once.
PASS_TOKENS = 1 << 12
# A search counts no further.
LONGEST = 1 << 60


class Waiting(NamedTuple):
    """A sentence to decode: the caller's number, the source's ids (a language model's are the
    prompt), what its hypotheses begin with, and how many tokens may follow."""

    number: int
    source: NDArray[np.int64]
    prefix: NDArray[np.int64]
    max_length: int


class Searching:
    """One generation: see `hypotheses`."""

    def __init__(self, model: Decoding, options: GenerationOptions):
        self.model = model
        self.options = options
        self.width = options.branches * options.beam_size
        self.most_tokens = options.max_batch_tokens or MOST_TOKENS
        self.cache = decoder_cache(model)
        self.seed = secrets.randbits(64) if options.seed is None else options.seed
        start = options.start_of(model.config)
        self.search = _runtime.kernels.Search(
            self.cache,
            model.output_projection.packed,
            options,
            Hooks(options),
            start_id=-1 if start is None else start,
            end_tokens=options.end_tokens or (model.config.end_id,),
        )

    def hypotheses(
        self, sentences: Iterable[Waiting], pause: int | None = None
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """The number of each sentence and what was found for it, as they end.

        Sentences begin in their order, as many as may be in play; whenever an eighth of the places
        is free, waiting ones take them. With a pause, -1 and nothing also after so many steps.
        """
        waiting = deque(sentences)
        try:
            while waiting or len(self.search):
                coming = []
                rows = len(self.search) * self.width
                if not rows or rows <= MOST_ROWS - MOST_ROWS // 8:
                    coming = self._next(waiting)
                    self._begin(coming)
                steps = 1 if coming and waiting else pause or LONGEST
                for sentence in self.search.run(steps, _runtime.get_num_threads()):
                    yield sentence.number, self._best(sentence.found)
                if pause is not None:
                    yield -1, []
        finally:
            self.search.close()

    def _next(self, waiting: deque[Waiting]) -> list[Waiting]:
        """Those that begin together: as many as there are places for and a pass takes."""
        coming: list[Waiting] = []
        rows, held, tokens = len(self.search) * self.width, self.search.may_hold(), 0
        while waiting:
            source, prefix = len(waiting[0].source), len(waiting[0].prefix)
            rows += self.width
            usual = min(waiting[0].max_length, _runtime.kernels.USUAL_LENGTH)
            held += self.width * (prefix + usual)
            held += source if self.model.has_encoder else 0
            tokens += max(source, prefix)
            is_first = rows == self.width
            if not is_first and (rows > MOST_ROWS or held > self.most_tokens):
                break
            if coming and tokens > PASS_TOKENS:
                break
            coming.append(waiting.popleft())
        return coming

    def _begin(self, coming: list[Waiting]) -> None:
        """Encode the sources, and put the sentences in play."""
        memories = [None] * len(coming)
        if coming and self.model.has_encoder:
            model: Any = self.model
            sources = Sequences.of_counts(np.array([len(one.source) for one in coming]))
            ids = np.concatenate([one.source for one in coming])
            rows = model.encoder.apply(
                model.side("src").apply(ids, sources.position_ids()), sources
            )
            memories = remember(self.cache, self.model, rows, sources)
        for one, memory in zip(coming, memories, strict=True):
            keys = None
            if self.options.is_sampling:
                keys = random_keys(self.seed, one.source, self.options.branches)
            longest = min(one.max_length, LONGEST)
            self.search.add(one.number, one.prefix, longest, memory, keys)

    def _best(self, found) -> list[Hypothesis]:
        """The hypotheses asked for, of what each unit found."""
        if self.options.branches == 1:
            best = found[0][: self.options.num_hypotheses]
        else:
            best = [one for unit in found for one in unit[:1]]
        return [
            Hypothesis(one.tokens, one.is_finished, one.score, one.token_scores) for one in best
        ]


def random_keys(seed: int, source: NDArray[np.int64], samples: int) -> NDArray[np.uint64]:
    """The Philox key of each sample of a source, (samples, 2): it depends on the seed, the source's
    ids and the sample's number alone."""
    return np.array(
        [
            np.random.SeedSequence([seed, *source.tolist()], spawn_key=(sample,)).generate_state(
                2, np.uint64
            )
            for sample in range(samples)
        ]
    )
