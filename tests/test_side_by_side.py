"""Sentences that are decoded side by side: who waits, who leaves, and that no result shows it."""

import gc
import weakref

import numpy as np
import pytest
from models import lively, small_model, token_ids

import pyx_transformer as pt
from pyx_transformer.generation import search

LENGTHS = [9, 1, 4, 7, 2, 30, 3, 5, 8, 6, 1, 2]
SETTINGS = {
    "greedy": {},
    "beams": {"beam_size": 3, "num_hypotheses": 3},
    "samples": {"num_samples": 2, "seed": 5, "temperature": 1.3},
    "alternatives": {"return_alternatives": True, "num_hypotheses": 3, "beam_size": 2},
    "rules": {"no_repeat_ngram_size": 2, "suppress_tokens": [4], "repetition_penalty": 1.4},
    "coverage": {"beam_size": 3, "coverage_penalty": 0.3},
    "last": {"last_token": 2, "suppress_tokens": [2], "max_length_factor": 0.7},
    "prefixes": {"prefix": [[3, 5][: i % 3] for i in range(12)]},
}


def sentences():
    rng = np.random.default_rng(1)
    return [token_ids(rng, 23, length) for length in LENGTHS]


def as_lists(hypotheses):
    return [
        [(one.sequence.tolist(), one.is_finished, one.score, one.token_scores.tolist())]
        for one in hypotheses
    ]


def found_alone(model, sources, settings):
    """What each sentence gets by itself."""
    for i, source in enumerate(sources):
        own = dict(settings)
        if "prefix" in own:
            own["prefix"] = [own["prefix"][i]]
        yield as_lists(model.generate(source[None], max_length=11, **own).hypotheses[0])


@pytest.mark.parametrize(("rows", "tokens"), [(6, 10), (8, 1 << 12), (24, 31)])
@pytest.mark.parametrize("name", SETTINGS)
def test_those_that_wait_take_the_places_of_those_that_end(name, rows, tokens, monkeypatch):
    model, sources = lively(small_model()), sentences()
    settings = SETTINGS[name] | {"return_scores": True, "return_token_scores": True}
    alone = list(found_alone(model, sources, settings))
    monkeypatch.setattr(search, "MOST_ROWS", rows)
    monkeypatch.setattr(search, "PASS_TOKENS", tokens)
    together = model.generate(sources, max_length=11, **settings).hypotheses
    assert [as_lists(own) for own in together] == alone
    completed = list(model.generate_as_completed(sources, max_length=11, **settings))
    assert sorted(number for number, _ in completed) == list(range(12))
    for number, own in completed:
        assert as_lists(own) == alone[number]


def test_no_more_rows_are_in_play_than_may_be(monkeypatch):
    monkeypatch.setattr(search, "MOST_ROWS", 6)
    rows = []

    def note(logits):
        rows.append(len(logits))

    lively(small_model()).generate(sentences(), beam_size=3, max_length=6, logits_processor=note)
    assert max(rows) == 6


def searching(model):
    """A search for sentences whose pages can be looked at."""
    options = pt.GenerationOptions(beam_size=2)
    made = search.Searching(model, options)
    ids = [search.Waiting(i, ids, ids[:0], 20) for i, ids in enumerate(sentences())]
    return made, made.hypotheses(ids)


def test_pages_are_given_back(monkeypatch):
    """As many as those in play need, however many sentences there are."""
    monkeypatch.setattr(search, "MOST_ROWS", 2)
    made, found = searching(lively(small_model()))
    for _ in found:
        assert made.cache.own.count == 8  # made at once; two rows of up to 20 tokens need four
        assert made.cache.memory.count <= 2  # of the longest source
    assert len(made.search) == 0


@pytest.mark.parametrize("end", ("abandoned", "interrupted"))
def test_a_search_that_does_not_end_lets_go_of_its_pages(end):
    """At once, and not when the garbage collector comes by."""
    made, found = searching(lively(small_model()))
    gc.disable()
    try:
        next(found)
        own = weakref.ref(made.cache.own)
        if end == "abandoned":
            found.close()
        else:
            with pytest.raises(KeyboardInterrupt):
                found.throw(KeyboardInterrupt)
        del made, found
        assert own() is None
    finally:
        gc.enable()


def test_short_ones_come_before_a_long_one_has_ended():
    """In the order in which they end, not in the caller's."""
    model = lively(small_model())
    sources = [np.array([3, 4, 5]), np.array([6])]
    counts = [9, 2]
    done = model.generate_as_completed(
        sources, max_length=9, stop_when=lambda number, tokens: len(tokens) >= counts[number]
    )
    assert [number for number, _ in done] == [1, 0]


@pytest.mark.parametrize("kind", (pt.Transformer, pt.TransformerLM))
def test_lists_of_different_lengths(kind):
    """As the padded array with its lengths."""
    model = kind(small_model(tgt_vocab_size=23).config, rng=0)
    sources = sentences()
    padded = np.zeros((12, 30), np.int64)
    for row, source in zip(padded, sources, strict=True):
        row[: len(source)] = source
    listed = model.generate(sources, max_length=5).sequences
    for own, wanted in zip(listed, model.generate(padded, LENGTHS, max_length=5), strict=True):
        assert own.tolist() == wanted.tolist()
    with pytest.raises(ValueError, match=r"\[1\]\[0\] is 99, expected 0 to"):
        model.generate([[3, 4], [99], [5, 6, 7]])
    with pytest.raises(TypeError, match=r"\[2\] has dtype float64, expected integers"):
        model.generate([[3, 4], [5], [5.0, 6.0, 7.0]])


@pytest.mark.parametrize(
    ("equal", "options", "kept"),
    [
        (2, {"top_p": 0.5}, 1),
        (4, {"top_p": 0.75}, 3),
        (10, {"top_p": 0.3}, 3),
        (10, {"top_p": 0.7}, 7),
        (3, {"top_p": 1 / 3}, 1),
        (4, {"top_p": 0.5, "top_k": 3}, 2),
        (6, {"min_p": 1.0}, 6),
        (5, {"top_k": 3}, 3),
    ],
    ids=str,
)
def test_shares_that_add_up_exactly(equal, options, kept):
    """Of equal logits as few as have the share, as in transformers, and not one more."""

    def level(logits):
        logits[:] = -np.inf
        logits[:, 3 : 3 + equal] = 0.7

    model = small_model()
    drawn = set()
    for seed in range(120):
        samples = model.generate(
            [[5, 6]], max_length=1, seed=seed, logits_processor=level, end_tokens=[1], **options
        )
        drawn.add(int(samples[0][0]))
    assert drawn == set(range(3, 3 + kept))


def test_a_flat_distribution_is_drawn_from_to_its_end():
    """Far more tokens than are looked at first; each is as probable as another."""
    model = pt.TransformerLM(
        pt.TransformerLMConfig.of_decoder(small_model(tgt_vocab_size=500).config)
    )

    def level(logits):
        logits[:] = 0

    tokens = model.generate(
        np.zeros((1, 0), int),
        max_length=4000,
        temperature=1.0,
        seed=3,
        logits_processor=level,
        suppress_tokens=[model.config.end_id],
    )[0]
    counts = np.bincount(tokens, minlength=500)
    assert counts[model.config.end_id] == 0
    assert np.count_nonzero(counts) == 499
    expected = 4000 / 499  # chi-square with 498 degrees of freedom: mean 498, deviation 32
    assert ((counts - expected) ** 2 / expected).sum() < 498 + 5 * 32 + expected
