"""scaled_dot_product_attention against float64 and against PyTorch, and its mask rule.

Every test runs on every instruction set. Results are allocated full of NaN here, so that a value
which the kernel forgets to write is seen.
"""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import reference
from cases import ATTENTION_CASES, MASK_AXES, AttentionCase, arrays, normal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyx_transformer import _runtime, ops
from pyx_transformer.ops import scaled_dot_product_attention as attention

EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)
THREADS = (1, 2, 3)


@pytest.fixture(autouse=True)
def each_instruction_set(kernels, monkeypatch):
    monkeypatch.setattr(_runtime, "kernels", kernels)


@pytest.fixture(autouse=True)
def results_start_as_nan(monkeypatch):
    monkeypatch.setattr(ops, "_empty", lambda function, shape: np.full(shape, np.nan, np.float32))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="needs PyTorch to compare errors with")


@cache
def inputs_of(case):
    inputs = arrays(case)
    for array in inputs.values():
        array.setflags(write=False)
    return inputs


@cache
def expected_of(case):
    """Output and weights."""
    return reference.scaled_dot_product_attention(
        **inputs_of(case), **case.options, return_weights=True
    )


@cache
def allowed_of(case):
    """Which query may attend to which key, bool (B, H, T, S)."""
    inputs = inputs_of(case)
    rules = {name: inputs[name] for name in ("mask", "lengths") if name in inputs}
    return reference.may_attend(
        (case.B, case.H, case.T, case.S),
        **rules,
        is_causal=case.is_causal,
        query_offset=case.query_offset,
        window=case.window,
    )


def case_inputs(**options):
    """The inputs of a small case, to be changed by the test."""
    return {name: array.copy() for name, array in arrays(AttentionCase(**options)).items()}


def errors(actual, expected):
    """|actual - expected|; 0 where both are NaN, infinite where only one is."""
    difference = np.abs(actual - expected)
    difference[np.isnan(difference)] = np.inf
    difference[np.isnan(actual) & np.isnan(expected)] = 0.0
    return difference


def assert_same_bits(actual, expected):
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


# Rounding.


def assert_rounded_well(case, output, weights):
    expected_output, expected_weights = expected_of(case)
    assert output.dtype == weights.dtype == np.float32
    assert output.shape == expected_output.shape
    assert weights.shape == expected_weights.shape
    relative = weight_error(case)
    largest_weight = np.nan_to_num(expected_weights).max(axis=-1, keepdims=True)
    worst = errors(weights, expected_weights) / (relative * largest_weight + TINY)
    assert worst.max() <= 1, f"{worst.max():.3g} times the allowed error in the weights"
    worst = errors(output, expected_output) / (relative * largest_value(case) + TINY)
    assert worst.max() <= 1, f"{worst.max():.3g} times the allowed error in the output"
    assert (weights[~allowed_of(case)] == 0).all()


def weight_error(case):
    """How far, relatively, rounded scores may move the weights of each query: (B, H, T, 1)."""
    inputs = inputs_of(case)
    query, key = np.abs(reference.f64(inputs["query"])), np.abs(reference.f64(inputs["key"]))
    key = np.repeat(key, case.H // case.kv_heads, axis=1)
    scale = case.K**-0.5 if case.scale is None else abs(case.scale)
    scores = query @ key.swapaxes(-1, -2) * scale
    if case.mask in ("float", "lowest"):
        scores = scores + np.abs(inputs["mask"])
    scores = np.where(allowed_of(case) & np.isfinite(scores), scores, 0.0)
    return EPS * (6 + 2 * scores.max(axis=-1, keepdims=True))


def largest_value(case):
    """The largest number that a query's values hold: (B, H, T, 1)."""
    value = np.abs(np.repeat(inputs_of(case)["value"], case.H // case.kv_heads, axis=1))
    value = np.where(np.isfinite(value), value, 0.0).max(axis=-1)
    return np.where(allowed_of(case), value[:, :, None, :], 0.0).max(axis=-1, keepdims=True)


@pytest.mark.parametrize("case", ATTENTION_CASES, ids=str)
def test_results_and_threads(case, use_threads):
    use_threads(1)
    output, weights = attention(**inputs_of(case), **case.options, return_weights=True)
    assert_rounded_well(case, output, weights)
    for threads in THREADS:
        use_threads(threads)
        assert_same_bits(attention(**inputs_of(case), **case.options), output)
        again = attention(**inputs_of(case), **case.options, return_weights=True)
        assert_same_bits(again[0], output)
        assert_same_bits(again[1], weights)


@st.composite
def attention_cases(draw):
    B, Hkv, S = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 40))
    if draw(st.integers(0, 3)) == 0:
        S += 240  # past a block of keys
    offsets = st.integers(-S - 3, S + 3)
    side = st.none() | st.integers(0, S + 3)
    return AttentionCase(
        B=B,
        H=Hkv * draw(st.integers(1, 3)),
        Hkv=Hkv,
        T=draw(st.integers(1, 20)),
        S=S,
        K=draw(st.integers(1, 40)),
        Kv=draw(st.integers(1, 40)),
        mask=draw(st.sampled_from((None, "bool", "float", "lowest"))),
        mask_axes=draw(st.sampled_from(MASK_AXES)),
        lengths=draw(st.none() | st.tuples(*[st.integers(0, S)] * B)),
        is_causal=draw(st.booleans()),
        query_offset=draw(offsets | st.tuples(*[offsets] * B)),
        window=draw(st.none() | st.tuples(side, side)),
        softcap=draw(st.none() | st.floats(0.5, 50)),
        scale=draw(st.none() | st.floats(-1, 1, width=32)),
        spread=draw(st.sampled_from((1.0, 30.0))),
        poison=draw(st.sampled_from(((), (0,), (S - 1,)))),
    )


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    # One set of kernels serves all examples of a test.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=attention_cases())
def test_any_mixture_of_options(case):
    output, weights = attention(**inputs_of(case), **case.options, return_weights=True)
    assert_rounded_well(case, output, weights)
    assert_same_bits(attention(**inputs_of(case), **case.options), output)


# Against PyTorch.


@cache
def torch_output(case):
    import torch
    from torch.nn import functional

    inputs = inputs_of(case)
    query, key, value = (torch.from_numpy(inputs[n].copy()) for n in ("query", "key", "value"))
    added = inputs["mask"] if case.mask in ("float", "lowest") else np.float32(0)
    mask = torch.from_numpy(np.where(allowed_of(case), added, np.float32(-np.inf)))
    if case.softcap is None:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=case.scale, enable_gqa=True
        ).numpy()
    group = case.H // case.kv_heads
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scale = case.K**-0.5 if case.scale is None else case.scale
    scores = query @ key.transpose(-1, -2) * scale
    scores = case.softcap * torch.tanh(scores / case.softcap) + mask
    return (functional.softmax(scores, dim=-1) @ value).numpy()


def test_errors_are_at_most_those_of_torch(torch, use_threads):
    """Over all cases of like scores at most PyTorch's, and in each case at most 4 times it.

    Errors are counted in units of EPS at the largest number of the result. Below one unit nobody is
    better than the other. Queries that may attend to nothing are left out: PyTorch has no rule.
    """
    use_threads(1)
    worst = {}
    for case in ATTENTION_CASES:
        attending = allowed_of(case).any(axis=-1)
        if case.poison or not attending.any():
            continue
        expected = expected_of(case)[0][attending]
        unit = EPS * np.abs(expected).max()
        ours = attention(**inputs_of(case), **case.options)[attending]
        ours = errors(ours, expected).max() / unit
        theirs = max(errors(torch_output(case)[attending], expected).max() / unit, 1.0)
        assert ours <= 4 * theirs, (str(case), ours, theirs)
        our_worst, their_worst = worst.get(case.spread, (0.0, 0.0))
        worst[case.spread] = max(ours, our_worst), max(theirs, their_worst)
    assert all(ours <= theirs for ours, theirs in worst.values()), worst


# The mask rule.

HIDDEN = 5
RULES = {
    "lengths": {"lengths": [HIDDEN, HIDDEN]},
    "bool mask": {"mask": np.arange(19) != HIDDEN},
    "float mask": {"mask": np.where(np.arange(19) != HIDDEN, 0.5, -np.inf)},
    "bool mask over heads": {"mask": np.broadcast_to(np.arange(19) != HIDDEN, (3, 1, 19))},
    "causal": {"is_causal": True, "query_offset": HIDDEN - 11},
    "window to the right": {"window": (None, 0), "query_offset": HIDDEN - 11},
    "window to the left": {"window": (2, None), "query_offset": HIDDEN + 3},
    "window per sequence": {"window": (2, None), "query_offset": [HIDDEN + 3, HIDDEN + 7]},
}


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("rule", RULES)
def test_what_a_hidden_key_holds_does_not_matter(rule, special):
    inputs = case_inputs()
    clean = attention(**inputs, **RULES[rule], return_weights=True)
    assert np.isfinite(clean[0]).all()
    inputs["key"][:, :, HIDDEN] = special
    inputs["value"][:, :, HIDDEN] = special
    for actual, expected in zip(
        attention(**inputs, **RULES[rule], return_weights=True), clean, strict=True
    ):
        assert_same_bits(actual, expected)
    assert_same_bits(attention(**inputs, **RULES[rule]), clean[0])


@pytest.mark.parametrize("special", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("left", (0, 5, 40, 258))
def test_what_lies_before_the_window_of_one_query_does_not_matter(left, special):
    inputs = case_inputs(T=1, S=300)
    options = {"window": (left, 0), "query_offset": 280}
    clean = attention(**inputs, **options)
    assert np.isfinite(clean).all()
    for name in ("key", "value"):
        inputs[name][:, :, : 280 - left] = special
        inputs[name][:, :, 281:] = special
    assert_same_bits(attention(**inputs, **options), clean)


@pytest.mark.parametrize("place", (0, 6, 15, 16, 18))
def test_queries_that_do_not_see_a_nan_are_as_without_it(place):
    inputs = case_inputs()
    clean = attention(**inputs, is_causal=True)
    inputs["key"][1, 2, place] = np.nan
    inputs["value"][1, 2, place] = np.nan
    result = attention(**inputs, is_causal=True)
    sees = np.zeros((2, 3, 11), bool)
    sees[1, 2, place:] = True
    assert np.isnan(result[sees]).all()
    assert_same_bits(result[~sees], clean[~sees])


NOTHING = {
    "lengths": {"lengths": [0, 0]},
    "bool mask": {"mask": False},
    "bool mask of rows": {"mask": np.zeros((11, 1), bool)},
    "float mask": {"mask": np.full((2, 3, 11, 19), -np.inf)},
    "causal": {"is_causal": True, "query_offset": -11},
    "window": {"window": (3, None), "query_offset": 22},
    "a window of one key, masked": {"window": (0, 0), "mask": ~np.eye(11, 19, dtype=bool)},
    "mask and lengths": {"lengths": [7, 7], "mask": np.arange(19) >= 7},
}


@pytest.mark.parametrize("rule", NOTHING)
@pytest.mark.parametrize("special", [0.0, np.nan, np.inf])
def test_attending_to_nothing_gives_zeros(rule, special):
    inputs = case_inputs()
    inputs["key"] += special
    inputs["value"] += special
    output, weights = attention(**inputs, **NOTHING[rule], return_weights=True)
    assert_same_bits(output, np.zeros_like(output))
    assert_same_bits(weights, np.zeros_like(weights))
    assert_same_bits(attention(**inputs, **NOTHING[rule]), np.zeros_like(output))


def test_nan_in_a_query_shows_there_only():
    inputs = case_inputs()
    clean, clean_weights = attention(**inputs, return_weights=True)
    inputs["query"][1, 2, 7, 20] = np.nan
    output, weights = attention(**inputs, return_weights=True)
    others = np.ones((2, 3, 11), bool)
    others[1, 2, 7] = False
    assert np.isnan(output[1, 2, 7]).all()
    assert np.isnan(weights[1, 2, 7]).all()
    assert_same_bits(output[others], clean[others])
    assert_same_bits(weights[others], clean_weights[others])


def test_nan_in_a_float_mask_shows_there_only():
    inputs = case_inputs()
    mask = np.zeros((11, 19))
    clean = attention(**inputs, mask=mask)
    mask[4, 9] = np.nan
    output = attention(**inputs, mask=mask)
    others = np.arange(11) != 4
    assert np.isnan(output[:, :, 4]).all()
    assert_same_bits(output[:, :, others], clean[:, :, others])


@pytest.mark.parametrize("S", (19, 300))
@pytest.mark.parametrize(
    "options",
    [
        {"mask": True},
        {"mask": np.zeros((1, 1))},
        {"window": (None, None)},
        {"window": (400, 400)},
        {"window": [sys.maxsize, None]},
        {"window": (2**80, 2**80)},
        {"is_causal": True, "query_offset": 400},
        {"is_causal": True, "query_offset": 2**61},
        {"window": (2**62, 2**62), "query_offset": -(2**61)},
        {"query_offset": np.int8(-100)},
    ],
    ids=str,
)
def test_options_that_hide_nothing_change_nothing(options, S):
    inputs = case_inputs(S=S)
    assert_same_bits(attention(**inputs, **options), attention(**inputs))
    assert_same_bits(attention(**inputs, lengths=[S, S]), attention(**inputs))


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"is_causal": True}, {"window": (None, 0)}),
        ({"is_causal": True, "query_offset": 4}, {"window": (None, 4)}),
        ({"is_causal": True, "query_offset": 4}, {"is_causal": True, "query_offset": [4, 4]}),
        ({"is_causal": True}, {"mask": np.tri(11, 19, dtype=bool)}),
        ({"lengths": [13, 13]}, {"mask": np.arange(19) < 13}),
        ({"lengths": [13, 13]}, {"mask": np.where(np.arange(19) < 13, 0, -np.inf)}),
        ({"window": (3, 2)}, {"mask": np.tri(11, 19, 2, bool) & ~np.tri(11, 19, -4, bool)}),
    ],
    ids=str,
)
def test_two_ways_to_say_the_same(options, same):
    inputs = case_inputs()
    for actual, expected in zip(
        attention(**inputs, **options, return_weights=True),
        attention(**inputs, **same, return_weights=True),
        strict=True,
    ):
        assert_same_bits(actual, expected)


def test_grouped_heads_are_repeated_heads():
    inputs = case_inputs(H=6, Hkv=2)
    repeated = {**inputs}
    for name in ("key", "value"):
        repeated[name] = np.repeat(inputs[name], 3, axis=1)
    assert_same_bits(attention(**inputs), attention(**repeated))


def test_the_mask_of_one_query_head_is_its_own():
    inputs = case_inputs(H=6, Hkv=2)
    clean = attention(**inputs)
    mask = np.ones((6, 1, 1), bool)
    mask[3] = False
    output = attention(**inputs, mask=mask)
    assert_same_bits(output[:, 3], np.zeros_like(output[:, 3]))
    others = np.arange(6) != 3
    assert_same_bits(output[:, others], clean[:, others])


# Shapes and memory.


@pytest.mark.parametrize("empty", ["B", "T", "S", "Kv", "H"])
def test_an_axis_of_size_0(empty):
    sizes = {"B": 2, "H": 3, "T": 5, "S": 7, "K": 11, "Kv": 13, empty: 0}
    B, H, T, S, K, Kv = sizes.values()
    rng = np.random.default_rng(0)
    query, key, value = normal(rng, B, H, T, K), normal(rng, B, H, S, K), normal(rng, B, H, S, Kv)
    for options in ({}, {"is_causal": True}, {"mask": True}, {"lengths": [0] * B}):
        output, weights = attention(query, key, value, **options, return_weights=True)
        assert output.shape == (B, H, T, Kv)
        assert weights.shape == (B, H, T, S)
        assert_same_bits(attention(query, key, value, **options), output)
        if empty == "S":
            assert_same_bits(output, np.zeros_like(output))


@pytest.mark.parametrize("width", (13, 0))
def test_keys_of_no_width_are_averaged(width):
    value = normal(np.random.default_rng(0), 2, 3, 7, width)
    nothing = np.zeros((2, 3, 7, 0))
    output, weights = attention(nothing[:, :, :5], nothing, value, return_weights=True)
    np.testing.assert_allclose(weights, np.full((2, 3, 5, 7), 1 / 7), rtol=4 * EPS)
    mean = np.broadcast_to(value.mean(axis=2, keepdims=True), output.shape)
    np.testing.assert_allclose(output, mean, rtol=0, atol=4 * EPS)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_scores_are_not_kept(kernels):
    """Scores of 6,000 queries and keys would take 144 MB."""
    program = """
import re, sys
import numpy as np
from pyx_transformer import _runtime, ops

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

_runtime.kernels = _runtime.load_kernels(sys.argv[1])
_runtime.set_num_threads(2)
x = np.ones((1, 1, 6000, 8), np.float32)
ops.scaled_dot_product_attention(x[:, :, :600], x[:, :, :600], x[:, :, :600])
before = peak()
ops.scaled_dot_product_attention(x, x, x)
print(peak() - before)
"""
    grown = subprocess.run(
        [sys.executable, "-c", program, kernels.ISA_NAME], capture_output=True, text=True
    )
    assert grown.returncode == 0, grown.stderr
    assert int(grown.stdout) < 8_000
