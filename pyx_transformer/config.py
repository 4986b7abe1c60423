"""What whole models are built from: one dataclass per kind of model, and JSON.

Each holds the descriptions of its stacks (see description.py). The paper's need none: the sizes in
PLAIN may be given in place of the stacks, and those that are not given are those of its base model.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from pyx_transformer import _checks
from pyx_transformer._fields import as_values, check_fields, read_part, set_field
from pyx_transformer._keys import wrong_keys
from pyx_transformer.description import (
    MOST_LAYERS,
    NormConfig,
    StackConfig,
    plain_sizes,
    plain_stack,
    without_memory,
)
from pyx_transformer.head_configs import ClassifierConfig, Head, MaskedLMConfig
from pyx_transformer.positions import FREQUENCIES, LAYOUTS
from pyx_transformer.sizes import num_parameters

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


@dataclass(frozen=True, init=False)
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

    def __getattr__(self, name: str) -> Any:
        """The sizes that can be given in place of the stacks, where these are the paper's."""
        counts = [count for count, _ in self.stacks.values()]
        if name == "d_model":
            return next(iter(self._stacks)).d_model
        sizes = self._plain() if name in (*PLAIN, *counts) else None
        if sizes is None:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return sizes[name]

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
    def from_json(cls, text: str):
        """The config that `to_json` wrote. Raises ValueError for any other text."""
        this = f"{cls.__name__}.from_json"
        return cls.from_values(this, as_object(this, text))

    @classmethod
    def from_values(cls, this: str, values: dict):
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


@dataclass(frozen=True, init=False, kw_only=True)
class TransformerConfig(TokenConfig):
    """What a `Transformer` is built from; the defaults are the base model of the paper.

    encoder, decoder: their descriptions; or in place of both the paper's sizes: d_model=512,
    num_heads=8, num_encoder_layers=6, num_decoder_layers=6, d_ff=2048, and activation="relu",
    norm_first, final_norm, layer_norm_eps as in `TransformerEncoder`.
    positions: "sinusoidal", "learned" (tables of max_length rows) or "none"; position_layout,
    position_frequencies, position_start: as in `sinusoidal_positions`.
    scale_embeddings: multiply embeddings by sqrt(d_model). embedding_norm: a norm of the sum of
    embedding and position, on each side.
    share_embeddings: one table for source and target; tie_output: the output projection's weight
    is the target table. output_bias: whether that projection has a bias.
    start_id begins every target, end_id ends it.

    Raises TypeError or ValueError, naming the field, also for fields that do not fit each other.
    """

    src_vocab_size: int
    tgt_vocab_size: int
    encoder: StackConfig
    decoder: StackConfig
    share_embeddings: bool = False
    tie_output: bool = False
    output_bias: bool = True
    start_id: int = 1
    end_id: int = 2

    stacks: ClassVar = {
        "encoder": ("num_encoder_layers", {}),
        "decoder": ("num_decoder_layers", {"is_causal": True, "has_memory": True}),
    }

    def __init__(
        self,
        src_vocab_size: int,
        tgt_vocab_size: int,
        encoder: StackConfig | None = None,
        decoder: StackConfig | None = None,
        **values: Any,
    ):
        sizes = {"src_vocab_size": src_vocab_size, "tgt_vocab_size": tgt_vocab_size}
        self._take({**sizes, "encoder": encoder, "decoder": decoder, **values})

    def _check(self, this):
        super()._check(this)
        check_decoder(this, self.decoder, has_memory=True)
        check_encoder(this, self.encoder)
        if self.encoder.d_model != self.decoder.d_model:
            raise ValueError(
                f"{this}: decoder.d_model is {self.decoder.d_model}, expected encoder.d_model = "
                f"{self.encoder.d_model}"
            )
        if self.share_embeddings and self.src_vocab_size != self.tgt_vocab_size:
            raise ValueError(
                f"{this}: tgt_vocab_size is {self.tgt_vocab_size}, expected src_vocab_size = "
                f"{self.src_vocab_size} because share_embeddings is True"
            )
        check_ids(this, self)

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters of such a model hold, tied ones counted once."""
        width, vocab = self.d_model, self.tgt_vocab_size
        shared = vocab * width * self.share_embeddings
        sides = sum(self._side_parameters(size) for size in (self.src_vocab_size, vocab)) - shared
        output = vocab * width * (not self.tie_output) + vocab * self.output_bias
        return self._stack_parameters() + sides + output


@dataclass(frozen=True, init=False, kw_only=True)
class TransformerLMConfig(TokenConfig):
    """What a `TransformerLM` is built from.

    decoder: its description, without cross-attention; or in its place num_decoder_layers=6 and the
    paper's sizes as in `TransformerConfig`, as are the other fields, of the target's side.
    logits_softcap: logits are softcap tanh(logits / softcap) (Gemma Team 2024); None for none.
    start_id: None where nothing comes before a text: its first token is given, never predicted.

    Raises TypeError or ValueError, naming the field, also for fields that do not fit each other.
    """

    tgt_vocab_size: int
    decoder: StackConfig
    tie_output: bool = False
    output_bias: bool = True
    logits_softcap: float | None = None
    start_id: int | None = 1
    end_id: int = 2

    stacks: ClassVar = {"decoder": ("num_decoder_layers", {"is_causal": True})}

    def __init__(self, tgt_vocab_size: int, decoder: StackConfig | None = None, **values: Any):
        self._take({"tgt_vocab_size": tgt_vocab_size, "decoder": decoder, **values})

    @classmethod
    def of_decoder(cls, config: TransformerConfig) -> TransformerLMConfig:
        """What a `TransformerConfig` says of the target's side, without cross-attention."""
        _checks.as_kind(f"{cls.__name__}.of_decoder", "config", config, TransformerConfig)
        names = {field.name for field in fields(config)}
        values = {name: getattr(config, name) for name in cls.names() & names}
        return cls(**{**values, "decoder": without_memory(config.decoder)})

    def _check(self, this):
        super()._check(this)
        check_decoder(this, self.decoder, has_memory=False)
        check_ids(this, self)

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters of such a model hold, tied ones counted once."""
        vocab = self.tgt_vocab_size
        output = vocab * self.d_model * (not self.tie_output) + vocab * self.output_bias
        return self._stack_parameters() + self._side_parameters(vocab) + output


@dataclass(frozen=True, init=False, kw_only=True)
class EncoderConfig(TokenConfig):
    """What an `EncoderModel` is built from.

    encoder: its description; or in its place num_encoder_layers=6 and the paper's sizes as in
    `TransformerConfig`, as are the fields of positions. num_token_types: rows of a table added to
    the embeddings by the type of each token, 0 for none. embedding_size: width of the embeddings,
    which a projection takes to d_model (Lan et al. 2020, ALBERT); d_model unless given. pooler:
    whether `pooled` has a tanh(W x + b) (Devlin et al. 2019). head: what calling the model gives.
    mask_id: the token that stands in masked places.

    Raises TypeError or ValueError, naming the field, also for fields that do not fit each other.
    """

    src_vocab_size: int
    encoder: StackConfig
    num_token_types: int = 0
    embedding_size: int | None = None
    pooler: bool = False
    head: Head | None = None
    mask_id: int | None = None

    stacks: ClassVar = {"encoder": ("num_encoder_layers", {})}

    def __init__(self, src_vocab_size: int, encoder: StackConfig | None = None, **values: Any):
        self._take({"src_vocab_size": src_vocab_size, "encoder": encoder, **values})

    def _check(self, this):
        super()._check(this)
        check_encoder(this, self.encoder)
        if self.mask_id is not None and self.mask_id >= self.src_vocab_size:
            raise ValueError(
                f"{this}: mask_id is {self.mask_id}, expected a token id below src_vocab_size = "
                f"{self.src_vocab_size}"
            )

    @property
    def embedding_width(self) -> int:
        """The width of the embeddings."""
        return self.d_model if self.embedding_size is None else self.embedding_size

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters of such a model hold, tied ones counted once."""
        d, width = self.d_model, self.embedding_width
        total = self._stack_parameters() + self._side_parameters(self.src_vocab_size)
        total += self.num_token_types * width + d * (width + 1) * (self.embedding_size is not None)
        total += d * (d + 1) * self.pooler
        if isinstance(self.head, MaskedLMConfig):
            total += self._dense_parameters(width) + self.src_vocab_size
            total += self.src_vocab_size * width * (not self.head.tied)
        if isinstance(self.head, ClassifierConfig):
            total += self._dense_parameters(d) * self.head.dense + len(self.head.labels) * (d + 1)
        return total

    def _dense_parameters(self, width: int) -> int:
        """Of the head's first map, to rows of that width, and its norm."""
        assert self.head is not None
        norm = self.head.norm
        norms = 0 if norm is None else norm.weight + bool(norm.bias)
        return width * (self.d_model + self.head.bias + norms)


# What a table in the place of a field is; of two, the one whose required fields it has.
PARTS: dict[str, tuple[type, ...]] = {
    "embedding_norm": (NormConfig,),
    "head": (ClassifierConfig, MaskedLMConfig),
}


def check_encoder(this: str, stack: StackConfig) -> None:
    """Raise ValueError for an encoder that would need a memory."""
    if stack.has_memory:
        raise ValueError(f"{this}: encoder has a cross-attention, expected none")


def check_decoder(this: str, stack: StackConfig, *, has_memory: bool) -> None:
    """Raise ValueError unless attentions are causal and cross-attentions there as wanted."""
    for i, layer in enumerate(stack.layers):
        crossing = sum(block.is_cross for block in layer.attentions)
        if crossing != has_memory:
            raise ValueError(
                f"{this}: decoder.layers[{i}] has {crossing} cross-attentions, expected "
                f"{int(has_memory)}"
            )
        if any(not block.is_cross and not block.is_causal for block in layer.attentions):
            raise ValueError(
                f"{this}: decoder.layers[{i}] has an attention whose is_causal is False, expected "
                "True in a decoder"
            )


def check_ids(this: str, config: TransformerConfig | TransformerLMConfig) -> None:
    """Raise ValueError for a start or end token that the vocabulary lacks."""
    for name in ("start_id", "end_id"):
        if (getattr(config, name) or 0) >= config.tgt_vocab_size:
            raise ValueError(
                f"{this}: {name} is {getattr(config, name)}, expected a token id below "
                f"tgt_vocab_size = {config.tgt_vocab_size}"
            )


def as_object(this: str, text: str) -> dict:
    """The JSON object that a text holds. Raises ValueError for any other text."""
    if not isinstance(text, (str, bytes, bytearray)):
        raise TypeError(f"{this}: text is of type {type(text).__name__}, expected str")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{this}: text is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{this}: text is a {type(values).__name__}, expected an object")
    return values
