"""A language model in the shape of LLaMA in PyTorch, with the names of our state dicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from pyx_transformer.positions import rotary_table

if TYPE_CHECKING:
    import numpy as np

    import pyx_transformer as pt


class LanguageModel(torch.nn.Module):
    """RMS norms before sub-layers, rotary positions, a gated feed-forward, no biases; the output
    projection's weight is the embedding's. Sizes, heads and windows are the config's."""

    def __init__(self, config: pt.TransformerLMConfig, dropout: float = 0.0):
        super().__init__()
        stack = config.decoder
        layers = [Layer(stack, dropout) for _ in range(stack.num_layers)]
        self.tgt_embedding = torch.nn.Embedding(config.tgt_vocab_size, stack.d_model)
        self.decoder = torch.nn.Module()
        self.decoder.layers = torch.nn.ModuleList(layers)
        self.decoder.norm = norm(stack)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, tgt):
        """tgt (B, T) -> logits (B, T, V)."""
        rows = self.dropout(self.tgt_embedding(tgt))
        for layer in self.decoder.layers:
            rows = layer(rows)
        return self.decoder.norm(rows) @ self.tgt_embedding.weight.T

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take the weights of one of our models."""
        with torch.no_grad():
            for key, parameter in self.our_parameters(state).items():
                parameter.copy_(torch.tensor(state[key]))

    def our_parameters(self, keys) -> dict[str, torch.nn.Parameter]:
        """The parameters under our keys."""
        named = dict(self.named_parameters())
        return {key: named[key] for key in keys}


class Layer(torch.nn.Module):
    """Attention, then feed-forward, each added to what it is given."""

    def __init__(self, stack, dropout):
        super().__init__()
        attention, feed_forward = (one.block for one in stack.layers[0].sub_layers)
        self.self_attn = Attention(stack.d_model, attention)
        self.linear1 = linear(stack.d_model, feed_forward.d_ff)
        self.linear2 = linear(feed_forward.d_ff, stack.d_model)
        self.linear3 = linear(stack.d_model, feed_forward.d_ff)
        self.norm1, self.norm2 = norm(stack), norm(stack)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, rows):
        rows = rows + self.dropout(self.self_attn(self.norm1(rows)))
        normed = self.norm2(rows)
        hidden = functional.silu(self.linear1(normed)) * self.linear3(normed)
        return rows + self.dropout(self.linear2(hidden))


class Attention(torch.nn.Module):
    """Causal attention of rotated heads, which see as far back as the window reaches."""

    def __init__(self, d_model, config):
        super().__init__()
        self.config, self.head_size = config, d_model // config.num_heads
        heads = config.num_heads + 2 * config.num_kv_heads
        self.in_proj_weight = torch.nn.Parameter(torch.empty(heads * self.head_size, d_model))
        self.out_proj = linear(d_model, d_model)

    def forward(self, rows):
        config, length = self.config, rows.shape[1]
        heads = (rows @ self.in_proj_weight.T).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
        sizes = config.num_heads, config.num_kv_heads, config.num_kv_heads
        query, key, value = heads.split(sizes, dim=1)
        tables = map(torch.tensor, rotary_table(config.rotary, self.head_size, length))
        cosines, sines = (table.repeat(1, 2) for table in tables)
        query, key = (one * cosines + turned(one) * sines for one in (query, key))
        distance = torch.arange(length)[:, None] - torch.arange(length)
        mask = (distance >= 0) & (distance <= (config.window or (length, 0))[0])
        found = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=True
        )
        return self.out_proj(found.transpose(1, 2).flatten(2))


def turned(heads):
    """Each pair (a, b), of the two halves of a head, as (-b, a)."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def norm(stack):
    """As the stack's last one is."""
    return torch.nn.RMSNorm(stack.d_model, stack.final_norm.eps)


def linear(inputs, outputs):
    """A product without a bias."""
    return torch.nn.Linear(inputs, outputs, bias=False)
