"""`save` as a method of every whole model, set from above: models know nothing of files."""

from __future__ import annotations

import os

from pyx_transformer.token_model import TokenModel


def save(self: TokenModel, directory: str | os.PathLike[str], *, dtype: str = "float32") -> None:
    """Write config.json, model.safetensors and what goes with it: see `checkpoints.save`."""
    from pyx_transformer import checkpoints

    checkpoints.save(self, directory, dtype=dtype)


TokenModel.save = save
