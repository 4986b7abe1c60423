"""The library's own format: a directory with config.json, model.safetensors and vocabularies.

config.json holds the fields of the `TransformerConfig` and, for other than a `Transformer`,
"architecture", the name of the class. generation.json, which may be absent, holds the model's
`GenerationOptions`.

source_vocabulary.txt and target_vocabulary.txt list one token a line, the id being the line number
from 0; they may be absent. The last id may have no line: it then stands for unknown tokens.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from pyx_transformer._checks import as_choice
from pyx_transformer._files import replace_files
from pyx_transformer.config import TransformerConfig, as_object
from pyx_transformer.generation import GenerationOptions
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.text import Characters, SentencePiece, Words, as_lines
from pyx_transformer.transformer import Transformer

SHIPPED = Path(__file__).resolve().parents[1] / "models"
SHIPPED_NAMES = ("en-ja",)
ARCHITECTURES = {"Transformer": Transformer, "TransformerLM": TransformerLM}
CONFIG = "config.json"
GENERATION = "generation.json"
WEIGHTS = "model.safetensors"
VOCABULARIES = {
    "src_vocabulary": "source_vocabulary.txt",
    "tgt_vocabulary": "target_vocabulary.txt",
}
SCALES = ".scales"  # ends the key of the scales of an int8 matrix
TOKENIZERS = "tokenizers.json"
# By side: the attribute of the model, and the file of a tokenizer that is no list of tokens.
SIDES = {
    "source": ("src_tokenizer", "source_sentencepiece.model"),
    "target": ("tgt_tokenizer", "target_sentencepiece.model"),
}
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # the upper half of an F32; NumPy has no such type
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def save(
    model: Transformer | TransformerLM, directory: str | os.PathLike, *, dtype: str = "float32"
) -> None:
    """Write a model. All files are written beside their places, then renamed into them; a failure
    leaves the model that was there before.

    dtype: "float32"; or "int8" for a file of about a quarter of the size, in which each row of a
    matrix is whole numbers from -127 to 127 times a scale, and what is no matrix is float32.
    Raises OSError where the directory cannot be written to, and TypeError or ValueError for a
    vocabulary that is no list of lines or does not fit the config, or generation_options of one
    call.
    """
    directory = as_path("save", directory)
    as_choice("save", "dtype", dtype, ("float32", "int8"))
    files = {
        WEIGHTS: safetensors.numpy.save(
            model.state_dict() if dtype == "float32" else as_int8(model.state_dict())
        ),
        CONFIG: as_config_text(model).encode(),
    }
    if model.generation_options is not None:
        if not isinstance(model.generation_options, GenerationOptions):
            raise TypeError(
                f"save: generation_options is {model.generation_options!r}, expected "
                "GenerationOptions or None"
            )
        files[GENERATION] = model.generation_options.to_json().encode()
    for attribute, name in VOCABULARIES.items():
        tokens = getattr(model, attribute, None)
        if tokens is not None:
            check_vocabulary(f"save: {attribute}", attribute, tokens, model.config)
            files[name] = as_lines(tokens)
    settings = {}
    check_tokenizers("save", model)
    for side, (attribute, name) in SIDES.items():
        tokenizer = getattr(model, attribute, None)
        if tokenizer is not None:
            settings[side] = tokenizer.settings
            is_listed = not isinstance(tokenizer, SentencePiece)
            files[f"{side}_vocabulary.txt" if is_listed else name] = tokenizer.contents()
    if settings:
        files[TOKENIZERS] = (json.dumps(settings, indent=2) + "\n").encode()
    directory.mkdir(parents=True, exist_ok=True)
    sentencepiece = [name for _, name in SIDES.values()]
    optional = (*VOCABULARIES.values(), GENERATION, TOKENIZERS, *sentencepiece)
    replace_files(directory, files, [name for name in optional if name not in files])


def load(directory: str | os.PathLike) -> Transformer | TransformerLM:
    """Read the model that `save` wrote, or the one of that name that comes with the package.

    "en-ja" translates English into Japanese; a directory of that name goes before it. Raises
    FileNotFoundError for a missing file, and ValueError, naming the file, for one that is
    malformed or does not fit the config.
    """
    directory = SHIPPED / directory if is_shipped(directory) else as_path("load", directory)
    architecture, config = read_config(directory / CONFIG)
    state = read_weights(directory / WEIGHTS)
    held = sum(array.size for array in state.values())
    # Where the two are that far apart, the model is not built to find out which parameters differ.
    expected = config.num_parameters
    if architecture is TransformerLM:  # a third too many at most, for its missing cross-attention
        own = replace(config, src_vocab_size=1, num_encoder_layers=0, share_embeddings=False)
        expected = own.num_parameters
    if expected > 2 * held + 1_000_000:
        raise ValueError(
            f"load: {directory / WEIGHTS} holds {held} numbers, expected {expected} because of "
            f"{CONFIG}"
        )
    model = architecture(config)
    try:
        model.load_state_dict(state)
    except (TypeError, ValueError) as error:
        raise ValueError(f"load: {directory / WEIGHTS}: {error}") from error
    path = directory / GENERATION
    if path.exists():
        text = read_text(path)
        try:
            model.generation_options = GenerationOptions.from_json(text)
        except ValueError as error:
            raise ValueError(f"load: {path}: {error}") from error
    for attribute, name in VOCABULARIES.items():
        path = directory / name
        if hasattr(model, attribute) and path.exists():
            text = read_text(path)
            tokens = text.removesuffix("\n").split("\n") if text else []
            check_vocabulary(f"load: {path}", attribute, tokens, config)
            setattr(model, attribute, tokens)
    if (directory / TOKENIZERS).exists():
        load_tokenizers(model, directory)
    return model


def is_shipped(name: str | os.PathLike) -> bool:
    """Whether `load` takes this as the name of a model that comes with the package."""
    return isinstance(name, str) and name in SHIPPED_NAMES and not Path(name).is_dir()


def load_tokenizers(model: Transformer | TransformerLM, directory: Path) -> None:
    """Give a model the tokenizers that tokenizers.json describes."""
    path = directory / TOKENIZERS
    text = read_text(path)
    try:
        settings = as_object("load", text)
        for side, (attribute, name) in SIDES.items():
            if side not in settings or not hasattr(model, attribute):
                continue
            known = dict(settings[side])
            kind = known.pop("kind", None)
            if kind == SentencePiece.kind:
                tokenizer = SentencePiece(read_bytes(directory / name), **known)
            elif kind in (Words.kind, Characters.kind):
                vocabulary = getattr(model, attribute.replace("tokenizer", "vocabulary"))
                if vocabulary is None:
                    raise ValueError(f"{side} is {kind}, but {side}_vocabulary.txt is missing")
                tokenizer = {"words": Words, "characters": Characters}[kind](vocabulary, **known)
            else:
                raise ValueError(
                    f"{side} has kind {kind!r}, expected words, characters or sentencepiece"
                )
            setattr(model, attribute, tokenizer)
        check_tokenizers("load", model)
    except (TypeError, ValueError) as error:
        raise ValueError(f"load: {path}: {error}") from error


def check_tokenizers(who: str, model: Transformer | TransformerLM) -> None:
    """Raise ValueError unless the ids of a model's tokenizers are those of its config."""
    config = model.config
    for attribute, _ in SIDES.values():
        tokenizer = getattr(model, attribute, None)
        if tokenizer is None:
            continue
        size_name = attribute.replace("tokenizer", "vocab_size")
        size = getattr(config, size_name)
        if tokenizer.vocab_size != size:
            raise ValueError(
                f"{who}: {attribute} has {tokenizer.vocab_size} tokens, expected {size}, the "
                f"config's {size_name}"
            )
        ids = tokenizer.start_id, tokenizer.end_id
        if attribute == "tgt_tokenizer" and ids != (config.start_id, config.end_id):
            raise ValueError(
                f"{who}: {attribute} starts with id {ids[0]} and ends with {ids[1]}, expected the "
                f"config's start_id = {config.start_id} and end_id = {config.end_id}"
            )


def as_config_text(model: Transformer | TransformerLM) -> str:
    """The model's config as JSON, with its architecture where that is not the usual one."""
    name = type(model).__name__
    if name == "Transformer":
        return model.config.to_json()
    return json.dumps({"architecture": name, **asdict(model.config)}, indent=2) + "\n"


def read_config(path: Path) -> tuple[type[Transformer] | type[TransformerLM], TransformerConfig]:
    """What config.json says. Raises ValueError, naming the file, where it is malformed."""
    this = "TransformerConfig.from_json"
    text = read_text(path)
    try:
        values = as_object(this, text)
        name = values.pop("architecture", "Transformer")
        if not isinstance(name, str) or name not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ValueError(f"architecture is {name!r}, expected one of {known}")
        return ARCHITECTURES[name], TransformerConfig.from_values(this, values)
    except ValueError as error:
        raise ValueError(f"load: {path}: {error}") from error


def check_vocabulary(who: str, attribute: str, tokens: list[str], config: TransformerConfig):
    """Raise TypeError or ValueError unless these tokens can be the lines of a vocabulary file."""
    if not isinstance(tokens, (list, tuple)):
        raise TypeError(f"{who} is of type {type(tokens).__name__}, expected a list of tokens")
    size_name = attribute.replace("vocabulary", "vocab_size")
    size = getattr(config, size_name)
    if len(tokens) not in (size - 1, size):
        raise ValueError(
            f"{who} has {len(tokens)} tokens, expected {size} (or {size - 1}, the last id then "
            f"being that of unknown tokens) because {size_name} is {size}"
        )
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(f"{who} holds {token!r}, expected strings")
        if "\n" in token:
            raise ValueError(f"{who} holds {token!r}, expected no line breaks")
        try:
            token.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{who} holds {token!r}, which is no Unicode text") from error


def as_int8(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The matrices of a state as int8, each row's scale beside them."""
    stored = {}
    for key, array in state.items():
        stored[key] = array
        if array.ndim == 2:
            scales = np.abs(array).max(axis=1, keepdims=True) / np.float32(127)
            whole = np.divide(array, scales, out=np.zeros_like(array), where=scales > 0)
            stored[key] = np.rint(whole).astype(np.int8)
            stored[key + SCALES] = scales
    return stored


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, those with scales multiplied by them.

    Raises ValueError where the file is malformed.
    """
    try:
        tensors = safetensors.deserialize(read_bytes(path))
        arrays = {name: as_array(name, **tensor) for name, tensor in tensors}
        for name in [name for name in arrays if name.endswith(SCALES)]:
            scales, key = arrays.pop(name), name.removesuffix(SCALES)
            if key not in arrays or scales.shape != (*arrays[key].shape[:1], 1):
                raise ValueError(f"{name} has shape {scales.shape}, which fits no {key}")
            arrays[key] = arrays[key].astype(np.float32) * scales
        return arrays
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"load: {path} cannot be read as safetensors: {error}") from error


def as_array(name: str, dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    """A tensor of a safetensors file as an array; BF16 becomes float32."""
    if dtype not in DTYPES:
        raise ValueError(f"{name} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
    array = np.frombuffer(data, DTYPES[dtype])
    if dtype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    return array.reshape(shape)


def read_text(path: Path) -> str:
    """A UTF-8 text file; ValueError where it is not one."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"load: {path} is not UTF-8: {error}") from error


def read_bytes(path: Path) -> bytes:
    """All of a file; FileNotFoundError where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"load: {path} is missing")
    return path.read_bytes()


def as_path(function: str, directory: str | os.PathLike) -> Path:
    """`directory` as a Path."""
    try:
        return Path(directory)
    except TypeError as error:
        raise TypeError(f"{function}: directory is {directory!r}, expected a path") from error
