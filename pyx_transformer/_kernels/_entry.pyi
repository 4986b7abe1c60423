"""What every compiled variant of the kernels offers; entry.pyx is its source.

Arrays are float32 and C-contiguous unless said otherwise; outputs come first, already allocated.
Shapes, dtypes and ranges are for the caller to check: here they are trusted.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyx_transformer._kernels._gradients import *

_Floats = NDArray[np.float32]
_Integers = NDArray[np.int64]

ISA_NAME: str
VECTOR_WIDTH: int  # floats in a vector
BIAS_PAD: int  # copies of the edge values on each side of a row of attention biases
MOST_SUB_LAYERS: int  # of a layer
USUAL_LENGTH: int  # tokens that a hypothesis is expected to have, at most
ACTIVATIONS: dict[str | None, int]

class Workspace:
    """Memory of one call: for the entry points' own use."""

def pause_threads() -> None: ...

class PackedLinear:
    """The weight (n, k) and bias (n,) of a linear layer, in the layout that the product reads."""

    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def bias(self) -> _Floats | None: ...
    def __init__(
        self,
        weight: _Floats,
        bias: _Floats | None = None,
        transposed: bool = False,
        n_threads: int = 1,
        softcap: float = 0.0,
    ) -> None: ...
    def unpack(self) -> _Floats: ...
    @staticmethod
    def sizes(out_features: int, in_features: int, bias: bool) -> list[int]: ...
    @property
    def arrays(self) -> list[_Floats]: ...
    @staticmethod
    def of_arrays(
        arrays: Sequence[_Floats], out_features: int, in_features: int, softcap: float
    ) -> PackedLinear: ...

class NormParameters:
    """The weight (d,) and bias (d,) of a layer norm or, with rms=True, of an RMS norm."""

    def __init__(
        self, weight: _Floats | None, bias: _Floats | None, eps: float, rms: bool = False
    ) -> None: ...

def linear(
    out: _Floats,
    x: _Floats,
    packed: PackedLinear,
    factor: _Floats | None,
    residual: _Floats | None,
    activation: int,
    n_threads: int,
) -> None: ...
def layer_norm(
    out: _Floats,
    x: _Floats,
    weight: _Floats | None,
    bias: _Floats | None,
    eps: float,
    n_threads: int,
) -> None: ...
def rms_norm(
    out: _Floats, x: _Floats, weight: _Floats | None, eps: float, n_threads: int
) -> None: ...
def softmax(out: _Floats, x: _Floats, n_threads: int) -> None: ...
def log_softmax(out: _Floats, x: _Floats, n_threads: int) -> None: ...
def activate(out: _Floats, x: _Floats, activation: int, n_threads: int) -> None: ...
def embedding(
    out: _Floats,
    ids: _Integers,
    table: _Floats,
    scale: float,
    positions: _Floats | None,
    position_ids: _Integers | None,
    n_threads: int,
) -> None: ...
def rotate(
    rows: _Floats,
    heads: int,
    head_size: int,
    cosines: _Floats,
    sines: _Floats,
    interleaved: bool,
    position_ids: _Integers,
    inverse: bool,
    n_threads: int,
) -> None: ...

class HeadsJob:
    """The arguments of attention on arrays of heads: for the entry points' own use."""

    def __init__(
        self,
        query: _Floats,
        key: _Floats,
        value: _Floats,
        mask: NDArray[np.bool_] | _Floats | None,
        lengths: _Integers,
        offsets: _Integers,
        is_causal: bool,
        left: int,
        right: int,
        softcap: float,
        scale: float,
        normalisers: _Floats | None,
        bias: _Floats | None = None,
    ) -> None: ...

def attention(
    out: _Floats, weights: _Floats | None, inputs: tuple[Any, ...], n_threads: int
) -> None: ...

class Block:
    """Attention or feed-forward with its weights, and the norms of its sub-layer."""

    def with_norms(
        self,
        before: NormParameters | None,
        after: NormParameters | None,
        sum: NormParameters | None,
    ) -> Block: ...

def attention_block(
    query: PackedLinear,
    key: PackedLinear,
    value: PackedLinear,
    output: PackedLinear,
    *,
    num_heads: int,
    num_kv_heads: int,
    is_cross: bool = False,
    is_causal: bool = False,
    left: int = -1,
    right: int = -1,
    softcap: float = 0.0,
    scale: float,
    rotary: int = -1,
    query_norm: NormParameters | None = None,
    key_norm: NormParameters | None = None,
    distance_bias: _Floats | None = None,
) -> Block: ...
def feed_forward_block(
    linear1: PackedLinear, linear2: PackedLinear, linear3: PackedLinear | None, activation: int
) -> Block: ...

class CompiledLayer:
    """Sub-layers, at most MOST_SUB_LAYERS, one after another or side by side."""

    def __init__(self, blocks: Iterable[Block], side_by_side: bool) -> None: ...

class CompiledStack:
    """Layers one after another on rows of d_model, and the norm after the last one."""

    @property
    def d_model(self) -> int: ...
    def __init__(
        self, layers: Iterable[CompiledLayer], final_norm: NormParameters | None, d_model: int
    ) -> None: ...
    def __len__(self) -> int: ...
    def workspace(self, m: int, n_threads: int) -> int: ...

class LayerArrays:
    """What a layer has of its own in a pass: room for attention weights (B, H, T, S), and the
    memory's keys and values (N, Hkv K)."""

    def __init__(
        self,
        memory_keys: _Floats | None = None,
        memory_values: _Floats | None = None,
        attention: _Floats | None = None,
        cross_attention: _Floats | None = None,
    ) -> None: ...

class Tables:
    """What queries and keys turn by: cosines, sines (positions, pairs), whether interleaved."""

    def __init__(self, tables: Iterable[tuple[_Floats, _Floats, bool]]) -> None: ...
    def __len__(self) -> int: ...

class Pass:
    """One pass of the rows of a batch: what belongs to which sequence, and what is masked."""

    def __init__(
        self,
        starts: _Integers,
        counts: _Integers,
        offsets: _Integers,
        arrays: list[LayerArrays],
        *,
        position_ids: _Integers | None = None,
        tables: Tables | None = None,
        memory_starts: _Integers | None = None,
        memory_counts: _Integers | None = None,
        mask: NDArray[np.bool_] | _Floats | None = None,
        memory_mask: NDArray[np.bool_] | _Floats | None = None,
        memory_is_causal: bool = False,
    ) -> None: ...

def run_stack(
    out: _Floats,
    x: _Floats,
    stack: CompiledStack,
    passing: Pass,
    hidden: list[_Floats] | None,
    n_threads: int,
) -> None: ...
def run_block(
    out: _Floats, x: _Floats, block: Block, passing: Pass | None, n_threads: int
) -> None: ...
def project_memory(
    keys: _Floats,
    values: _Floats,
    key_rows: _Floats,
    value_rows: _Floats,
    block: Block,
    n_threads: int,
) -> None: ...

class Pages:
    """Keys and values of a stack's layers, so many tokens a page."""

    count: int
    nbytes: int

    def bytes_of(self, length: int) -> int: ...

class Past:
    """Where the keys and values of a sequence's tokens lie."""

    length: int

class Cache:
    """A decoder's stack with the keys and values of the sequences that it decodes."""

    own: Pages
    memory: Pages

    def __init__(
        self, stack: CompiledStack, embedding_of: Callable[[int], tuple[Any, ...]] | None
    ) -> None: ...
    def sequence(self) -> Past: ...
    def memories(self, counts: _Integers) -> list[Past]: ...
    def remember(
        self, layer: int, memories: list[Past], keys: _Floats, values: _Floats
    ) -> None: ...
    def append(
        self,
        out: _Floats,
        ids: _Integers,
        pasts: list[Past],
        counts: _Integers,
        memories: list[Past | None],
        cross_weights: _Floats | None,
        n_threads: int,
    ) -> int: ...

class Found:
    """A hypothesis that is complete."""

    tokens: _Integers
    token_scores: _Floats
    score: float
    is_finished: bool

class Sentence:
    """What is decoded, by its caller's number, and what each of its units found."""

    number: int
    found: list[list[Found]]

class Row:
    """A hypothesis in play: for the search's own use, as are the next two."""

class Unit: ...
class Steps: ...

class Search:
    """Steps for the sentences in play."""

    def __init__(
        self,
        cache: Cache,
        projection: PackedLinear,
        options: Any,
        hooks: Any,
        *,
        start_id: int,
        end_tokens: Iterable[int],
    ) -> None: ...
    def add(
        self,
        number: int,
        prefix: _Integers,
        max_length: int,
        memory: Past | None,
        keys: NDArray[np.uint64] | None,
    ) -> None: ...
    def run(self, steps: int, n_threads: int) -> list[Sentence]: ...
    def may_hold(self) -> int: ...
    def close(self) -> None: ...
    def __len__(self) -> int: ...

def candidates(
    values: NDArray[np.float64],
    tokens: _Integers,
    rows: _Integers,
    log_probabilities: _Floats,
    logits: _Floats,
    sums: NDArray[np.float64],
    group_starts: _Integers,
    n_threads: int,
) -> None: ...
