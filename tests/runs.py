"""Small training runs: a model, examples and options that a few steps take a second for."""

import numpy as np
from models import small_config, token_ids

import pyx_transformer as pt
from pyx_transformer.training import Examples, TrainingOptions

OPTIONS = TrainingOptions(
    steps=12,
    batch_tokens=60,
    peak_rate=3e-3,
    warmup=4,
    dropout=0.2,
    average_decay=0.9,
    max_norm=1.0,
    validate_every=4,
    max_length=12,
)


def some_examples(count=20, seed=0, with_sources=True):
    rng = np.random.default_rng(seed)
    config = small_config()
    sources = [token_ids(rng, config.src_vocab_size, 1 + i % 9) for i in range(count)]
    targets = [token_ids(rng, config.tgt_vocab_size, i % 7) for i in range(count)]
    return Examples(sources if with_sources else None, targets, start_id=1, end_id=2)


def new_model():
    return pt.Transformer(small_config(), rng=0)


def bits(model):
    return [array.tobytes() for array in model.state_dict().values()]
