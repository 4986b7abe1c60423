"""What a training run is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from pyx_transformer import _checks, _runtime
from pyx_transformer._reprs import described
from pyx_transformer.metrics import BLEU_TOKENIZERS
from pyx_transformer.training.masking import MASK_RATE
from pyx_transformer.training.optimizer import SCHEDULES

METRICS = ("loss", "exact_match", "bleu", "accuracy")
MOST = 2**53  # whole numbers up to this are exact as floats
MOST_SHARDS = _runtime.kernels.MOST_SHARDS
# What rounds to 1 in float32 is not below it.
BELOW_ONE = {"below": 1 - 2**-25}
BOUNDS: dict[str, dict[str, float]] = {
    "beta1": BELOW_ONE,
    "beta2": BELOW_ONE,
    "eps": {"minimum": _checks.FLOAT32_TINY},
    "average_decay": BELOW_ONE,
    "dropout": BELOW_ONE,
    "label_smoothing": {"maximum": 1},
    "mask_rate": {"above": 0, "maximum": 1},
}


@described
@dataclass(frozen=True, repr=False)
class TrainingOptions:
    """How a model is trained; the defaults are the paper's but for its size of batches.

    steps: updates of the weights, at most. batch_tokens: tokens of a batch, the padded source's or
    target's, whichever are more; accumulate: batches whose gradients make one update. shards: parts
    that the examples of an update are cut into, up to 1024, whose gradients are added up in a fixed
    order; so many processes at most can share out a step, and its bits do not depend on how many
    do, but on this number.

    peak_rate: the largest learning rate, reached after `warmup` steps and followed by `schedule`:
    "inverse_square_root" or "cosine". beta1, beta2, eps, weight_decay: AdamW's. max_norm: gradients
    are scaled down to this global norm; 0 never does. average_decay: validated and saved are the
    exponential moving averages of the weights with this decay; 0 takes the weights themselves.

    dropout: the rate on each sub-layer's output and on embeddings with positions. label_smoothing:
    the share of each target's probability that is spread over the vocabulary, or the labels.
    mask_rate: the share
    of an encoder's tokens that it learns to tell, drawn anew for every batch.

    validate_every: steps between two validations and checkpoints. metric: what decides which
    weights are the best: "loss", of translators "exact_match" or "bleu", of classifiers "accuracy";
    where `patience` validations in a row do not better it, training stops; 0 never does.
    max_length: tokens of a translation for "exact_match" and "bleu". bleu_tokenizer: that of
    `metrics.bleu`, "none", "13a" or "char", or "auto": "char" for targets written without spaces,
    or else "none". test_beam_size: of the translations that a recipe's test is scored by. seed: of
    everything that is drawn.

    Raises TypeError or ValueError, naming the option.
    """

    steps: int = 100_000
    batch_tokens: int = 4096
    accumulate: int = 1
    shards: int = 8
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
    mask_rate: float = MASK_RATE
    validate_every: int = 1000
    metric: str = "loss"
    bleu_tokenizer: str = "auto"
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
                maximum = {"seed": math.inf, "shards": MOST_SHARDS}.get(field.name, MOST)
                value = _checks.as_integer(this, field.name, value, minimum, maximum)
            elif field.type == "float":
                bounds = {"minimum": 0.0} | BOUNDS.get(field.name, {})
                value = _checks.as_number(this, field.name, value, **bounds)
            object.__setattr__(self, field.name, value)
        _checks.as_choice(this, "schedule", self.schedule, SCHEDULES)
        _checks.as_choice(this, "metric", self.metric, METRICS)
        _checks.as_choice(this, "bleu_tokenizer", self.bleu_tokenizer, ("auto", *BLEU_TOKENIZERS))
