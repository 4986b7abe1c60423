"""LLaMA (Touvron et al. 2023), Mistral with its window, Qwen 2 with biases, Qwen 3 with norms of
each head's queries and keys."""

from __future__ import annotations

from pyx_transformer.checkpoints.families.parts import (
    ACTIVATIONS,
    Tensors,
    language_model,
    layer_types_of,
    pre_norm,
    refuse,
    rotary_of,
    shortest_cycle,
    window_of,
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
    "linear1": "mlp.gate_proj",
    "linear2": "mlp.down_proj",
    "linear3": "mlp.up_proj",
    "self_attn.q_norm": "self_attn.q_norm",
    "self_attn.k_norm": "self_attn.k_norm",
}
NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
PROJECTIONS = [f"self_attn.{part}_proj" for part in "qkvo"]


def llama(fields: Fields, tensors: Tensors):
    """Any of them: what tells them apart is in the file."""
    refuse(fields, pretraining_tp=1)
    norm = NormConfig("rms_norm", fields.number("rms_norm_eps"))
    heads, count = fields.size("num_attention_heads"), fields.size("num_hidden_layers")
    first = "model.layers.0"

    def layer(kind: str) -> LayerConfig:
        block = AttentionConfig(
            heads,
            fields.size("num_key_value_heads", heads),
            fields.size("head_dim", None),
            is_causal=True,
            bias=f"{first}.self_attn.q_proj.bias" in tensors,
            output_bias=f"{first}.self_attn.o_proj.bias" in tensors,
            window=window_of(fields) if kind == "sliding_attention" else None,
            rotary=rotary_of(fields),
            head_norm=norm if f"{first}.self_attn.q_norm.weight" in tensors else None,
        )
        gate = FeedForwardConfig(
            fields.size("intermediate_size"),
            fields.choice("hidden_act", ACTIVATIONS),
            gated=True,
            bias=f"{first}.mlp.gate_proj.bias" in tensors,
        )
        return pre_norm(block, gate, norm=norm)

    layers = shortest_cycle([layer(kind) for kind in kinds_of(fields, count)])
    stack = StackConfig(fields.size("hidden_size"), count, layers, norm)
    renaming = renamed(tensors, count, LAYER | NORMS)
    is_tied = take_output(fields, renaming, "lm_head", "model.embed_tokens")
    return language_model(fields, stack, is_tied), renaming


def kinds_of(fields: Fields, count: int) -> list[str]:
    """The kind of each layer. Mistral's all have the window where there is one; Qwen's only behind
    the first max_window_layers, and if use_sliding_window says so."""
    types = layer_types_of(fields, count)
    if types is not None:
        return types
    before = 0
    if fields.values.get("model_type") != "mistral":
        is_used = fields.flag("use_sliding_window", False)
        before = fields.size("max_window_layers", count, minimum=0) if is_used else count
    return ["full_attention" if i < before else "sliding_attention" for i in range(count)]


def renamed(tensors: Tensors, count: int, names: dict[str, str]) -> Renaming:
    """The state of a decoder with LLaMA's names."""
    renaming = Renaming(tensors)
    renaming.move({"tgt_embedding": "model.embed_tokens", "decoder.norm": "model.norm"})
    renaming.move_layers("decoder", "model.layers.{}", count, names, PROJECTIONS)
    return renaming


FAMILIES = {"llama": llama, "mistral": llama, "qwen2": llama, "qwen3": llama}
