"""Contracts 4 and 5 around generation: the cache, shared tables, perplexity.

What is passed to `generate` and `score` themselves is in test_bad_input_layers and
test_generation_options.
"""

import numpy as np
import pytest
from models import randomised, small_model, token_ids

import pyx_transformer as pt
from pyx_transformer.generation import KeyValueCache

RNG = np.random.default_rng(0)
MODEL = small_model()
LANGUAGE_MODEL = randomised(pt.TransformerLM(MODEL.config))
SENTENCES, SOURCE = 3, 7


def assert_refuses(call, error, says):
    """One error of that type, of one line, which begins with these words."""
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(says), str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def memory_of(sentences):
    ids, sources = MODEL.sequences("test", "src", token_ids(RNG, 23, sentences, SOURCE), None)
    rows = MODEL.encoder.apply(MODEL.side("src").apply(ids, sources.position_ids()), sources)
    return MODEL.decoder.project(rows, sources)


MEMORY = memory_of(SENTENCES)


# A table that two embeddings share.


@pytest.mark.parametrize("shape", [(18, 24), (19, 23), (20, 24)], ids=str)
def test_only_a_table_of_the_same_shape_is_shared(shape):
    embedding = pt.Embedding(19, 24, rng=0)
    before = embedding.weight
    assert_refuses(
        lambda: embedding.share(pt.Embedding(*shape)),
        ValueError,
        f"Embedding.share: other has shape {shape}, expected (19, 24)",
    )
    for other in (None, embedding.weight, pt.Linear(24, 19)):
        assert_refuses(
            lambda o=other: embedding.share(o), TypeError, "Embedding.share: other is of type "
        )
    assert embedding.weight is before


# The cache.


@pytest.mark.parametrize(
    ("model", "memory", "says"),
    [
        (MODEL, None, "memory is None, expected the keys and values of 3 layers"),
        (MODEL, MEMORY[:1], "memory is a list of 1, expected the keys and values of 3 layers"),
        (MODEL, memory_of(2), "memory is of 2 sequences, expected 3"),
        (MODEL, memory_of(4), "memory is of 4 sequences, expected 3"),
        (MODEL, [*MEMORY[:2], memory_of(2)[2]], "memory is of 2 sequences, expected 3"),
        (LANGUAGE_MODEL, MEMORY, "memory was given, expected None for a language model"),
    ],
)
def test_the_memory_of_a_cache(model, memory, says):
    assert_refuses(
        lambda: KeyValueCache(model, SENTENCES, memory=memory),
        ValueError,
        f"KeyValueCache: {says}",
    )


def test_the_size_of_a_cache():
    for value, error in (("3", TypeError), (3.0, TypeError), (True, TypeError), (-1, ValueError)):
        assert_refuses(
            lambda v=value: KeyValueCache(MODEL, v, memory=MEMORY),
            error,
            f"KeyValueCache: sequences is {value!r}, expected",
        )


IDS, SEQUENCES, COUNTS = [3, 4, 5], [2, 0], [2, 1]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"sequences": [0, 0]}, ValueError, "sequences holds 0 twice, expected each once"),
        ({"sequences": [2, 2]}, ValueError, "sequences holds 2 twice, expected each once"),
        ({"sequences": [0, 3]}, ValueError, "sequences[1] is 3, expected 0 to 2"),
        ({"sequences": [-1, 0]}, ValueError, "sequences[0] is -1, expected 0 to 2"),
        ({"sequences": [[0, 1]]}, ValueError, "sequences has shape (1, 2), expected (B,)"),
        ({"sequences": [0.0, 1.0]}, TypeError, "sequences has dtype float64, expected integers"),
        ({"sequences": None}, TypeError, "sequences is None, expected an array"),
        (
            {"counts": [3]},
            ValueError,
            "counts has shape (1,), expected (2,) because sequences is (2,)",
        ),
        ({"counts": [4, -1]}, ValueError, "counts[1] is -1, expected 0 to "),
        ({"counts": [2, 2]}, ValueError, "ids has shape (3,), expected (4,)"),
        ({"ids": [3, 19, 5]}, ValueError, "ids[1] is 19, expected 0 to 18"),
        ({"ids": [3, 4]}, ValueError, "ids has shape (2,), expected (3,)"),
        ({"ids": [[3, 4, 5]]}, ValueError, "ids has shape (1, 3), expected (3,)"),
    ],
    ids=str,
)
def test_what_does_not_fit_a_cache(changes, error, says):
    cache = KeyValueCache(MODEL, SENTENCES, memory=MEMORY)
    cache.extend([1, 2, 3], [2], [3])
    arguments = {"ids": IDS, "sequences": SEQUENCES, "counts": COUNTS} | changes
    assert_refuses(lambda: cache.extend(**arguments), error, f"KeyValueCache.extend: {says}")
    assert cache.lengths.tolist() == [0, 0, 3]


# Perplexity.


@pytest.mark.parametrize(
    ("scores", "error", "says"),
    [
        (None, TypeError, "scores is None, expected a list of what `score` gave"),
        (0.5, TypeError, "scores is 0.5, expected a list of what `score` gave"),
        ("a", TypeError, "scores is 'a', expected a list of what `score` gave"),
        (["a"], TypeError, "scores[0] has dtype <U1, expected real numbers"),
        ([[-1.0], None], TypeError, "scores[1] is None, expected an array"),
        ([[-1.0], -2.0], ValueError, "scores[1] has shape (), expected (T,)"),
        ([[[-1.0]]], ValueError, "scores[0] has shape (1, 1), expected (T,)"),
        ([], ValueError, "scores is empty, expected what `score` gave"),
        ([np.array([])], ValueError, "scores is empty, expected what `score` gave"),
        ([[], []], ValueError, "scores is empty, expected what `score` gave"),
    ],
    ids=str,
)
def test_the_perplexity_of_no_scores(scores, error, says):
    assert_refuses(lambda: pt.perplexity(scores), error, f"perplexity: {says}")


def test_the_perplexity_of_any_scores():
    scores = [np.array([-1.0, -2.0]), np.array([]), np.float32([-4.5])]
    for given in (scores, tuple(scores), iter(scores), [one.tolist() for one in scores]):
        assert pt.perplexity(given) == pytest.approx(np.exp(2.5), rel=1e-12)
