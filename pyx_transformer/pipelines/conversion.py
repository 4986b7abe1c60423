"""Models of any layout in this package's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyx_transformer._files import as_path, replace_files
from pyx_transformer.checkpoints import is_shipped, load, save
from pyx_transformer.pipelines.sentence_modules import FILES, model_folder, read_modules

if TYPE_CHECKING:
    from pathlib import Path

    from pyx_transformer.checkpoints.native import Model, Stack

# What a folder of a pooling or a dense map holds.
OF_MODULES = ("config.json", "model.safetensors", "pytorch_model.bin")


def convert(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, dtype: str = "float32"
) -> Model | Stack:
    """Read a model of any layout, write it to another directory as `save` does, with what
    sentence-transformers wrote beside it, and return it.

    With dtype float32 the copy gives the same bits. Raises what `load` and `save` do, and
    ValueError where both directories are one.
    """
    directory = as_path("convert", "target", target)
    if is_shipped(source):
        model = load(source)
        save(model, directory, dtype=dtype)
        return model
    origin = as_path("convert", "source", source)
    beside = sentence_files(origin) if origin.is_dir() else {}
    folder = model_folder(origin) if beside else origin
    for own in (origin, folder):
        if directory.exists() and own.exists() and directory.samefile(own):
            raise ValueError(f"convert: target is {directory}, expected another folder than source")
    model = load(folder)
    place = directory / folder.relative_to(origin)
    for path in (place, *(directory / name for name in beside)):
        path.parent.mkdir(parents=True, exist_ok=True)
    save(model, place, dtype=dtype)
    for name, content in beside.items():
        path = directory / name
        replace_files(path.parent, {path.name: content})
    # What another model had there would say how this one's rows become vectors.
    replace_files(directory, {}, [name for name in FILES if name not in beside])
    return model


def sentence_files(directory: Path) -> dict[str, bytes]:
    """What sentence-transformers wrote beside a model, by the names in its directory."""
    modules = read_modules(directory)
    folder = model_folder(directory)
    paths = [directory / name for name in FILES]
    paths += [folder / name for name in FILES if folder != directory]
    paths += [
        directory / name / file
        for name in modules.folders
        if directory / name != folder
        for file in OF_MODULES
    ]
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file()
    }
