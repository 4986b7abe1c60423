"""A whole model with its way back: the loss of a batch, and its gradients."""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.training import layers
from pyx_transformer.training.functions import WIDEST_HEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyx_transformer.language_model import TransformerLM
    from pyx_transformer.training.batches import Batch
    from pyx_transformer.training.parameters import Parameters
    from pyx_transformer.transformer import Transformer


def add_gradients(
    model: Transformer | TransformerLM,
    parameters: Parameters,
    batch: Batch,
    *,
    tokens: int,
    dropout: float = 0.0,
    label_smoothing: float = 0.0,
    seed: int = 0,
) -> float:
    """The cross-entropy of a batch, in nats, added up over its target tokens.

    The parameters' gradients get those of this sum divided by `tokens`, which is the number of all
    tokens whose gradients come together.

    The paper's dropout: on the output of each sub-layer and on embeddings with positions (Vaswani
    et al. 2017, 5.4). Which values it drops depends on seed and on nothing else.
    """
    drop = layers.Dropout(dropout, count(seed))
    pass_ = Pass(model, parameters, drop)
    rows, back = pass_.decoded(batch)
    loss, grad = layers.projected_loss(
        rows,
        parameters["output_projection.weight"],
        parameters.get("output_projection.bias"),
        batch.targets,
        label_smoothing,
        1 / tokens,
    )
    back(grad)
    return loss


class Pass:
    """One forward pass; each method gives rows and their way back."""

    def __init__(self, model, parameters, drop):
        head_size = model.config.d_model // model.config.num_heads
        if head_size > WIDEST_HEAD:
            raise ValueError(
                f"train: heads are {head_size} wide, expected at most {WIDEST_HEAD} to train"
            )
        self.model = model
        self.config = model.config
        self.parameters = parameters
        self.drop = drop

    def decoded(self, batch: Batch):
        """The decoder's rows; back takes their gradient and gives nothing."""
        rows, embed_back = self.embedded("tgt", batch.inputs, batch.input_sequences)
        if not self.model.has_encoder:
            rows, stack_back = self.stack("decoder", rows, batch.input_sequences, None, True)
            return rows, lambda grad: embed_back(stack_back(grad))

        source, source_back = self.embedded("src", batch.sources, batch.source_sequences)
        source, encoder_back = self.stack("encoder", source, batch.source_sequences, None, False)
        memory = layers.Memory(source, batch.source_sequences)
        rows, decoder_back = self.stack("decoder", rows, batch.input_sequences, memory, True)

        def back(grad):
            embed_back(decoder_back(grad))
            if memory.gradient is not None:
                source_back(encoder_back(memory.gradient))

        return rows, back

    def embedded(self, side, ids, sequences):
        """Token ids with scale and positions."""
        config, key = self.config, f"{side}_positions.weight"
        learned = self.parameters.get(key)
        positions = None
        if learned is not None:
            positions = learned.value
        elif config.positions == "sinusoidal":
            positions = self.model.sinusoidal_up_to(sequences.length)
        rows, back = layers.embedding(
            ids,
            sequences.position_ids(),
            self.parameters[f"{side}_embedding.weight"],
            math.sqrt(config.d_model) if config.scale_embeddings else 1.0,
            positions,
            learned,
        )
        rows, drop_back = self.drop(rows)
        return rows, lambda grad: back(drop_back(grad))

    def stack(self, key, rows, sequences, memory, is_causal):
        """All layers of a stack, and its final norm."""
        backs = []
        layers_ = getattr(self.model, key).layers
        for i in range(len(layers_)):
            rows, back = self.layer(f"{key}.layers.{i}", rows, sequences, memory, is_causal)
            backs.append(back)
        if self.config.final_norm:
            rows, back = self.norm(f"{key}.norm", rows)
            backs.append(back)

        return rows, in_turn(backs)

    def layer(self, key, rows, sequences, memory, is_causal):
        """Self-attention, cross-attention where there is a memory, and feed-forward."""
        parameters, heads = self.parameters, self.config.num_heads
        sub_layers = [
            lambda rows: layers.self_attention(
                rows, sequences, parameters, f"{key}.self_attn", heads, is_causal
            ),
            lambda rows: layers.feed_forward(rows, parameters, key, self.config.activation),
        ]
        if memory is not None:
            sub_layers.insert(
                1,
                lambda rows: layers.cross_attention(
                    rows, sequences, memory, parameters, f"{key}.multihead_attn", heads
                ),
            )
        backs = []
        for i, sub_layer in enumerate(sub_layers, 1):
            rows, back = self.residual(f"{key}.norm{i}", rows, sub_layer)
            backs.append(back)

        return rows, in_turn(backs)

    def residual(self, norm, rows, sub_layer: Callable):
        """x + f(Norm(x)) for norm_first, else Norm(x + f(x)), with dropout on f."""
        if self.config.norm_first:
            normed, norm_back = self.norm(norm, rows)
            out, sub_back = sub_layer(normed)
            out, drop_back = self.drop(out, rows)

            def back(grad):
                return np.add(grad, norm_back(sub_back(drop_back(grad))), out=grad)

            return out, back

        out, sub_back = sub_layer(rows)
        summed, drop_back = self.drop(out, rows)
        out, norm_back = self.norm(norm, summed)

        def back_through_norm(grad):
            grad = norm_back(grad)
            return sub_back(drop_back(grad), grad)

        return out, back_through_norm

    def norm(self, key, rows):
        return layers.layer_norm(
            rows,
            self.parameters[f"{key}.weight"],
            self.parameters[f"{key}.bias"],
            self.config.layer_norm_eps,
        )


def in_turn(backs):
    """The way back, once, through what was done one after the other."""

    def back(grad):
        while backs:  # what each held of the way there is free after it
            grad = backs.pop()(grad)
        return grad

    return back
