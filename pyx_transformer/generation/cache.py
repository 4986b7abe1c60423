"""Keys and values of the tokens so far, kept so that each new token is computed alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks
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

        Raises ValueError where learned positions do not reach the capacity, and MemoryError where
        there is no room for it.
        """
        config = model.config
        model.check_length("KeyValueCache", "capacity is", capacity)
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

        slots and counts (B,), no slot twice. The rows are those that decoding everything at once
        would give, to the bit. Raises ValueError, and changes nothing, for ids outside the
        vocabulary, sizes that do not fit, or where a slot would hold more than the capacity.
        """
        this = "KeyValueCache.extend"
        last_slot = len(self.lengths) - 1
        slots = _checks.as_integers(this, "slots", slots, 0, last_slot, ("B",))
        counts = _checks.as_integers(
            this, "counts", counts, 0, math.inf, slots.shape, ("slots", slots.shape)
        )
        ids = _checks.as_token_ids(
            this, "ids", ids, self.model.tgt_embedding.weight.shape, (int(counts.sum()),)
        )
        offsets = self.lengths[slots]
        totals = offsets + counts
        if (most := int(totals.max(initial=0))) > self.capacity:
            raise ValueError(
                f"{this}: a sequence would have {most} tokens, expected at most "
                f"capacity = {self.capacity}"
            )
        steps = Sequences(np.cumsum(counts) - counts, counts, int(counts.max(initial=0)), True)
        places = np.repeat(offsets - steps.starts, counts) + np.arange(len(ids))
        starts = self._starts[slots]
        rows = self.model.decoder.apply(
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
        self.lengths[slots] = totals  # not before: an interrupted pass has added nothing
        return rows
