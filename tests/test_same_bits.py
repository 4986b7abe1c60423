"""Contract 2: a result does not depend, to the bit, on what is computed beside it.

Rows of a product, a norm or a softmax, and queries of an attention, alone or in company, at any
place, with any padding and any number of threads.
"""

import numpy as np
import pytest
from cases import AttentionCase, arrays, normal

from pyx_transformer import _runtime, ops
from pyx_transformer.ops import scaled_dot_product_attention as attention

THREADS = (1, 2, 3, 4)


@pytest.fixture(autouse=True)
def each_instruction_set(kernels, monkeypatch):
    monkeypatch.setattr(_runtime, "kernels", kernels)


def assert_same_bits(actual, expected):
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


# Rows.


@pytest.mark.parametrize(
    ("n", "k", "activation"),
    [
        (43, 29, "gelu"),
        # Several blocks of k, and enough work at 64 rows for every thread.
        (97, 523, None),
        # Several panels for each of four threads, and enough work at one row.
        (521, 257, "silu"),
    ],
)
def test_linear_of_1_to_64_rows(n, k, activation, kernels):
    rng = np.random.default_rng(0)
    x = normal(rng, 64, k)
    factor, residual = normal(rng, 2, 64, n)
    packed = kernels.PackedLinear(normal(rng, n, k), normal(rng, n))

    def product(rows, threads):
        out = np.full((rows.stop - rows.start, n), np.nan, np.float32)
        number = kernels.ACTIVATIONS[activation]
        kernels.linear(out, x[rows], packed, factor[rows], residual[rows], number, threads)
        return out

    one_by_one = np.concatenate([product(slice(i, i + 1), 1) for i in range(64)])
    for rows in range(1, 65):
        for threads in THREADS:
            assert_same_bits(product(slice(0, rows), threads), one_by_one[:rows])
    for threads in THREADS:
        for start in range(0, 64, 5):
            assert_same_bits(product(slice(start, 64), threads), one_by_one[start:])


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "softmax", "log_softmax"])
@pytest.mark.parametrize("features", (5, 37, 1031))
def test_rows_alone_and_together(name, features, use_threads):
    x = normal(np.random.default_rng(0), 64, features)
    function = getattr(ops, name)
    use_threads(1)
    one_by_one = np.concatenate([function(x[i : i + 1]) for i in range(64)])
    for threads in THREADS:
        use_threads(threads)
        for rows in (1, 2, 3, 7, 63, 64):
            assert_same_bits(function(x[:rows]), one_by_one[:rows])
            assert_same_bits(function(x[-rows:]), one_by_one[-rows:])


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_tanh", "quick_gelu", "silu"])
def test_activations_at_any_place(name, use_threads):
    x = 5 * normal(np.random.default_rng(0), 400_003)
    use_threads(1)
    whole = getattr(ops, name)(x)
    for threads in THREADS:
        use_threads(threads)
        assert_same_bits(getattr(ops, name)(x), whole)
    for size in (1, 2, 3, 5, 8, 15, 16, 17, 33):
        for start in range(17):
            part = slice(start, start + size)
            assert_same_bits(getattr(ops, name)(x[part]), whole[part])
    assert_same_bits(getattr(ops, name)(x.reshape(1, -1, 1)).ravel(), whole)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "quick_gelu", "silu"])
def test_an_activation_is_the_same_in_the_product(activation):
    rng = np.random.default_rng(0)
    x, weight, bias = normal(rng, 13, 29), normal(rng, 43, 29), normal(rng, 43)
    together = ops.linear(x, weight, bias, activation=activation)
    # The product adds a residual of 0.0 at the end, which makes -0.0 and 0.0 one.
    apart = getattr(ops, activation)(ops.linear(x, weight, bias)) + np.float32(0)
    assert_same_bits(together + np.float32(0), apart)


def test_embedding_rows(use_threads):
    rng = np.random.default_rng(0)
    ids, table, positions = rng.integers(0, 97, (5, 64)), normal(rng, 97, 521), normal(rng, 64, 521)
    use_threads(1)
    whole = ops.embedding(ids, table, scale=3.3, positions=positions)
    for threads in THREADS:
        use_threads(threads)
        assert_same_bits(ops.embedding(ids, table, scale=3.3, positions=positions), whole)
    for t in range(64):
        one = ops.embedding(ids[2, t], table, scale=3.3, positions=positions[t])
        assert_same_bits(one, whole[2, t])


# Attention. Sizes lie around tiles of 6 and 14 queries, vectors and panels of 4 to 32 floats, and
# blocks of 256 keys; the larger ones are work enough for four threads.

SEQUENCES = {
    "small": AttentionCase(B=3, H=2, T=17, S=37, K=13, Kv=11),
    "grouped": AttentionCase(B=4, H=6, Hkv=2, T=33, S=41, K=32),
    "many keys": AttentionCase(B=3, H=2, T=29, S=523, K=64),
    "many queries": AttentionCase(B=2, H=3, T=530, S=61, K=16),
}
OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "window": {"window": (7, 4)},
    "soft cap": {"softcap": 3.0, "scale": 0.3},
}


@pytest.fixture(params=SEQUENCES)
def sequences(request):
    """query, key, value of a batch."""
    return tuple(arrays(SEQUENCES[request.param]).values())


@pytest.fixture(params=OPTIONS)
def options(request):
    return OPTIONS[request.param]


@pytest.fixture
def masks(sequences):
    """No mask, and one of each kind that differs for every sequence, head, query and key."""
    query, key, _ = sequences
    rng = np.random.default_rng(1)
    attend = rng.random((*query.shape[:3], key.shape[2])) < 0.7
    return None, attend, np.where(attend, normal(rng, *attend.shape), np.float32(-np.inf))


def test_threads_and_weights(sequences, masks, options, use_threads):
    for mask in masks:
        use_threads(1)
        output, weights = attention(*sequences, mask=mask, **options, return_weights=True)
        for threads in THREADS:
            use_threads(threads)
            assert_same_bits(attention(*sequences, mask=mask, **options), output)
            again = attention(*sequences, mask=mask, **options, return_weights=True)
            assert_same_bits(again[0], output)
            assert_same_bits(again[1], weights)


def test_a_sequence_alone_and_in_any_batch(sequences, masks, options, use_threads):
    use_threads(2)
    everyone = [*range(len(sequences[0]))]
    for mask in masks:
        output, weights = attention(*sequences, mask=mask, **options, return_weights=True)
        for chosen in (*([b] for b in everyone), everyone[::-1], [1, 0, 1, 1]):
            part = [array[chosen] for array in sequences]
            part_mask = None if mask is None else mask[chosen]
            again = attention(*part, mask=part_mask, **options, return_weights=True)
            assert_same_bits(again[0], output[chosen])
            assert_same_bits(again[1], weights[chosen])


def test_heads_alone(sequences, masks, options):
    query, key, value = sequences
    group = query.shape[1] // key.shape[1]
    for mask in masks:
        output = attention(*sequences, mask=mask, **options)
        for h in range(query.shape[1]):
            part = query[:, h : h + 1], key[:, [h // group]], value[:, [h // group]]
            part_mask = None if mask is None else mask[:, h : h + 1]
            assert_same_bits(attention(*part, mask=part_mask, **options), output[:, h : h + 1])


@pytest.mark.parametrize("padding", (1, 7, 300))
@pytest.mark.parametrize("filler", (0.0, np.nan, np.inf, 1e30))
def test_right_padding(sequences, options, padding, filler, use_threads):
    """Sequences of lengths of their own: each alone, without padding, against the padded batch."""
    query, key, value = sequences
    B, T, S = len(query), query.shape[2], key.shape[2]
    lengths = np.linspace(1, S, B).astype(int)
    lengths[0] = S // 2 + 1
    widths = ((0, 0), (0, 0), (0, padding), (0, 0))
    padded = [np.pad(a, widths, constant_values=filler) for a in sequences]
    for b in range(B):
        for a in padded[1:]:
            a[b, :, lengths[b] :] = filler
    for threads in (1, 3):
        use_threads(threads)
        output, weights = attention(*padded, lengths=lengths, **options, return_weights=True)
        assert_same_bits(attention(*padded, lengths=lengths, **options), output)
        for b in range(B):
            n = lengths[b]
            one = query[[b]], key[[b], :, :n], value[[b], :, :n]
            alone, alone_weights = attention(*one, **options, return_weights=True)
            assert_same_bits(output[[b], :, :T], alone)
            assert_same_bits(weights[[b], :, :T, :n], alone_weights)
            assert not weights[b, :, :T, n:].any()


@pytest.mark.parametrize("chunk", (1, 2, 3, 7, 100))
def test_chunks_of_queries(sequences, masks, options, chunk, use_threads):
    """As many queries at a time as `chunk`, against all at once, at an offset of their own."""
    query, key, value = sequences
    B, T, S = len(query), query.shape[2], key.shape[2]
    offsets = np.linspace(-3, S - T + 5, B).astype(int)
    starts = range(0, T, chunk)
    if len(starts) > 40:
        starts = [*starts[:10], *starts[-30:]]
    for mask in masks:
        use_threads(1)
        output, weights = attention(
            *sequences, mask=mask, query_offset=offsets, **options, return_weights=True
        )
        for i, start in enumerate(starts):
            use_threads(THREADS[i % len(THREADS)])
            part = slice(start, start + chunk)
            again = attention(
                query[:, :, part],
                key,
                value,
                mask=None if mask is None else mask[:, :, part],
                query_offset=offsets + start,
                **options,
                return_weights=True,
            )
            assert_same_bits(again[0], output[:, :, part])
            assert_same_bits(again[1], weights[:, :, part])


@pytest.mark.parametrize("chunk", (1, 2, 3, 7))
@pytest.mark.parametrize(
    "options", ({}, {"window": (20, 0)}, {"window": (0, 0)}, {"softcap": 3.0}), ids=str
)
@pytest.mark.parametrize("T", (67, 291))
def test_keys_that_grow_with_the_queries(chunk, options, T, use_threads):
    """Causal attention as it is decoded: each chunk of queries sees the keys up to its own."""
    options = {"is_causal": True, **options}
    query, key, value = arrays(AttentionCase(B=2, H=3, T=T, S=T + 1, K=32)).values()
    key, value = key[:, :, :T], value[:, :, :T]
    use_threads(2)
    output = attention(query, key, value, **options)
    for start in range(0, T, chunk):
        end = min(start + chunk, T)
        part = query[:, :, start:end], key[:, :, :end], value[:, :, :end]
        again = attention(*part, query_offset=start, **options)
        assert_same_bits(again, output[:, :, start:end])
        # The same from a cache that has room for more.
        full = query[:, :, start:end], key, value
        again = attention(*full, query_offset=start, lengths=[end, end], **options)
        assert_same_bits(again, output[:, :, start:end])
