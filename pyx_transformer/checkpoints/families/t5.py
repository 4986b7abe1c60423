"""T5 (Raffel et al. 2020), mT5 (Xue et al. 2021) and umT5 (Chung et al. 2023): biases by distance
in place of positions, RMS norms, nothing else with a bias."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyx_transformer.checkpoints.families.parts import ACTIVATIONS, Tensors, first_id, pre_norm
from pyx_transformer.checkpoints.families.tied import Tables
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import Renaming
from pyx_transformer.config import TransformerConfig
from pyx_transformer.description import (
    AttentionConfig,
    DistanceBiasConfig,
    FeedForwardConfig,
    NormConfig,
    StackConfig,
)

PROJECTS = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "silu": ("silu", False),
    "gated-relu": ("relu", True),
    "gated-gelu": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
}
TABLE = "layer.0.SelfAttention.relative_attention_bias"


def t5(fields: Fields, tensors: Tensors):
    """umT5 has a table of biases in each layer, the others one for all."""
    norm = NormConfig("rms_norm", fields.number("layer_norm_epsilon"))
    is_shared = fields.values.get("model_type") != "umt5"
    width, count = fields.size("d_model"), fields.size("num_layers")
    counts = {"encoder": count, "decoder": fields.size("num_decoder_layers", count)}
    activation, gated = fields.choice("feed_forward_proj", PROJECTS, "relu")
    if "dense_act_fn" in fields:
        activation = fields.choice("dense_act_fn", ACTIVATIONS)
    wide = FeedForwardConfig(fields.size("d_ff"), activation, gated=gated, bias=False)

    def attention(**kind: Any) -> AttentionConfig:
        return AttentionConfig(
            fields.size("num_heads"),
            head_size=fields.size("d_kv"),
            scale=1.0,
            bias=False,
            output_bias=False,
            **kind,
        )

    def bias(is_encoder: bool) -> DistanceBiasConfig:
        return DistanceBiasConfig(
            fields.size("relative_attention_num_buckets", 32),
            fields.size("relative_attention_max_distance", 128),
            bidirectional=is_encoder,
            shared=is_shared,
        )

    encoder = pre_norm(attention(distance_bias=bias(True)), wide, norm=norm)
    own = attention(is_causal=True, distance_bias=bias(False))
    decoder = pre_norm(own, attention(is_cross=True), wide, norm=norm)
    last_norm = "decoder.final_layer_norm.weight"
    if is_scaled(fields) and last_norm in tensors:  # a part of the last norm's weight
        factor = np.float32(width**-0.5)
        tensors = {**tensors, last_norm: tensors[last_norm].changed(lambda array: array * factor)}
    renaming = Renaming(tensors)
    tables = Tables(fields, renaming, "")
    vocabulary = fields.size("vocab_size")
    config = TransformerConfig(
        vocabulary,
        vocabulary,
        StackConfig(width, counts["encoder"], (encoder,), norm),
        StackConfig(width, counts["decoder"], (decoder,), norm),
        positions="none",
        scale_embeddings=False,
        share_embeddings=tables.are_shared,
        tie_output=tables.is_tied,
        output_bias=False,
        start_id=first_id(
            fields, "decoder_start_token_id", fields.size("pad_token_id", 0, minimum=0)
        ),
        end_id=first_id(fields, "eos_token_id"),
    )
    for name, last in (("encoder", 1), ("decoder", 2)):
        names = {f"norm{i + 1}": f"layer.{i}.layer_norm" for i in range(last + 1)}
        dense = f"layer.{last}.DenseReluDense"
        names |= {"linear1": f"{dense}.wi_0" if gated else f"{dense}.wi", "linear2": f"{dense}.wo"}
        if gated:
            names["linear3"] = f"{dense}.wi_1"
        if not is_shared:
            names["self_attn.distance_bias"] = TABLE
        cross = [f"layer.1.EncDecAttention.{part}" for part in "qkvo"]
        renaming.move_layers(
            name,
            f"{name}.block.{{}}",
            counts[name],
            names,
            [f"layer.0.SelfAttention.{part}" for part in "qkvo"],
            cross if name == "decoder" else None,
        )
        renaming.move({f"{name}.norm": f"{name}.final_layer_norm"})
        if is_shared:
            renaming.move({f"{name}.distance_bias": f"{name}.block.0.{TABLE}"})
    return config, renaming


def is_scaled(fields: Fields) -> bool:
    """Whether the last rows are divided by the square root of d_model: where files do not say it,
    T5 does so where the output is tied to the embeddings, and mT5 and umT5 do not."""
    is_tied_t5 = fields.values.get("model_type") == "t5" and fields.flag(
        "tie_word_embeddings", True
    )
    return fields.flag("scale_decoder_outputs", is_tied_t5)


FAMILIES = {"t5": t5, "mt5": t5, "umt5": t5}
