"""The library's own format: a directory with config.json, model.safetensors and vocabularies.

source_vocabulary.txt and target_vocabulary.txt list one token a line, the id being the line number
from 0; they may be absent.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from pyx_transformer.config import TransformerConfig
from pyx_transformer.transformer import Transformer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
VOCABULARIES = {
    "src_vocabulary": "source_vocabulary.txt",
    "tgt_vocabulary": "target_vocabulary.txt",
}


def save(model: Transformer, directory: str | os.PathLike) -> None:
    """Write a model. Each file is written beside its place and renamed into it.

    Raises OSError where the directory cannot be written to, and ValueError for a token that holds
    a line break.
    """
    directory = Path(directory)
    files = {
        WEIGHTS: safetensors.numpy.save(model.state_dict()),
        CONFIG: model.config.to_json().encode(),
    }
    for attribute, name in VOCABULARIES.items():
        tokens = getattr(model, attribute)
        if tokens is not None:
            broken = [token for token in tokens if "\n" in token]
            if broken:
                raise ValueError(f"save: {attribute} holds {broken[0]!r}, expected no line breaks")
            files[name] = "".join(f"{token}\n" for token in tokens).encode()
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        replace_file(directory / name, content)


def load(directory: str | os.PathLike) -> Transformer:
    """Read the model that `save` wrote.

    Raises FileNotFoundError for a missing file, and ValueError, naming the file, for one that is
    malformed or does not fit the config.
    """
    directory = Path(directory)
    config_text = read_text(directory / CONFIG)
    try:
        config = TransformerConfig.from_json(config_text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"load: {directory / CONFIG}: {error}") from error
    state = read_weights(directory / WEIGHTS)
    model = Transformer(config)
    try:
        model.load_state_dict(state)
    except (TypeError, ValueError) as error:
        raise ValueError(f"load: {directory / WEIGHTS}: {error}") from error
    for attribute, name in VOCABULARIES.items():
        path = directory / name
        if path.exists():
            setattr(model, attribute, read_text(path).removesuffix("\n").split("\n"))
    return model


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file; ValueError where it is malformed."""
    if not path.is_file():
        raise FileNotFoundError(f"load: {path} is missing")
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"load: {path} is not a safetensors file: {error}") from error


def read_text(path: Path) -> str:
    """A UTF-8 text file; ValueError where it is not one."""
    if not path.is_file():
        raise FileNotFoundError(f"load: {path} is missing")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"load: {path} is not UTF-8: {error}") from error


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place whole, or leave the old one as it was."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
