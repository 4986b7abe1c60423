"""Generating and scoring target sequences.

generating  sentences to hypotheses, from end to end
checks      options against the model and the sentences
search      which sentences are decoded side by side; the steps are compiled
hooks       what those enter Python for
cache       the decoder's keys and values, step by step
attention   that of what has been generated, computed afterwards
options, results    what goes in and what comes out; settings: single options by name
scoring     the probability of given targets
memory      how much of it a generation takes
"""

from pyx_transformer.generation.cache import KeyValueCache
from pyx_transformer.generation.generating import begun, begun_alone, in_order, tokens_of
from pyx_transformer.generation.memory_estimate import memory_estimate
from pyx_transformer.generation.options import GenerationOptions
from pyx_transformer.generation.results import Generation, Hypothesis
from pyx_transformer.generation.scoring import perplexity, score, score_alone
from pyx_transformer.generation.settings import GenerationSettings

__all__ = [
    "Generation",
    "GenerationOptions",
    "GenerationSettings",
    "Hypothesis",
    "KeyValueCache",
    "begun",
    "begun_alone",
    "in_order",
    "memory_estimate",
    "perplexity",
    "score",
    "score_alone",
    "tokens_of",
]


def __dir__() -> list[str]:
    return sorted(__all__)
