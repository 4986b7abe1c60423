"""ModernBERT (Warner et al. 2024): gated, rotary, local and global layers in turn."""

from __future__ import annotations

from typing import Any

from pyx_transformer.checkpoints.families.parts import (
    ACTIVATIONS,
    LAYER_TYPES,
    Tensors,
    encoder_model,
    head_of,
    labels_of,
    layer_types_of,
    rotary_of,
    shortest_cycle,
    without_prefix,
)
from pyx_transformer.checkpoints.families.tied import masked_head, take_decoder
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import Renaming
from pyx_transformer.description import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    NormConfig,
    StackConfig,
    SubLayerConfig,
)
from pyx_transformer.head_configs import ClassifierConfig, Head, MaskedLMConfig

LAYER = {
    "linear1": "mlp.W1",
    "linear2": "mlp.Wo",
    "linear3": "mlp.W3",
}
POOLINGS = {"cls": "first", "mean": "mean"}
THETAS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}


def modernbert(fields: Fields, tensors: Tensors):
    """The first layer has no norm before its attention."""
    norm = NormConfig(eps=fields.number("norm_eps"), bias=fields.flag("norm_bias", False))
    count = fields.size("num_hidden_layers")
    every = fields.size("global_attn_every_n_layers", 3)
    types = layer_types_of(fields, count) or [LAYER_TYPES[i % every != 0] for i in range(count)]
    bias = fields.flag("attention_bias", False)
    gate = FeedForwardConfig(
        fields.size("intermediate_size"),
        fields.choice("hidden_activation", ACTIVATIONS),
        gated=True,
        bias=fields.flag("mlp_bias", False),
    )
    reach = fields.size("local_attention") // 2

    def layer(i: int, kind: str) -> LayerConfig:
        block = AttentionConfig(
            fields.size("num_attention_heads"),
            bias=bias,
            output_bias=bias,
            window=(reach, reach) if kind == "sliding_attention" else None,
            rotary=rotary_of_kind(fields, kind),
        )
        first = SubLayerConfig(block, norm_before=norm if i else None)
        return LayerConfig((first, SubLayerConfig(gate, norm_before=norm)))

    stack = StackConfig(
        fields.size("hidden_size"),
        count,
        shortest_cycle([layer(i, kind) for i, kind in enumerate(types)]),
        norm,
    )
    tensors = halved(without_prefix(tensors, "model."), count)
    head, names = head_and_names(fields, tensors, norm)
    renaming = Renaming(tensors)
    renaming.move(
        {
            "src_embedding": "embeddings.tok_embeddings",
            "src_embedding_norm": "embeddings.norm",
            "encoder.norm": "final_norm",
            **names,
        }
    )
    if isinstance(head, MaskedLMConfig):
        take_decoder(renaming, head, "decoder", "decoder.bias")
    renaming.move_layers("encoder", "layers.{}", count, LAYER, ["attn.Wqkv", "attn.Wo"])
    for i in range(count):
        norms = ["attn_norm", "mlp_norm"][i == 0 :]
        numbers = {f"encoder.layers.{i}.norm{n}": name for n, name in enumerate(norms, 1)}
        renaming.move({ours: f"layers.{i}.{name}" for ours, name in numbers.items()})
    return encoder_model(fields, stack, norm, None, head=head), renaming


def rotary_of_kind(fields: Fields, kind: str):
    """The rotary positions of a kind of layer; older files have them apart."""
    parameters = fields.table("rope_parameters")
    own = None if parameters is None else parameters.table(kind)
    base = {"rope_theta": fields.values.get(THETAS[kind])}
    return rotary_of(Fields(base, fields.where), own)


def halved(tensors: Tensors, count: int) -> dict[str, Any]:
    """Their gated map, whose halves lie one below the other, as two."""
    found = dict(tensors)
    for i in range(count):
        for kind in ("weight", "bias"):
            both = found.pop(f"layers.{i}.mlp.Wi.{kind}", None)
            if both is not None:
                rows = (both.shape[0] if both.shape else 0) // 2
                found[f"layers.{i}.mlp.W1.{kind}"] = both.rows(0, rows)
                found[f"layers.{i}.mlp.W3.{kind}"] = both.rows(rows)
    return found


def head_and_names(
    fields: Fields, tensors: Tensors, norm: NormConfig
) -> tuple[Head | None, dict[str, str]]:
    """A head: a map with a norm, then the classifier or the tokens."""
    kind = head_of(fields)
    if kind is None:
        return None, {}
    activation = fields.choice("classifier_activation", ACTIVATIONS, "gelu")
    bias = fields.flag("classifier_bias", False)
    names = {"head.dense": "head.dense", "head.norm": "head.norm"}
    if kind == "masked":
        table = "embeddings.tok_embeddings"
        return masked_head(fields, tensors, activation, norm, "decoder", table, bias=bias), names
    pooling = "first"
    if kind == "sequence":
        pooling = fields.choice("classifier_pooling", POOLINGS, "cls")
    classifier = ClassifierConfig(
        labels_of(fields, tensors, "classifier"),
        of_tokens=kind == "tokens",
        pooling=pooling,
        dense=True,
        activation=activation,
        bias=bias,
        norm=norm,
    )
    return classifier, {**names, "head.classifier": "classifier"}


FAMILIES = {"modernbert": modernbert}
