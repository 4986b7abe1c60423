"""What a training run is told."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from pyx_transformer import _checks
from pyx_transformer.training.optimizer import SCHEDULES

FLOAT32_TINY = float(np.finfo(np.float32).tiny)
METRICS = ("loss", "exact_match", "bleu")


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained; the defaults are the paper's but for its size of batches.

    steps: updates of the weights, at most. batch_tokens: tokens of a batch, the padded source's or
    target's, whichever are more; accumulate: batches whose gradients make one update.

    peak_rate: the largest learning rate, reached after `warmup` steps and followed by `schedule`:
    "inverse_square_root" or "cosine". beta1, beta2, eps, weight_decay: AdamW's. max_norm: gradients
    are scaled down to this global norm; 0 never does. average_decay: validated and saved are the
    exponential moving averages of the weights with this decay; 0 takes the weights themselves.

    dropout: the rate on each sub-layer's output and on embeddings with positions. label_smoothing:
    the share of each target's probability that is spread over the vocabulary.

    validate_every: steps between two validations and checkpoints. metric: what decides which
    weights are the best: "loss", "exact_match" or "bleu"; where `patience` validations in a row do
    not better it, training stops; 0 never does. max_length: tokens of a translation for the last
    two. test_beam_size: of the translations that a recipe's test is scored by. seed: of everything
    that is drawn.

    Raises TypeError or ValueError, naming the option.
    """

    steps: int = 100_000
    batch_tokens: int = 4096
    accumulate: int = 1
    peak_rate: float = 7e-4
    warmup: int = 4000
    schedule: str = "inverse_square_root"
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-9
    weight_decay: float = 0.0
    max_norm: float = 0.0
    average_decay: float = 0.0
    dropout: float = 0.1
    label_smoothing: float = 0.1
    validate_every: int = 1000
    metric: str = "loss"
    patience: int = 0
    max_length: int = 128
    test_beam_size: int = 5
    seed: int = 0

    def __post_init__(self):
        this = "TrainingOptions"
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                minimum = 0 if field.name in ("patience", "seed") else 1
                value = _checks.as_integer(this, field.name, value, minimum=minimum)
            elif field.type == "float":
                value = _checks.as_number(this, field.name, value, minimum=0)
            object.__setattr__(self, field.name, value)
        _checks.as_choice(this, "schedule", self.schedule, SCHEDULES)
        _checks.as_choice(this, "metric", self.metric, METRICS)
        if self.eps < FLOAT32_TINY:
            raise ValueError(f"{this}: eps is {self.eps}, expected at least {FLOAT32_TINY:.3g}")
        for name in ("beta1", "beta2", "average_decay", "dropout"):
            if np.float32(getattr(self, name)) >= 1:
                raise ValueError(
                    f"{this}: {name} is {getattr(self, name)}, expected a number below 1"
                )
        if self.label_smoothing > 1:
            raise ValueError(
                f"{this}: label_smoothing is {self.label_smoothing}, expected at most 1"
            )
