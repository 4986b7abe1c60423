"""Feed-forward layers, plain and gated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer._reprs import told
from pyx_transformer.description import FeedForwardConfig
from pyx_transformer.layers import Linear
from pyx_transformer.parameters import Layer, PassParameters, Rng, as_generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer._kernels import _entry
    from pyx_transformer.layers import Back


class FeedForward(Layer):
    """W2 f(W1 x + b1) + b2 (Vaswani et al. 2017, 3.3), on x (..., d_model).

    Parameters: linear1.* with W1 (d_ff, d_model), linear2.* with W2 (d_model, d_ff), and where it
    is gated linear3.* with W3 (d_ff, d_model), initialised as in `Linear`.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        activation: str | None = "relu",
        gated: bool = False,
        bias: bool = True,
        rng: Rng = None,
    ):
        """d_model: the width of what comes in and goes out; d_ff: that in between. activation: f as
        in `ops.linear`. gated: W2 (f(W1 x + b1) * (W3 x + b3)) + b2 (Shazeer 2020). bias: whether
        there are b1, b2 and b3. rng as in `Linear`.

        Raises TypeError or ValueError, naming the argument.
        """
        this = "FeedForward"
        d_model = _checks.as_size(this, "d_model", d_model)
        d_ff = _checks.as_size(this, "d_ff", d_ff)
        activation = _checks.as_choice(this, "activation", activation, _runtime.kernels.ACTIVATIONS)
        gated, bias = (_checks.as_flag(this, *flag) for flag in (("gated", gated), ("bias", bias)))
        rng = as_generator(this, rng)
        self.config = FeedForwardConfig(d_ff, activation, gated, bias)
        self.linear1 = Linear(d_model, d_ff, bias=bias, rng=rng)
        self.linear2 = Linear(d_ff, d_model, bias=bias, rng=rng)
        self.linear3 = Linear(d_model, d_ff, bias=bias, rng=rng) if gated else None

    @classmethod
    def of(cls, config: FeedForwardConfig, d_model: int, rng: Rng) -> FeedForward:
        """What a description asks for."""
        return cls(
            d_model,
            config.d_ff,
            activation=config.activation,
            gated=config.gated,
            bias=config.bias,
            rng=rng,
        )

    def in_words(self) -> list[str]:
        words = {name: value for name, value in told(self.config).items() if name != "d_ff"}
        sizes = f"{self.linear1.in_features}, {self.config.d_ff}"
        return [sizes, *(f"{name}={value!r}" for name, value in words.items())]

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """x (..., d_model) -> the same shape, float32.

        Raises TypeError or ValueError, naming the argument.
        """
        x = _checks.as_float32("FeedForward", "x", x, (..., self.linear1.in_features))
        rows = x.reshape(-1, self.linear1.in_features)
        out = np.empty_like(rows)
        _runtime.kernels.run_block(out, rows, self.block(), None, _runtime.get_num_threads())
        return out.reshape(x.shape)

    def block(self) -> _entry.Block:
        """The layer as the kernels run it."""
        return _runtime.kernels.feed_forward_block(
            self.linear1.packed,
            self.linear2.packed,
            None if self.linear3 is None else self.linear3.packed,
            _runtime.kernels.ACTIVATIONS[self.config.activation],
        )

    def forward(
        self, rows: NDArray[np.float32], parameters: PassParameters
    ) -> tuple[NDArray[np.float32], Back]:
        """rows (N, d_model) -> (N, d_model) with its way back, which adds `residual`."""
        kernels, threads = _runtime.kernels, _runtime.get_num_threads()
        number = kernels.ACTIVATIONS[self.config.activation]
        # The derivative of ReLU can be told from its output; other activations keep their input.
        is_relu = self.config.activation == "relu"
        before, back1 = self.linear1.forward(rows, parameters, "relu" if is_relu else None)
        hidden = activated = before
        if not is_relu:
            hidden = activated = np.empty_like(before)
            kernels.activate(activated.reshape(-1), before.reshape(-1), number, threads)
        if self.linear3 is not None:
            factor, back3 = self.linear3.forward(rows, parameters)
            hidden = activated * factor
        out, back2 = self.linear2.forward(hidden, parameters)

        def back(grad, residual=None):
            grad = back2(grad)
            if self.linear3 is not None:
                grad_factor = np.empty_like(grad)
                kernels.gate_gradients(
                    grad_factor.reshape(-1),
                    grad.reshape(-1),
                    grad.reshape(-1),
                    factor.reshape(-1),
                    before.reshape(-1),
                    number,
                    threads,
                )
                return back1(grad, back3(grad_factor, residual))
            kernels.activation_gradient(
                grad.reshape(-1), grad.reshape(-1), before.reshape(-1), number, threads
            )
            return back1(grad, residual)

        return out, back
