"""ALBERT (Lan et al. 2020): one set of weights for all layers, and narrow embeddings."""

from __future__ import annotations

from pyx_transformer.checkpoints.families.bert import EMBEDDINGS, POSITIONS, activation_of, norm_of
from pyx_transformer.checkpoints.families.parts import (
    Tensors,
    encoder_model,
    head_of,
    labels_of,
    post_norm,
    refuse,
    without_prefix,
)
from pyx_transformer.checkpoints.families.tied import masked_head, take_decoder
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import Renaming
from pyx_transformer.description import AttentionConfig, FeedForwardConfig, StackConfig
from pyx_transformer.head_configs import ClassifierConfig, Head, MaskedLMConfig

LAYER = {
    "norm1": "attention.LayerNorm",
    "norm2": "full_layer_layer_norm",
    "linear1": "ffn",
    "linear2": "ffn_output",
}
PROJECTIONS = [f"attention.{part}" for part in ("query", "key", "value", "dense")]


def albert(fields: Fields, tensors: Tensors):
    """The bias of its masked-token head is stored twice, and added once."""
    refuse(fields, num_hidden_groups=1, inner_group_num=1, position_embedding_type="absolute")
    tensors = without_prefix(tensors, "albert.")
    norm = norm_of(fields)
    block = AttentionConfig(fields.size("num_attention_heads"))
    wide = FeedForwardConfig(fields.size("intermediate_size"), activation_of(fields))
    stack = StackConfig(
        fields.size("hidden_size"),
        fields.size("num_hidden_layers"),
        (post_norm(block, wide, norm=norm),),
        share_weights=True,
    )
    kind, names = head_of(fields), {}
    head: Head | None = None
    if kind == "masked":
        # The eps of this norm is in no file: that of its class.
        decoder = "predictions.decoder"
        head = masked_head(fields, tensors, activation_of(fields), norm, decoder)
        names = {
            "head.dense": "predictions.dense",
            "head.norm": "predictions.LayerNorm",
        }
    elif kind is not None:
        names = {"head.classifier": "classifier"}
        labels = labels_of(fields, tensors, "classifier")
        head = ClassifierConfig(labels, of_tokens=kind == "tokens")
    renaming = Renaming(tensors)
    renaming.move(
        {
            **EMBEDDINGS,
            "embedding_projection": "encoder.embedding_hidden_mapping_in",
            "pooler": "pooler",
            **names,
        }
    )
    if isinstance(head, MaskedLMConfig):
        take_decoder(renaming, head, "predictions.decoder", "predictions.bias")
    group = "encoder.albert_layer_groups.{}.albert_layers.0"
    renaming.move_layers("encoder", group, 1, LAYER, PROJECTIONS)
    config = encoder_model(
        fields,
        stack,
        norm,
        tensors.get(POSITIONS),
        num_token_types=fields.size("type_vocab_size"),
        embedding_size=fields.size("embedding_size"),
        pooler="pooler.weight" in tensors,
        head=head,
    )
    return config, renaming


FAMILIES = {"albert": albert}
