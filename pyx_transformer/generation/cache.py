"""Keys and values of the tokens so far, kept so that each new token is computed alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.attention import KeysValues, Sequences

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.transformer import Transformer


class KeyValueCache:
    """What the decoder remembers of a batch: one slot per sequence, room for `capacity` tokens.

    The memory's keys and values are computed once, here. Those of the target are written in place
    by `extend`; nothing is copied from step to step, and sequences that are done are just no
    longer named. Rows of a slot's keys are (H, capacity, K), so that a head reads its past in one
    run.
    """

    def __init__(
        self, model: Transformer, memory: NDArray[np.float32], sources: Sequences, capacity: int
    ):
        """memory: the encoder's rows (N, d_model) of the sequences `sources`.

        Raises MemoryError where there is no room for the capacity.
        """
        config = model.config
        batch = len(sources.counts)
        shape = (batch, config.num_heads, capacity, config.d_model // config.num_heads)
        try:
            self._keys = [np.empty(shape, np.float32) for _ in model.decoder.layers]
            self._values = [np.empty(shape, np.float32) for _ in model.decoder.layers]
        except (MemoryError, OverflowError, ValueError) as error:
            raise MemoryError(
                f"KeyValueCache: no memory for {batch} sequences of {capacity} tokens"
            ) from error
        self.model = model
        self.capacity = capacity
        self.lengths = np.zeros(batch, np.int64)  # tokens held, by slot
        self._starts = np.arange(batch) * (config.num_heads * capacity)
        self._memory = model.decoder.project(memory, sources)

    def extend(
        self, ids: NDArray[np.int64], slots: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Decode the next counts[i] tokens of slot slots[i], ids (N,) -> rows (N, d_model).

        The rows are those that decoding everything at once would give, to the bit. Raises
        ValueError, and changes nothing, where a slot would hold more than the capacity.
        """
        offsets = self.lengths[slots]
        totals = offsets + counts
        if (most := int(totals.max(initial=0))) > self.capacity:
            raise ValueError(
                f"KeyValueCache.extend: a sequence would have {most} tokens, expected at most "
                f"capacity = {self.capacity}"
            )
        self.lengths[slots] = totals
        steps = Sequences(np.cumsum(counts) - counts, counts, int(counts.max(initial=0)), True)
        places = np.repeat(offsets - steps.starts, counts) + np.arange(len(ids))
        starts = self._starts[slots]
        return self.model.decoder.apply(
            self.model.embed_target(ids, places),
            steps,
            [
                known._replace(starts=known.starts[slots], counts=known.counts[slots])
                for known in self._memory
            ],
            [
                KeysValues(keys, values, starts, totals)
                for keys, values in zip(self._keys, self._values, strict=True)
            ],
            offsets,
        )
