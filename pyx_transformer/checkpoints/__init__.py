"""Models on disk, one module per format."""

from pyx_transformer.checkpoints.native import is_shipped, load, save

__all__ = ["is_shipped", "load", "save"]
