"""Keys and values of the tokens so far, kept so that each new token is computed alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer._kinds import as_list
from pyx_transformer.generation.checks import check_model
from pyx_transformer.sequences import KeysValues

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.generation.protocols import Decoding
    from pyx_transformer.sequences import Sequences


class KeyValueCache:
    """What the decoder remembers of some sequences, each decoded some tokens at a time.

    Keys and values lie in pages that sequences take as they grow. The memory's, one `KeysValues`
    per layer from the decoder's `project`, are computed once; a language model has none.
    """

    def __init__(self, model: Decoding, sequences: int, *, memory: list[KeysValues] | None = None):
        """Raises TypeError or ValueError for a number and a memory that do not fit the model or
        each other; MemoryError where there is no room for it."""
        this = "KeyValueCache"
        check_model(this, model)
        sequences = _checks.as_integer(this, "sequences", sequences, minimum=0)
        if memory is not None:
            memory = as_list(this, "memory", memory, "keys and values")
            for i, known in enumerate(memory):
                _checks.as_kind(this, f"memory[{i}]", known, KeysValues)
        check_memory(this, model, sequences, memory)
        self.model = model
        self._cache = decoder_cache(model)
        self._memories = [None] * sequences
        try:
            self._sequences = [self._cache.sequence() for _ in range(sequences)]
            if memory:
                self._memories = self._cache.memories(memory[0].counts)
                for layer, known in enumerate(memory):
                    self._cache.remember(layer, self._memories, known.keys, known.values)
        except (OverflowError, ValueError) as error:
            raise MemoryError(f"{this}: no memory for {sequences} sequences") from error

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens that each sequence holds."""
        return np.array([sequence.length for sequence in self._sequences], np.int64)

    def extend(
        self, ids: NDArray[np.int64], sequences: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Decode the next counts[i] tokens of sequence sequences[i], ids (N,) -> rows (N, d_model).

        sequences and counts (B,), none twice. The rows are those that decoding everything at once
        would give, to the bit. Raises TypeError or ValueError, and changes nothing, for ids outside
        the vocabulary, sequences that do not exist or come twice, sizes that do not fit, or where
        learned positions do not reach; MemoryError where there is no room.
        """
        this = "KeyValueCache.extend"
        last = len(self._sequences) - 1
        sequences = _checks.as_integers(this, "sequences", sequences, 0, last, ("B",))
        there, times = np.unique(sequences, return_counts=True)
        if (times > 1).any():
            raise ValueError(
                f"{this}: sequences holds {there[times > 1][0]} twice, expected each once"
            )
        counts = _checks.as_integers(
            this, "counts", counts, 0, math.inf, sequences.shape, ("sequences", sequences.shape)
        )
        table = self.model.side("tgt").tokens.weight
        ids = _checks.as_token_ids(this, "ids", ids, table.shape, (int(counts.sum()),))
        most = int((self.lengths[sequences] + counts).max(initial=0))
        self.model.check_length(this, "a sequence would have length", most)
        out = np.empty((len(ids), self.model.config.d_model), np.float32)
        self._cache.append(
            out,
            ids,
            [self._sequences[i] for i in sequences],
            counts,
            [self._memories[i] for i in sequences],
            None,
            _runtime.get_num_threads(),
        )
        return out


def decoder_cache(model: Decoding):
    """An empty cache for the model's decoder, which embeds its tokens as the model does."""
    side, decoder = model.side("tgt"), model.decoder
    norm = None if side.norm is None else side.norm.parameters

    def embedding_of(length):
        positions, tables = side.position_table(length), decoder.tables(length)
        reaches = [len(table) for table in (positions, tables) if table is not None]
        reach = min(reaches, default=np.iinfo(np.intp).max)
        return side.tokens.weight, side.scale, positions, norm, tables, reach

    return _runtime.kernels.Cache(decoder.compiled(), embedding_of)


def remember(cache, model: Decoding, rows: NDArray[np.float32], sources: Sequences) -> list:
    """The memories of these sources, from the encoder's rows (N, d_model): a layer at a time."""
    memories = cache.memories(sources.counts)
    for number, layer in enumerate(model.decoder.in_order):
        if layer.cross_attention is not None:
            known = layer.cross_attention.project(rows, sources)
            cache.remember(number, memories, known.keys, known.values)
            del known  # before the next layer's are there
    return memories


def check_memory(
    this: str,
    model: Decoding,
    sequences: int,
    memory: list[KeysValues] | None,
) -> None:
    """Raise ValueError unless each layer with cross-attention has a memory of these sequences."""
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
        if len(layer.counts) != sequences:
            raise ValueError(
                f"{this}: memory is of {len(layer.counts)} sequences, expected {sequences} as in "
                "sequences"
            )
