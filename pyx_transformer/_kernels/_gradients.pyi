"""The part of `_entry.pyi` that training adds; gradients.pxi is its source."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Integers = NDArray[np.int64]

WIDEST_HEAD: int  # that training takes: of keys and of values
MOST_SHARDS: int  # that the rows of one call belong to

def linear_weight_gradient(
    grad_weight: _Floats,
    grad_bias: _Floats | None,
    grad: _Floats,
    x: _Floats,
    bounds: _Integers,
    n_threads: int,
) -> None: ...
def sum_rows(out: _Floats, x: _Floats, bounds: _Integers, n_threads: int) -> None: ...
def norm_gradients(
    grad_x: _Floats,
    grad_weight: _Floats | None,
    grad_bias: _Floats | None,
    grad: _Floats,
    x: _Floats,
    weight: _Floats | None,
    eps: float,
    rms: bool,
    bounds: _Integers,
    n_threads: int,
) -> None: ...
def activation_gradient(
    grad_x: _Floats, grad: _Floats, x: _Floats, activation: int, n_threads: int
) -> None: ...
def gate_gradients(
    grad_value: _Floats,
    grad_gate: _Floats,
    grad: _Floats,
    value: _Floats,
    before: _Floats,
    activation: int,
    n_threads: int,
) -> None: ...
def embedding_gradient(
    grad_table: _Floats,
    ids: _Integers,
    grad: _Floats,
    scale: float,
    bounds: _Integers,
    n_threads: int,
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
    out: _Floats,
    x: _Floats,
    residual: _Floats | None,
    rate: float,
    bounds: _Integers,
    seeds: NDArray[np.uint64],
    n_threads: int,
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
        num_kv_heads: int,
        query_starts: _Integers,
        query_counts: _Integers,
        key_starts: _Integers,
        key_counts: _Integers,
        *,
        is_causal: bool = False,
        left: int = -1,
        right: int = -1,
        softcap: float = 0.0,
        scale: float | None = None,
        bias: _Floats | None = None,
    ) -> None: ...
    def run(self, n_threads: int) -> None: ...
    def gradient(
        self,
        grad_query: _Floats,
        grad_key: _Floats,
        grad_value: _Floats,
        grad: _Floats,
        grad_bias: _Floats | None,
        bounds: _Integers | None,
        n_threads: int,
    ) -> None: ...

def attention_gradient(
    grad_query: _Floats,
    grad_key: _Floats,
    grad_value: _Floats,
    grad_bias: _Floats | None,
    bounds: _Integers | None,
    grad: _Floats,
    out: _Floats,
    inputs: tuple[Any, ...],
    n_threads: int,
) -> None: ...
