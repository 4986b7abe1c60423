"""What families have in common: activations by their names, usual layers, heads, rotary positions.

A family is a function of the `Fields` of a config.json and the tensors of a file; it gives the
config of one of our models and the `Renaming` of its state. Nothing but names and sizes is
translated, and no value is anybody's default where the file can say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import Tensor
from pyx_transformer.config import EncoderConfig, TransformerLMConfig
from pyx_transformer.description import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    NormConfig,
    RotaryConfig,
    StackConfig,
    SubLayerConfig,
)

Tensors = Mapping[str, Tensor]
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
LAYER_TYPES = ("full_attention", "sliding_attention")


def pre_norm(*blocks: AttentionConfig | FeedForwardConfig, norm: NormConfig) -> LayerConfig:
    """Blocks one after the other, a norm before each."""
    return LayerConfig(tuple(SubLayerConfig(block, norm_before=norm) for block in blocks))


def post_norm(*blocks: AttentionConfig | FeedForwardConfig, norm: NormConfig) -> LayerConfig:
    """Blocks one after the other, a norm of each sum."""
    return LayerConfig(tuple(SubLayerConfig(block, norm_sum=norm) for block in blocks))


def without_prefix(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """Tensors whose names may begin with a prefix, without it; norms' gamma and beta as weight and
    bias, as files of before 2020 have them."""
    endings = {".gamma": ".weight", ".beta": ".bias"}
    found = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix(prefix)
        for old, new in endings.items():
            if plain.endswith(old):
                plain = plain.removesuffix(old) + new
        found[plain] = tensor
    return found


def refuse(fields: Fields, **only: Any) -> None:
    """Raise ValueError where a field has another value than the only one that can be read, which
    it has too where it is absent."""
    for name, value in only.items():
        if name in fields and fields.values[name] != value:
            raise ValueError(
                f"{fields.where}: {name} is {fields.values[name]!r}, expected {value!r}: nothing "
                "else can be read"
            )


def first_id(fields: Fields, name: str, default: int | None = None) -> int:
    """A special token's id, the first one of a list."""
    value = fields.values.get(name)
    if isinstance(value, list) and value:
        fields = Fields({name: value[0]}, fields.where)
    if default is None or name in fields:
        return fields.size(name, minimum=0)
    return default


# Decoders.


def rotary_of(fields: Fields, parameters: Fields | None = None, **changes: Any) -> RotaryConfig:
    """The rotary positions of a config: its rope_parameters or, in older files, its rope_theta and
    rope_scaling."""
    if parameters is None:
        parameters = fields.table("rope_parameters") or fields.table("rope_scaling")
    base = fields.number("rope_theta", 10000.0, above=0)
    if parameters is None:
        return RotaryConfig(base=base, **changes)
    base = parameters.number("rope_theta", base, above=0)
    known = {"default": None, "linear": "linear", "llama3": "llama3"}
    kind = parameters.choice("type" if "rope_type" not in parameters else "rope_type", known)
    if kind is None:
        return RotaryConfig(base=base, **changes)
    factor = parameters.number("factor", above=0)
    if kind == "linear":
        return RotaryConfig(base=base, scaling=kind, factor=factor, **changes)
    return RotaryConfig(
        base=base,
        scaling=kind,
        factor=factor,
        low_frequency_factor=parameters.number("low_freq_factor", above=0),
        high_frequency_factor=parameters.number("high_freq_factor", above=0),
        original_length=parameters.size("original_max_position_embeddings"),
        **changes,
    )


def window_of(fields: Fields, name: str = "sliding_window") -> tuple[int | None, int | None] | None:
    """How far back a layer with a window sees: the token itself counts."""
    size = fields.size(name, None)
    return None if size is None else (size - 1, None)


def layer_types_of(fields: Fields, count: int) -> list[str] | None:
    """The kind of each layer, where the file says it."""
    types = fields.words("layer_types", LAYER_TYPES)
    if types is not None and len(types) != count:
        raise ValueError(
            f"{fields.where}: layer_types has {len(types)} entries, expected {count}, the number "
            "of layers"
        )
    return types


def shortest_cycle(layers: list[LayerConfig]) -> tuple[LayerConfig, ...]:
    """The fewest layers that make up all of them in turn."""
    for size in range(1, len(layers)):
        if all(layer == layers[i % size] for i, layer in enumerate(layers)):
            return tuple(layers[:size])
    return tuple(layers)


def language_model(
    fields: Fields, decoder: StackConfig, tie_output: bool, **changes: Any
) -> TransformerLMConfig:
    """A decoder over tokens. Nothing comes before a text: a token that begins it is the
    tokenizer's part of it."""
    values = {
        "positions": "none",
        "scale_embeddings": False,
        "tie_output": tie_output,
        "output_bias": False,
        "start_id": None,
        "end_id": first_id(fields, "eos_token_id"),
    }
    return TransformerLMConfig(fields.size("vocab_size"), decoder, **{**values, **changes})


# Encoders.


def encoder_model(
    fields: Fields,
    stack: StackConfig,
    norm: NormConfig | None,
    positions: Tensor | None,
    **changes: Any,
) -> EncoderConfig:
    """An encoder over tokens, with learned positions where there is a table of them."""
    values: dict[str, Any] = {
        "positions": "none",
        "scale_embeddings": False,
        "embedding_norm": norm,
    }
    if positions is not None:
        values |= {"positions": "learned", "max_length": max(1, *positions.shape[:1])}
    return EncoderConfig(fields.size("vocab_size"), stack, **{**values, **changes})


HEADS = {
    "ForMaskedLM": "masked",
    "ForPreTraining": "masked",
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "tokens",
}


def head_of(fields: Fields) -> str | None:
    """The kind of head that a file was saved with, by the ending of its class."""
    names = fields.values.get("architectures")
    name = names[0] if isinstance(names, list) and names else ""
    for ending, kind in HEADS.items():
        if isinstance(name, str) and name.endswith(ending):
            return kind
    return None


def labels_of(fields: Fields, tensors: Tensors, classifier: str) -> tuple[str, ...]:
    """The labels of a head, LABEL_0 and so on where the file does not name them."""
    weight = tensors.get(f"{classifier}.weight")
    table = fields.table("id2label")
    count = len(table.values) if table is not None else 2
    if weight is not None and weight.shape:
        count = weight.shape[0]
    if table is None:
        return tuple(f"LABEL_{i}" for i in range(count))
    if table.values.keys() != {str(i) for i in range(count)}:
        raise ValueError(
            f"{table.where} has {len(table.values)} entries, expected 0 to {count - 1}"
        )
    return tuple(str(table.values[str(i)]) for i in range(count))
