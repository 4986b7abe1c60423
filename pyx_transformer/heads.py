"""Heads: what models make of the rows of their last layer."""

from __future__ import annotations

import numpy as np

from pyx_transformer import _runtime
from pyx_transformer.head_configs import ClassifierConfig, MaskedLMConfig
from pyx_transformer.layers import Linear
from pyx_transformer.norms import norm_of
from pyx_transformer.parameters import Layer, Rng
from pyx_transformer.sub_layers import TrainingPass, in_turn


class MaskedLMHead(Layer):
    """norm(activation(x W^T + b)), before the projection to tokens (Devlin et al. 2019).

    Parameters: dense.*, norm.* where there is one.
    """

    def __init__(self, config: MaskedLMConfig, d_model: int, width: int, rng: Rng):
        self.config = config
        self.dense = Linear(d_model, width, bias=config.bias, rng=rng)
        self.norm = norm_of(config.norm, width, rng)

    def apply(self, rows):
        """rows (N, d_model) -> (N, width)."""
        rows = self.dense.apply(rows, self.config.activation)
        return rows if self.norm is None else self.norm.apply(rows)

    def forward(self, rows, run: TrainingPass):
        """`apply` on the parameters of a training run, with its way back."""
        rows, dense_back = self.dense.forward(rows, run.parameters)
        rows, activation_back = activated(rows, self.config.activation)
        rows, norm_back = run.normed(self.norm, rows)
        return rows, lambda grad: dense_back(activation_back(norm_back(grad)))


class ClassifierHead(Layer):
    """norm(activation(x W1^T + b1)) W2^T + b2, the first part where the config has it.

    Parameters: dense.*, norm.* where there are such, classifier.*.
    """

    def __init__(self, config: ClassifierConfig, d_model: int, rng: Rng):
        self.config = config
        self.dense = None
        if config.dense:
            self.dense = Linear(d_model, d_model, bias=config.bias, rng=rng)
        self.norm = norm_of(config.norm, d_model, rng)
        self.classifier = Linear(d_model, len(config.labels), rng=rng)

    def apply(self, rows):
        """rows (N, d_model) -> logits (N, labels)."""
        if self.dense is not None:
            if self.config.activation == "tanh":
                rows = tanh(self.dense.apply(rows))
            else:
                rows = self.dense.apply(rows, self.config.activation)
        if self.norm is not None:
            rows = self.norm.apply(rows)
        return self.classifier.apply(rows)

    def forward(self, rows, run: TrainingPass):
        """`apply` up to the last map, on the parameters of a training run, with its way back."""
        backs = []
        if self.dense is not None:
            rows, back = self.dense.forward(rows, run.parameters)
            backs.append(back)
            rows, back = activated(rows, self.config.activation)
            backs.append(back)
        rows, back = run.normed(self.norm, rows)
        return rows, in_turn([*backs, back])


def tanh(rows):
    """In float64, whose last bits may differ between machines, and rounded once."""
    return np.tanh(rows, dtype=np.float64).astype(np.float32)


def activated(rows, activation: str | None):
    """The activation of that name, "tanh" too, of rows, with its way back."""
    if activation == "tanh":
        out = tanh(rows)
        return out, lambda grad: grad * (1 - np.square(out))
    kernels, threads = _runtime.kernels, _runtime.get_num_threads()
    number = kernels.ACTIVATIONS[activation]
    out = np.empty_like(rows)
    kernels.activate(out.reshape(-1), rows.reshape(-1), number, threads)

    def back(grad):
        flat = grad.reshape(-1)
        kernels.activation_gradient(flat, flat, rows.reshape(-1), number, threads)
        return grad

    return out, back
