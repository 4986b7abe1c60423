"""AdamW on flat parameters, with clipping, and learning rates by step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, _runtime

if TYPE_CHECKING:
    from pyx_transformer.parameters import Floats, Parameters


class AdamW:
    """AdamW (Loshchilov and Hutter 2019): Adam (Kingma and Ba 2015) with weight decay on its own.

    Gradients are scaled down where their global norm is above max_norm (Pascanu et al. 2013);
    infinity never does. With average_decay above 0, `average` follows the weights: average +=
    (1 - decay) (weights - average), where decay grows to average_decay as (1 + t) / (10 + t).
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-9,
        weight_decay: float = 0.0,
        max_norm: float = math.inf,
        average_decay: float = 0.0,
    ):
        self.parameters = parameters
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.max_norm = max_norm
        self.average_decay = average_decay
        self.means = np.zeros_like(parameters.values)
        self.squares = np.zeros_like(parameters.values)
        self.average: Floats | None = parameters.values.copy() if average_decay else None
        self.steps = 0

    def gradient_norm(self) -> float:
        """The square root of the sum of all squared gradients; not finite where one is not."""
        sums = _runtime.kernels.sums_of_squares(
            self.parameters.gradients, _runtime.get_num_threads()
        )
        # Not math.fsum, which raises where values are infinite.
        return math.sqrt(float(np.cumsum(sums)[-1]))

    def step(self, learning_rate: float) -> float:
        """Change the weights, set the gradients to 0, and return the gradients' norm.

        Where the norm is not finite, or a square would not be as float32: see `skip`.
        """
        norm = self.gradient_norm()
        clip = min(1.0, self.max_norm / norm) if norm else 1.0
        if not (math.isfinite(norm) and self._squares_fit(norm, clip)):
            return self.skip()
        self.steps += 1
        beta1, beta2 = self.betas
        kept = min(self.average_decay, (1 + self.steps) / (10 + self.steps))
        _runtime.kernels.adamw(
            self.parameters.values,
            self.parameters.gradients,
            self.means,
            self.squares,
            self.average,
            clip,
            beta1,
            beta2,
            self.eps,
            learning_rate / (1 - beta1**self.steps),
            1 / math.sqrt(1 - beta2**self.steps),
            learning_rate * self.weight_decay,
            kept,
            _runtime.get_num_threads(),
        )
        return norm

    def _squares_fit(self, norm, clip):
        """Whether the square of every clipped gradient is finite: one that is not would stay among
        the squares for good."""
        largest = norm  # at most
        if (clip * largest) ** 2 > _checks.FLOAT32_MAX:
            largest = float(np.abs(self.parameters.gradients).max())
        return (clip * largest) ** 2 <= _checks.FLOAT32_MAX

    def skip(self) -> float:
        """Set the gradients to 0 and leave all else as it is; NaN, for their norm."""
        self.parameters.gradients.fill(0)
        return math.nan


def inverse_square_root(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """The learning rate of a step, counted from 1: up to `peak` in a line over `warmup` steps, then
    down as step^-0.5 (Vaswani et al. 2017, 5.3, where peak is (d_model warmup)^-0.5)."""
    return peak * min(step / warmup, math.sqrt(warmup / step))


def cosine(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """The learning rate of a step, counted from 1: up to `peak` in a line over `warmup` steps, then
    down as half a cosine, to 0 at step `steps` (Loshchilov and Hutter 2017)."""
    if step < warmup:
        return peak * step / warmup
    done = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return peak * (1 + math.cos(math.pi * done)) / 2


SCHEDULES = {"inverse_square_root": inverse_square_root, "cosine": cosine}


def as_schedule(function: str, name: str):
    """The schedule of that name."""
    _checks.as_choice(function, "schedule", name, SCHEDULES)
    return SCHEDULES[name]
