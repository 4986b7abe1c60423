"""Files of weights alone, as PyTorch's state dicts: the caller says what they are the weights of,
and what our names for them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyx_transformer._checks import as_kind, brief
from pyx_transformer._files import check_file
from pyx_transformer.checkpoints import npz, pytorch, safetensors
from pyx_transformer.checkpoints.models import MODELS, new_model
from pyx_transformer.checkpoints.tensors import StoredTensors, Tensor, check_size
from pyx_transformer.config import (
    TokenConfig,
)
from pyx_transformer.description import StackConfig
from pyx_transformer.parameters import UNINITIALISED
from pyx_transformer.sizes import num_parameters
from pyx_transformer.stacks import TransformerDecoder, TransformerEncoder

ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".npz")
ANY = "*"  # stands for any one part of a name


def load(
    path: Path,
    config: TokenConfig | StackConfig,
    names: Mapping[str, Sequence[str] | None] | None,
) -> Any:
    """The model or the stack of this config with the weights of a file: see `native.load`."""
    as_kind("load", "config", config, *MODELS, StackConfig)
    rules = as_rules(names)
    path = the_file(path)
    stored = read_tensors(path)
    state = renamed(stored, rules, f"load: {path}")
    if isinstance(config, StackConfig):
        check_size(f"load: {path}", state, num_parameters(config), "config")
        kind = TransformerDecoder if config.has_memory else TransformerEncoder
        model: Any = kind.of(config, UNINITIALISED)
    else:
        check_size(f"load: {path}", state, config.num_parameters, "config")
        model = new_model(config)
    shapes = model._all_shapes()
    for key, tensor in state.items():
        if key in shapes and key.endswith("_positions.weight"):
            state[key] = as_table(tensor, shapes[key])
    try:
        model.load_state_dict(state)
    except (TypeError, ValueError) as error:
        said = str(error)
        who = f"load: {path}: "
        raise ValueError(said if said.startswith(f"load: {path}") else who + said) from error
    stored.warn(stacklevel=3)
    return model


def the_file(path: Path) -> Path:
    """The path itself or, of a folder, the one file of weights in it."""
    if not path.is_dir():
        return path
    found = sorted(one.name for one in path.iterdir() if one.suffix in ENDINGS)
    if len(found) != 1:
        have = f"{len(found)} files of weights" + (f" ({', '.join(found)})" if found else "")
        raise FileNotFoundError(
            f"load: {path} has {have}, expected one that ends in {', '.join(ENDINGS)}, or the path "
            "of a file"
        )
    return path / found[0]


def read_tensors(path: Path) -> StoredTensors:
    """The tensors of a file, whatever wrote it."""
    check_file(path, who="load: ")
    if path.suffix == ".npz":
        return npz.read_tensors(path)
    with open(path, "rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    return (safetensors if is_safetensors else pytorch).read_tensors(path)


def as_table(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A table of positions, which may be stored as those of one sequence in a batch."""
    if [n for n in tensor.shape if n != 1] == [n for n in shape if n != 1]:
        return tensor.changed(lambda array: array.reshape(shape), shape)
    return tensor


class Rule(NamedTuple):
    """A run of parts of their names, and each name of ours for it; none where it has no place."""

    theirs: tuple[str, ...]
    ours: list[tuple[str, ...]]

    def fits(self, run: tuple[str, ...]) -> bool:
        """Whether these are the parts."""
        return len(run) == len(self.theirs) and all(
            part in (ANY, one) for part, one in zip(self.theirs, run, strict=True)
        )

    def filled(self, run: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Ours, with what stands for any part in them."""
        found = [one for part, one in zip(self.theirs, run, strict=True) if part == ANY]
        names = []
        for name in self.ours:
            left = iter(found)
            names.append(tuple(next(left) if part == ANY else part for part in name))
        return names


def as_rules(names: object) -> list[Rule]:
    """What `names` says, the longest rules first. Raises TypeError or ValueError."""
    if names is None:
        return []
    as_kind("load", "names", names, Mapping)
    assert isinstance(names, Mapping)
    rules = []
    for theirs, ours in names.items():
        several = ours if isinstance(ours, (list, tuple)) else () if ours is None else (ours,)
        for name in (theirs, *several):
            if not isinstance(name, str):
                raise TypeError(f"load: names holds {brief(name)}, expected strings")
        parts = tuple(theirs.split("."))
        if "" in parts:
            raise ValueError(
                f"load: names has {theirs!r}, expected whole parts of dotted names, such as 'a.b'"
            )
        rule = Rule(parts, [tuple(name.split(".")) if name else () for name in several])
        for name, new in zip(several, rule.ours, strict=True):
            if "" in new or new.count(ANY) != parts.count(ANY):
                raise ValueError(
                    f"load: names has {name!r} for {theirs!r}, expected whole parts of dotted "
                    f"names, {parts.count(ANY)} of them {ANY}"
                )
        rules.append(rule)
    return sorted(rules, key=lambda rule: (-len(rule.theirs), rule.theirs.count(ANY)))


def our_names(name: str, rules: list[Rule]) -> list[str]:
    """What a tensor of that name is called here."""
    parts, i = tuple(name.split(".")), 0
    found: list[tuple[str, ...]] = [()]
    while i < len(parts):
        size, news = 1, [parts[i : i + 1]]
        for rule in rules:
            run = parts[i : i + len(rule.theirs)]
            if rule.fits(run):
                size, news = len(run), rule.filled(run)
                break
        found = [(*before, *new) for before in found for new in news]
        i += size
    return [".".join(new) for new in found]


def renamed(tensors: Mapping[str, Tensor], rules: list[Rule], who: str) -> dict[str, Tensor]:
    """Tensors by our names. Raises ValueError where two have one."""
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for new in our_names(name, rules):
            if new in state:
                raise ValueError(
                    f"{who}: {state[new].name} and {name} are both {new} by names, expected one"
                )
            state[new] = tensor
    return state
