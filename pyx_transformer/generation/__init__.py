"""Generating and scoring target sequences with a key/value cache."""

from pyx_transformer.generation.cache import KeyValueCache
from pyx_transformer.generation.greedy import Generation, generate
from pyx_transformer.generation.scoring import score

__all__ = ["Generation", "KeyValueCache", "generate", "score"]
