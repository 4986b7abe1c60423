"""What sentence-transformers writes beside a model: how its rows become one vector of a text.

modules.json lists a transformer, in a folder of its own or in this one, a pooling and, where there
are such, dense maps and a normalisation, each with a config.json in its folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from pyx_transformer import ops
from pyx_transformer._fields import as_object
from pyx_transformer._files import read_text
from pyx_transformer.checkpoints.fields import Fields, read_fields
from pyx_transformer.checkpoints.hugging_face import read_weights
from pyx_transformer.heads import tanh
from pyx_transformer.layers import Linear

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
# How long texts are: one of these, by the kind of model that was first trained so.
LENGTHS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# What is copied with a model, besides the folders that modules.json names.
FILES = (MODULES, PROMPTS, *LENGTHS)
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
# What newer files have in place of the flags.
NAMES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
ACTIVATIONS = {
    "Identity": None,
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
}


@dataclass
class Dense:
    """activation(x W^T + b) of vectors (N, in) -> (N, out)."""

    linear: Linear
    activation: str | None

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map of vectors."""
        out = self.linear.apply(vectors)
        if self.activation == "tanh":
            return tanh(out)
        return out if self.activation is None else getattr(ops, self.activation)(out)


@dataclass
class SentenceModules:
    """How a text becomes a vector. poolings: those whose vectors stand one beside the other;
    with_prompt: whether they count a prompt's tokens; dense: maps of the vectors; normalize:
    whether each is divided by its length at the end. longest: how many tokens of a text count,
    cuts: whether there is an end to them anyway. prompts: by their names; default_prompt: one of
    those. folders: of what this was read from."""

    poolings: tuple[str, ...] = ("mean",)
    with_prompt: bool = True
    dense: list[Dense] = field(default_factory=list)
    normalize: bool = False
    longest: int | None = None
    cuts: bool = False
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    folders: list[str] = field(default_factory=list)


def model_folder(directory: Path) -> Path:
    """Where the model of a directory lies: in it, or in the folder that modules.json names."""
    for _, kind, folder in modules_of(directory):
        if kind == "Transformer":
            return folder
    return directory


def read_modules(directory: Path) -> SentenceModules:
    """What the files of a directory say, the mean of all rows where there are none.

    Raises TypeError or ValueError, naming the file, for what is malformed or unknown, and what
    reading weights does.
    """
    found = SentenceModules()
    for name, kind, folder in modules_of(directory):
        if folder != directory:
            found.folders.append(name)
        if kind == "Transformer":
            files = [folder / name for name in LENGTHS]
            settings = read_fields(next((file for file in files if file.exists()), files[0]))
            found.cuts, found.longest = True, settings.size("max_seq_length", None)
            found.lower = settings.flag("do_lower_case", False)
        elif kind == "Pooling":
            settings = read_fields(folder / "config.json")
            found.poolings = poolings_of(settings)
            found.with_prompt = settings.flag("include_prompt", True)
        elif kind == "Dense":
            found.dense.append(read_dense(folder))
        elif kind == "Normalize":
            found.normalize = True
    settings = read_fields(directory / PROMPTS)
    prompts = settings.table("prompts")
    if prompts is not None:
        found.prompts = prompts.values
        for name, text in found.prompts.items():
            if not isinstance(text, str):
                raise ValueError(f"{prompts.where}: {name} is {text!r}, expected a text")
    default = settings.values.get("default_prompt_name")
    if default is not None and default not in list(found.prompts):
        raise ValueError(
            f"{settings.where}: default_prompt_name is {default!r}, expected one of prompts"
        )
    found.default_prompt = default
    return found


KINDS = ("Transformer", "Pooling", "Dense", "Normalize")  # in their order, Dense any number


def modules_of(directory: Path) -> list[tuple[str, str, Path]]:
    """The modules in their order: name of the folder, kind, and the folder."""
    path = directory / MODULES
    if not path.exists():
        return []
    text = read_text(path, who="load: ")
    try:
        entries = Fields(as_object("modules", f'{{"modules": {text}}}'), f"load: {path}")
    except ValueError as error:
        raise ValueError(f"load: {path}: {error}") from error
    found: list[tuple[str, str, Path]] = []
    for i, values in enumerate(entries.items("modules", dict)):
        entry = Fields(values, f"load: {path}: [{i}]")
        kind = str(entry.values.get("type", "")).rpartition(".")[2]
        name = entry.values.get("path", "")
        if kind not in KINDS:
            raise ValueError(f"{entry.where}: type is {kind!r}, expected one of {', '.join(KINDS)}")
        if not isinstance(name, str) or not is_inside(name):
            raise ValueError(f"{entry.where}: path is {name!r}, expected one inside the directory")
        before = found[-1][1] if found else None
        if before is not None and KINDS.index(kind) < KINDS.index(before) + (kind != "Dense"):
            raise ValueError(f"{entry.where}: {kind} follows {before}, expected it in front, once")
        found.append((name, kind, directory / name if name else directory))
    return found


def is_inside(name: str) -> bool:
    """Whether a name is that of a folder inside another, or of that itself."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def poolings_of(settings: Fields) -> tuple[str, ...]:
    """The poolings that a config.json asks for."""
    name = settings.values.get("pooling_mode")
    if name is not None:
        names = name if isinstance(name, list) else [name]
        found = tuple(
            Fields({"pooling_mode": n}, settings.where).choice("pooling_mode", NAMES) for n in names
        )
    else:
        found = tuple(name for flag, name in FLAGS.items() if settings.flag(flag, False))
    return found or ("mean",)


def read_dense(folder: Path) -> Dense:
    """A dense map with its weights. Raises ValueError where it reads or writes something else than
    the one vector of a text, or adds what it reads."""
    settings = read_fields(folder / "config.json")
    kind = str(settings.values.get("activation_function", "torch.nn.modules.activation.Tanh"))
    named = Fields({"activation_function": kind.rpartition(".")[2]}, settings.where)
    activation = named.choice("activation_function", ACTIVATIONS)
    where = ("sentence_embedding", None)
    for name, usual in {
        "use_residual": (False, None),
        "module_input_name": where,
        "module_output_name": where,
    }.items():
        if settings.values.get(name) not in usual:
            raise ValueError(
                f"{settings.where}: {name} is {settings.values[name]!r}, expected {usual[0]!r}"
            )
    inputs, outputs = settings.size("in_features"), settings.size("out_features")
    has_bias = settings.flag("bias", True)
    path, _, tensors = read_weights(folder)
    expected = {
        "linear.weight": (outputs, inputs),
        **({"linear.bias": (outputs,)} if has_bias else {}),
    }
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes != expected:
        raise ValueError(f"load: {path} holds {shapes}, expected {expected}")
    linear = Linear(inputs, outputs, bias=has_bias)
    linear.load_state_dict({name.partition(".")[2]: tensor for name, tensor in tensors.items()})
    return Dense(linear, activation)
