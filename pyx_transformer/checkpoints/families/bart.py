"""BART (Lewis et al. 2020), mBART (Liu et al. 2020), Marian (Junczys-Dowmunt et al. 2018), and
M2M-100 (Fan et al. 2021) with NLLB."""

from __future__ import annotations

from typing import Any

from pyx_transformer.checkpoints.families.parts import (
    ACTIVATIONS,
    Tensors,
    first_id,
    post_norm,
    pre_norm,
    refuse,
)
from pyx_transformer.checkpoints.families.tied import Tables
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import Renaming
from pyx_transformer.config import TransformerConfig
from pyx_transformer.description import (
    AttentionConfig,
    FeedForwardConfig,
    NormConfig,
    StackConfig,
)

NORM = NormConfig()  # its eps is in no file
PRE_NORM = ("mbart", "m2m_100")
LEARNED = ("bart", "mbart")
PARTS = ("q_proj", "k_proj", "v_proj", "out_proj")


def bart(fields: Fields, tensors: Tensors):
    """mBART and M2M-100 have their norms before, BART and mBART learned positions and a norm of the
    embeddings, the others sinusoids."""
    kind = fields.values["model_type"]
    is_first, is_learned = kind in PRE_NORM, kind in LEARNED
    refuse(fields, normalize_before=is_first, add_final_layer_norm=is_first)
    if not is_learned:
        refuse(fields, static_position_embeddings=True)
    width = fields.size("d_model")
    counts = {name: fields.size(f"{name}_layers") for name in ("encoder", "decoder")}
    heads = {name: fields.size(f"{name}_attention_heads") for name in ("encoder", "decoder")}
    activation = fields.choice("activation_function", ACTIVATIONS)

    def stack(name: str, *attentions: AttentionConfig) -> StackConfig:
        wide = FeedForwardConfig(fields.size(f"{name}_ffn_dim"), activation)
        place = pre_norm if is_first else post_norm
        layers = (place(*attentions, wide, norm=NORM),)
        return StackConfig(width, counts[name], layers, NORM if is_first else None)

    first = 0 if kind == "marian" else 2  # the position of the first token
    positions: dict[str, Any] = {"position_layout": "halves", "position_start": first}
    if kind == "m2m_100":
        positions["position_frequencies"] = "tensor2tensor"
    if is_learned:
        positions = {"positions": "learned", "embedding_norm": NORM}
        positions["max_length"] = fields.size("max_position_embeddings")
        tensors = {
            name: tensor.rows(first) if "embed_positions" in name else tensor
            for name, tensor in tensors.items()
        }
    renaming = Renaming(tensors)
    tables = Tables(fields, renaming, "model.")
    if "final_logits_bias" in tensors:
        flat = tensors["final_logits_bias"]
        size = flat.shape[-1] if flat.shape else 0
        renaming.take("output_projection.bias", "final_logits_bias")
        renaming.state["output_projection.bias"] = flat.changed(lambda a: a.reshape(-1), (size,))
    vocabulary, end = fields.size("vocab_size"), first_id(fields, "eos_token_id")
    decoder = AttentionConfig(heads["decoder"], is_causal=True)
    config = TransformerConfig(
        vocabulary,
        fields.size("decoder_vocab_size", vocabulary),
        stack("encoder", AttentionConfig(heads["encoder"])),
        stack("decoder", decoder, AttentionConfig(heads["decoder"], is_cross=True)),
        scale_embeddings=fields.flag("scale_embedding", False),
        share_embeddings=tables.are_shared,
        tie_output=tables.is_tied,
        output_bias="final_logits_bias" in tensors,
        start_id=first_id(fields, "decoder_start_token_id", end),
        end_id=end,
        **positions,
    )
    for name, side in (("encoder", "src"), ("decoder", "tgt")):
        is_decoder = name == "decoder"
        norms = ["self_attn_layer_norm", *["encoder_attn_layer_norm"] * is_decoder]
        norms.append("final_layer_norm")
        names = {f"norm{n}": their for n, their in enumerate(norms, 1)}
        renaming.move_layers(
            name,
            f"model.{name}.layers.{{}}",
            counts[name],
            {**names, "linear1": "fc1", "linear2": "fc2"},
            [f"self_attn.{part}" for part in PARTS],
            [f"encoder_attn.{part}" for part in PARTS] if is_decoder else None,
        )
        renaming.move(
            {
                f"{name}.norm": f"model.{name}.layer_norm",
                f"{side}_embedding_norm": f"model.{name}.layernorm_embedding",
            }
        )
        table = f"model.{name}.embed_positions"
        if is_learned:
            renaming.move({f"{side}_positions": table})
        else:  # sinusoids that are stored too
            renaming.used.add(f"{table}.weight")
    return config, renaming


FAMILIES = {"bart": bart, "mbart": bart, "marian": bart, "m2m_100": bart}
