"""`save` and `load` as methods of every whole model, set from above: it knows nothing of files."""

from __future__ import annotations

import os
from typing import TypeVar

from pyx_transformer.token_model import TokenModel

M = TypeVar("M", bound=TokenModel)


def save(self: TokenModel, directory: str | os.PathLike[str], *, dtype: str = "float32") -> None:
    """Write config.json, model.safetensors and what goes with it: see `checkpoints.save`."""
    from pyx_transformer import checkpoints

    checkpoints.save(self, directory, dtype=dtype)


def load(cls: type[M], path: str | os.PathLike[str]) -> M:
    """The model of this kind that `save` wrote, or that `pt.load` opens otherwise.

    Raises what that does, and TypeError for a model of another kind.
    """
    from pyx_transformer import checkpoints

    model = checkpoints.load(path)
    if not isinstance(model, cls):
        found, expected = type(model).__name__, cls.__name__
        raise TypeError(
            f"{expected}.load: {path} is a {found}, expected a {expected}; {found}.load opens it"
        )
    return model


TokenModel.save = save  # type: ignore[method-assign]
TokenModel.load = classmethod(load)  # type: ignore[method-assign, assignment]
