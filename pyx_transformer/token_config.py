"""What the configs of whole models share: the fields of all of them, and JSON.

Each holds the descriptions of its stacks (see description.py). The paper's need none: the sizes in
PLAIN may be given in place of the stacks, and those that are not given are those of its base model.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from pyx_transformer import _checks
from pyx_transformer._fields import as_object, as_values, check_fields, read_part, set_field
from pyx_transformer._keys import wrong_keys
from pyx_transformer._reprs import called, told
from pyx_transformer.description import (
    MOST_LAYERS,
    NormConfig,
    StackConfig,
    plain_sizes,
    plain_stack,
)
from pyx_transformer.head_configs import ClassifierConfig, MaskedLMConfig
from pyx_transformer.positions import FREQUENCIES, LAYOUTS
from pyx_transformer.sizes import num_parameters

if TYPE_CHECKING:
    from typing_extensions import Self

# What `plain_stack` takes, besides the number of layers.
PLAIN = {
    "d_model": 512,
    "num_heads": 8,
    "d_ff": 2048,
    "activation": "relu",
    "norm_first": False,
    "final_norm": False,
    "layer_norm_eps": 1e-5,
}
PLAIN_LAYERS = 6
# The least that a whole number may be, where that is not 1.
LEAST = {
    "position_start": 0,
    "start_id": 0,
    "end_id": 0,
    "mask_id": 0,
    "num_token_types": 0,
    "logits_softcap": _checks.FLOAT32_TINY,
}
# What a table in the place of a field is; of two, the one whose required fields it has.
PARTS: dict[str, tuple[type, ...]] = {
    "embedding_norm": (NormConfig,),
    "head": (ClassifierConfig, MaskedLMConfig),
}


@dataclass(frozen=True, init=False, repr=False)
class TokenConfig:
    """What models of token ids share: how a token and its place become a row.

    positions: "sinusoidal", "learned" (a table of max_length rows) or "none".
    position_layout, position_frequencies, position_start: as in `sinusoidal_positions`.
    scale_embeddings: multiply embeddings by sqrt(d_model). embedding_norm: of the sum of both.
    """

    positions: str = "sinusoidal"
    position_layout: str = "interleaved"
    position_frequencies: str = "paper"
    position_start: int = 0
    max_length: int = 1024
    scale_embeddings: bool = True
    embedding_norm: NormConfig | None = None

    # By stack: the name under which its number of layers may be given, and what else there is to
    # know of plain layers.
    stacks: ClassVar[dict[str, tuple[str, dict[str, bool]]]]

    def _take(self, values: dict[str, Any]) -> None:
        """Give each field its value or its default, and check them all."""
        this = type(self).__name__
        values = {
            name: value
            for name, value in values.items()
            if value is not None or name not in self.stacks
        }
        counts = {name: count for name, (count, _) in self.stacks.items()}
        plain = {name: values.pop(name) for name in (*PLAIN, *counts.values()) if name in values}
        for name, (count, kind) in self.stacks.items():
            if name in values and not plain:
                continue
            sizes: dict[str, Any] | None = {**PLAIN, "num_layers": PLAIN_LAYERS}
            if name in values:  # as dataclasses.replace gives them
                _checks.as_kind(this, name, values[name], StackConfig)
                sizes = plain_sizes(values[name], **kind)
            if sizes is None:
                raise ValueError(
                    f"{this}: {name} was given, and {sorted(plain)}, expected one of both because "
                    f"{name} is not the paper's"
                )
            changes = {key: value for key, value in plain.items() if key in PLAIN}
            if count in plain:
                changes["num_layers"] = _checks.as_integer(
                    this, count, plain[count], minimum=0, maximum=MOST_LAYERS
                )
            values[name] = plain_stack(**{**sizes, **changes, **kind}, who=this)
        for field in fields(self):
            if field.name not in values and field.default is MISSING:
                raise TypeError(f"{this}: {field.name} is missing")
            set_field(self, field.name, values.pop(field.name, field.default))
        if values:
            known = sorted(self.names())
            raise TypeError(f"{this}: {min(values)!r} was given, expected one of {known}")
        check_fields(this, self, LEAST)
        self._check(this)

    def _check(self, this: str) -> None:
        """Raise ValueError for fields that do not fit each other."""
        _checks.as_choice(this, "positions", self.positions, ("sinusoidal", "learned", "none"))
        _checks.as_choice(this, "position_layout", self.position_layout, LAYOUTS)
        _checks.as_choice(this, "position_frequencies", self.position_frequencies, FREQUENCIES)
        if self.positions == "sinusoidal" and self.embedding_width % 2:
            name = "d_model" if self.embedding_width == self.d_model else "embedding_size"
            raise ValueError(
                f"{this}: {name} is {self.embedding_width}, expected an even number because "
                "positions are sinusoidal"
            )

    @property
    def d_model(self) -> int:
        """The width of the stacks."""
        return self._stacks[0].d_model

    if TYPE_CHECKING:  # these are there where the stacks are the paper's

        @property
        def num_heads(self) -> int: ...
        @property
        def d_ff(self) -> int: ...
        @property
        def activation(self) -> str | None: ...
        @property
        def norm_first(self) -> bool: ...
        @property
        def final_norm(self) -> bool: ...
        @property
        def layer_norm_eps(self) -> float: ...

    else:

        def __getattr__(self, name):
            """The sizes that can be given in place of the stacks, where these are the paper's."""
            counts = [count for count, _ in self.stacks.values()]
            sizes = self._plain() if name in (*PLAIN, *counts) else None
            if sizes is None:
                raise AttributeError(f"{type(self).__name__} has no {name}")
            return sizes[name]

    def __repr__(self) -> str:
        """What differs from the defaults, the paper's stacks by their sizes."""
        plain, own = self._plain(), told(self)
        if plain is not None:
            usual = {**PLAIN, **dict.fromkeys((n for n, _ in self.stacks.values()), PLAIN_LAYERS)}
            sizes = {name: value for name, value in plain.items() if value != usual[name]}
            first = {name: own.pop(name) for name in [*own] if name.endswith("vocab_size")}
            own = {**first, **sizes, **{n: v for n, v in own.items() if n not in self.stacks}}
        return called(self, named=own)

    def _plain(self) -> dict[str, Any] | None:
        """These sizes, None where there are none."""
        found: dict[str, Any] = {}
        for name, (count, kind) in self.stacks.items():
            sizes = plain_sizes(getattr(self, name), **kind)
            if sizes is None:
                return None
            sizes[count] = sizes.pop("num_layers")
            if any(found.get(key, value) != value for key, value in sizes.items()):
                return None
            found.update(sizes)
        return found

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters of such a model hold, tied ones counted once."""
        raise NotImplementedError

    @property
    def embedding_width(self) -> int:
        """The width of the embeddings."""
        return self.d_model

    @property
    def longest(self) -> float:
        """The longest sequence that the positions reach: max_length if learned, else infinity."""
        return self.max_length if self.positions == "learned" else math.inf

    @property
    def _stacks(self) -> list[StackConfig]:
        return [getattr(self, name) for name in self.stacks]

    def _stack_parameters(self) -> int:
        return sum(map(num_parameters, self._stacks))

    def _side_parameters(self, vocab_size: int) -> int:
        """Of one side's embeddings."""
        norm, width = self.embedding_norm, self.embedding_width
        norms = 0 if norm is None else norm.weight + bool(norm.bias)
        positions = self.max_length if self.positions == "learned" else 0
        return (vocab_size + positions + norms) * width

    def to_json(self) -> str:
        """The fields as a JSON object, the paper's stacks by their sizes."""
        return json.dumps(self.to_values(), indent=2) + "\n"

    def to_values(self) -> dict[str, Any]:
        """What `from_values` takes."""
        plain = self._plain()
        names = [field.name for field in fields(self)]
        return {
            **{
                n: as_values(getattr(self, n))
                for n in names
                if plain is None or n not in self.stacks
            },
            **(plain or {}),
        }

    @classmethod
    def names(cls) -> set[str]:
        """The fields, and the sizes that can be given in place of the stacks."""
        counts = (count for count, _ in cls.stacks.values())
        return {*PLAIN, *counts, *(field.name for field in fields(cls))}

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The config that `to_json` wrote. Raises ValueError for any other text."""
        this = f"{cls.__name__}.from_json"
        return cls.from_values(this, as_object(this, text))

    @classmethod
    def from_values(cls, this: str, values: dict[str, Any]) -> Self:
        """The config with these fields, descriptions being tables. Raises ValueError, as `this`,
        for any others."""
        parts = {**dict.fromkeys(cls.stacks, (StackConfig,)), **PARTS}
        known = cls.names()
        unknown = values.keys() - known
        required = {f.name for f in fields(cls) if f.default is MISSING} - {*cls.stacks}
        missing = required - values.keys()
        if unknown or missing:
            raise ValueError(f"{this}: {wrong_keys(unknown, missing, known)}")
        read = {
            name: read_part(parts[name], value, f"{this}: {name}") if name in parts else value
            for name, value in values.items()
        }
        try:
            return cls(**read)
        except TypeError as error:
            raise ValueError(str(error)) from error
