"""DistilBERT (Sanh et al. 2019): BERT's layers without token types or a pooler."""

from __future__ import annotations

from pyx_transformer.checkpoints.families.bert import EMBEDDINGS, POSITIONS
from pyx_transformer.checkpoints.families.parts import (
    ACTIVATIONS,
    Tensors,
    encoder_model,
    head_of,
    labels_of,
    post_norm,
    without_prefix,
)
from pyx_transformer.checkpoints.families.tied import masked_head, take_decoder
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import Renaming
from pyx_transformer.description import (
    AttentionConfig,
    FeedForwardConfig,
    NormConfig,
    StackConfig,
)
from pyx_transformer.head_configs import ClassifierConfig, Head, MaskedLMConfig

LAYER = {
    "norm1": "sa_layer_norm",
    "norm2": "output_layer_norm",
    "linear1": "ffn.lin1",
    "linear2": "ffn.lin2",
}
PROJECTIONS = [f"attention.{part}_lin" for part in ("q", "k", "v", "out")]


def distilbert(fields: Fields, tensors: Tensors):
    """The eps of its norms is in no file: always 1e-12."""
    tensors = without_prefix(tensors, "distilbert.")
    norm, count = NormConfig(eps=1e-12), fields.size("n_layers")
    activation = fields.choice("activation", ACTIVATIONS)
    block = AttentionConfig(fields.size("n_heads"))
    wide = FeedForwardConfig(fields.size("hidden_dim"), activation)
    stack = StackConfig(fields.size("dim"), count, (post_norm(block, wide, norm=norm),))
    kind = head_of(fields)
    head: Head | None = None
    names = {name: their for name, their in EMBEDDINGS.items() if "type" not in name}
    if kind == "masked":
        head = masked_head(fields, tensors, activation, norm, "vocab_projector")
        names |= {
            "head.dense": "vocab_transform",
            "head.norm": "vocab_layer_norm",
        }
    elif kind is not None:
        names["head.classifier"] = "classifier"
        labels = labels_of(fields, tensors, "classifier")
        head = ClassifierConfig(labels, of_tokens=True)
        if kind == "sequence":
            names["head.dense"] = "pre_classifier"
            head = ClassifierConfig(labels, dense=True, activation="relu")
    renaming = Renaming(tensors)
    renaming.move(names)
    if isinstance(head, MaskedLMConfig):
        take_decoder(renaming, head, "vocab_projector", "vocab_projector.bias")
    renaming.move_layers("encoder", "transformer.layer.{}", count, LAYER, PROJECTIONS)
    return encoder_model(fields, stack, norm, tensors.get(POSITIONS), head=head), renaming


FAMILIES = {"distilbert": distilbert}
