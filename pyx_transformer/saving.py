"""`save` and `load` as methods of every whole model and stack, set from above: they know nothing of
files."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from pyx_transformer._reprs import with_article
from pyx_transformer.stack import Stack
from pyx_transformer.token_model import TokenModel

M = TypeVar("M", bound="TokenModel | Stack")


def save(self: Any, directory: str | os.PathLike[str], *, dtype: str = "float32") -> None:
    """Write config.json, model.safetensors and what goes with it: see `checkpoints.save`."""
    from pyx_transformer import checkpoints

    checkpoints.save(self, directory, dtype=dtype)


def load(cls: type[M], path: str | os.PathLike[str]) -> M:
    """What `save` wrote of this kind, or `pt.load` opens otherwise.

    Raises what that does, and TypeError for a model of another kind.
    """
    from pyx_transformer import checkpoints

    model = checkpoints.load(path)
    if not isinstance(model, cls):
        found, expected = type(model).__name__, cls.__name__
        raise TypeError(
            f"{expected}.load: {path} is {with_article(found)}, expected {with_article(expected)}; "
            f"{found}.load opens it"
        )
    return model


for kind in (TokenModel, Stack):
    kind.save = save  # type: ignore[method-assign]
    kind.load = classmethod(load)  # type: ignore[method-assign, assignment]
