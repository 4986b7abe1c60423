"""Models by the kind of their config, without weights: nothing is drawn, and packed once only."""

from __future__ import annotations

from typing import Any

from pyx_transformer.config import EncoderConfig, TransformerConfig, TransformerLMConfig
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.parameters import UNINITIALISED
from pyx_transformer.transformer import Transformer

MODELS: dict[type, Any] = {
    TransformerConfig: Transformer,
    TransformerLMConfig: TransformerLM,
    EncoderConfig: EncoderModel,
}


def new_model(config: Any) -> Any:
    """The model of a config, its weights to be loaded."""
    kind = next(kind for kind in MODELS if isinstance(config, kind))
    return MODELS[kind](config, rng=UNINITIALISED)
