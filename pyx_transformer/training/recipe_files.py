"""A recipe's TOML file, wherever it is, and the files of texts that it names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pyx_transformer._files import as_path, read_text

SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
SHIPPED_NAMES = ("reverse",)
KINDS = ("source", "target", "labels")
FILES = tuple(f"{part}_{kind}" for part in ("train", "dev", "test") for kind in KINDS)
DEV_SHARE = "dev_share"
ORIGIN = "origin"


def is_shipped(name: str | os.PathLike) -> bool:
    """Whether this is the name of a recipe that comes with the package. A file of that name goes
    before it."""
    return isinstance(name, str) and name in SHIPPED_NAMES and not Path(name).is_file()


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The tables of a TOML file, or of the recipe of that name that comes with the package, whose
    texts lie beside it. Raises as `load_recipe` does."""
    if not is_shipped(path):
        return parsed(as_path("recipe", "path", path))
    values = parsed(SHIPPED / f"{path}.toml")
    data = values["data"]
    values["data"] = {
        name: str(SHIPPED / value) if name in FILES else value for name, value in data.items()
    }
    return values


def parsed(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    if not path.exists():
        raise FileNotFoundError(
            f"recipe: {path} is missing, expected a file or the name of a recipe that comes with "
            f"the package: {', '.join(SHIPPED_NAMES)}"
        )
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib  # type: ignore[no-redef, unused-ignore]
        except ImportError as error:
            raise ImportError(
                "recipe: the package tomli is missing: pip install 'pyx-transformer[train]'"
            ) from error
    content = read_text(path, may_be_pipe=True)
    try:
        return tomllib.loads(content)
    except ValueError as error:  # a number of thousands of digits is no TOMLDecodeError
        raise ValueError(f"recipe {path} is not TOML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"recipe {path} is not TOML: it is nested too deeply") from error


def check(data: dict[str, Any]) -> None:
    """Raise FileNotFoundError, with where it comes from, for a file of [data] that is not there."""
    for name in FILES:
        if name not in data:
            continue
        path = as_path("recipe", name, data[name])
        if not path.exists():
            origin = " ".join(data.get(ORIGIN, "").split())
            raise FileNotFoundError(
                f"recipe: [data] {name}: {path} is missing in {Path.cwd()}"
                + (f"; where it comes from: {origin}" if origin else "")
            )
