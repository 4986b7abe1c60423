"""BERT (Devlin et al. 2019) and what has its layers: RoBERTa and XLM-R (Liu et al. 2019), MPNet
(Song et al. 2020); MiniLM, BGE and E5 are of these."""

from __future__ import annotations

from typing import Any

from pyx_transformer.checkpoints.families.parts import (
    ACTIVATIONS,
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
from pyx_transformer.description import (
    AttentionConfig,
    DistanceBiasConfig,
    FeedForwardConfig,
    NormConfig,
    StackConfig,
)
from pyx_transformer.head_configs import ClassifierConfig, Head, MaskedLMConfig

LAYER = {
    "norm1": "attention.output.LayerNorm",
    "norm2": "output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
}
PROJECTIONS = [f"attention.self.{part}" for part in ("query", "key", "value")]
PROJECTIONS.append("attention.output.dense")
MPNET_PROJECTIONS = [f"attention.attn.{part}" for part in "qkvo"]
EMBEDDINGS = {
    "src_embedding": "embeddings.word_embeddings",
    "src_positions": "embeddings.position_embeddings",
    "token_type_embedding": "embeddings.token_type_embeddings",
    "src_embedding_norm": "embeddings.LayerNorm",
}
POSITIONS = "embeddings.position_embeddings.weight"


def bert(fields: Fields, tensors: Tensors):
    """BERT itself, whose classifier reads what its pooler gives."""
    tensors = without_prefix(tensors, "bert.")
    kind, norm = head_of(fields), norm_of(fields)
    head: Head | None = None
    names = {}
    if kind == "masked":
        names = {
            "head.dense": "cls.predictions.transform.dense",
            "head.norm": "cls.predictions.transform.LayerNorm",
        }
        head = masked_head(fields, tensors, activation_of(fields), norm, "cls.predictions.decoder")
    elif kind is not None:
        names = {"head.classifier": "classifier"}
        labels = labels_of(fields, tensors, "classifier")
        head = ClassifierConfig(labels, of_tokens=kind == "tokens")
    config, renaming = encoder(
        fields,
        tensors,
        num_token_types=fields.size("type_vocab_size", 0, minimum=0),
        pooler="pooler.dense.weight" in tensors,
        head=head,
    )
    renaming.move({"pooler": "pooler.dense", **names})
    if isinstance(head, MaskedLMConfig):
        take_decoder(renaming, head, "cls.predictions.decoder", "cls.predictions.bias")
    return config, renaming


def roberta(fields: Fields, tensors: Tensors, prefix: str = "roberta.", **layers: Any):
    """RoBERTa, XLM-R: positions begin behind that of the padding; a classifier has its own map."""
    tensors = without_first_positions(without_prefix(tensors, prefix), fields)
    head, names = roberta_head(fields, tensors, norm_of(fields))
    config, renaming = encoder(
        fields,
        tensors,
        **layers,
        num_token_types=fields.size("type_vocab_size", 0, minimum=0),
        pooler="pooler.dense.weight" in tensors,
        head=head,
    )
    renaming.move({"pooler": "pooler.dense", **names})
    if isinstance(head, MaskedLMConfig):
        take_decoder(renaming, head, "lm_head.decoder", "lm_head.bias")
    return config, renaming


def mpnet(fields: Fields, tensors: Tensors):
    """MPNet: as RoBERTa, with a bias by distance that all layers share."""
    config, renaming = roberta(
        fields,
        tensors,
        "mpnet.",
        layer=LAYER | {"norm1": "attention.LayerNorm"},
        projections=MPNET_PROJECTIONS,
        distance_bias=DistanceBiasConfig(fields.size("relative_attention_num_buckets")),
    )
    renaming.move({"encoder.distance_bias": "encoder.relative_attention_bias"})
    return config, renaming


def encoder(
    fields: Fields,
    tensors: Tensors,
    layer: dict[str, str] = LAYER,
    projections: list[str] = PROJECTIONS,
    distance_bias: DistanceBiasConfig | None = None,
    **changes: Any,
):
    """The config and the state without what comes behind the last layer."""
    refuse(fields, position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    norm, count = norm_of(fields), fields.size("num_hidden_layers")
    block = AttentionConfig(fields.size("num_attention_heads"), distance_bias=distance_bias)
    wide = FeedForwardConfig(fields.size("intermediate_size"), activation_of(fields))
    stack = StackConfig(fields.size("hidden_size"), count, (post_norm(block, wide, norm=norm),))
    renaming = Renaming(tensors)
    renaming.move(EMBEDDINGS)
    renaming.move_layers("encoder", "encoder.layer.{}", count, layer, projections)
    return encoder_model(fields, stack, norm, tensors.get(POSITIONS), **changes), renaming


def norm_of(fields: Fields) -> NormConfig:
    return NormConfig(eps=fields.number("layer_norm_eps"))


def activation_of(fields: Fields) -> str:
    return fields.choice("hidden_act", ACTIVATIONS)


def without_first_positions(tensors: Tensors, fields: Fields) -> Tensors:
    """Positions of real tokens, which begin behind that of the padding."""
    if POSITIONS not in tensors:
        return tensors
    first = fields.size("pad_token_id", minimum=0) + 1
    return {**tensors, POSITIONS: tensors[POSITIONS].rows(first)}


def roberta_head(
    fields: Fields, tensors: Tensors, norm: NormConfig
) -> tuple[Head | None, dict[str, str]]:
    """A head and its names, as RoBERTa has them."""
    kind = head_of(fields)
    if kind == "masked":
        head = masked_head(fields, tensors, "gelu", norm, "lm_head.decoder")
        return head, {
            "head.dense": "lm_head.dense",
            "head.norm": "lm_head.layer_norm",
        }
    if kind == "tokens":
        labels = labels_of(fields, tensors, "classifier")
        return ClassifierConfig(labels, of_tokens=True), {"head.classifier": "classifier"}
    if kind == "sequence":
        labels = labels_of(fields, tensors, "classifier.out_proj")
        return ClassifierConfig(labels, dense=True, activation="tanh"), {
            "head.dense": "classifier.dense",
            "head.classifier": "classifier.out_proj",
        }
    return None, {}


FAMILIES = {"bert": bert, "roberta": roberta, "xlm-roberta": roberta, "mpnet": mpnet}
