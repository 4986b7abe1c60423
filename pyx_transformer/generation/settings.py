"""What type checkers know of single options, as `generate` and its like take them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyx_transformer.generation.options import GenerationOptions

Ids: TypeAlias = Sequence[int] | NDArray[np.integer[Any]]


class GenerationSettings(TypedDict, total=False):
    """The fields of `GenerationOptions`."""

    beam_size: int
    num_hypotheses: int
    max_length: int | None
    max_length_factor: float | None
    max_length_offset: float
    min_length: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    patience: float
    coverage_penalty: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    suppress_tokens: Ids
    suppress_sequences: Sequence[Ids]
    end_tokens: Ids | None
    first_token: int | None
    start_token: int | None
    last_token: int | None
    prefix: Sequence[Ids] | None
    prefix_bias: float
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    num_samples: int | None
    seed: int | None
    logits_processor: Callable[[NDArray[np.float32]], ArrayLike | None] | None
    constraint: Callable[[int, NDArray[np.int64]], Iterable[int] | None] | None
    return_scores: bool
    return_token_scores: bool
    return_attention: bool
    return_alternatives: bool
    on_token: Callable[[int, int], object] | None
    stop_when: Callable[[int, NDArray[np.int64]], bool] | None
    max_batch_tokens: int | None


class TextSettings(GenerationSettings, total=False):
    """Those, or all options in one."""

    options: GenerationOptions | None
