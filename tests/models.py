"""Small models with random weights, and what the reference says about them.

A fresh layer has biases of 0 and norms of 1, behind which a missing addition or factor would hide:
`randomised` gives every parameter values of its own. Sizes are distinct wherever they may be.
"""

from contextlib import contextmanager
from unittest import mock

import numpy as np
import reference
from cases import normal

import pyx_transformer as pt
from pyx_transformer import _runtime, text


def randomised(layer, seed=0):
    """The layer itself, with random parameters that keep its values near 1."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, array in layer.state_dict().items():
        noise = normal(rng, *array.shape)
        if array.ndim == 2:
            state[name] = noise / np.float32(np.sqrt(array.shape[1]))
        elif name.endswith("weight"):  # of a norm
            state[name] = 1 + noise / 4
        else:
            state[name] = noise / 2
    layer.load_state_dict(state)
    return layer


def small_config(**changes):
    """A config of distinct small sizes."""
    return pt.TransformerConfig(
        **{
            "src_vocab_size": 23,
            "tgt_vocab_size": 19,
            "d_model": 24,
            "num_heads": 3,
            "num_encoder_layers": 2,
            "num_decoder_layers": 3,
            "d_ff": 41,
            "max_length": 97,
            **changes,
        }
    )


def small_model(seed=0, **changes):
    """A randomised model of `small_config(**changes)`."""
    return randomised(pt.Transformer(small_config(**changes), rng=0), seed)


def lively(model):
    """The model itself, with larger weights and no biases that drown its inputs: what it generates
    depends on what it is given, and changes from step to step."""
    state = model.state_dict()
    for key, array in state.items():
        if key == "output_projection.bias" or ("norm" in key and "bias" in key):
            array[:] = 0
        elif "in_proj_weight" in key:
            array *= 3
        elif "linear" in key or "embedding" in key:
            array *= 2
    model.load_state_dict(state)
    return model


def reference_options(model):
    """What `reference.transformer` has to know of a model besides its weights and inputs."""
    config, state = model.config, model.state_dict()
    tables = {"src_positions": None, "tgt_positions": None}
    if config.positions == "learned":
        tables = {name: state[f"{name}.weight"] for name in tables}
    elif config.positions == "sinusoidal":
        table = reference.sinusoidal_positions(
            config.max_length,
            config.d_model,
            start=config.position_start,
            layout=config.position_layout,
            frequencies=config.position_frequencies,
        )
        tables = dict.fromkeys(tables, table)
    names = ("num_heads", "scale_embeddings", "activation", "norm_first", "layer_norm_eps")
    return tables | {name: getattr(config, name) for name in names}


def token_ids(rng, vocab_size, *shape):
    """Random ids without the three special ones."""
    return rng.integers(3, vocab_size, shape)


@contextmanager
def num_threads(n):
    """Calls inside use n threads."""
    with mock.patch.object(_runtime, "get_num_threads", lambda: n):
        yield


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def assert_same_hypotheses(actual, expected):
    """The n-best lists of one sentence are the same to the bit."""
    assert len(actual) == len(expected)
    for own, wanted in zip(actual, expected, strict=True):
        assert own.sequence.tolist() == wanted.sequence.tolist()
        assert (own.score, own.is_finished) == (wanted.score, wanted.is_finished)
        for name in ("token_scores", "attention"):
            if getattr(wanted, name) is None:
                assert getattr(own, name) is None
            else:
                assert_same_bits(getattr(own, name), getattr(wanted, name))


def assert_close(actual, expected, tolerance=1e-6):
    """Float32 values are those of the reference, to `tolerance` times the largest of them.

    The few layers of these tests leave about 2e-7 of it.
    """
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    largest = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(largest, 1))


def translate(model, texts, **settings):
    """Translations with their hypotheses."""
    return pt.Translator(model).hypotheses(texts, **settings)


def continue_texts(model, prompts, **settings):
    """Continued texts with their hypotheses."""
    return pt.TextGenerator(model).hypotheses(prompts, **settings)


def save_models_of_words(folder):
    """Small models of words: a translator, a language model, an encoder, a classifier."""
    small = {"d_model": 12, "num_heads": 2}
    tokenizer = text.make("words", [" ".join("abcdef")])
    size = tokenizer.vocab_size
    sizes = {"src_vocab_size": size, "tgt_vocab_size": size}
    made = {
        "translator": pt.Transformer(small_config(**sizes), rng=0),
        "short": pt.TransformerLM(small_config(**sizes, positions="learned", max_length=9), rng=0),
        "language": pt.TransformerLM(small_config(tgt_vocab_size=size), rng=0),
        "encoder": pt.EncoderModel(pt.EncoderConfig(size, **small), rng=0),
        "classifier": pt.EncoderModel(
            pt.EncoderConfig(size, head=pt.ClassifierConfig(("ja", "nö")), **small), rng=0
        ),
    }
    for name, model in made.items():
        model = randomised(model)
        lively(model)
        for side in ("src_tokenizer", "tgt_tokenizer"):
            if hasattr(model, side):
                setattr(model, side, tokenizer)
        model.save(folder / name)
