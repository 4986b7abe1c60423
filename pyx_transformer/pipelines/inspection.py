"""What a directory holds and what can be done with it, without reading its weights."""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from pyx_transformer._files import as_path
from pyx_transformer.checkpoints import hugging_face, is_shipped, load, native
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import compared
from pyx_transformer.checkpoints.tokenizer_files import read as read_tokenizers
from pyx_transformer.description import FeedForwardConfig
from pyx_transformer.pipelines.opened import pipeline_of

if TYPE_CHECKING:
    from pathlib import Path

    from pyx_transformer.config import TokenConfig

# The commands for what a pipeline does.
COMMANDS = {
    "Translator": ["translate", "score"],
    "TextGenerator": ["generate", "score", "embed"],
    "SentenceEncoder": ["embed"],
    "CrossEncoder": ["rank", "classify"],
    "TextClassifier": ["classify"],
    "TokenClassifier": ["tag"],
}


def inspect(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What `pt.load` would open there: its layout, family, sizes, the dtype of its weights, tied,
    missing and unused tensors, memory, tokenizers, and the commands for it.

    Raises what `load` does for what is no model or malformed; what is missing is told, not raised.
    """
    path = native.SHIPPED / directory if is_shipped(directory) else None
    path = as_path("inspect", "directory", directory) if path is None else path
    config = path / native.CONFIG
    values = native.read_values(config) if config.exists() else {}
    if "model_type" in values:
        return of_hugging_face(path, values)
    model = load(path)
    return {
        "layout": "pyx_transformer" if config.exists() else "another engine's",
        **described(model, model.config),
        "tokenizers": [
            tokenizer.kind
            for side in ("src", "tgt")
            if (tokenizer := getattr(model, f"{side}_tokenizer", None)) is not None
        ],
        "commands": COMMANDS[str(pipeline_of(model))],
    }


def of_hugging_face(directory: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What there is to say of a directory in Hugging Face's layout."""
    opened = hugging_face.open_directory(directory, values)
    model = opened.new_model()
    missing, _, misshapen = compared(opened.renaming, model)
    dtypes: Counter[str] = Counter()
    for file in opened.files:
        for name, dtype in file.dtypes.items():
            dtypes[dtype] += math.prod(file[name].shape)
    fields = Fields(values, f"inspect: {directory / native.CONFIG}")
    source, target = read_tokenizers(directory, values["model_type"], fields)
    found = {id(one): one.kind for one in (source, target) if one is not None}
    return {
        "layout": "Hugging Face",
        "family": values["model_type"],
        **described(model, opened.config),
        "weights": opened.weights.name,
        "dtypes": [f"{dtype} ({count} numbers)" for dtype, count in dtypes.most_common()],
        "missing": missing,
        "misshapen": misshapen,
        "unused": opened.renaming.unused(),
        "tokenizers": list(found.values()),
        "commands": COMMANDS[str(pipeline_of(model))],
    }


def described(model: Any, config: TokenConfig) -> dict[str, Any]:
    """The sizes of a model."""
    found: dict[str, Any] = {"model": type(model).__name__}
    for name in config.stacks:
        stack = getattr(config, name)
        attention = stack.attentions[0]
        (wide, *_) = (
            sub_layer.block
            for sub_layer in stack.layers[0].sub_layers
            if isinstance(sub_layer.block, FeedForwardConfig)
        )
        found[name] = (
            f"{stack.num_layers} layers of {stack.d_model}, {attention.num_heads} heads, "
            f"d_ff {wide.d_ff}"
        )
    sizes = {getattr(config, f"{side}_vocab_size", None) for side in ("src", "tgt")} - {None}
    parameters = model.num_parameters
    return {
        **found,
        "vocabulary": sorted(sizes),
        "longest": None if config.longest == math.inf else int(config.longest),
        "parameters": parameters,
        "memory": f"{4 * parameters / 1e6:.1f} MB of weights",
        "tied": [f"{key} is {stored}" for key, stored in model.ties().items()],
    }
