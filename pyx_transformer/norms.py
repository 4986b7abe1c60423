"""Layer norm and RMS norm, as layers with parameters: see layers.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks, _runtime
from pyx_transformer.description import NormConfig
from pyx_transformer.parameters import (
    PassParameters,
    PlainLayer,
    Rng,
    Uninitialised,
    as_generator,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float32]
    Back = Callable[..., Floats]


class _Norm(PlainLayer):
    """What layer norm and RMS norm share."""

    is_rms: bool

    def __init__(self, d_model: int, eps: float, rng: Rng, **has: bool):
        this = type(self).__name__
        self.d_model = _checks.as_size(this, "d_model", d_model)
        self.eps = _checks.as_number(this, "eps", eps, minimum=0)
        self._own = {
            name: (self.d_model,) for name, flag in has.items() if _checks.as_flag(this, name, flag)
        }
        if isinstance(as_generator(this, rng), Uninitialised) and self._own:
            return
        values = {"weight": np.ones, "bias": np.zeros}
        self._load_own({name: values[name](self.d_model, np.float32) for name in self._own})

    def in_words(self) -> list[str]:
        can_have = ("weight",) if self.is_rms else ("weight", "bias")
        has_not = [f"{name}=False" for name in can_have if name not in self._own]
        return [str(self.d_model), f"eps={self.eps}", *has_not]

    def __call__(self, x: ArrayLike) -> Floats:
        """x (..., d_model) -> the same shape, float32.

        Raises TypeError or ValueError, naming the argument.
        """
        x = _checks.as_float32(type(self).__name__, "x", x, (..., self.d_model))
        return self.apply(x.reshape(-1, self.d_model)).reshape(x.shape)

    def apply(self, rows: Floats) -> Floats:
        """rows (N, d_model) -> (N, d_model)."""
        values = (self._parameters.get(name) for name in ("weight", "bias"))
        return self._normalised(rows, *values)

    def forward(self, rows: Floats, parameters: PassParameters) -> tuple[Floats, Back]:
        """`apply`, with its way back."""
        both = [parameters.get(self, name) for name in ("weight", "bias")]
        weight, bias = (None if one is None else one.value for one in both)
        bounds = next((one.bounds for one in both if one is not None), np.zeros(1, np.int64))

        def back(grad):
            grad_rows = np.empty_like(rows)
            grad_weight, grad_bias = (None if one is None else one.gradient for one in both)
            _runtime.kernels.norm_gradients(
                grad_rows,
                grad_weight,
                grad_bias,
                grad,
                rows,
                weight,
                self.eps,
                self.is_rms,
                bounds,
                _runtime.get_num_threads(),
            )
            return grad_rows

        return self._normalised(rows, weight, bias), back

    def _normalised(self, rows, weight, bias):
        raise NotImplementedError

    def _own_shapes(self):
        return self._own

    def _use(self, stored):
        super()._use(stored)
        own = self._parameters
        self.parameters = _runtime.kernels.NormParameters(
            own.get("weight"), own.get("bias"), self.eps, self.is_rms
        )


class LayerNorm(_Norm):
    """Layer norm over the last axis (Ba, Kiros and Hinton 2016). Parameters: weight, bias (d,).

    norm(x) takes x (..., d_model) to the same shape: see `ops.layer_norm`.
    """

    is_rms = False

    def __init__(
        self,
        d_model: int,
        *,
        eps: float = 1e-5,
        weight: bool = True,
        bias: bool = True,
        rng: Rng = None,
    ):
        """d_model: the size of that axis. eps is added to the variance, and is at least 0. weight,
        bias: whether there is one; they begin as 1 and 0, nothing being drawn from rng.

        Raises TypeError or ValueError, naming the argument.
        """
        super().__init__(d_model, eps, rng, weight=weight, bias=bias)

    @property
    def bias(self) -> Floats | None:
        """The bias (d_model,), read-only."""
        return self._parameters.get("bias")

    def _normalised(self, rows, weight, bias):
        out = np.empty_like(rows)
        threads = _runtime.get_num_threads()
        _runtime.kernels.layer_norm(out, rows, weight, bias, self.eps, threads)
        return out


class RMSNorm(_Norm):
    """RMS norm over the last axis (Zhang and Sennrich 2019). Parameters: weight (d,).

    norm(x) takes x (..., d_model) to the same shape: see `ops.rms_norm`.
    """

    is_rms = True

    def __init__(self, d_model: int, *, eps: float = 1e-6, weight: bool = True, rng: Rng = None):
        """d_model: the size of that axis. eps is added to the mean square, and is at least 0.
        weight: whether there is one; it begins as 1, nothing being drawn from rng.

        Raises TypeError or ValueError, naming the argument.
        """
        super().__init__(d_model, eps, rng, weight=weight)

    def _normalised(self, rows, weight, bias):
        out = np.empty_like(rows)
        _runtime.kernels.rms_norm(out, rows, weight, self.eps, _runtime.get_num_threads())
        return out


def norm_of(config: NormConfig | None, d_model: int, rng: Rng) -> LayerNorm | RMSNorm | None:
    """The norm that a description asks for."""
    if config is None:
        return None
    eps, weight = config.eps, config.weight
    if config.kind == "rms_norm":
        return RMSNorm(d_model, eps=eps, weight=weight, rng=rng)
    return LayerNorm(d_model, eps=eps, weight=weight, bias=bool(config.bias), rng=rng)
