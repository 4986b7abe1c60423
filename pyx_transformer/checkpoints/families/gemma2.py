"""Gemma 2 (Gemma Team 2024): norms before and after each block, local and global attention in
turn, capped scores and logits."""

from __future__ import annotations

from pyx_transformer.checkpoints.families.llama import LAYER, renamed
from pyx_transformer.checkpoints.families.parts import (
    ACTIVATIONS,
    Tensors,
    language_model,
    layer_types_of,
    rotary_of,
    shortest_cycle,
    window_of,
)
from pyx_transformer.checkpoints.families.tied import take_output
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.description import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    NormConfig,
    StackConfig,
    SubLayerConfig,
)

NORMS = {
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
    "norm3": "pre_feedforward_layernorm",
    "norm4": "post_feedforward_layernorm",
}


def gemma2(fields: Fields, tensors: Tensors):
    """The weights of their norms are what is added to 1."""
    norm = NormConfig("rms_norm", fields.number("rms_norm_eps"))
    count = fields.size("num_hidden_layers")
    types = layer_types_of(fields, count) or [
        "full_attention" if i % 2 else "sliding_attention" for i in range(count)
    ]

    def layer(kind: str) -> LayerConfig:
        block = AttentionConfig(
            fields.size("num_attention_heads"),
            fields.size("num_key_value_heads"),
            fields.size("head_dim"),
            is_causal=True,
            bias=fields.flag("attention_bias", False),
            output_bias=fields.flag("attention_bias", False),
            scale=fields.number("query_pre_attn_scalar", above=0) ** -0.5,
            softcap=fields.number("attn_logit_softcapping", None),
            window=window_of(fields) if kind == "sliding_attention" else None,
            rotary=rotary_of(fields),
        )
        activation = "hidden_activation" if "hidden_activation" in fields else "hidden_act"
        gate = FeedForwardConfig(
            fields.size("intermediate_size"),
            fields.choice(activation, ACTIVATIONS),
            gated=True,
            bias=False,
        )
        both = {"norm_before": norm, "norm_after": norm}
        return LayerConfig((SubLayerConfig(block, **both), SubLayerConfig(gate, **both)))

    stack = StackConfig(
        fields.size("hidden_size"), count, shortest_cycle([layer(kind) for kind in types]), norm
    )
    whole = {
        name: tensor.changed(lambda array: array + 1) if name.endswith("norm.weight") else tensor
        for name, tensor in tensors.items()
    }
    renaming = renamed(whole, count, LAYER | NORMS)
    config = language_model(
        fields,
        stack,
        take_output(fields, renaming, "lm_head", "model.embed_tokens"),
        scale_embeddings=True,
        logits_softcap=fields.number("final_logit_softcapping", None),
    )
    return config, renaming


FAMILIES = {"gemma2": gemma2}
