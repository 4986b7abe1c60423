"""Directories as Hugging Face's transformers writes them: config.json, whose model_type is the
family, and safetensors or PyTorch's files, one of them or several with an index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pyx_transformer._checks import brief
from pyx_transformer._fields import as_object
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
from pyx_transformer.checkpoints.models import new_model
from pyx_transformer.checkpoints.tensors import (
    Renaming,
    StoredTensors,
    Tensor,
    check_size,
    check_state,
)
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.head_configs import ClassifierConfig
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.transformer import Transformer

# Files of weights in the order in which they are looked for, and what reads each.
READERS = {
    "model.safetensors": safetensors.read_tensors,
    "pytorch_model.bin": pytorch.read_tensors,
}
# What transformers calls the problems of a `ClassifierConfig`.
PROBLEMS = {
    "": None,
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
# What PyTorch calls what a `CrossEncoder` does.
PAIR_SCORES = {"Identity": "logits", "Sigmoid": "sigmoid"}
CONFIG = "config.json"
ACTIVATION = "sbert_ce_default_activation_function"  # of cross-encoders that are older


class Opened(NamedTuple):
    """A directory before its weights are read: the file of those, or of their index, what was
    opened, the config and the state of a model of ours."""

    weights: Path
    files: list[StoredTensors]
    config: Any
    renaming: Renaming


def load(directory: Path, values: dict[str, Any]) -> Transformer | TransformerLM | EncoderModel:
    """The model of a directory whose config.json holds these values. Raises ValueError, naming the
    file, for what is malformed, missing or unknown; warns of tensors that have no place."""
    opened = open_directory(directory, values)
    model = new_model(opened.config)
    check_state(f"load: {opened.weights}", opened.renaming, model, CONFIG)
    model.load_state_dict(opened.renaming.state)
    for file in opened.files:
        file.warn(stacklevel=3)
    fields = Fields(values, f"load: {directory / CONFIG}")
    source, target = tokenizer_files.read(directory, values["model_type"], fields)
    if isinstance(model, Transformer | EncoderModel):
        model.src_tokenizer = source
    if isinstance(model, Transformer | TransformerLM):
        model.tgt_tokenizer = target
        model.generation_options = generation_config.read(
            directory, fields, is_translator=model.has_encoder
        )
    return model


def open_directory(directory: Path, values: dict[str, Any]) -> Opened:
    """What a directory holds whose config.json holds these values."""
    path = directory / CONFIG
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(f"load: {path}: model_type is {brief(kind)}, expected one of {known}")
    weights, files, tensors = read_weights(directory)
    config, renaming = translated(Fields(values, f"load: {path}"), tensors)
    check_size(f"load: {weights}", tensors, config.num_parameters, path.name)
    return Opened(weights, files, config, renaming)


def translated(fields: Fields, tensors: dict[str, Tensor]) -> tuple[Any, Renaming]:
    """What a family makes of a file. Raises ValueError, naming the key."""
    try:
        config, renaming = FAMILIES[fields.values["model_type"]](fields, tensors)
        if isinstance(getattr(config, "head", None), ClassifierConfig):
            head = replace(
                config.head,
                problem=fields.choice("problem_type", PROBLEMS, ""),
                pair_scores=pair_scores_of(fields),
            )
            config = replace(config, head=head)
        return config, renaming
    except (TypeError, ValueError) as error:
        said = str(error)
        if said.startswith(fields.where):
            raise ValueError(said) from error
        raise ValueError(f"{fields.where}: {said}") from error


def pair_scores_of(fields: Fields) -> str | None:
    """What a cross-encoder makes of its logits: the activation that sentence-transformers wrote,
    if it is one of PyTorch's."""
    table = fields.table("sentence_transformers")
    if table is None or "activation_fn" not in table.values:
        table = Fields({"activation_fn": fields.values.get(ACTIVATION)}, fields.where)
    name = table.values["activation_fn"]
    if not isinstance(name, str) or not name.startswith("torch."):
        return None
    kind = Fields({"activation_fn": name.rpartition(".")[2]}, table.where)
    return kind.choice("activation_fn", PAIR_SCORES)


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
