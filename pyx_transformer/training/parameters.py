"""A model's parameters as training sees them: one flat array of values and one of gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.token_model import TokenModel

    Floats = NDArray[np.float32]


class Parameter(NamedTuple):
    """An array and what its gradient is added to: views of the two flat arrays."""

    value: Floats
    gradient: Floats

    def part(self, begin: int, end: int) -> Parameter:
        """The rows from `begin` to `end`."""
        return Parameter(self.value[begin:end], self.gradient[begin:end])


class Parameters:
    """Copies of a model's parameters, under its state-dict keys, and their gradients.

    values and gradients are float32 (P,). A tied weight is there once and answers to each of its
    keys, so that its gradients add up.
    """

    def __init__(self, model: TokenModel):
        state = model.state_dict()
        self.values = np.concatenate([array.reshape(-1) for array in state.values()])
        self.gradients = np.zeros_like(self.values)
        self._ties = model._ties()
        self._places = {}
        begin = 0
        for key, array in state.items():
            self._places[key] = begin, begin + array.size, array.shape
            begin += array.size

    def __getitem__(self, key: str) -> Parameter:
        begin, end, shape = self._places[self._ties.get(key, key)]
        return Parameter(
            self.values[begin:end].reshape(shape), self.gradients[begin:end].reshape(shape)
        )

    def get(self, key: str) -> Parameter | None:
        """The parameter of that key, None where the model has none."""
        return self[key] if self._ties.get(key, key) in self._places else None

    def state_dict(self, values: Floats | None = None) -> dict[str, Floats]:
        """Views of `values` (P,), the parameters' own unless given, by key."""
        values = self.values if values is None else values
        return {
            key: values[begin:end].reshape(shape)
            for key, (begin, end, shape) in self._places.items()
        }
