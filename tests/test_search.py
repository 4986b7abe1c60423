"""`generate` against the float64 search of reference_search.py, and that against enumeration.

Three parts: the reference on tables of random logits, small enough to list every sequence; models
against the reference, each option alone, in pairs and in heaps; and what holds without a reference:
bans that are never broken, and hypotheses that do not depend on what is computed beside them.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from models import assert_close, num_threads, randomised, reference_options, small_model, token_ids
from reference_search import Hypothesis, Result, search

import pyx_transformer as pt

# Beyond this gap no decision of float32 can differ from that of float64: see reference_search.
MARGIN = 1e-4


def property_test(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


# The reference against enumeration, on tables of logits.


@cache
def table_logits(seed, V, tokens):
    return np.random.default_rng([seed, V, *tokens]).normal(size=V) * 2


@cache
def table_attention(seed, tokens):
    return np.random.default_rng([seed, 3, *tokens]).dirichlet([0.5] * 3)


def table(seed, V):
    """A model made of random numbers: next_logits and next_attention, of 3 source places."""
    return {
        "next_logits": lambda tokens: table_logits(seed, V, tuple(tokens)),
        "next_attention": lambda tokens: table_attention(seed, tuple(tokens)),
    }


def offences(sequence, options):
    """How often a whole sequence breaks the rules, those about its end left out."""
    n = options.get("no_repeat_ngram_size", 0)
    ngrams = [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)] if n else []
    banned = [[v] for v in options.get("suppress_tokens", ())]
    banned += options.get("suppress_sequences", ())
    found = [sequence[i : i + len(ids)] == ids for ids in banned for i in range(len(sequence))]
    return len(ngrams) - len(set(ngrams)) + sum(found)


def every_hypothesis(model, V, options):
    """(score, sequence, is_finished) of every sequence that the options allow, the best first."""
    forced, longest = options.get("prefix", []), options["max_length"]
    ends, r = options["end_tokens"], options.get("repetition_penalty", 1.0)
    found = []

    def score(value, count, steps):
        covered = sum(model["next_attention"](tokens) for tokens in steps)
        coverage = np.log(np.minimum(covered, 1)).sum()
        return value / count ** options["length_penalty"] + options["coverage_penalty"] * coverage

    def walk(tokens, value, steps):
        count = len(tokens) - len(forced)
        if count == longest:
            found.append((score(value, count, steps), tokens, False))
            return
        z = model["next_logits"](tokens).copy()
        seen = np.isin(np.arange(V), tokens)
        z = np.where(seen, np.minimum(z / r, z * r) if r > 1 else np.maximum(z / r, z * r), z)
        allowed = [
            v
            for v in range(V)
            if offences([*tokens, v], options) == offences(tokens, options)
            and not (v in ends and count < options.get("min_length", 0))
        ]
        if count == longest - 1 and options["last_token"] is not None:
            allowed = [options["last_token"]]
        if not allowed:
            return
        logp = z - np.log(np.exp(z[allowed]).sum())
        for v in allowed:
            if v in ends:
                end = score(value + logp[v], count + 1, [*steps, tokens])
                found.append((end, tokens, True))
            else:
                walk([*tokens, v], value + logp[v], [*steps, tokens])

    walk(list(forced), 0.0, [])
    return sorted(found, key=lambda hypothesis: -hypothesis[0])


@st.composite
def tables(draw):
    """A table model, its vocabulary and options that enumeration knows."""
    V = draw(st.integers(2, 4))
    token = st.integers(0, V - 1)
    ends = draw(st.lists(token, min_size=1, max_size=2, unique=True))
    others = [v for v in range(V) if v not in ends]
    longest = draw(st.integers(1, 3 if V == 4 else 4))
    options = {
        "max_length": longest,
        "end_tokens": ends,
        "min_length": draw(st.integers(0, longest)),
        "length_penalty": draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0])),
        "coverage_penalty": draw(st.sampled_from([0.0, 0.3])),
        "repetition_penalty": draw(st.sampled_from([1.0, 0.6, 2.5])),
        "no_repeat_ngram_size": draw(st.integers(0, 3)),
        "suppress_tokens": draw(st.lists(token, max_size=1)),
        "suppress_sequences": draw(
            st.lists(st.lists(token, min_size=1, max_size=3), max_size=2, unique_by=tuple)
        ),
        "prefix": draw(st.lists(st.sampled_from(others), max_size=3)) if others else [],
        "last_token": draw(st.none() | token),
    }
    return table(draw(st.integers(0, 10**6)), V), V, options


def summary(result):
    return [(h.score, h.sequence, h.is_finished) for h in result.hypotheses]


def assert_same_summary(actual, expected):
    assert [h[1:] for h in actual] == [h[1:] for h in expected]
    np.testing.assert_allclose([h[0] for h in actual], [h[0] for h in expected], atol=1e-9)


@property_test(300)
@given(tables())
def test_a_beam_for_everything_finds_the_best_of_all(case):
    model, V, options = case
    wide = {"beam_size": V ** (options["max_length"] + 1), "num_hypotheses": 10}
    result = search(**model, **options, **wide)
    assume(result.margin > 1e-9)
    assert_same_summary(summary(result), every_hypothesis(model, V, options)[:10])


@property_test(300)
@given(tables(), st.sampled_from([1, 2, 3]), st.floats(0.5, 2.0))
def test_never_stops_only_where_nothing_better_can_come(case, beam_size, patience):
    model, _, options = case
    beams = {"beam_size": beam_size}
    early = search(**model, **options, **beams, early_stopping="never", patience=patience)
    full = search(**model, **options, **beams, patience=1e9)
    assume(min(early.margin, full.margin) > 1e-9)
    assert_same_summary(summary(early), summary(full))


@property_test(100)
@given(tables())
def test_one_beam_is_greedy(case):
    model, V, options = case
    options = {"max_length": options["max_length"], "end_tokens": options["end_tokens"]}
    tokens = []
    while len(tokens) < options["max_length"]:
        token = int(np.argmax(model["next_logits"](tokens)))
        if token in options["end_tokens"]:
            break
        tokens.append(token)
    (hypothesis,) = search(**model, **options).hypotheses
    assert hypothesis.sequence == tokens
    assert hypothesis.is_finished == (len(tokens) < options["max_length"])
    for drawing in ({"top_k": 1}, {"temperature": 1e-9}, {"min_p": 1.0}, {"top_p": 1e-9}):
        (drawn,) = search(**model, **options, **drawing, seed=V).hypotheses
        assert drawn.sequence == tokens


@property_test(200)
@given(tables(), st.integers(1, 3), st.integers(0, 10**6), st.booleans())
def test_beyond_the_margin_small_errors_change_nothing(case, beam_size, seed, is_sampling):
    model, V, options = case
    more = {"beam_size": beam_size, "num_hypotheses": beam_size, "early_stopping": False}
    if is_sampling:
        more = {"top_p": 0.8, "top_k": 3, "min_p": 0.1, "num_samples": 3, "seed": seed}
    exact = search(**model, **options, **more)
    assume(exact.margin > 1e-6)

    def next_logits(tokens):
        noise = np.random.default_rng([seed, *tokens]).uniform(-1e-8, 1e-8, V)
        return model["next_logits"](tokens) + noise

    inexact = search(**{**model, "next_logits": next_logits}, **options, **more)
    assert [h[1:] for h in summary(inexact)] == [h[1:] for h in summary(exact)]


@property_test(200)
@given(tables(), st.integers(1, 3), st.integers(1, 4))
def test_alternatives_are_searches_behind_each_first_token(case, beam_size, most):
    model, V, options = case
    assume(options["max_length"] > 1)
    options |= {"length_penalty": 0.0, "coverage_penalty": 0.0, "beam_size": beam_size}
    result = search(**model, **options, num_hypotheses=most, return_alternatives=True)
    one = {"max_length": 1, "beam_size": V, "num_hypotheses": V, "last_token": None}
    first = search(**model, **{**options, **one})
    assume(min(result.margin, first.margin) > 1e-9)
    expected = []
    for start in first.hypotheses[:most]:
        if start.is_finished:
            expected.append((start.score, start.sequence, True))
            continue
        behind = {
            "prefix": start.sequence,
            "max_length": options["max_length"] - 1,
            "min_length": max(options["min_length"] - 1, 0),
        }
        for rest in search(**model, **{**options, **behind}).hypotheses:
            expected.append((start.score + rest.score, rest.sequence, rest.is_finished))
    assert_same_summary(summary(result), expected)


@pytest.mark.parametrize(
    "drawing, kept",
    [
        ({"num_samples": 1}, [3, 1, 0, 2]),
        ({"temperature": 2.0}, [3, 1, 0, 2]),
        ({"top_k": 2}, [3, 1]),
        ({"top_p": 0.61}, [3, 1]),
        ({"min_p": 0.3}, [3, 1, 0]),
        # 4/9 + 3/9 is more than 0.75; without top_k it would be 0.4 + 0.3.
        ({"top_k": 3, "top_p": 0.75}, [3, 1]),
        ({"top_p": 0.75}, [3, 1, 0]),
        ({"top_p": 0.9, "min_p": 0.6}, [3, 1]),
    ],
    ids=str,
)
def test_samples_come_as_often_as_they_should(drawing, kept):
    """Within four standard deviations."""
    p, n = np.array([0.2, 0.3, 0.1, 0.4]), 2000
    options = {"max_length": 1, "end_tokens": [1], **drawing, "num_samples": n, "seed": 0}
    samples = search(lambda tokens: np.log(p) + 5, **options).hypotheses
    drawn = [h.sequence[0] if h.sequence else 1 for h in samples]
    warm = p ** (1 / drawing.get("temperature", 1.0))
    warm /= warm.sum()
    expected = np.where(np.isin(np.arange(4), kept), warm, 0)
    expected /= expected.sum()
    spread = np.sqrt(n * expected * (1 - expected))
    assert (np.abs(np.bincount(drawn, minlength=4) - n * expected) <= 4 * spread).all()
    for hypothesis, token in zip(samples, drawn, strict=True):
        assert hypothesis.score == pytest.approx(np.log(warm[token]), abs=1e-12)


# Models against the reference.


class Known:
    """A model, sources of its vocabulary, and what the reference says of every step so far."""

    def __init__(self, name, model, sources):
        self.name, self.model, self.sources = name, model, sources
        self.steps = {}

    def __repr__(self):
        return f"<{self.name}>"

    @property
    def config(self):
        return self.model.config

    def step(self, source, tokens):
        """The float64 logits (V,) after these tokens, and the step's attention (layers, H, S)."""
        key = source, *tokens
        if key not in self.steps:
            self.steps[key] = self.asked(self.sources[source], [self.config.start_id, *tokens])
        return self.steps[key]

    def asked(self, source, tokens):
        logits, *_, cross = reference.transformer(
            self.model.state_dict(),
            source[None],
            np.array([tokens]),
            **reference_options(self.model),
            return_attention=True,
        )
        return logits[0, -1], np.array([weights[0, :, -1] for weights in cross])

    def result(self, source, sentence, values):
        """The reference's Result for a source, with the options of `generate`."""
        if not len(self.sources[source]):
            return Result([Hypothesis([], 0.0, [0.0], True)], np.inf)
        own = {"end_tokens": [self.config.end_id], **values}
        return search(
            lambda tokens: self.step(source, tokens)[0],
            next_attention=lambda tokens: self.step(source, tokens)[1][-1].mean(axis=0),
            sentence=sentence,
            source_ids=self.sources[source].tolist(),
            **{**own, "prefix": values["prefix"][sentence] if "prefix" in values else ()},
        )

    def generate(self, chosen, **values):
        """Of the chosen sources, with token 1 as the padding."""
        rows = [self.sources[source] for source in chosen]
        src = np.ones((len(rows), max(map(len, rows))), np.int64)
        for i, row in enumerate(rows):
            src[i, : len(row)] = row
        asked = {"return_scores": True, "return_token_scores": True}
        return self.model.generate(src, [len(row) for row in rows], **asked, **values)


class KnownLM(Known):
    """A language model with sinusoidal positions; its sources are prompts, its forced prefixes."""

    def asked(self, source, tokens):
        state = self.model.state_dict()
        positions = reference_options(self.model)["tgt_positions"]
        rows = reference.embedding(
            tokens,
            state["tgt_embedding.weight"],
            np.sqrt(self.config.d_model),
            positions[: len(tokens)],
        )
        rows = reference.encoder(
            reference.substate(state, "decoder."),
            rows[None],
            self.config.num_heads,
            mask=np.tri(len(tokens), dtype=bool),
            activation=self.config.activation,
            norm_first=self.config.norm_first,
        )
        weight, bias = state["output_projection.weight"], state["output_projection.bias"]
        return reference.linear(rows[0, -1], weight, bias), None

    def result(self, source, sentence, values):
        prompt = self.sources[source].tolist()
        own = {"end_tokens": [self.config.end_id], **values, "prefix": prompt}
        return search(
            lambda tokens: self.step(source, tokens)[0],
            sentence=sentence,
            source_ids=prompt,
            **own,
        )


def lively(model, seed, spread=1.6):
    """The model, with next tokens that are neither sure nor all alike, and ends that come.

    Random weights prefer one token everywhere. The bias takes away what each logit is on average,
    and the output weight gives the rest this spread.
    """
    state, config = randomised(model, seed).state_dict(), model.config
    for key, array in state.items():
        if "in_proj_weight" in key or "embedding" in key:
            array *= 2
    model.load_state_dict(state)
    rng = np.random.default_rng(seed)
    inputs = [rng.integers(0, config.tgt_vocab_size, (200, 6))]
    if isinstance(model, pt.Transformer):
        inputs = [rng.integers(0, config.src_vocab_size, (200, 4)), *inputs]
    logits = model(*inputs).reshape(-1, config.tgt_vocab_size)
    scale = spread / logits.std(axis=0).mean()
    state["output_projection.weight"] *= scale
    state["output_projection.bias"] -= logits.mean(axis=0)
    state["output_projection.bias"] *= scale
    model.load_state_dict(state)
    return model


POST = {"num_encoder_layers": 1, "num_decoder_layers": 1}
PRE = {"num_encoder_layers": 1, "num_decoder_layers": 2, "norm_first": True, "final_norm": True}


def known(seed, lengths, kind=pt.Transformer, spread=1.6, **changes):
    config = {"d_ff": 19, "max_length": 14, "src_vocab_size": 13, **changes}
    model = lively(kind(pt.TransformerConfig(**config), rng=0), seed, spread)
    vocabulary = config["src_vocab_size" if kind is pt.Transformer else "tgt_vocab_size"]
    sources = [np.random.default_rng([seed, n]).integers(3, vocabulary, n) for n in lengths]
    name = f"{kind.__name__} {seed}"
    return (Known if kind is pt.Transformer else KnownLM)(name, model, sources)


@cache
def pool():
    learned = {"positions": "learned", "start_id": 3, "end_id": 0}
    return (
        known(0, (5, 1, 3), tgt_vocab_size=5, d_model=8, num_heads=2, **POST),
        known(1, (4, 2, 6), tgt_vocab_size=7, d_model=12, num_heads=3, **PRE),
        known(2, (3, 5, 0), tgt_vocab_size=9, d_model=16, num_heads=4, **learned, **PRE),
        known(3, (2, 7, 4), tgt_vocab_size=12, d_model=10, num_heads=1, positions="none", **POST),
    )


@cache
def large_vocabulary():
    """So large and so flat that the likeliest 64 tokens are not always enough."""
    sizes = {"tgt_vocab_size": 151, "d_model": 16, "num_heads": 2}
    return (known(4, (5, 2, 3), spread=0.7, **sizes, **POST),)


@cache
def language_models():
    return (
        known(5, (1, 3, 0), pt.TransformerLM, tgt_vocab_size=8, d_model=12, num_heads=2, **PRE),
        known(6, (2, 0, 4), pt.TransformerLM, tgt_vocab_size=11, d_model=8, num_heads=1, **POST),
    )


@dataclass(frozen=True)
class Scrambled:
    """Callbacks that depend on all they are told, and on nothing else."""

    salt: int
    V: int

    def number(self, sentence, tokens):
        return (self.salt + 7 * sentence + sum((i + 3) * int(v) for i, v in enumerate(tokens))) % 11

    def constraint(self, sentence, tokens):
        """About half of the tokens, sometimes all."""
        number = self.number(sentence, tokens)
        if number % 5 == 0:
            return None
        return (v for v in range(self.V) if (v * 5 + number) % 4 < 2)

    def stop_when(self, sentence, tokens):
        return self.number(sentence, tokens) < 2

    def processed(self, logits):
        return logits * 0.7 + np.cos(np.arange(self.V) + self.salt, dtype=np.float32)

    def processed_in_place(self, logits):
        logits *= 1.3
        logits[:, self.salt % self.V] -= 1


def ids(V, **sizes):
    return st.lists(st.integers(0, V - 1), **sizes)


# What each option may be, given a vocabulary of V. An option needed by another comes with it.
OPTIONS = {
    "early_stopping": lambda V: st.sampled_from([False, "never"]),
    "patience": lambda V: st.sampled_from([0.3, 0.5, 1.5, 2.0, 3.0]),
    "length_penalty": lambda V: st.sampled_from([0.0, 0.6, 2.0, -0.5]),
    "coverage_penalty": lambda V: st.sampled_from([0.1, 0.5]),
    "min_length": lambda V: st.integers(1, 6),
    "repetition_penalty": lambda V: st.sampled_from([0.7, 1.2, 3.0]),
    "no_repeat_ngram_size": lambda V: st.integers(1, 3),
    "suppress_tokens": lambda V: ids(V, min_size=1, max_size=3),
    "suppress_sequences": lambda V: st.lists(ids(V, min_size=1, max_size=3), min_size=1),
    "end_tokens": lambda V: ids(V, min_size=1, max_size=4, unique=True),
    "prefix": lambda V: st.lists(ids(V, max_size=3), min_size=3, max_size=3),
    "prefix_bias": lambda V: st.sampled_from([0.1, 0.5, 0.9]),
    "last_token": lambda V: st.integers(0, V - 1),
    "logits_processor": lambda V: st.builds(Scrambled, st.integers(0, 10), st.just(V)).flatmap(
        lambda scrambled: st.sampled_from([scrambled.processed, scrambled.processed_in_place])
    ),
    "constraint": lambda V: st.integers(0, 10).map(lambda salt: Scrambled(salt, V).constraint),
    "stop_when": lambda V: st.integers(0, 10).map(lambda salt: Scrambled(salt, V).stop_when),
    "return_alternatives": lambda V: st.just(True),
    "temperature": lambda V: st.sampled_from([0.5, 1.0, 1.7]),
    "top_k": lambda V: st.integers(1, 6),
    "top_p": lambda V: st.floats(0.2, 0.95),
    "min_p": lambda V: st.sampled_from([0.02, 0.1, 0.4]),
    "num_samples": lambda V: st.integers(1, 4),
}
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "num_samples"}


@st.composite
def cases(draw, names, models=pool):
    """A model, which of its sources (some perhaps twice), and settings with these options."""
    this = draw(st.sampled_from(models()))
    V = this.config.tgt_vocab_size
    chosen = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    values = {name: draw(OPTIONS[name](V)) for name in sorted(names)}
    if "prefix_bias" in values and "prefix" not in values:
        values["prefix"] = draw(OPTIONS["prefix"](V))
    if SAMPLING & values.keys():
        values |= {"seed": draw(st.integers(0, 2**70))}
        values.pop("return_alternatives", None)
    else:
        values["beam_size"] = draw(st.integers(1, min(V, 5)))
        most = min(V, 7) if "return_alternatives" in values else values["beam_size"]
        values["num_hypotheses"] = draw(st.integers(1, most))
        if values["beam_size"] > 1:
            # Most rules show only where a search goes on after its first ends.
            values.setdefault("early_stopping", draw(st.sampled_from([True, False, "never"])))
            values.setdefault("patience", draw(st.sampled_from([1.0, 0.5, 2.0])))
    values["max_length"] = draw(st.integers(values.get("min_length", 0), 6))

    if "prefix" in values:
        ends = values.get("end_tokens", [this.config.end_id])
        prefixes = values["prefix"][: len(chosen)]
        values["prefix"] = [[v for v in prefix if v not in ends] for prefix in prefixes]
    return this, chosen, values


def assert_as_expected(this, chosen, values):
    """Every hypothesis of the list: the same sequence and end, and scores within 1e-4."""
    results = [this.result(source, i, values) for i, source in enumerate(chosen)]
    assume(min(result.margin for result in results) > MARGIN)
    if not all(result.hypotheses for result in results):
        with pytest.raises(ValueError, match="no token is left for sentence"):
            this.generate(chosen, **values)
        return
    generation = this.generate(chosen, **values)
    assert len(generation.hypotheses) == len(results)
    for found, result in zip(generation.hypotheses, results, strict=True):
        expected = result.hypotheses
        assert [h.sequence.tolist() for h in found] == [h.sequence for h in expected]
        assert [h.is_finished for h in found] == [h.is_finished for h in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.sequence.dtype == np.int64
            assert one.token_scores.dtype == np.float32
            np.testing.assert_allclose(one.score, other.score, rtol=0, atol=1e-4)
            np.testing.assert_allclose(one.token_scores, other.token_scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
@property_test(60)
@given(data=st.data())
def test_an_option(name, data):
    assert_as_expected(*data.draw(cases({name})))


@pytest.mark.parametrize("name", OPTIONS)
@property_test(80)
@given(data=st.data())
def test_two_options(name, data):
    other = data.draw(st.sampled_from([other for other in OPTIONS if other != name]))
    assert_as_expected(*data.draw(cases({name, other})))


@property_test(500)
@given(st.data())
def test_many_options(data):
    names = data.draw(st.sets(st.sampled_from(list(OPTIONS)), max_size=6))
    assert_as_expected(*data.draw(cases(names)))


@pytest.mark.parametrize("name", ["patience", "top_p", "min_p", "num_samples"])
@property_test(25)
@given(data=st.data())
def test_a_large_vocabulary(name, data):
    other = data.draw(st.sampled_from(list(OPTIONS)))
    assert_as_expected(*data.draw(cases({name, other}, large_vocabulary)))


OF_A_SOURCE = {"prefix", "prefix_bias", "coverage_penalty"}


@property_test(300)
@given(st.data())
def test_language_models(data):
    names = data.draw(st.sets(st.sampled_from(sorted(OPTIONS.keys() - OF_A_SOURCE)), max_size=3))
    this, chosen, values = data.draw(cases(names, language_models))
    ends = values.get("end_tokens", [this.config.end_id])
    assume(not any(set(ends) & set(this.sources[source]) for source in chosen))
    assert_as_expected(this, chosen, values)


@property_test(300)
@given(st.data())
def test_tokens_are_streamed_as_the_best_hypothesis(data):
    names = data.draw(
        st.sets(st.sampled_from(sorted(OPTIONS.keys() - {"num_samples", "return_alternatives"})))
    )
    this, chosen, values = data.draw(cases(names))
    streamed = [[] for _ in chosen]
    try:
        generation = this.generate(
            chosen, **values, on_token=lambda sentence, token: streamed[sentence].append(token)
        )
    except ValueError as error:
        assert "no token is left" in str(error)
        return
    for i, (source, tokens) in enumerate(zip(chosen, streamed, strict=True)):
        forced = values["prefix"][i] if "prefix" in values and "prefix_bias" not in values else []
        if len(this.sources[source]):
            assert [*forced, *tokens] == generation[i].tolist()


def indifferent(*bias):
    """A model whose logits are always these."""
    model = small_model(tgt_vocab_size=len(bias))
    state = model.state_dict()
    state["output_projection.weight"][:] = 0
    state["output_projection.bias"][:] = bias
    model.load_state_dict(state)
    return model


def assert_as_expected_of(model, **options):
    bias = model.state_dict()["output_projection.bias"]
    expected = search(lambda tokens: bias, **options).hypotheses
    (found,) = model.generate(np.array([[3, 4]]), **options).hypotheses
    assert [h.sequence.tolist() for h in found] == [h.sequence for h in expected]
    assert [h.is_finished for h in found] == [h.is_finished for h in expected]
    return expected


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("end_tokens", [[2], [3], [6], [1, 4]], ids=str)
def test_of_equal_values_the_lower_id_then_the_better_row(end_tokens, early_stopping):
    """Four tokens of the same probability: all values of a step are equal, to the bit."""
    assert_as_expected_of(
        indifferent(-99, 3, -99, 3, 3, -99, 3),
        beam_size=3,
        num_hypotheses=3,
        max_length=3,
        end_tokens=end_tokens,
        early_stopping=early_stopping,
    )


def test_however_many_ends_come_first_the_beam_stays_full():
    """At the second step all three ends of all three rows rank before any row that goes on."""
    longest = assert_as_expected_of(
        indifferent(0.5, 3, 2.9, 2.8, 1, 0, -1),
        beam_size=3,
        num_hypotheses=3,
        max_length=3,
        end_tokens=[1, 2, 3],
        patience=9.0,
        length_penalty=5.0,
    )
    assert [(len(h.sequence), h.is_finished) for h in longest] == [(2, True)] * 3


def test_attention_is_that_of_the_steps():
    """Of every hypothesis: what the reference says of the step that chose each token, and the end.

    A forced prefix is no exception: its tokens have steps as well.
    """
    rng = np.random.default_rng(0)
    this = Known("small", small_model(), [token_ids(rng, 23, n) for n in (5, 3, 0)])
    layers, heads = this.config.num_decoder_layers, this.config.num_heads
    beams = {"beam_size": 4, "num_hypotheses": 4, "patience": 2.0, "end_tokens": [2, 6, 16]}
    ended = 0
    for prefix in ([], [4, 9]):
        generation = this.generate(
            [0, 1, 2], **beams, max_length=5, prefix=[prefix] * 3, return_attention=True
        )
        for source, hypotheses in enumerate(generation.hypotheses):
            for h in hypotheses:
                steps = len(h.token_scores)
                assert h.attention.shape == (layers, heads, steps, len(this.sources[source]))
                if len(this.sources[source]):
                    ended += steps > len(h.sequence)
                    expected = [this.step(source, h.sequence[:t].tolist())[1] for t in range(steps)]
                    assert_close(h.attention, np.stack(expected, axis=2))
    assert 3 < ended < 16


@pytest.mark.parametrize(
    "bans",
    [
        {"constraint": lambda sentence, tokens: [] if sentence == 1 else None},
        {"suppress_tokens": list(range(18)), "min_length": 2, "end_tokens": [18]},
        {"suppress_sequences": [[v] for v in range(19)]},
        {"suppress_tokens": list(range(18)), "no_repeat_ngram_size": 1, "end_tokens": [3]},
    ],
    ids=lambda bans: "-".join(bans),
)
@pytest.mark.parametrize(
    "way",
    [
        {},
        {"beam_size": 3},
        {"num_samples": 2, "temperature": 0.5},
        {"num_samples": 2, "top_k": 3},
        {"num_hypotheses": 3, "return_alternatives": True},
        {"prefix": [[17], [17]], "prefix_bias": 0.5},
    ],
    ids=str,
)
def test_nothing_left_to_choose(way, bans):
    """An error that names the sentence and the bans, not a hypothesis of banned tokens."""
    sentence = 1 if "constraint" in bans else 0
    with pytest.raises(ValueError, match="no token is left") as error:
        small_model().generate(np.array([[3, 4], [4, 5]]), max_length=5, **way, **bans)
    assert f"sentence {sentence} " in str(error.value)
    for name in bans.keys() - {"end_tokens"}:
        assert name in str(error.value)


# What holds without a reference.

BANS = ("min_length", "no_repeat_ngram_size", "suppress_tokens", "suppress_sequences", "constraint")


@property_test(400)
@given(st.data())
def test_no_ban_is_ever_broken(data):
    forcing = ("prefix", "prefix_bias", "last_token")
    others = [name for name in OPTIONS if name not in (*BANS, *forcing)]
    names = data.draw(st.sets(st.sampled_from(BANS), min_size=1))
    names |= data.draw(st.sets(st.sampled_from(others), max_size=4)) | {"prefix"}
    this, chosen, values = data.draw(cases(names))
    ends = values.get("end_tokens", [this.config.end_id])
    try:
        generation = this.generate(chosen, **values)
    except ValueError as error:
        assert "no token is left" in str(error)
        return
    for i, hypotheses in enumerate(generation.hypotheses):
        if not len(this.sources[chosen[i]]):
            continue
        prefix = values["prefix"][i]
        for h in hypotheses:
            tokens, free = h.sequence.tolist(), len(h.sequence) - len(prefix)
            assert tokens[: len(prefix)] == prefix
            assert not set(tokens) & set(ends)
            assert free <= values["max_length"]
            assert h.is_finished or free == values["max_length"]
            has_end = len(h.token_scores) > len(tokens)
            assert free >= values.get("min_length", 0) or not has_end
            for place in range(len(prefix), len(tokens)):
                before, up_to = tokens[:place], tokens[: place + 1]
                assert offences(up_to, values) == offences(before, values)
                if "constraint" in values:
                    allowed = values["constraint"](i, before)
                    assert allowed is None or tokens[place] in allowed


COMPANY = {
    "greedy": {},
    "beams": {"beam_size": 4, "num_hypotheses": 4, "patience": 2.0, "length_penalty": 0.6},
    "never": {"beam_size": 3, "num_hypotheses": 3, "early_stopping": "never"},
    "coverage": {
        "beam_size": 4,
        "num_hypotheses": 3,
        "early_stopping": False,
        "coverage_penalty": 0.3,
    },
    "bans": {
        "beam_size": 3,
        "num_hypotheses": 3,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [5],
        "min_length": 4,
        "end_tokens": [2, 6],
    },
    "last": {
        "beam_size": 3,
        "num_hypotheses": 3,
        "suppress_tokens": [2],
        "last_token": 2,
        "max_length_factor": 0.5,
        "max_length_offset": 2,
    },
    "alternatives": {"beam_size": 2, "num_hypotheses": 4, "return_alternatives": True},
    "samples": {"num_samples": 3, "temperature": 1.3, "top_p": 0.9, "seed": 5},
    "more samples": {"num_samples": 4, "top_k": 7, "min_p": 0.01, "seed": 6},
}


def bits(generation):
    """Everything about every hypothesis of each sentence."""
    return [
        [
            (
                h.sequence.tolist(),
                h.score.hex(),
                h.token_scores.tobytes(),
                h.attention.shape,
                h.attention.tobytes(),
                h.is_finished,
            )
            for h in hypotheses
        ]
        for hypotheses in generation.hypotheses
    ]


@pytest.fixture(scope="module", params=("small", "wide"))
def crowd(request):
    """A model, and sentences of distinct lengths, with a prefix for each of them.

    The wide model has work enough for every thread, even in a step of a few rows.
    """
    sizes = {"d_model": 12, "num_heads": 3, "d_ff": 19}
    if request.param == "wide":
        sizes = {"d_model": 320, "num_heads": 5, "d_ff": 643}
    config = {"src_vocab_size": 23, "tgt_vocab_size": 19, "max_length": 40, **sizes, **PRE}
    model = lively(pt.Transformer(pt.TransformerConfig(**config), rng=0), 7)
    rng = np.random.default_rng(7)
    return model, token_ids(rng, 23, 5, 9), [9, 4, 0, 1, 7], [[], [7], [8], [9, 7, 8], []]


@pytest.mark.parametrize("name", COMPANY)
def test_hypotheses_do_not_depend_on_company(name, crowd):
    """To the bit: on other sentences, their order, padding, threads, and how they are split."""
    model, src, lengths, prefixes = crowd
    asked = dict.fromkeys(("return_scores", "return_token_scores", "return_attention"), True)
    options = {**COMPANY[name], **asked, "max_length": 8}

    def hypotheses(order, width=9, **more):
        rows = np.full((len(order), width), 3)
        rows[:, :9] = src[order]
        own = [prefixes[b] for b in order]
        return bits(model.generate(rows, np.take(lengths, order), prefix=own, **options, **more))

    with num_threads(1):
        alone = [
            bits(model.generate(src[b : b + 1, : lengths[b]], prefix=[prefixes[b]], **options))[0]
            for b in range(5)
        ]
    assert len({str(own) for own in alone}) == 5
    for threads in (1, 2, 3, 4):
        with num_threads(threads):
            assert hypotheses([0, 1, 2, 3, 4]) == alone
            for order in ([3, 1, 4, 2, 0], [1, 1, 0, 3, 0, 4, 4]):
                assert hypotheses(order, width=12) == [alone[b] for b in order]
            for most in (1, 5, 11, 1000):
                assert hypotheses([0, 1, 2, 3, 4], max_batch_tokens=most) == alone


def test_samples_depend_on_the_seed_and_their_number(crowd):
    model, src, *_ = crowd
    options = {"temperature": 1.5, "max_length": 12}

    def samples(n, **seed):
        generation = model.generate(src[:1], **options, num_samples=n, **seed)
        return [h.sequence.tolist() for h in generation.hypotheses[0]]

    assert samples(5, seed=3) == samples(5, seed=3)
    assert samples(5, seed=3)[:2] == samples(2, seed=3)
    assert samples(5, seed=3) != samples(5, seed=4)
    assert samples(5) != samples(5)
    assert len({tuple(one) for one in samples(5)}) > 1
