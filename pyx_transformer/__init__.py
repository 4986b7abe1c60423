"""The Transformer of "Attention Is All You Need" on CPUs: NumPy in and out, Cython inside.

What people do with it, a call for each (import pyx_transformer as pt); a model is a folder that
`pt.load` opens, or the name of one that comes with the package:

    translate   pt.Translator("en-ja").translate(["i love music ."])
    generate    pt.TextGenerator("shakespeare").generate(["ROMEO:"], max_length=80)
    embed       pt.SentenceEncoder("all-MiniLM-L6-v2").encode(["It is sunny."])
                (pt.CrossEncoder ranks, pt.TextClassifier and pt.TokenClassifier label)
    train       pt.training.recipe_for("train.en", "train.de").run("runs/en-de").model
    study       pt.Translator("en-ja").attention("i love music .").save("attention.html")

Below them, of token ids and arrays: whole models (`Transformer`, `TransformerLM`, `EncoderModel`),
stacks (`TransformerEncoder`, `TransformerDecoder`), layers, and functions (`pt.ops`). The command
`pyx-transformer` does the same for files.
"""

import importlib
from typing import TYPE_CHECKING

from pyx_transformer import _ctrl_c, ops, saving  # noqa: F401 - the first and last do something
from pyx_transformer._runtime import get_num_threads, set_num_threads, show_config
from pyx_transformer._version import __version__ as __version__
from pyx_transformer.attention import MultiheadAttention
from pyx_transformer.config import (
    EncoderConfig,
    TransformerConfig,
    TransformerLMConfig,
)
from pyx_transformer.description import (
    AttentionConfig,
    DistanceBiasConfig,
    FeedForwardConfig,
    LayerConfig,
    NormConfig,
    RotaryConfig,
    StackConfig,
    SubLayerConfig,
)
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.feed_forward import FeedForward
from pyx_transformer.generated_text import GeneratedText, NBest
from pyx_transformer.head_configs import ClassifierConfig, MaskedLMConfig
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.layers import Embedding, Linear
from pyx_transformer.norms import LayerNorm, RMSNorm
from pyx_transformer.positions import sinusoidal_positions
from pyx_transformer.stacks import TransformerDecoder, TransformerEncoder
from pyx_transformer.transformer import AttentionWeights, HiddenStates, Transformer

if TYPE_CHECKING:
    from pyx_transformer import (
        batch,
        explain,
        generation,
        metrics,
        pages,
        pipelines,
        plots,
        pool,
        text,
        training,
    )
    from pyx_transformer.checkpoints import load
    from pyx_transformer.generation import (
        Generation,
        GenerationOptions,
        Hypothesis,
        perplexity,
    )
    from pyx_transformer.pipelines import (
        CrossEncoder,
        SentenceEncoder,
        TextClassifier,
        TextGenerator,
        TokenClassifier,
        Translator,
    )

__all__ = [
    "AttentionConfig",
    "AttentionWeights",
    "ClassifierConfig",
    "CrossEncoder",
    "DistanceBiasConfig",
    "Embedding",
    "EncoderConfig",
    "EncoderModel",
    "FeedForward",
    "FeedForwardConfig",
    "GeneratedText",
    "Generation",
    "GenerationOptions",
    "HiddenStates",
    "Hypothesis",
    "LayerConfig",
    "LayerNorm",
    "Linear",
    "MaskedLMConfig",
    "MultiheadAttention",
    "NBest",
    "NormConfig",
    "RMSNorm",
    "RotaryConfig",
    "SentenceEncoder",
    "StackConfig",
    "SubLayerConfig",
    "TextClassifier",
    "TextGenerator",
    "TokenClassifier",
    "Transformer",
    "TransformerConfig",
    "TransformerDecoder",
    "TransformerEncoder",
    "TransformerLM",
    "TransformerLMConfig",
    "Translator",
    "batch",
    "explain",
    "generation",
    "get_num_threads",
    "load",
    "metrics",
    "ops",
    "pages",
    "perplexity",
    "pipelines",
    "plots",
    "pool",
    "set_num_threads",
    "show_config",
    "sinusoidal_positions",
    "text",
    "training",
]


# Loaded by their first use, not by the import of the package: names of modules, and modules.
_LATER = {
    "CrossEncoder": "pipelines",
    "Generation": "generation",
    "GenerationOptions": "generation",
    "Hypothesis": "generation",
    "load": "checkpoints",
    "perplexity": "generation",
    "SentenceEncoder": "pipelines",
    "TextClassifier": "pipelines",
    "TextGenerator": "pipelines",
    "TokenClassifier": "pipelines",
    "Translator": "pipelines",
}
_MODULES = (
    "batch",
    "explain",
    "generation",
    "metrics",
    "pages",
    "pipelines",
    "plots",
    "pool",
    "text",
    "training",
)


if not TYPE_CHECKING:  # which would take any name for one that is here

    def __getattr__(name):
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
