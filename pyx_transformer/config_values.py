"""What type checkers know of the values that configs take by name.

Each has the fields of its config that are not given by position, and the sizes that can be given in
place of its stacks.
"""

from __future__ import annotations

from typing import TypedDict

from pyx_transformer.description import NormConfig
from pyx_transformer.head_configs import Head


class TokenValues(TypedDict, total=False):
    """Of `TokenConfig`, and the paper's sizes."""

    d_model: int
    num_heads: int
    d_ff: int
    activation: str | None
    norm_first: bool
    final_norm: bool
    layer_norm_eps: float
    positions: str
    position_layout: str
    position_frequencies: str
    position_start: int
    max_length: int
    scale_embeddings: bool
    embedding_norm: NormConfig | None


class TransformerValues(TokenValues, total=False):
    """Of `TransformerConfig`."""

    num_encoder_layers: int
    num_decoder_layers: int
    share_embeddings: bool
    tie_output: bool
    output_bias: bool
    start_id: int
    end_id: int


class LanguageModelValues(TokenValues, total=False):
    """Of `TransformerLMConfig`."""

    num_decoder_layers: int
    tie_output: bool
    output_bias: bool
    logits_softcap: float | None
    start_id: int | None
    end_id: int


class EncoderValues(TokenValues, total=False):
    """Of `EncoderConfig`."""

    num_encoder_layers: int
    num_token_types: int
    embedding_size: int | None
    pooler: bool
    head: Head | None
    mask_id: int | None
