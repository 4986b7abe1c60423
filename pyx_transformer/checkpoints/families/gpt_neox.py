"""GPT-NeoX (Black et al. 2022): attention and feed-forward side by side, a part of each head
turning."""

from __future__ import annotations

import numpy as np

from pyx_transformer.checkpoints.families.parts import (
    ACTIVATIONS,
    Tensors,
    language_model,
    pre_norm,
    rotary_of,
)
from pyx_transformer.checkpoints.families.tied import take_output
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import Renaming
from pyx_transformer.description import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    NormConfig,
    StackConfig,
)

LAYER = {
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
    "linear1": "mlp.dense_h_to_4h",
    "linear2": "mlp.dense_4h_to_h",
}


def gpt_neox(fields: Fields, tensors: Tensors):
    """Their queries, keys and values are stored head by head."""
    norm, heads = (
        NormConfig(eps=fields.number("layer_norm_eps")),
        fields.size("num_attention_heads"),
    )
    width, count = fields.size("hidden_size"), fields.size("num_hidden_layers")
    head_size = width // heads
    parameters = fields.table("rope_parameters")
    older = Fields(
        {
            "rope_theta": fields.values.get("rotary_emb_base"),
            "rope_scaling": fields.values.get("rope_scaling"),
            "partial_rotary_factor": fields.values.get("rotary_pct"),
        },
        fields.where,
    )
    part = (parameters or older).number("partial_rotary_factor", 0.25, above=0)
    bias = fields.flag("attention_bias", True)
    block = AttentionConfig(
        heads,
        is_causal=True,
        bias=bias,
        output_bias=bias,
        rotary=rotary_of(older, parameters, size=int(head_size * part)),
    )
    wide = FeedForwardConfig(
        fields.size("intermediate_size"), fields.choice("hidden_act", ACTIVATIONS)
    )
    layer = pre_norm(block, wide, norm=norm)
    if fields.flag("use_parallel_residual", True):
        layer = LayerConfig(layer.sub_layers, side_by_side=True)

    def by_parts(array):
        each = array.reshape(heads, 3, head_size, -1).swapaxes(0, 1)
        return np.concatenate(each).reshape(array.shape)

    tensors = {
        name: tensor.changed(by_parts) if "query_key_value" in name else tensor
        for name, tensor in tensors.items()
    }
    output = "embed_out" if "embed_out.weight" in tensors else "lm_head"
    renaming = Renaming(tensors)
    renaming.move(
        {
            "tgt_embedding": "gpt_neox.embed_in",
            "decoder.norm": "gpt_neox.final_layer_norm",
        }
    )
    projections = ["attention.query_key_value", "attention.dense"]
    renaming.move_layers("decoder", "gpt_neox.layers.{}", count, LAYER, projections)
    stack = StackConfig(width, count, (layer,), norm)
    is_tied = take_output(fields, renaming, output, "gpt_neox.embed_in")
    return language_model(fields, stack, is_tied), renaming


FAMILIES = {"gpt_neox": gpt_neox}
