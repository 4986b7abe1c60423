"""Models on disk, one module per format.

native         the library's own directories: `save` and `load`
safetensors    arrays in a file of that kind, which the formats share
sides          vocabularies and tokenizers of a model's sides as files
"""

from pyx_transformer.checkpoints.native import is_shipped, load, save

__all__ = ["is_shipped", "load", "save"]
