"""Greedy decoding and scoring against the reference, and the cache against decoding all at once."""

import signal
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import reference
from models import (
    assert_close,
    assert_same_bits,
    assert_same_hypotheses,
    lively,
    num_threads,
    reference_options,
    small_model,
    token_ids,
)

import pyx_transformer as pt
from pyx_transformer import _runtime
from pyx_transformer.generation import Generation, KeyValueCache

SOURCE_LENGTHS = [9, 4, 1, 7]
# Random post-norm layers, one above the other, soon repeat the same token for ever.
ONE_LAYER = {"num_encoder_layers": 1, "num_decoder_layers": 1}
VARIANTS = {
    "post-norm": ONE_LAYER,
    "pre-norm": {"norm_first": True, "final_norm": True, "activation": "gelu"},
    "learned positions": {"positions": "learned", "norm_first": True},
    "all tied": {
        "share_embeddings": True,
        "tie_output": True,
        "src_vocab_size": 19,
        **ONE_LAYER,
    },
    "aren": {
        "norm_first": True,
        "final_norm": True,
        "position_layout": "halves",
        "position_frequencies": "tensor2tensor",
        "position_start": 1,
    },
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture
def src(rng):
    return token_ids(rng, 19, 4, 9)


def lively_model(**changes):
    """A model whose translations depend on what they translate, and change from step to step."""
    return lively(small_model(**changes))


def with_end(model, end_id):
    """The same model, with another token for the end."""
    other = pt.Transformer(replace(model.config, end_id=end_id))
    other.load_state_dict(model.state_dict())
    return other


def end_inside(generation):
    """A token at which some, but not all, of these translations would stop early."""
    for row in sorted(generation, key=lambda row: len(set(row.tolist())), reverse=True):
        for token in row[1:]:
            firsts = [np.flatnonzero(other == token) for other in generation]
            stops = [first[0] for first in firsts if len(first)]
            if 0 < len(stops) < len(generation) and max(stops) > 0:
                return int(token)
    raise AssertionError("all translations are alike: choose another seed")


def as_lists(generation):
    return [row.tolist() for row in generation]


# Greedy decoding.


@each_variant
@pytest.mark.parametrize("lengths", (None, SOURCE_LENGTHS), ids=("full", "padded"))
def test_greedy_is_the_reference_s(variant, lengths, src):
    model = lively_model(**VARIANTS[variant])
    model = with_end(model, end_inside(model.generate(src, lengths, max_length=8)))
    generation = model.generate(src, lengths, max_length=8)
    expected = reference.greedy(
        model.state_dict(),
        src,
        start_id=model.config.start_id,
        end_id=model.config.end_id,
        max_length=8,
        src_lengths=lengths,
        **reference_options(model),
    )
    assert as_lists(generation) == expected
    stopped = [len(row) < 8 for row in expected]
    assert generation.is_finished.tolist() == stopped
    assert 0 < sum(stopped) < len(stopped)
    assert len({tuple(row) for row in expected}) > 1


def test_a_generation_is_a_sequence_of_arrays(src):
    generation = lively_model().generate(src, max_length=5)
    assert isinstance(generation, Generation)
    assert len(generation) == 4
    assert [row.dtype for row in generation] == [np.int64] * 4
    for i, row in enumerate(generation):
        assert generation[i] is row
        assert row.shape == (5,)
    assert generation.is_finished.dtype == bool
    assert generation.is_finished.shape == (4,)
    assert generation[-1] is generation.sequences[3]


@each_variant
def test_each_sequence_alone_gives_the_same(variant, src):
    model = lively_model(**VARIANTS[variant])
    model = with_end(model, end_inside(model.generate(src, SOURCE_LENGTHS, max_length=12)))
    lengths = [9, 4, 0, 7]
    together = model.generate(src, lengths, max_length=12)
    for order in ([3, 1, 2, 0], [1], [0, 0, 2, 1, 3]):
        again = model.generate(src[order], np.take(lengths, order), max_length=12)
        for i, b in enumerate(order):
            np.testing.assert_array_equal(again[i], together[b])
            assert again.is_finished[i] == together.is_finished[b]
    for b, length in enumerate(lengths):
        alone = model.generate(src[b : b + 1, :length], max_length=12)
        np.testing.assert_array_equal(alone[0], together[b])
        assert alone.is_finished[0] == together.is_finished[b]


def test_each_sequence_stops_by_itself(src):
    """However long the others go on; and a shorter limit gives the beginning of the same."""
    model = lively_model(norm_first=True)
    model = with_end(model, end_inside(model.generate(src, max_length=20)))
    longest = model.generate(src, max_length=20)
    lengths = [len(row) for row in longest]
    assert len(set(lengths)) > 1
    for max_length in range(21):
        generation = model.generate(src, max_length=max_length)
        for row, full in zip(generation, longest, strict=True):
            np.testing.assert_array_equal(row, full[:max_length])
        finished = [length < max_length for length in lengths]
        assert generation.is_finished.tolist() == finished
    assert not any(model.config.end_id in row for row in longest)


def test_max_length_0(src):
    generation = lively_model().generate(src, [9, 0, 1, 7], max_length=0)
    assert as_lists(generation) == [[]] * 4
    assert generation.is_finished.tolist() == [False, True, False, False]


def test_max_length_is_256_unless_given(src):
    model = lively_model()
    assert [len(row) for row in model.generate(src)] == [256] * 4


@pytest.mark.parametrize("max_length", (1, 2, 63, 64, 65, 150))
@pytest.mark.parametrize("prefix", (None, [[3], [], [4, 5, 6], []]), ids=("free", "prefixes"))
def test_steps_in_one_call_are_those_one_by_one(prefix, max_length, src):
    """A callback has each step made by itself. The table of positions grows after 64 places."""
    model = lively_model(norm_first=True)
    model = with_end(model, end_inside(model.generate(src, max_length=20)))
    if prefix is not None:
        prefix = [[token for token in own if token != model.config.end_id] for own in prefix]
    options = pt.GenerationOptions(
        prefix=prefix, max_length=max_length, return_scores=True, return_token_scores=True
    )
    streamed = [[] for _ in src]
    slow = model.generate(
        src, options=options, on_token=lambda sentence, token: streamed[sentence].append(token)
    )
    fast = model.generate(src, options=options)
    assert as_lists(fast) == as_lists(slow)
    for row, own, tokens in zip(fast, prefix or [[]] * 4, streamed, strict=True):
        assert row[len(own) :].tolist() == tokens
    assert fast.is_finished.tolist() == slow.is_finished.tolist()
    assert fast.scores.tolist() == slow.scores.tolist()
    for ours, theirs in zip(fast.token_scores, slow.token_scores, strict=True):
        assert_same_bits(ours, theirs)


@pytest.mark.parametrize("num_threads_used", (1, 2))
@pytest.mark.parametrize(
    "search",
    (
        {"beam_size": 3},
        {"beam_size": 5, "num_hypotheses": 5, "patience": 2.0, "length_penalty": 0.6},
        {"beam_size": 4, "early_stopping": False},
        {"beam_size": 4, "early_stopping": "never", "length_penalty": 1.5},
        {"beam_size": 4, "num_hypotheses": 4, "end_tokens": [2, 7, 11]},
        {"beam_size": 2, "num_hypotheses": 3, "return_alternatives": True},
        {"beam_size": 4, "min_length": 7},
        {"early_stopping": False},
    ),
    ids=str,
)
def test_beams_in_one_call_are_those_one_by_one(search, num_threads_used, src):
    """A callback has each step made by itself."""
    model = lively_model(norm_first=True)
    options = pt.GenerationOptions(
        prefix=[[3], [], [4, 5, 6], []],
        max_length=40,
        return_scores=True,
        return_token_scores=True,
        **search,
    )
    with num_threads(num_threads_used):
        slow = model.generate(src, options=options, stop_when=lambda sentence, tokens: False)
        fast = model.generate(src, options=options)
    for ours, theirs in zip(fast.hypotheses, slow.hypotheses, strict=True):
        assert_same_hypotheses(ours, theirs)


@pytest.mark.parametrize("shape", [(2, 0), (0, 5), (0, 0)], ids=str)
def test_nothing_to_translate(shape):
    generation = lively_model().generate(np.zeros(shape, int), max_length=5)
    assert as_lists(generation) == [[]] * shape[0]
    assert generation.is_finished.tolist() == [True] * shape[0]


def test_an_empty_source_has_the_empty_translation(src):
    model = lively_model()
    generation = model.generate(src, [9, 0, 0, 7], max_length=5)
    assert [len(row) for row in generation] == [5, 0, 0, 5]
    assert generation.is_finished.tolist() == [False, True, True, False]


def test_of_equal_logits_the_lowest_id_wins(src):
    model = small_model()
    state = model.state_dict()
    state["output_projection.weight"][:] = 0
    bias = state["output_projection.bias"]
    bias[:] = -1
    bias[[5, 7, 18]] = 2
    model.load_state_dict(state)
    assert as_lists(model.generate(src, max_length=3)) == [[5, 5, 5]] * 4


def test_padding_does_not_matter_to_generate(src):
    model = lively_model()
    expected = model.generate(src, SOURCE_LENGTHS, max_length=9)
    for b, length in enumerate(SOURCE_LENGTHS):
        src[b, length:] = -5
    wider = np.concatenate([src, np.full((4, 3), 10**9)], axis=1)
    assert as_lists(model.generate(wider, SOURCE_LENGTHS, max_length=9)) == as_lists(expected)


@pytest.mark.parametrize("max_length", (10**9, 2**62, 2**70))
def test_a_length_that_is_not_reached_costs_nothing(max_length, src):
    """Memory follows the tokens that there are."""

    def enough(_, tokens):
        return len(tokens) == 3

    tracemalloc.start()
    generation = small_model().generate(src, max_length=max_length, stop_when=enough)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(sequence) for sequence in generation] == [3] * 4
    assert peak < 2_000_000


# The cache.


def cache_for(model, src, lengths):
    ids, sources = model.sequences("test", "src", src, lengths)
    memory = model.encoder.apply(model.side("src").apply(ids, sources.position_ids()), sources)
    keys_values = model.decoder.project(memory, sources)
    return KeyValueCache(model, len(sources.counts), memory=keys_values)


def logits_in_chunks(model, src, tgt, src_lengths, tgt_lengths, chunk, first):
    """Logits of each sequence: its first tokens at once, then `chunk` at a time.

    Sequences leave as they end, and the others are named in another order at every step.
    """
    cache = cache_for(model, src, src_lengths)
    rng = np.random.default_rng(0)
    logits = [[] for _ in tgt]
    size = first
    while (remaining := np.array(tgt_lengths) - cache.lengths).any():
        slots = rng.permutation(np.flatnonzero(remaining))
        counts = np.minimum(remaining[slots], size)
        held = cache.lengths[slots]
        ids = [tgt[s, h : h + n] for s, h, n in zip(slots, held, counts, strict=True)]
        rows = model.output_projection.apply(cache.extend(np.concatenate(ids), slots, counts))
        for s, part in zip(slots, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
            logits[s].append(part)
        size = chunk
    return [np.concatenate(parts) for parts in logits]


# The wide model has work enough for every thread even in a step of one token; its sequences pass
# 256 keys, where attention begins a new block.
CACHED = {
    "post-norm": ({}, (23, 17, 5, 1), 1),
    "pre-norm": ({"norm_first": True, "final_norm": True}, (23, 17, 5, 1), 4),
    "learned": ({"positions": "learned", "tie_output": True}, (2, 23, 13, 8), 1),
    "wide": (
        {
            "d_model": 320,
            "num_heads": 5,
            "d_ff": 643,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
        },
        (266, 263, 251, 240),
        239,
    ),
}


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("threads", (1, 2, 3, 4))
def test_in_chunks_as_all_at_once(name, threads, kernels, monkeypatch, rng):
    """To the bit, on every instruction set."""
    monkeypatch.setattr(_runtime, "kernels", kernels)
    changes, lengths, first = CACHED[name]
    model = small_model(**changes)
    src, tgt = token_ids(rng, 23, 4, 9), token_ids(rng, 19, 4, max(lengths))
    with num_threads(1):
        expected = model(src, tgt, SOURCE_LENGTHS, lengths)
    with num_threads(threads):
        for chunk in (1, 2, 3, 7):
            logits = logits_in_chunks(model, src, tgt, SOURCE_LENGTHS, lengths, chunk, first)
            for b, length in enumerate(lengths):
                assert_same_bits(logits[b], expected[b, :length])


def test_the_cache_of_an_empty_memory(rng):
    model, lengths = small_model(), [3, 5, 2, 4]
    src, tgt = token_ids(rng, 23, 4, 9), token_ids(rng, 19, 4, 5)
    expected = model(src, tgt, [0, 9, 0, 1], lengths)
    logits = logits_in_chunks(model, src, tgt, [0, 9, 0, 1], lengths, 1, 1)
    for b, length in enumerate(lengths):
        assert_same_bits(logits[b], expected[b, :length])


def test_the_cache_grows_with_its_tokens(src, rng):
    """A page has 16 tokens of a sequence; where none is left, some more are made at once."""
    model = small_model()
    cache = cache_for(model, src, SOURCE_LENGTHS)
    pages = cache._cache.own
    assert pages.nbytes == 0
    cache.extend(token_ids(rng, 19, 64), np.arange(4), np.full(4, 16))
    held = pages.nbytes
    assert held > 0
    cache.extend(token_ids(rng, 19, 64), np.arange(4), np.full(4, 16))
    assert pages.nbytes == held  # the first ones were for eight pages
    cache.extend(token_ids(rng, 19, 1), np.array([2]), np.array([1]))
    assert pages.nbytes == 2 * held
    assert cache.lengths.tolist() == [32, 32, 33, 32]


def test_one_slot_far_ahead_of_another(src, rng):
    """Two tokens for one slot and none for the other, beyond the first rows of the positions."""
    model = small_model()
    cache = cache_for(model, src[:2], None)
    tgt = token_ids(rng, 19, 1, 100)
    parts = [
        cache.extend(tgt[0, i : i + 2], np.array([0, 1]), np.array([2, 0]))
        for i in range(0, 100, 2)
    ]
    assert_same_bits(model.output_projection.apply(np.concatenate(parts)), model(src[:1], tgt)[0])


def test_the_memory_is_projected_once(src, monkeypatch):
    model = lively_model()
    calls = []
    project = pt.MultiheadAttention.project
    monkeypatch.setattr(pt.MultiheadAttention, "project", lambda *a: calls.append(a) or project(*a))
    model.generate(src, max_length=6)
    assert len(calls) == model.config.num_decoder_layers


def test_learned_positions_bound_the_cache(src, rng):
    model = small_model(positions="learned", max_length=6)
    cache = cache_for(model, src[:, :6], None)
    cache.extend(token_ids(rng, 19, 8), np.arange(4), np.full(4, 2))
    with pytest.raises(ValueError, match="a sequence would have length 7, expected at most"):
        cache.extend(token_ids(rng, 19, 8), np.arange(4), np.array([1, 5, 1, 1]))
    assert cache.lengths.tolist() == [2] * 4


# Scoring.


def expected_scores(model, src, tgt, src_lengths, tgt_lengths):
    """One sequence after another: the log-probability of each token, and of the end after it."""
    state, options, config = model.state_dict(), reference_options(model), model.config
    scores = []
    for source, target, s, t in zip(src, tgt, src_lengths, tgt_lengths, strict=True):
        target = target[:t].tolist()
        logits = reference.transformer(
            state, source[None, :s], np.array([[config.start_id, *target]]), **options
        )[0]
        tokens = [*target, config.end_id]
        scores.append(reference.log_softmax(logits)[np.arange(t + 1), tokens])
    return scores


@each_variant
def test_score(variant, src, rng):
    model = small_model(**VARIANTS[variant])
    tgt, lengths = token_ids(rng, 19, 4, 6), [6, 0, 3, 1]
    scores = model.score(src, tgt, SOURCE_LENGTHS, lengths)
    expected = expected_scores(model, src, tgt, SOURCE_LENGTHS, lengths)
    assert isinstance(scores, list)
    for actual, wanted in zip(scores, expected, strict=True):
        assert_close(actual, wanted)
    expected = expected_scores(model, src, tgt, [9] * 4, [6] * 4)
    for actual, wanted in zip(model.score(src, tgt), expected, strict=True):
        assert_close(actual, wanted)


@each_variant
def test_each_sequence_alone_has_the_same_score(variant, src, rng):
    model = lively_model(**VARIANTS[variant])
    tgt, lengths = token_ids(rng, 19, 4, 6), [6, 0, 3, 1]
    scores = model.score(src, tgt, SOURCE_LENGTHS, lengths)
    for b, (s, t) in enumerate(zip(SOURCE_LENGTHS, lengths, strict=True)):
        (alone,) = model.score(src[b : b + 1, :s], tgt[b : b + 1, :t])
        assert_same_bits(alone, scores[b])
    order = [2, 0, 3, 1]
    again = model.score(
        src[order], tgt[order], np.take(SOURCE_LENGTHS, order), np.take(lengths, order)
    )
    for b, row in zip(order, again, strict=True):
        assert_same_bits(row, scores[b])


def test_the_scores_of_an_empty_source(src, rng):
    model = lively_model()
    tgt = token_ids(rng, 19, 4, 2)
    scores = model.score(src, tgt, [0, 9, 0, 0], [0, 2, 1, 2])
    assert [row.tolist() for row in (scores[0], scores[2], scores[3])] == [
        [0.0],
        [-np.inf, 0.0],
        [-np.inf, -np.inf, 0.0],
    ]
    assert (np.array(scores[1]) < 0).all()
    assert np.isfinite(scores[1]).all()
    assert [row.tolist() for row in model.score(np.zeros((2, 0), int), np.zeros((2, 0), int))] == [
        [0.0],
        [0.0],
    ]
    assert model.score(np.zeros((0, 3), int), np.zeros((0, 2), int)) == []


def test_greedy_translations_score_best(src):
    """At every step, against every other token in its place."""
    model = lively_model()
    for b, row in enumerate(model.generate(src, SOURCE_LENGTHS, max_length=4)):
        source = src[b : b + 1, : SOURCE_LENGTHS[b]]
        best = model.score(source, row[None])[0]
        for place in range(len(row)):
            others = np.repeat(row[None], 19, axis=0)
            others[:, place] = np.arange(19)
            scores = model.score(np.repeat(source, 19, axis=0), others)
            assert max(score[place] for score in scores) == best[place]


def test_padding_does_not_matter_to_score(src, rng):
    model = lively_model()
    tgt, lengths = token_ids(rng, 19, 4, 6), [6, 0, 3, 1]
    expected = model.score(src, tgt, SOURCE_LENGTHS, lengths)
    for ids, counts in (src, SOURCE_LENGTHS), (tgt, lengths):
        for b, count in enumerate(counts):
            ids[b, count:] = -7
    for actual, wanted in zip(
        model.score(src, tgt, SOURCE_LENGTHS, lengths), expected, strict=True
    ):
        assert_same_bits(actual, wanted)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer to interrupt with")
def test_an_interrupted_pass_adds_nothing_to_the_cache():
    """A pass of some seconds on one thread, and Ctrl-C soon after it begins."""
    model, src = small_model(d_ff=4001, num_decoder_layers=8), np.array([[3, 4, 5]])
    caches = [cache_for(model, src, None) for _ in range(2)]
    step = np.array([1]), np.array([0]), np.array([1])

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with num_threads(1), pytest.raises(KeyboardInterrupt):
            caches[0].extend(np.full(20_000, 5), np.array([0]), np.array([20_000]))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caches[0].lengths.tolist() == [0]
    assert_same_bits(caches[0].extend(*step), caches[1].extend(*step))
    assert caches[0].lengths.tolist() == [1]


@pytest.mark.parametrize(
    "ids, slots, counts",
    [
        ([99], [0], [1]),
        ([-1], [0], [1]),
        ([1], [1], [1]),
        ([1], [0], [2]),
        ([1, 1], [0], [1]),
        ([1], [0], [-1]),
    ],
)
def test_what_does_not_fit_the_cache_is_refused(ids, slots, counts):
    model = small_model()
    cache = cache_for(model, np.array([[3, 4, 5]]), None)
    with pytest.raises(ValueError, match=r"KeyValueCache\.extend: (ids|sequences|counts)"):
        cache.extend(np.array(ids), np.array(slots), np.array(counts))
    assert cache.lengths.tolist() == [0]


def test_the_default_length_is_as_far_as_learned_positions_reach():
    model = small_model(positions="learned", max_length=5)
    assert max(map(len, model.generate(np.array([[3, 4, 5]])))) <= 5
