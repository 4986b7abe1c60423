"""Directories as Hugging Face's transformers writes them: config.json, whose model_type is the
family, and safetensors or PyTorch's files, one of them or several with an index."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyx_transformer._checks import brief
from pyx_transformer._files import read_text
from pyx_transformer._keys import listed
from pyx_transformer.checkpoints import (
    generation_config,
    pytorch,
    safetensors,
    tokenizer_files,
)
from pyx_transformer.checkpoints.families import FAMILIES
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import Renaming, StoredTensors, Tensor
from pyx_transformer.config import (
    EncoderConfig,
    TransformerConfig,
    TransformerLMConfig,
    as_object,
)
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.parameters import UNINITIALISED
from pyx_transformer.transformer import Transformer

# Files of weights in the order in which they are looked for, and what reads each.
READERS = {
    "model.safetensors": safetensors.read_tensors,
    "pytorch_model.bin": pytorch.read_tensors,
}
MODELS: dict[type, Any] = {
    TransformerConfig: Transformer,
    TransformerLMConfig: TransformerLM,
    EncoderConfig: EncoderModel,
}
# Buffers that some files hold beside the weights: what they say is known.
BUFFERS = (
    "position_ids",
    "rotary_emb.inv_freq",
    "attn.bias",
    "attn.masked_bias",
    "attention.bias",
    "attention.masked_bias",
    "embed_positions.weights",
    "EncDecAttention.relative_attention_bias.weight",
)


def load(directory: Path, values: dict[str, Any]) -> Transformer | TransformerLM | EncoderModel:
    """The model of a directory whose config.json holds these values. Raises ValueError, naming the
    file, for what is malformed, missing or unknown; warns of tensors that have no place."""
    path = directory / "config.json"
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(f"load: {path}: model_type is {brief(kind)}, expected one of {known}")
    weights, files, tensors = read_weights(directory)
    config, renaming = translated(Fields(values, f"load: {path}"), tensors)
    held = sum(math.prod(tensor.shape) for tensor in tensors.values())
    # Where the two are that far apart, the model is not built to find out which parameters differ.
    expected = config.num_parameters
    if expected > 2 * held + 1_000_000:
        raise ValueError(
            f"load: {weights} holds {held} numbers, expected {expected} because of {path.name}"
        )
    model = MODELS[type(config)](config, rng=UNINITIALISED)
    check_state(f"load: {weights}", renaming, model)
    model.load_state_dict(renaming.state)
    for file in files:
        file.warn(stacklevel=3)
    fields = Fields(values, f"load: {path}")
    source, target = tokenizer_files.read(directory, kind, fields)
    if model.has_encoder:
        model.src_tokenizer = source
    if model.has_decoder:
        model.tgt_tokenizer = target
        is_translator = model.has_encoder
        model.generation_options = generation_config.read(
            directory, fields, is_translator=is_translator
        )
    return model


def translated(fields: Fields, tensors: dict[str, Tensor]) -> tuple[Any, Renaming]:
    """What a family makes of a file. Raises ValueError, naming the key."""
    try:
        return FAMILIES[fields.values["model_type"]](fields, tensors)
    except (TypeError, ValueError) as error:
        said = str(error)
        if said.startswith(fields.where):
            raise ValueError(said) from error
        raise ValueError(f"{fields.where}: {said}") from error


def read_weights(directory: Path) -> tuple[Path, list[StoredTensors], dict[str, Tensor]]:
    """The file of a directory's weights, or of their index, what was opened, and all tensors."""
    for name, read in READERS.items():
        path, index = directory / name, directory / f"{name}.index.json"
        if path.exists():
            stored = read(path)
            return path, [stored], stored
        if index.exists():
            return index, *read_shards(index, read)
    raise FileNotFoundError(
        f"load: {directory} has no weights, expected {' or '.join(READERS)}, or an index of several"
    )


def read_shards(
    index: Path, read: Callable[[Path], StoredTensors]
) -> tuple[list[StoredTensors], dict[str, Tensor]]:
    """The files that an index names, and all tensors."""
    try:
        table = as_object("index", read_text(index, who="load: "))
        names = Fields(table, "index").table("weight_map")
        if names is None:
            raise ValueError("weight_map is missing")
        files = set(names.values.values())
        for name in files:
            # A name with a folder in it could lead anywhere.
            if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
                raise ValueError(f"weight_map names {brief(name)}, expected files beside it")
    except (TypeError, ValueError) as error:
        raise ValueError(f"load: {index}: {error}") from error
    shards = {name: read(index.parent / name) for name in sorted(files)}
    tensors = {}
    missing = []
    for key, name in names.values.items():
        if key in shards[name]:
            tensors[key] = shards[name][key]
        else:
            missing.append(f"{key} in {name}")
    if missing:
        raise ValueError(f"load: {index} names what is missing: {listed(missing)}")
    return list(shards.values()), tensors


def check_state(who: str, renaming: Renaming, model: Any) -> None:
    """Raise ValueError for all that is missing, misshapen or more than the model has, by its names
    in the file; warn of what has no place."""
    shapes = {key: shape for key, shape in model._all_shapes().items() if key not in model.ties()}
    state, names = renaming.state, renaming.names
    missing = [names.get(key, key) for key in shapes if key not in state]
    unexpected = [names[key] for key in state if key not in shapes]
    misshapen = [
        f"{names[key]} is {state[key].shape}, expected {shape}"
        for key, shape in shapes.items()
        if key in state and state[key].shape != shape
    ]
    problems = [
        f"{problem}: {listed(keys)}"
        for problem, keys in [
            ("missing", missing),
            ("unexpected because of config.json", unexpected),
            ("misshapen", misshapen),
        ]
        if keys
    ]
    if problems:
        raise ValueError(f"{who}: {'; '.join(problems)}")
    unused = [
        name
        for name in renaming.tensors
        if name not in renaming.used and not name.endswith(BUFFERS)
    ]
    if unused:
        warnings.warn(f"{who}: these tensors are not used: {listed(unused)}", stacklevel=4)
