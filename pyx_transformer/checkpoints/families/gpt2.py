"""GPT-2 (Radford et al. 2019): a plain pre-norm decoder whose weights are stored (in, out)."""

from __future__ import annotations

from pyx_transformer.checkpoints.families.parts import (
    ACTIVATIONS,
    Tensors,
    language_model,
    pre_norm,
    refuse,
    without_prefix,
)
from pyx_transformer.checkpoints.families.tied import take_output
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import Renaming
from pyx_transformer.description import (
    AttentionConfig,
    FeedForwardConfig,
    NormConfig,
    StackConfig,
)

LAYER = {"norm1": "ln_1", "norm2": "ln_2", "linear1": "mlp.c_fc", "linear2": "mlp.c_proj"}


def gpt2(fields: Fields, tensors: Tensors):
    """Their causal masks, stored as buffers, are not read."""
    refuse(fields, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    norm = NormConfig(eps=fields.number("layer_norm_epsilon"))
    width, count = fields.size("n_embd"), fields.size("n_layer")
    block = AttentionConfig(
        fields.size("n_head"),
        is_causal=True,
        scale=None if fields.flag("scale_attn_weights", True) else 1.0,
    )
    wide = FeedForwardConfig(
        fields.size("n_inner", 4 * width), fields.choice("activation_function", ACTIVATIONS)
    )
    stack = StackConfig(width, count, (pre_norm(block, wide, norm=norm),), norm)
    plain = {
        name: tensor.T if ".c_" in name and len(tensor.shape) == 2 else tensor
        for name, tensor in without_prefix(tensors, "transformer.").items()
    }
    renaming = Renaming(plain)
    renaming.move(
        {
            "tgt_embedding": "wte",
            "tgt_positions": "wpe",
            "decoder.norm": "ln_f",
        }
    )
    renaming.move_layers("decoder", "h.{}", count, LAYER, ["attn.c_attn", "attn.c_proj"])
    positions = fields.size("n_positions" if "n_positions" in fields else "n_ctx")
    config = language_model(
        fields,
        stack,
        take_output(fields, renaming, "lm_head", "wte"),
        positions="learned",
        max_length=positions,
    )
    return config, renaming


FAMILIES = {"gpt2": gpt2}
