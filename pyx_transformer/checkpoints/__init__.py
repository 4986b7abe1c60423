"""Models on disk, one module per format."""

from pyx_transformer.checkpoints.native import load, save

__all__ = ["load", "save"]
