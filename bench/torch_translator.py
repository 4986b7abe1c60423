"""The paper's model in PyTorch, around torch.nn.Transformer, with the names of our state dicts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

import pyx_transformer as pt

if TYPE_CHECKING:
    import numpy as np


class Translator(torch.nn.Module):
    """Embeddings times sqrt(d) with sinusoidal positions, torch.nn.Transformer, projection."""

    def __init__(self, config: pt.TransformerConfig, dropout: float = 0.0):
        super().__init__()
        self.config = config
        self.transformer = torch.nn.Transformer(
            config.d_model,
            config.num_heads,
            config.num_encoder_layers,
            config.num_decoder_layers,
            config.d_ff,
            dropout=dropout,
            activation=config.activation,
            norm_first=config.norm_first,
            batch_first=True,
        )
        if not config.final_norm:
            self.transformer.encoder.norm = self.transformer.decoder.norm = None
        self.dropout = torch.nn.Dropout(dropout)
        self.src_embedding = torch.nn.Embedding(config.src_vocab_size, config.d_model)
        self.tgt_embedding = torch.nn.Embedding(config.tgt_vocab_size, config.d_model)
        self.output_projection = torch.nn.Linear(config.d_model, config.tgt_vocab_size)
        if config.share_embeddings:
            self.tgt_embedding.weight = self.src_embedding.weight
        if config.tie_output:
            self.output_projection.weight = self.tgt_embedding.weight

    def forward(self, src, tgt, padding=None):
        """src (B, S), tgt (B, T), padding (B, S) True where src is padding -> logits (B, T, V)."""
        rows = self.transformer(
            self.embedded(self.src_embedding, src),
            self.embedded(self.tgt_embedding, tgt),
            tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(tgt.shape[1]),
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.output_projection(rows)

    def embedded(self, table, ids):
        """Rows of a table with positions."""
        positions = torch.tensor(pt.sinusoidal_positions(ids.shape[1], self.config.d_model))
        return self.dropout(table(ids) * math.sqrt(self.config.d_model) + positions)

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take the weights of one of our models."""
        with torch.no_grad():
            for key, parameter in self.our_parameters(state).items():
                parameter.copy_(torch.tensor(state[key]))

    def our_parameters(self, keys) -> dict[str, torch.nn.Parameter]:
        """The parameters under our keys."""
        named = dict(self.named_parameters(remove_duplicate=False))
        prefix = ("encoder.", "decoder.")
        return {key: named[f"transformer.{key}" if key.startswith(prefix) else key] for key in keys}
