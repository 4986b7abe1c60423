"""Keys and values of the tokens so far, kept so that each new token is computed alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, _runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.generation.protocols import Decoding
    from pyx_transformer.sequences import KeysValues


class KeyValueCache:
    """What the decoder remembers of a batch: `width` slots per sentence, of `capacity` tokens.

    Slot s belongs to sentence s // width. The memory's keys and values, one `KeysValues` per layer
    from the decoder's `project`, are computed once, and shared by the slots of a sentence; a
    language model has none. Those of the target are written in place by `extend`, and never
    copied: with several slots per sentence, a table says for each slot where the keys of its past
    lie, in its own slot or in those of its ancestors, and `reorder` copies that. Sequences that
    are done are just no longer named. Rows of a slot's keys are (H, capacity, K), so that a head
    reads its past in one run.
    """

    def __init__(
        self,
        model: Decoding,
        sentences: int,
        capacity: int,
        *,
        width: int = 1,
        memory: list[KeysValues] | None = None,
    ):
        """Raises TypeError or ValueError for sizes and a memory that do not fit the model or each
        other, and where learned positions do not reach the capacity; MemoryError where there is no
        room for it."""
        this = "KeyValueCache"
        sentences = _checks.as_integer(this, "sentences", sentences, minimum=0)
        capacity = _checks.as_integer(this, "capacity", capacity, minimum=0)
        width = _checks.as_integer(this, "width", width, minimum=1)
        check_memory(this, model, sentences, memory)
        model.check_length(this, "capacity is", capacity)
        slots, stack = sentences * width, model.decoder
        self.model = model
        self.capacity = capacity
        self.width = width
        self.lengths = np.zeros(slots, np.int64)  # tokens held, by slot
        self._longest = 0  # no slot holds more than this
        sizes = [layer.head_size for layer in stack.in_order]
        nothing = [None] * len(sizes)
        try:
            caches = [
                np.empty((2, slots, stack.num_kv_heads, capacity, size), np.float32)
                for size in sizes
            ]
            arrays = [
                _runtime.kernels.LayerArrays(
                    keys,
                    values,
                    memory_keys=None if known is None else known.keys,
                    memory_values=None if known is None else known.values,
                )
                for (keys, values), known in zip(caches, memory or nothing, strict=True)
            ]
            self._key_rows = None if width == 1 else np.zeros((slots, capacity), np.int64)
        except (MemoryError, OverflowError, ValueError) as error:
            raise MemoryError(
                f"{this}: no memory for {slots} sequences of {capacity} tokens"
            ) from error
        self._decoder = _runtime.kernels.Decoder(
            stack.compiled(),
            arrays,
            width=width,
            cache_rows=stack.num_kv_heads * capacity,
            lengths=self.lengths,
            key_rows=self._key_rows,
            memory_starts=memory[0].starts if memory else None,
            memory_counts=memory[0].counts if memory else None,
        )
        self._reach = -1  # positions that the decoder's tables have; none yet

    def extend(
        self, ids: NDArray[np.int64], slots: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Decode the next counts[i] tokens of slot slots[i], ids (N,) -> rows (N, d_model).

        slots and counts (B,), no slot twice. The rows are those that decoding everything at once
        would give, to the bit. Raises TypeError or ValueError, and changes nothing, for ids outside
        the vocabulary, slots that do not exist or come twice, sizes that do not fit, or where a
        slot would hold more than the capacity.
        """
        this = "KeyValueCache.extend"
        last_slot = len(self.lengths) - 1
        slots = _checks.as_integers(this, "slots", slots, 0, last_slot, ("B",))
        there, times = np.unique(slots, return_counts=True)
        if (times > 1).any():
            raise ValueError(
                f"{this}: slots holds {there[times > 1][0]} twice, expected each slot once"
            )
        counts = _checks.as_integers(
            this, "counts", counts, 0, math.inf, slots.shape, ("slots", slots.shape)
        )
        table = self.model.side("tgt").tokens.weight
        ids = _checks.as_token_ids(this, "ids", ids, table.shape, (int(counts.sum()),))
        if (most := int((self.lengths[slots] + counts).max(initial=0))) > self.capacity:
            raise ValueError(
                f"{this}: a sequence would have {most} tokens, expected at most "
                f"capacity = {self.capacity}"
            )
        return self.append(ids, slots, counts)

    def append(self, ids, slots, counts, cross_weights=None):
        """`extend`, unchecked. cross_weights (groups, H, rows, S), zeros, takes the weights of the
        last layer's cross-attention: a group is a run of slots of one sentence."""
        self._longest += int(counts.max(initial=0))
        self._reach_to(min(self._longest, self.capacity))
        out = np.empty((len(ids), self.model.config.d_model), np.float32)
        threads = _runtime.get_num_threads()
        self._decoder.append(out, ids, slots, counts, cross_weights, threads)
        return out

    def append_best(
        self, logits, beams, slots, sums, tokens, token_counts, token_scores, done, end_tokens
    ):
        """Decode the best continuations of the rows of logits (N, V), `beams` of each sentence,
        again and again, in place, until one would end or there are too few, one column of
        token_scores is left, or a table of positions has to grow; how many times.

        `done` columns of token_scores are filled. See `Beams` of the kernels.
        """
        most = token_scores.shape[1] - done - 1
        if most <= 0:
            return 0
        self._reach_to(min(self._longest + 1, self.capacity))
        steps = self._decoder.append_best(
            logits,
            self.model.output_projection.packed,
            _runtime.kernels.Beams(
                beams, sums, tokens, token_counts, token_scores, done, slots, end_tokens
            ),
            min(most, self._reach - self._longest),
            _runtime.get_num_threads(),
        )
        self._longest += steps
        return steps

    def _reach_to(self, length):
        """Give the decoder tables for positions below `length`."""
        if length <= self._reach:
            return
        side = self.model.side("tgt")
        positions, tables = side.position_table(length), self.model.decoder.tables(length)
        reaches = [len(table) for table in (positions, tables) if table is not None]
        self._reach = min(reaches, default=self.capacity)
        norm = None if side.norm is None else side.norm.parameters
        self._decoder.embed_with(side.tokens.weight, side.scale, positions, norm, tables)

    def reorder(self, slots: NDArray[np.int64], parents: NDArray[np.int64]) -> None:
        """Let slots[i] continue what parents[i], of the same sentence, holds."""
        if self._key_rows is not None:
            held = int(self.lengths[parents].max(initial=0))
            self._key_rows[slots, :held] = self._key_rows[parents, :held]
        self.lengths[slots] = self.lengths[parents]


def check_memory(
    this: str,
    model: Decoding,
    sentences: int,
    memory: list[KeysValues] | None,
) -> None:
    """Raise ValueError unless each layer with cross-attention has a memory of these sentences."""
    if not model.has_encoder:
        if memory is not None:
            raise ValueError(f"{this}: memory was given, expected None for a language model")
        return
    layers = model.config.decoder.num_layers
    if memory is None or len(memory) != layers:
        came = "None" if memory is None else f"a list of {len(memory)}"
        raise ValueError(
            f"{this}: memory is {came}, expected the keys and values of {layers} layers from the "
            "decoder's project"
        )
    for layer in memory:
        if len(layer.counts) != sentences:
            raise ValueError(
                f"{this}: memory is of {len(layer.counts)} sentences, expected {sentences} as in "
                "sentences"
            )
