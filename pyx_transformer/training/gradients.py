"""The loss of a batch, and what a model's parameters get from it.

The way through the layers and back is their own (`forward`): here is what stands around it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _runtime
from pyx_transformer.training.losses import projected_loss, squared_loss

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.encoder_model import EncoderModel
    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.parameters import Parameters, PassParameters
    from pyx_transformer.training.batches import Batch
    from pyx_transformer.transformer import Transformer


def add_gradients(
    model: Transformer | TransformerLM | EncoderModel,
    parameters: Parameters,
    batch: Batch,
    *,
    tokens: int,
    dropout: float = 0.0,
    label_smoothing: float = 0.0,
    seeds: ArrayLike = (0,),
) -> float:
    """The cross-entropy of a batch, in nats, added up over its targets; of targets that are real
    numbers their squared errors.

    The parameters' gradients get those of this sum divided by `tokens`, which is the number of all
    targets whose gradients come together.

    The paper's dropout: on the output of each sub-layer and on embeddings with positions (Vaswani
    et al. 2017, 5.4). Which values it drops depends on seeds, one for each of the batch's shards,
    and on nothing else.
    """
    losses = pass_gradients(
        model,
        parameters.whole(),
        batch,
        tokens=tokens,
        dropout=dropout,
        label_smoothing=label_smoothing,
        seeds=seeds,
    )
    return math.fsum(losses)


def pass_gradients(
    model: Transformer | TransformerLM | EncoderModel,
    parameters: PassParameters,
    batch: Batch,
    *,
    tokens: int,
    dropout: float,
    label_smoothing: float,
    seeds: ArrayLike,
) -> NDArray[np.float64]:
    """`add_gradients` for some of the shards of a step: the loss of each."""
    rows, back = model.forward(batch, parameters, Dropout(dropout, seeds))
    projection, of_targets = model.projection, parameters.over(batch.target_bounds)
    weight, bias = of_targets.of(projection, "weight"), of_targets.get(projection, "bias")
    if np.issubdtype(batch.targets.dtype, np.floating):
        losses, grad = squared_loss(rows, weight, bias, batch.targets, 1 / tokens)
    else:
        losses, grad = projected_loss(
            rows, weight, bias, projection.softcap, batch.targets, label_smoothing, 1 / tokens
        )
    back(grad)
    return losses


class Dropout:
    """Rows with some values replaced by 0, each shard's by a stream of its own, and new ones at
    every call (see `functions.dropout`)."""

    def __init__(self, rate: float, seeds: ArrayLike = ()):
        self.rate = rate
        self._seeds = np.array(seeds, np.uint64)

    def __call__(self, rows, residual, bounds):
        """residual, or 0 for None, + dropped rows, those of shard i beginning at bounds[i]; back
        gives the gradient of rows. Writes to rows."""
        if not self.rate:
            return (rows if residual is None else np.add(rows, residual, out=rows)), lambda g: g
        seeds = self._seeds
        self._seeds = seeds + np.uint64(1)
        self._drop(rows, rows, residual, bounds, seeds)
        return rows, lambda grad: self._drop(np.empty_like(grad), grad, None, bounds, seeds)

    def _drop(self, out, rows, residual, bounds, seeds):
        _runtime.kernels.dropout(
            out.reshape(-1),
            rows.reshape(-1),
            None if residual is None else residual.reshape(-1),
            self.rate,
            bounds * rows.shape[1],
            seeds,
            _runtime.get_num_threads(),
        )
        return out
