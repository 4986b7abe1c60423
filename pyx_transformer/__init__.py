"""The Transformer of "Attention Is All You Need" on CPUs: NumPy in and out, Cython inside."""

from pyx_transformer import ops
from pyx_transformer._runtime import get_num_threads, set_num_threads, show_config
from pyx_transformer.attention import MultiheadAttention
from pyx_transformer.config import TransformerConfig
from pyx_transformer.layers import Embedding, FeedForward, LayerNorm, Linear, RMSNorm
from pyx_transformer.positions import sinusoidal_positions
from pyx_transformer.stacks import TransformerDecoder, TransformerEncoder
from pyx_transformer.transformer import AttentionWeights, Transformer

__version__ = "0.1.0"

__all__ = [
    "AttentionWeights",
    "Embedding",
    "FeedForward",
    "LayerNorm",
    "Linear",
    "MultiheadAttention",
    "RMSNorm",
    "Transformer",
    "TransformerConfig",
    "TransformerDecoder",
    "TransformerEncoder",
    "get_num_threads",
    "load",
    "ops",
    "set_num_threads",
    "show_config",
    "sinusoidal_positions",
]


def __getattr__(name):
    # safetensors is loaded by the first use of `load`, not by the import of the package.
    if name == "load":
        from pyx_transformer.checkpoints import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
