"""What tells whether two folders hold the same model."""

from __future__ import annotations

import hashlib
from pathlib import Path

# Other engines' weights, and what is written about a model: nothing of it is ever read.
NOT_READ = {".gguf", ".h5", ".md", ".msgpack", ".onnx", ".ot", ".pt", ".tflite", ".xml"}
PART = 1 << 20


def digest_of(path: Path) -> str:
    """SHA-256 of the names and contents of a model's files, those of its folders' included, as the
    modules of sentence-transformers have; of one file if it is that."""
    total = hashlib.sha256()
    for file in sorted(files_of(path)):
        total.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as content:
            while part := content.read(PART):
                total.update(part)
    return total.hexdigest()


def files_of(path: Path) -> list[Path]:
    """The files that may be a model's: of a folder, and of the folders in it."""
    if not path.is_dir():
        return [path]
    found = [*path.glob("*"), *path.glob("*/*")]
    names = [file.relative_to(path).parts for file in found]
    return [
        file
        for file, parts in zip(found, names, strict=True)
        if file.is_file()
        and file.suffix not in NOT_READ
        and not any(part.startswith(".") for part in parts)
    ]
