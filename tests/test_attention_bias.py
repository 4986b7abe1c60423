"""Attention with a bias by distance, read from a table: against float64, and bit for bit against
the same numbers as a float mask; its gradients. Every test runs on every instruction set."""

import numpy as np
import pytest
import reference
from cases import AttentionCase, arrays, normal
from differences import assert_close, differences, draw

from pyx_transformer import _checks, _runtime, ops

THREADS = (1, 2, 3)

CASES = (  # each with the distance up to which biases differ
    (AttentionCase(T=1, S=1, K=5), 0),
    (AttentionCase(), 0),
    (AttentionCase(), 1),
    (AttentionCase(), 5),
    (AttentionCase(), 100),
    *((AttentionCase(T=37, S=size), 13) for size in (7, 8, 9, 15, 16, 17, 31, 32, 33, 255, 257)),
    (AttentionCase(T=33, S=300, K=16, is_causal=True, query_offset=(267, 5)), 31),
    (AttentionCase(T=33, S=300, K=16, query_offset=(-40, 350)), 32),
    (AttentionCase(B=3, H=6, Hkv=2, T=65, S=259, window=(31, 33), query_offset=97), 33),
    (AttentionCase(B=4, T=19, S=263, lengths=(0, 5, 256, 261), is_causal=True), 300),
    (AttentionCase(T=33, S=257, softcap=2.0), 64),
    (AttentionCase(B=5, H=4, Hkv=2, T=1, S=523, query_offset=(0, 1, 255, 256, 522)), 127),
    (AttentionCase(B=2, T=1, S=523, window=(40, 3), query_offset=(17, 300), softcap=5.0), 20),
    (AttentionCase(B=1, H=2, T=521, S=523, K=64), 128),
)
each_case = pytest.mark.parametrize(("case", "reach"), CASES, ids=str)


@pytest.fixture(autouse=True)
def each_instruction_set(kernels, monkeypatch):
    monkeypatch.setattr(_runtime, "kernels", kernels)


def heads_of(query, key, value, table, normalisers, options):
    """The kernels' arguments for attention with a bias from a table (H, 2 reach + 1)."""
    arguments = {"mask": None, "lengths": None, "is_causal": False, "query_offset": 0}
    arguments.update({"window": None, "softcap": None, "scale": None, **options})
    heads = _checks.as_attention_inputs("attention", query, key, value, **arguments)
    padded = np.pad(table, ((0, 0), (_runtime.kernels.BIAS_PAD,) * 2), mode="edge")
    return (*heads, normalisers, padded)


def attention(query, key, value, table, *, return_weights=False, **options):
    """As ops.scaled_dot_product_attention, with that bias."""
    out = np.full((*query.shape[:3], value.shape[3]), np.nan, np.float32)
    weights = None
    if return_weights:
        weights = np.full((*query.shape[:3], key.shape[2]), np.nan, np.float32)
    heads = heads_of(query, key, value, table, None, options)
    _runtime.kernels.attention(out, weights, heads, _runtime.get_num_threads())
    return (out, weights) if return_weights else out


def attention_and_back(query, key, value, table, **options):
    """The output and what gives the gradients of query, key, value and table."""
    out = np.full((*query.shape[:3], value.shape[3]), np.nan, np.float32)
    normalisers = np.empty((*query.shape[:3], 2), np.float32)
    heads = heads_of(query, key, value, table, normalisers, options)
    _runtime.kernels.attention(out, None, heads, _runtime.get_num_threads())

    def back(grad):
        gradients = [np.zeros_like(a) for a in (query, key, value, table)]
        bounds, threads = np.array([0, len(query)]), _runtime.get_num_threads()
        *of_inputs, of_table = gradients
        _runtime.kernels.attention_gradient(
            *of_inputs, of_table[None], bounds, grad, out, heads, threads
        )
        return gradients

    return out, back


def inputs_of(case, reach):
    """Query, key, value, a table of biases as large as scores, and options."""
    inputs = arrays(case)
    query, key, value = (inputs.pop(name) for name in ("query", "key", "value"))
    table = normal(np.random.default_rng(7), case.H, 2 * reach + 1)
    return query, key, value, table, {**inputs, **case.options}


def assert_same_bits(actual, expected):
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def written_out(table, query, key, options):
    """The biases of all pairs, float32 (H, T, S) or (B, H, T, S)."""
    T, S = query.shape[2], key.shape[2]
    biases = reference.biases_by_distance(table, T, S, options.get("query_offset", 0))
    return biases.astype(np.float32)


@each_case
def test_bias_against_the_reference(case, reach):
    query, key, value, table, options = inputs_of(case, reach)
    output, weights = attention(query, key, value, table, **options, return_weights=True)
    bias = written_out(table, query, key, options)
    expected = reference.scaled_dot_product_attention(
        query, key, value, bias=bias, **options, return_weights=True
    )
    for actual, right in zip((output, weights), expected, strict=True):
        np.testing.assert_allclose(actual, right, rtol=0, atol=3e-6)


@each_case
def test_a_bias_is_a_mask_that_is_added(case, reach, use_threads):
    """Bit for bit, though what has no mask is computed without packing where it is one query."""
    query, key, value, table, options = inputs_of(case, reach)
    mask = written_out(table, query, key, options)
    use_threads(1)
    expected, expected_weights = ops.scaled_dot_product_attention(
        query, key, value, mask=mask, **options, return_weights=True
    )
    for threads in THREADS:
        use_threads(threads)
        assert_same_bits(attention(query, key, value, table, **options), expected)
        again = attention(query, key, value, table, **options, return_weights=True)
        assert_same_bits(again[0], expected)
        assert_same_bits(again[1], expected_weights)


@pytest.mark.parametrize("softcap", (None, 3.0))
def test_a_bias_and_a_mask(softcap):
    query, key, value, table, _ = inputs_of(AttentionCase(T=35, S=41), 9)
    rng = np.random.default_rng(3)
    attend = rng.random((2, 3, 35, 41)) < 0.7
    attend[0, 0, 1] = False
    bias = written_out(table, query, key, {})
    for mask in (attend, np.where(attend, normal(rng, *attend.shape), np.float32(-np.inf))):
        output = attention(query, key, value, table, mask=mask, softcap=softcap)
        expected = reference.scaled_dot_product_attention(
            query, key, value, mask=mask, bias=bias, softcap=softcap
        )
        np.testing.assert_allclose(output, expected, rtol=0, atol=3e-6)
        assert not output[0, 0, 1].any()


@pytest.mark.parametrize("chunk", (1, 2, 7))
@pytest.mark.parametrize("window", (None, (20, 0), (300, 0)))
@pytest.mark.parametrize("reach", (5, 128))
def test_keys_that_grow_with_the_queries(chunk, window, reach, use_threads):
    """Causal attention as it is decoded: each chunk of queries sees the keys up to its own."""
    case = AttentionCase(B=2, H=3, T=291, S=292, K=32)
    query, key, value, table, _ = inputs_of(case, reach)
    key, value = key[:, :, :291], value[:, :, :291]
    options = {"is_causal": True, "window": window}
    use_threads(2)
    output = attention(query, key, value, table, **options)
    for start in range(0, 291, chunk):
        end = min(start + chunk, 291)
        part = (np.ascontiguousarray(query[:, :, start:end]), key, value, table)
        again = attention(*part, query_offset=start, lengths=[end, end], **options)
        assert_same_bits(again, output[:, :, start:end])


def test_a_sequence_alone_and_in_a_batch():
    case = AttentionCase(B=3, H=2, T=17, S=300, query_offset=(0, 200, -9), is_causal=True)
    query, key, value, table, options = inputs_of(case, 50)
    output = attention(query, key, value, table, **options)
    for b in range(3):
        part = (query[[b]], key[[b]], value[[b]], table)
        again = attention(*part, query_offset=int(options["query_offset"][b]), is_causal=True)
        assert_same_bits(again, output[[b]])


# Gradients.

SMALL = {
    "one": (AttentionCase(B=1, H=1, T=1, S=1, K=2), 0),
    "plain": (AttentionCase(B=2, H=3, T=7, S=5, K=4, Kv=6), 3),
    "near": (AttentionCase(B=1, H=2, T=6, S=9, K=3), 1),
    "causal": (AttentionCase(B=1, H=2, T=8, S=9, K=3, is_causal=True), 4),
    "offsets": (AttentionCase(B=2, H=1, T=4, S=9, K=3, is_causal=True, query_offset=(5, 2)), 20),
    "lengths": (AttentionCase(B=3, H=2, T=5, S=8, K=4, lengths=(8, 3, 0)), 2),
    "window": (AttentionCase(B=1, H=2, T=11, S=12, K=3, window=(2, 1)), 2),
    "soft cap": (AttentionCase(B=1, H=2, T=6, S=7, K=4, softcap=0.7), 5),
    "grouped": (AttentionCase(B=2, H=6, Hkv=3, T=5, S=7, K=4, scale=0.3), 3),
    "bool mask": (AttentionCase(B=2, H=3, T=5, S=11, K=4, mask="bool"), 4),
    "float mask": (AttentionCase(B=2, H=3, T=5, S=11, K=4, mask="float", softcap=2.0), 4),
}


@pytest.mark.parametrize("name", SMALL)
def test_gradients(name):
    query, key, value, table, options = inputs_of(*SMALL[name])
    out, back = attention_and_back(query, key, value, table, **options)
    grad = draw(*out.shape, seed=9)

    def specification(query, key, value, table):
        T, S = query.shape[2], key.shape[2]
        bias = reference.biases_by_distance(table, T, S, options.get("query_offset", 0))
        return reference.scaled_dot_product_attention(query, key, value, bias=bias, **options)

    arrays = query, key, value, table
    np.testing.assert_allclose(out, specification(*arrays), rtol=0, atol=3e-6)
    for which, gradient in enumerate(back(grad)):
        assert_close(gradient, differences(specification, grad, arrays, which), tolerance=5e-6)


LONG = {
    "many keys": (AttentionCase(B=1, H=2, Hkv=1, T=300, S=700, K=64), 40),
    "causal": (AttentionCase(B=1, H=1, T=530, S=531, K=33, Kv=70, is_causal=True), 128),
    "far": (AttentionCase(B=2, H=1, T=130, S=300, K=64, lengths=(300, 7)), 400),
    "window": (AttentionCase(B=1, H=2, T=600, S=601, K=16, window=(100, 0)), 64),
}


@pytest.mark.parametrize("name", LONG)
def test_long_attention_agrees_with_torch(name):
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare gradients with")
    case, reach = LONG[name]
    *arrays, options = inputs_of(case, reach)
    seen = reference.may_attend((case.B, case.H, case.T, case.S), **options)
    inputs = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    *heads, table = inputs
    distances = torch.arange(case.S) - torch.arange(case.T)[:, None]
    bias = table[:, distances.clamp(-reach, reach) + reach]
    of_torch = torch.nn.functional.scaled_dot_product_attention(
        *heads,
        attn_mask=bias.masked_fill(torch.from_numpy(~seen), -torch.inf),
        enable_gqa=True,
    )
    out, back = attention_and_back(*arrays, **options)
    grad = draw(*out.shape, seed=9)
    of_torch.backward(torch.from_numpy(grad).double())
    for gradient, tensor in zip(back(grad), inputs, strict=True):
        assert_close(gradient, tensor.grad.numpy(), tolerance=2e-6)


def test_gradients_are_the_same_for_any_number_of_threads(use_threads):
    case = AttentionCase(B=3, H=4, Hkv=2, T=130, S=300, K=24, lengths=(300, 7, 131))
    *arrays, options = inputs_of(case, 50)
    grad = draw(3, 4, 130, 24, seed=9)
    found = []
    for threads in THREADS:
        use_threads(threads)
        _, back = attention_and_back(*arrays, **options)
        found.append([gradient.tobytes() for gradient in back(grad)])
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_a_table_gets_the_sum_of_what_each_sequence_gives():
    """In the order of the sequences, and beside what it holds."""
    case = AttentionCase(B=3, H=2, T=17, S=300, K=8)
    query, key, value, table, _ = inputs_of(case, 20)
    grad = draw(3, 2, 17, 8, seed=9)
    together = attention_and_back(query, key, value, table)[1](grad)[3]
    alone = [
        attention_and_back(query[[b]], key[[b]], value[[b]], table)[1](grad[[b]])[3]
        for b in range(3)
    ]
    assert_close(together, np.sum(alone, axis=0, dtype=np.float64), tolerance=3e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "options",
    [
        {"mask": np.arange(6) < 5},
        {"is_causal": True},
        {"lengths": np.array([5])},
        {"window": (None, 0), "softcap": 2.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_no_query_sees_reaches_no_gradient(options, bad):
    query, key, value, table, _ = inputs_of(AttentionCase(B=1, H=2, T=5, S=6, K=7, Kv=9), 3)
    grad = draw(1, 2, 5, 9, seed=9)
    expected = attention_and_back(query, key, value, table, **options)[1](grad)
    key, value = key.copy(), value.copy()
    key[:, :, 5] = value[:, :, 5] = bad
    gradients = attention_and_back(query, key, value, table, **options)[1](grad)
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(one, other)
