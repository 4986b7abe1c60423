"""What every compiled variant of the kernels offers; entry.pxi is its source.

Arrays are float32 and C-contiguous unless said otherwise; outputs come first, already allocated.
Shapes, dtypes and ranges are for the caller to check: here they are trusted.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Integers = NDArray[np.int64]

ISA_NAME: str
VECTOR_WIDTH: int  # floats in a vector
ACTIVATIONS: dict[str | None, int]

class Workspace:
    """Memory of one call: for the entry points' own use."""

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
    ) -> None: ...
    def unpack(self) -> _Floats: ...

class NormParameters:
    """The weight (d,) and bias (d,) of a layer norm or, with rms=True, of an RMS norm."""

    def __init__(
        self, weight: _Floats | None, bias: _Floats | None, eps: float, rms: bool = False
    ) -> None: ...

def linear(
    out: _Floats,
    x: _Floats,
    packed: PackedLinear,
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
    ) -> None: ...

def attention(
    out: _Floats, weights: _Floats | None, heads: tuple[Any, ...], n_threads: int
) -> None: ...
def project_keys_values(
    keys: _Floats,
    values: _Floats,
    key_rows: _Floats,
    value_rows: _Floats,
    key_projection: PackedLinear,
    value_projection: PackedLinear,
    starts: _Integers,
    counts: _Integers,
    cache_starts: _Integers,
    offsets: _Integers,
    n_threads: int,
) -> None: ...
def attention_block(
    out: _Floats,
    x: _Floats,
    norm: NormParameters | None,
    norm_first: bool,
    residual: bool,
    num_heads: int,
    query_projection: PackedLinear,
    key_projection: PackedLinear | None,
    value_projection: PackedLinear | None,
    output_projection: PackedLinear,
    keys: _Floats | None,
    values: _Floats | None,
    query_starts: _Integers,
    query_counts: _Integers,
    key_starts: _Integers,
    key_counts: _Integers,
    offsets: _Integers,
    is_causal: bool,
    mask: NDArray[np.bool_] | _Floats | None,
    weights: _Floats | None,
    n_threads: int,
) -> None: ...
def feed_forward_block(
    out: _Floats,
    x: _Floats,
    norm: NormParameters | None,
    norm_first: bool,
    residual: bool,
    linear1: PackedLinear,
    linear2: PackedLinear,
    activation: int,
    n_threads: int,
) -> None: ...

class CachedLayer:
    """A decoder layer bound to its caches; without cross-attention where these are None."""

    def __init__(
        self,
        query: PackedLinear,
        key: PackedLinear,
        value: PackedLinear,
        output: PackedLinear,
        norm1: NormParameters,
        cross_query: PackedLinear | None,
        cross_output: PackedLinear | None,
        norm2: NormParameters | None,
        linear1: PackedLinear,
        linear2: PackedLinear,
        norm3: NormParameters,
        norm_first: bool,
        activation: int,
        keys: _Floats,
        values: _Floats,
        memory_keys: _Floats | None,
        memory_values: _Floats | None,
    ) -> None: ...

def decode(
    out: _Floats,
    ids: _Integers,
    slots: _Integers,
    counts: _Integers,
    lengths: _Integers,
    key_rows: _Integers | None,
    width: int,
    table: _Floats,
    scale: float,
    positions: _Floats | None,
    layers: list[CachedLayer],
    norm: NormParameters | None,
    memory_starts: _Integers | None,
    memory_counts: _Integers | None,
    cross_weights: _Floats | None,
    n_threads: int,
) -> int: ...
def decode_best(
    logits: _Floats,
    projection: PackedLinear,
    beams: int,
    sums: NDArray[np.float64],
    tokens: _Integers,
    token_counts: _Integers,
    token_scores: _Floats,
    count: int,
    most: int,
    end_tokens: _Integers,
    slots: _Integers,
    lengths: _Integers,
    key_rows: _Integers | None,
    width: int,
    table: _Floats,
    scale: float,
    positions: _Floats | None,
    layers: list[CachedLayer],
    norm: NormParameters | None,
    memory_starts: _Integers | None,
    memory_counts: _Integers | None,
    n_threads: int,
) -> int: ...
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
def linear_weight_gradient(
    grad_weight: _Floats, grad_bias: _Floats | None, grad: _Floats, x: _Floats, n_threads: int
) -> None: ...
def norm_gradients(
    grad_x: _Floats,
    grad_weight: _Floats | None,
    grad_bias: _Floats | None,
    grad: _Floats,
    x: _Floats,
    weight: _Floats | None,
    eps: float,
    rms: bool,
    n_threads: int,
) -> None: ...
def activation_gradient(
    grad_x: _Floats, grad: _Floats, x: _Floats, activation: int, n_threads: int
) -> None: ...
def embedding_gradient(
    grad_table: _Floats, ids: _Integers, grad: _Floats, scale: float, n_threads: int
) -> None: ...
def cross_entropy(
    losses: NDArray[np.float64],
    logits: _Floats,
    targets: _Integers,
    smoothing: float,
    factor: float,
    n_threads: int,
) -> None: ...
def dropout(
    out: _Floats, x: _Floats, residual: _Floats | None, rate: float, seed: int, n_threads: int
) -> None: ...
def adamw(
    weights: _Floats,
    gradients: _Floats,
    means: _Floats,
    squares: _Floats,
    average: _Floats | None,
    clip: float,
    beta1: float,
    beta2: float,
    eps: float,
    step_size: float,
    correction: float,
    weight_decay: float,
    average_decay: float,
    n_threads: int,
) -> None: ...
def sums_of_squares(x: _Floats, n_threads: int) -> NDArray[np.float64]: ...

class RowsJob:
    """Attention between the rows of a batch's sequences, and its gradient."""

    @property
    def out(self) -> _Floats: ...
    def __init__(
        self,
        query: _Floats,
        key: _Floats,
        value: _Floats,
        num_heads: int,
        query_starts: _Integers,
        query_counts: _Integers,
        key_starts: _Integers,
        key_counts: _Integers,
        is_causal: bool,
    ) -> None: ...
    def run(self, n_threads: int) -> None: ...
    def gradient(
        self,
        grad_query: _Floats,
        grad_key: _Floats,
        grad_value: _Floats,
        grad: _Floats,
        n_threads: int,
    ) -> None: ...

def attention_gradient(
    grad_query: _Floats,
    grad_key: _Floats,
    grad_value: _Floats,
    grad: _Floats,
    out: _Floats,
    heads: tuple[Any, ...],
    n_threads: int,
) -> None: ...
