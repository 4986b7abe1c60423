"""What a directory holds and what can be done with it, without reading its weights."""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from pyx_transformer._files import as_path
from pyx_transformer.checkpoints import hugging_face, is_shipped, load, native, safetensors
from pyx_transformer.checkpoints.fields import Fields, read_values
from pyx_transformer.checkpoints.models import new_model
from pyx_transformer.checkpoints.tensors import compared
from pyx_transformer.checkpoints.tokenizer_files import read as read_tokenizers
from pyx_transformer.description import FeedForwardConfig, StackConfig
from pyx_transformer.pipelines.opened import pipeline_of
from pyx_transformer.pipelines.sentence_modules import MODULES, model_folder, read_modules
from pyx_transformer.token_model import TokenModel

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pyx_transformer.checkpoints.tensors import StoredTensors
    from pyx_transformer.config import TokenConfig
    from pyx_transformer.tokenizers.protocol import Tokenizer

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
    """What `pt.load` would open there, or a `SentenceEncoder`: its layout, family, sizes, the dtype
    of its weights, tied, missing and unused tensors, memory, tokenizers, what sentence-transformers
    says of vectors, and the commands for it, none without a tokenizer.

    Raises what `load` does for what is no model or malformed; what is missing is told, not raised.
    """
    path = native.SHIPPED / directory if is_shipped(directory) else None
    path = as_path("inspect", "directory", directory) if path is None else path
    folder = model_folder(path)
    config = folder / native.CONFIG
    values = read_values(config) if config.exists() else {}
    found = of_hugging_face(folder, values) if "model_type" in values else of_others(folder)
    return {**found, "vectors": vectors_of(path)} if (path / MODULES).exists() else found


def of_others(directory: Path) -> dict[str, Any]:
    """What there is to say of a directory in our own layout, or another engine's."""
    model = load(directory)
    weights = directory / native.WEIGHTS  # others have a config.json too
    is_ours = weights.exists() and (directory / native.CONFIG).exists()
    found = {side: getattr(model, f"{side}_tokenizer", None) for side in ("src", "tgt")}
    return {
        "layout": "pyx_transformer" if is_ours else "another engine's",
        **described(model, model.config),
        **({"dtypes": dtypes_of([safetensors.read_tensors(weights)])} if is_ours else {}),
        **usable(model, found.values()),
    }


def of_hugging_face(directory: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What there is to say of a directory in Hugging Face's layout."""
    opened = hugging_face.open_directory(directory, values)
    model = new_model(opened.config)
    missing, unexpected, misshapen = compared(opened.renaming, model)
    fields = Fields(values, f"inspect: {directory / native.CONFIG}")
    return {
        "layout": "Hugging Face",
        "family": values["model_type"],
        **described(model, opened.config),
        "weights": opened.weights.name,
        "dtypes": dtypes_of(opened.files),
        "missing": missing,
        "misshapen": misshapen,
        "unused": [*unexpected, *opened.renaming.unused()],
        **usable(model, read_tokenizers(directory, values["model_type"], fields)),
    }


def described(model: Any, config: TokenConfig | StackConfig) -> dict[str, Any]:
    """The sizes of a model, or of a stack alone."""
    if isinstance(config, StackConfig):
        stacks, longest = {"stack": config}, math.inf
    else:
        stacks, longest = {name: getattr(config, name) for name in config.stacks}, config.longest
    sizes = {getattr(config, f"{side}_vocab_size", None) for side in ("src", "tgt")} - {None}
    parameters = model.num_parameters
    ties = model.ties() if isinstance(model, TokenModel) else {}
    return {
        "model": type(model).__name__,
        **{name: sizes_of(stack) for name, stack in stacks.items()},
        "vocabulary": sorted(sizes),
        "longest": None if longest == math.inf else int(longest),
        "parameters": parameters,
        "memory": f"{4 * parameters / 1e6:.1f} MB of weights",
        "tied": [f"{key} is {stored}" for key, stored in ties.items()],
    }


def sizes_of(stack: StackConfig) -> str:
    """Those of a stack, by the blocks of its first layer."""
    parts = [f"{stack.num_layers} layers of {stack.d_model}"]
    for sub_layer in stack.layers[0].sub_layers if stack.layers else ():
        block = sub_layer.block
        parts.append(
            f"d_ff {block.d_ff}"
            if isinstance(block, FeedForwardConfig)
            else f"{block.num_heads} heads"
        )
    return ", ".join(dict.fromkeys(parts))


def dtypes_of(files: Iterable[StoredTensors]) -> list[str]:
    """How many numbers of each kind files hold, the most first."""
    counts: Counter[str] = Counter()
    for file in files:
        for name, dtype in file.dtypes.items():
            counts[dtype] += math.prod(file[name].shape)
    return [f"{dtype} ({count} numbers)" for dtype, count in counts.most_common()]


def usable(model: Any, tokenizers: Iterable[Tokenizer | None]) -> dict[str, list[str]]:
    """The kinds of tokenizers, one of both sides once, and what a model can do with them."""
    kinds = {id(one): one.kind for one in tokenizers if one is not None}
    return {
        "tokenizers": list(kinds.values()),
        "commands": COMMANDS[str(pipeline_of(model))] if kinds else [],
    }


def vectors_of(directory: Path) -> list[str]:
    """How a text becomes a vector, in steps."""
    modules = read_modules(directory)
    maps = [one.linear for one in modules.dense]
    return [
        *modules.poolings,
        *(f"dense {linear.in_features} to {linear.out_features}" for linear in maps),
        *(["normalized"] if modules.normalize else []),
    ]
