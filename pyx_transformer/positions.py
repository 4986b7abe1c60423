"""Where a token stands in its sequence: arrays to add to its embedding, angles to turn queries and
keys by, and buckets of distance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.description import DistanceBiasConfig, RotaryConfig

# Every whole number up to this one is a float64.
LAST_EXACT = 2**53
ROWS_AT_ONCE = 512  # of angles in float64, so that they take little room
LAYOUTS = ("interleaved", "halves")
FREQUENCIES = ("paper", "tensor2tensor")


def sinusoidal_positions(
    length: int,
    d_model: int,
    *,
    start: int = 0,
    layout: str = "interleaved",
    frequencies: str = "paper",
) -> NDArray[np.float32]:
    """sin(p w_i) and cos(p w_i) for the positions p = start .. start + length - 1.

    -> (length, d_model) float32, computed in float64 and rounded once. d_model is even and i runs
    from 0 to d_model / 2 - 1.

    layout: "interleaved"  [sin_0, cos_0, sin_1, cos_1, ...], the paper's
            "halves"       [sin_0, sin_1, ... | cos_0, cos_1, ...], as most checkpoints have it
    frequencies: "paper"          w_i = 10000^(-2 i / d_model)
                 "tensor2tensor"  w_i = 10000^(-i / (d_model / 2 - 1)): the paper's own code, and
                                  after it Marian and M2M100

    Raises TypeError or ValueError for a size that is not an integer or negative, an odd d_model, or
    an unknown name; MemoryError where there is no room for them. Vaswani et al., 2017, section 3.5.
    """
    this = "sinusoidal_positions"
    length = _checks.as_integer(this, "length", length, minimum=0, maximum=LAST_EXACT)
    d_model = _checks.as_integer(this, "d_model", d_model, minimum=2)
    if d_model % 2:
        raise ValueError(f"{this}: d_model is {d_model}, expected an even number")
    start = _checks.as_integer(this, "start", start, minimum=-LAST_EXACT, maximum=LAST_EXACT)
    _checks.as_choice(this, "layout", layout, LAYOUTS)
    _checks.as_choice(this, "frequencies", frequencies, FREQUENCIES)

    try:
        return _sinusoids(length, d_model, start, layout, frequencies)
    except (MemoryError, OverflowError, ValueError) as error:
        raise MemoryError(
            f"{this}: no memory for positions of shape {(length, d_model)}"
        ) from error


def _sinusoids(length, d_model, start, layout, frequencies):
    pairs = d_model // 2
    steps = pairs if frequencies == "paper" else max(pairs - 1, 1)
    frequency = 10000.0 ** (-np.arange(pairs) / steps)
    if layout == "interleaved":
        sines, cosines = slice(0, None, 2), slice(1, None, 2)
    else:
        sines, cosines = slice(0, pairs), slice(pairs, None)
    positions = np.empty((length, d_model), np.float32)
    for first in range(0, length, ROWS_AT_ONCE):
        rows = positions[first : first + ROWS_AT_ONCE]
        angles = np.outer(np.arange(first, first + len(rows), dtype=np.float64) + start, frequency)
        rows[:, sines] = np.sin(angles)
        rows[:, cosines] = np.cos(angles)
    return positions


def rotary_frequencies(config: RotaryConfig, head_size: int) -> NDArray[np.float64]:
    """By how much pair i turns from one position to the next, in radians: (size / 2,) float64.

    base^(-2 i / size) (Su et al., 2021), scaled as `RotaryConfig` says.
    """
    size = head_size if config.size is None else config.size
    frequencies = config.base ** (-np.arange(0, size, 2) / size)
    if config.scaling == "linear":
        return frequencies / config.factor
    if config.scaling == "llama3":
        turns = config.original_length * frequencies / (2 * np.pi)
        low, high = config.low_frequency_factor, config.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return frequencies * (kept + (1 - kept) / config.factor)
    return frequencies


def rotary_table(
    config: RotaryConfig, head_size: int, length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines of the angles of positions 0 .. length - 1: two (length, size / 2) float32,
    computed in float64 and rounded once."""
    angles = np.outer(np.arange(length), rotary_frequencies(config, head_size))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def distance_buckets(config: DistanceBiasConfig) -> NDArray[np.int64]:
    """The bucket of each distance, key less query, from -max_distance to max_distance (Raffel et
    al., 2020); all beyond are in those of the two ends. The logarithm is taken in float32, as the
    edges of the buckets of trained models are.
    """
    distances = np.arange(-config.max_distance, config.max_distance + 1)
    buckets, first = config.num_buckets, np.zeros_like(distances)
    if config.bidirectional:
        buckets //= 2
        first[distances > 0] = buckets
        away = np.abs(distances)
    else:
        away = np.maximum(-distances, 0)
    exact = buckets // 2
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact))
    grown = ratio / np.float32(math.log(config.max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + grown.astype(np.int64), buckets - 1)
    return first + np.where(away < exact, away, far)
