"""The library's own format: a directory with config.json, model.safetensors and texts of the sides.

config.json holds the fields of the `TransformerConfig` and, for other than a `Transformer`,
"architecture", the name of the class; of a stack alone, `TransformerEncoder` or
`TransformerDecoder`, those of its `StackConfig`. generation.json, which may be absent, holds the
model's `GenerationOptions`. `sides` says how vocabularies and tokenizers are stored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

from pyx_transformer._checks import as_choice, as_kind, brief
from pyx_transformer._fields import as_values, from_values
from pyx_transformer._files import as_path, read_text, replace_files
from pyx_transformer.checkpoints import safetensors, sides
from pyx_transformer.checkpoints.fields import read_values
from pyx_transformer.checkpoints.tensors import check_size
from pyx_transformer.config import (
    EncoderConfig,
    TokenConfig,
    TransformerConfig,
    TransformerLMConfig,
)
from pyx_transformer.description import StackConfig
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.generation import GenerationOptions
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.parameters import UNINITIALISED
from pyx_transformer.sizes import num_parameters
from pyx_transformer.stacks import TransformerDecoder, TransformerEncoder
from pyx_transformer.token_model import TokenModel
from pyx_transformer.transformer import Transformer

SHIPPED = Path(__file__).resolve().parents[1] / "models"
SHIPPED_NAMES = ("en-ja", "shakespeare")
Model = Transformer | TransformerLM | EncoderModel
Stack = TransformerEncoder | TransformerDecoder
Place: TypeAlias = "str | os.PathLike[str]"
Names: TypeAlias = Mapping[str, Sequence[str] | None]  # a str is one of them too
STACKS: dict[str, type[Stack]] = {
    "TransformerEncoder": TransformerEncoder,
    "TransformerDecoder": TransformerDecoder,
}
ARCHITECTURES: dict[str, type[Model | Stack]] = {
    "Transformer": Transformer,
    "TransformerLM": TransformerLM,
    "EncoderModel": EncoderModel,
    **STACKS,
}
CONFIG = "config.json"
GENERATION = "generation.json"
WEIGHTS = "model.safetensors"
NPZ = ".npz"
CTRANSLATE2 = "model.bin"
# One of these is in each config.json of transformers' and of the library's own.
OF_CONFIGS = ("model_type", "src_vocab_size", "tgt_vocab_size", "architecture")


OF_FILES = (".bin", ".npz", ".pt", ".pth", ".safetensors")  # endings of weights elsewhere


def save(
    model: TokenModel | Stack, directory: str | os.PathLike[str], *, dtype: str = "float32"
) -> None:
    """Write a model, or a stack alone. All files are written beside their places, then renamed into
    them; a failure leaves the model that was there before.

    dtype: "float32"; or "int8" for a file of about a quarter of the size, in which each row of a
    matrix is whole numbers from -127 to 127 times a scale, and what is no matrix is float32.
    Raises OSError where the directory cannot be written to, TypeError for what is no model or no
    path, and TypeError or ValueError for a vocabulary that is no list of lines or does not fit the
    config, generation_options of one call, or a matrix that is not finite and int8.
    """
    as_kind("save", "model", model, TokenModel, *STACKS.values())
    directory = as_path("save", "directory", directory)
    if directory.suffix in OF_FILES and not directory.is_dir():
        raise ValueError(
            f"save: directory is {str(directory)!r}, expected the name of a folder: config.json "
            "and the weights are written into it"
        )
    as_choice("save", "dtype", dtype, ("float32", "int8"))
    files = files_of(model, dtype)
    directory.mkdir(parents=True, exist_ok=True)
    optional = (GENERATION, *sides.FILES)
    replace_files(directory, files, [name for name in optional if name not in files])


def files_of(model: TokenModel | Stack, dtype: str = "float32") -> dict[str, bytes]:
    """What `save` writes. Raises what it does for the model."""
    files = {
        WEIGHTS: safetensors.contents(model.state_dict(), dtype),
        CONFIG: as_config_text(model).encode(),
        **(sides.files_of(model) if isinstance(model, TokenModel) else {}),
    }
    options = getattr(model, "generation_options", None)
    if options is not None:
        as_kind("save", "generation_options", options, GenerationOptions)
        files[GENERATION] = options.to_json().encode()
    return files


@overload
def load(path: Place, config: None = None, names: None = None) -> Model | Stack: ...
@overload
def load(path: Place, config: TransformerConfig, names: Names | None = None) -> Transformer: ...
@overload
def load(path: Place, config: TransformerLMConfig, names: Names | None = None) -> TransformerLM: ...
@overload
def load(path: Place, config: EncoderConfig, names: Names | None = None) -> EncoderModel: ...
@overload
def load(path: Place, config: StackConfig, names: Names | None = None) -> Stack: ...
def load(
    path: Place,
    config: TokenConfig | StackConfig | None = None,
    names: Names | None = None,
) -> Model | Stack:
    """Read the model or the stack that `save` wrote, a model in Hugging Face's layout,
    CTranslate2's or Marian's, or the one of that name that comes with the package; with a config,
    weights alone.

    In Hugging Face's layout config.json has a model_type, one of those that
    `checkpoints.families` knows, and the weights are model.safetensors or pytorch_model.bin, or
    several files with an index. Nothing of a pickle is run. Of Marian path is the .npz, or a folder
    with one and no config.json; see `checkpoints.marian`.
    In CTranslate2's layout the weights are model.bin, and config.json, which may be absent, has no
    model_type. Those of int8 and int16 become float32. Ids of sources are those that the encoder
    reads: they carry what CTranslate2 adds where add_source_bos or add_source_eos says so.
    "en-ja" translates English into Japanese, "shakespeare" continues texts in the manner of his
    plays; a directory of that name goes before it. Where one kind of model is expected, its class
    opens it as that: `Transformer.load`, `TransformerEncoder.load`.

    With a config path is a file of weights, or a folder with one: of safetensors, of torch.save or
    of numpy.savez, such as the state dict of a torch.nn.Transformer. config is that of a
    Transformer, a TransformerLM or an EncoderModel, or the StackConfig of a stack alone, such as
    TransformerEncoder(6, 512, 8, 2048).config. All that the file holds is used, and nothing may be
    missing.
    names says where the file has other names than the state_dict of such a model: whole parts of
    its dotted names, * for any one part, to ours: {"encoder.layers.*.ff_norm":
    "encoder.layers.*.norm2"}. Ours are "" for parts that fall away, several names in a tuple for
    what belongs in several places, None for what belongs nowhere. Of several that fit the longest
    counts. A table of learned positions may have axes of length 1 too.

    Raises FileNotFoundError for a missing file, IsADirectoryError for a folder in its place,
    OSError for a pipe or a device there, ValueError, naming the file, for one that is malformed or
    does not fit the config, ValueError or TypeError for names that are none, and TypeError for what
    is no path or no config. Warns of weights that are not finite.
    """
    if config is not None:
        from pyx_transformer.checkpoints import state_dicts

        return state_dicts.load(as_path("load", "path", path), config, names)
    if names is not None:
        raise ValueError("load: names were given, expected a config too")
    directory = SHIPPED / path if is_shipped(path) else as_path("load", "path", path)
    check_folder(directory)
    archive = marian_file(directory)
    if archive is not None:
        from pyx_transformer.checkpoints import marian

        return marian.load(archive)
    file, has_other = directory / CONFIG, (directory / CTRANSLATE2).exists()
    values = {} if has_other and not file.exists() else read_values(file)
    if has_other and values.keys().isdisjoint(OF_CONFIGS):
        from pyx_transformer.checkpoints import ctranslate2

        return ctranslate2.load(directory, values)
    if "model_type" in values:
        from pyx_transformer.checkpoints import hugging_face  # families load on first use

        return hugging_face.load(directory, values)
    architecture, built = as_config(directory / CONFIG, values)
    state, is_stack = safetensors.read_tensors(directory / WEIGHTS), architecture in STACKS.values()
    expected = num_parameters(built) if is_stack else built.num_parameters
    check_size(f"load: {directory / WEIGHTS}", state, expected, CONFIG)
    model = (architecture.of if is_stack else architecture)(built, rng=UNINITIALISED)
    try:
        model.load_state_dict(state)
    except (TypeError, ValueError) as error:
        raise ValueError(f"load: {directory / WEIGHTS}: {error}") from error
    state.warn(stacklevel=2)
    options = directory / GENERATION
    if hasattr(model, "generation_options") and options.exists():
        text = read_text(options, who="load: ")
        try:
            model.generation_options = GenerationOptions.from_json(text)
        except ValueError as error:
            raise ValueError(f"load: {options}: {error}") from error
    if not is_stack:
        sides.load_sides(model, directory)
    return model


def load_model(function: str, path: Place) -> Model:
    """What `load` opens, but for stacks. Raises what it does, and TypeError for those."""
    model = load(path)
    if isinstance(model, (TransformerEncoder, TransformerDecoder)):
        name = type(model).__name__
        raise TypeError(
            f"{function}: {path} is a {name} alone, expected a model with embeddings; {name}.load "
            "opens it"
        )
    return model


def check_folder(directory: Path) -> None:
    """Raise FileNotFoundError, with what was probably meant, where no model can lie there."""
    if not directory.exists():
        shipped = ", ".join(SHIPPED_NAMES)
        raise FileNotFoundError(
            f"load: {directory} is missing, expected a folder or the name of a model that comes "
            f"with the package: {shipped}"
        )
    if not directory.is_dir() and directory.suffix != NPZ:
        raise ValueError(
            f"load: {directory} is no folder, expected one, or the config of these weights too"
        )
    inside = directory / "model"
    if not (directory / CONFIG).exists() and (inside / CONFIG).exists():
        raise FileNotFoundError(f"load: {directory / CONFIG} is missing, but {inside} is a model")


def marian_file(path: Path) -> Path | None:
    """The file of a model of Marian's, if that is what lies here."""
    if not path.is_dir() or (path / CONFIG).exists():
        return path if path.suffix == NPZ and not path.is_dir() else None
    found = sorted(path.glob(f"*{NPZ}"))
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ValueError(f"load: {path} has several models ({names}), expected the path of one")
    return found[0] if found else None


def is_shipped(name: str | os.PathLike[str]) -> bool:
    """Whether `load` takes this as the name of a model that comes with the package."""
    return isinstance(name, str) and name in SHIPPED_NAMES and not Path(name).is_dir()


def as_config_text(model: Any) -> str:
    """The model's config as JSON, with its architecture where that is not the usual one."""
    name, config = type(model).__name__, model.config
    if name == "Transformer":
        return config.to_json()
    values = as_values(config) if isinstance(config, StackConfig) else config.to_values()
    return json.dumps({"architecture": name, **values}, indent=2) + "\n"


def as_config(path: Path, values: dict[str, Any]):
    """The kind of model and its config. Raises ValueError, naming the file, where it is
    malformed."""
    try:
        name = values.pop("architecture", "Transformer")
        if not isinstance(name, str) or name not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ValueError(f"architecture is {brief(name)}, expected one of {known}")
        if name in STACKS:
            return STACKS[name], as_stack_config(name, values)
        architecture: Any = ARCHITECTURES[name]
        config = architecture.config_type
        if architecture is TransformerLM and "src_vocab_size" in values:
            # A file from before language models had a config of their own.
            whole = TransformerConfig.from_values(f"{TransformerConfig.__name__}.from_json", values)
            return architecture, TransformerLMConfig.of_decoder(whole)
        return architecture, config.from_values(f"{config.__name__}.from_json", values)
    except ValueError as error:
        raise ValueError(f"load: {path}: {error}") from error


def as_stack_config(name: str, values: dict[str, Any]) -> StackConfig:
    """The description of a stack of that class. Raises ValueError for what is none."""
    config: StackConfig = from_values(StackConfig, values, name)
    if config.has_memory and not STACKS[name].takes_memory:
        raise ValueError(f"{name}: layers have a cross-attention, expected none")
    return config
