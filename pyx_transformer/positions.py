"""Where a token stands in its sequence, as arrays to add to its embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Every whole number up to this one is a float64.
LAST_EXACT = 2**53
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
    angles = np.outer(
        np.arange(length, dtype=np.float64) + start, 10000.0 ** (-np.arange(pairs) / steps)
    )
    if layout == "interleaved":
        sines, cosines = slice(0, None, 2), slice(1, None, 2)
    else:
        sines, cosines = slice(0, pairs), slice(pairs, None)
    positions = np.empty((length, d_model), np.float32)
    positions[:, sines] = np.sin(angles)
    positions[:, cosines] = np.cos(angles)
    return positions
