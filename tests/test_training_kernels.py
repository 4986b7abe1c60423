"""The kernels of training against float64, on every instruction set and number of threads.

Outputs that a kernel writes are full of NaN before, so that a value which it forgets is seen; those
that it adds to hold numbers of their own. Of each kernel one case is so much work that several
threads share it.
"""

import numpy as np
import pytest
import reference
import reference_training
from cases import normal, values

EPS = float(np.finfo(np.float32).eps)
THREADS = (1, 2, 3)


def nans(*shape, dtype=np.float32):
    return np.full(shape, np.nan, dtype)


def on_threads(run):
    """The arrays that run(n_threads) gives, which are the same to the bit for any number."""
    first, *others = [run(threads) for threads in THREADS]
    for other in others:
        for one, again in zip(first, other, strict=True):
            assert one.tobytes() == again.tobytes()
    return first


def one_shard(rows):
    return np.array([0, rows])


def assert_rounded(actual, expected, size):
    """`actual` is off by EPS of numbers of that size at most."""
    assert actual.shape == expected.shape
    worst = np.max(np.abs(actual - expected) / (EPS * size + 1e-30), initial=0.0)
    assert worst <= 1, f"{worst:.3g} times the allowed error"


@pytest.mark.parametrize("m, n, k", [(1, 1, 1), (7, 5, 17), (64, 33, 31), (1031, 257, 19)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_weight_gradient(m, n, k, bias, kernels, rng):
    grad, x = normal(rng, m, n), normal(rng, m, k)
    start, start_bias = normal(rng, n, k), normal(rng, n)

    def run(threads):
        outs = [start.copy(), start_bias.copy()]
        of_bias = outs[1] if bias else None
        kernels.linear_weight_gradient(outs[0], of_bias, grad, x, one_shard(m), threads)
        return outs

    of_weight, of_bias = on_threads(run)
    _, expected, expected_bias = reference_training.linear_gradients(grad, x, start)
    terms, bias_terms = np.abs(grad).T @ np.abs(x), np.abs(grad).sum(axis=0)
    assert_rounded(of_weight, start + expected, np.abs(start) + terms)
    if bias:
        assert_rounded(of_bias, start_bias + expected_bias, np.abs(start_bias) + bias_terms)
    else:
        assert of_bias.tobytes() == start_bias.tobytes()


@pytest.mark.parametrize("m, d", [(1, 1), (5, 7), (40, 33), (257, 97)])
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("parameters", [True, False])
def test_norm_gradients(m, d, rms, parameters, kernels, rng):
    grad, x = normal(rng, m, d), normal(rng, m, d) * 3 + 1
    weight = normal(rng, d) if parameters else None
    starts = [normal(rng, d), normal(rng, d)]

    def run(threads):
        out, sums = nans(m, d), [start.copy() for start in starts]
        given = sums if parameters else [None, None]
        kernels.norm_gradients(out, *given, grad, x, weight, 0.1, rms, one_shard(m), threads)
        return [out, *sums]

    actual = on_threads(run)
    expected = reference_training.norm_gradients(grad, x, weight, 0.1, rms)
    largest = np.abs(grad if weight is None else grad * weight).max(axis=1, keepdims=True)
    spread = np.sqrt((x**2 if rms else (x - x.mean(axis=1, keepdims=True)) ** 2).mean(axis=1) + 0.1)
    assert_rounded(actual[0], expected[0], 4 * largest / spread[:, None])
    for own, start, added in zip(actual[1:], starts, expected[1:], strict=True):
        if parameters:
            assert_rounded(own, start + added, np.abs(start) + 3 * np.abs(grad).sum(axis=0))
        else:
            assert own.tobytes() == start.tobytes()


@pytest.mark.parametrize("m, size, d", [(1, 1, 1), (40, 7, 17), (1999, 5, 67)])
def test_embedding_gradient(m, size, d, kernels, rng):
    ids, grad, start = rng.integers(0, size, m), normal(rng, m, d), normal(rng, size, d)

    def run(threads):
        table = start.copy()
        kernels.embedding_gradient(table, ids, grad, 0.7, one_shard(m), threads)
        return [table]

    (table,) = on_threads(run)
    expected = reference_training.embedding_gradient(grad, ids, size, 0.7)
    terms = reference_training.embedding_gradient(np.abs(grad), ids, size, 0.7)
    assert_rounded(table, start + expected, np.abs(start) + terms)


@pytest.mark.parametrize("m, size", [(1, 1), (5, 2), (7, 33), (67, 501)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("data", ["normal", "wide", "huge"])
def test_cross_entropy(m, size, smoothing, data, kernels, rng):
    logits, targets = values(data, rng, (m, size)), rng.integers(0, size, m)
    targets[1::3] = -1

    def run(threads):
        losses, gradient = nans(m, dtype=np.float64), logits.copy()
        kernels.cross_entropy(losses, gradient, targets, smoothing, 0.25, threads)
        return losses, gradient

    losses, gradient = on_threads(run)
    expected, expected_gradient = reference_training.cross_entropy(logits, targets, smoothing)
    largest = np.abs(logits).max(axis=1)
    assert_rounded(losses, expected, 1 + largest)
    assert_rounded(gradient, 0.25 * expected_gradient, np.full((m, 1), 0.25))
    assert not gradient[targets < 0].any()
    assert not losses[targets < 0].any()


@pytest.mark.parametrize("n", [1, 7, 16, 1003, 20_011])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_dropout(n, rate, with_residual, in_place, kernels, rng):
    x, residual, seed = normal(rng, n), normal(rng, n), 2**40 + 12345
    seeds = np.array([seed], np.uint64)

    def run(threads):
        read = x.copy()
        out = read if in_place else nans(n)
        added = residual if with_residual else None
        kernels.dropout(out, read, added, rate, one_shard(n), seeds, threads)
        return [out]

    (out,) = on_threads(run)
    expected = reference_training.dropout(x, rate, seed)
    if with_residual:
        expected = expected + residual
    assert_rounded(out, expected, np.abs(x) / (1 - rate) + np.abs(residual))


@pytest.mark.parametrize("n", [1, 7, 16, 1003, 20_011])
@pytest.mark.parametrize("with_average", [False, True])
def test_adamw(n, with_average, kernels, rng):
    gradients, means, weights, average = normal(rng, 4, n)
    squares = normal(rng, n) ** 2
    t, rate, beta1, beta2, eps, decay, clip, kept = 3, 0.01, 0.8, 0.95, 1e-6, 0.1, 0.4, 0.6

    def run(threads):
        arrays = [a.copy() for a in (weights, gradients, means, squares, average)]
        kernels.adamw(
            *arrays[:4],
            arrays[4] if with_average else None,
            clip,
            beta1,
            beta2,
            eps,
            rate / (1 - beta1**t),
            1 / np.sqrt(1 - beta2**t),
            rate * decay,
            kept,
            threads,
        )
        return arrays

    actual = on_threads(run)
    expected = reference_training.adamw(
        weights,
        clip * gradients.astype(np.float64),
        means,
        squares,
        t,
        rate=rate,
        betas=(beta1, beta2),
        eps=eps,
        decay=decay,
    )
    # The step's own error counts as much as that of the weight, where means have cancelled.
    step = rate / (1 - beta1**t) * (np.abs(means) + np.abs(gradients)) / (np.sqrt(squares) + eps)
    assert_rounded(actual[0], expected[0], np.abs(weights) + step)
    assert not actual[1].any()
    assert_rounded(actual[2], expected[1], np.abs(means) + np.abs(gradients))
    assert_rounded(actual[3], expected[2], squares + gradients**2)
    if with_average:
        moved = kept * average.astype(np.float64) + (1 - kept) * expected[0]
        assert_rounded(actual[4], moved, np.abs(average) + np.abs(weights) + step)
    else:
        assert actual[4].tobytes() == average.tobytes()


@pytest.mark.parametrize("n", [1, 17, 16_384, 16_385, 130_003])
@pytest.mark.parametrize("data", ["normal", "huge", "tiny"])
def test_sums_of_squares(n, data, kernels, rng):
    x = values(data, rng, (n,))
    (sums,) = on_threads(lambda threads: [kernels.sums_of_squares(x, threads)])
    blocks = np.split(x.astype(np.float64), range(16_384, n, 16_384))
    np.testing.assert_allclose(sums, [np.sum(block**2) for block in blocks], rtol=1e-13)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_sums_of_squares_show_what_is_not_finite(special, kernels):
    x = np.ones(20_000, np.float32)
    x[17_001] = special
    sums = kernels.sums_of_squares(x, 1)
    np.testing.assert_array_equal(sums, [16_384.0, special**2])


ROWS = {  # heads of queries and of keys, width of keys and of values, counts of queries and of keys
    "one": (1, 1, 1, 1, [1], [1]),
    "ragged": (3, 3, 5, 4, [4, 1, 2, 9], [2, 7, 0, 1]),
    "grouped": (6, 2, 7, 8, [3, 17, 1], [12, 1, 40]),
    "long": (4, 2, 16, 17, [130, 7, 65], [33, 150, 64]),
}
ROWS_OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "window": {"left": 3, "right": 2},
    "soft cap": {"softcap": 1.5, "scale": 0.6},
    "bias": {"bias_reach": 4},
    "all": {"is_causal": True, "left": 9, "softcap": 2.0, "scale": 0.4, "bias_reach": 40},
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("options", ROWS_OPTIONS)
def test_rows_job(name, options, kernels, rng):
    """Queries, keys and values are columns of longer rows; those of keys are another batch."""
    heads, kv_heads, size, value_size, *counts = ROWS[name]
    options = ROWS_OPTIONS[options]
    width = kv_heads * size
    counts = [np.array(c) for c in counts]
    starts = [np.cumsum(c) - c for c in counts]
    queries = normal(rng, counts[0].sum(), 3 + heads * size)
    known = normal(rng, counts[1].sum(), width + kv_heads * value_size)

    def columns(queries, known):
        return queries[:, 3:], known[:, :width], known[:, width:]

    query, key, value = columns(queries, known)
    grad = normal(rng, len(queries), heads * value_size)
    places = (starts[0], counts[0], starts[1], counts[1])
    reach = options.get("bias_reach", 0)
    options = {name: value for name, value in options.items() if name != "bias_reach"}
    table, padded = normal(rng, heads, 2 * reach + 1), None
    if reach:
        padded = np.pad(table, ((0, 0), (kernels.BIAS_PAD,) * 2), mode="edge")

    def run(threads):
        job = kernels.RowsJob(query, key, value, heads, kv_heads, *places, **options, bias=padded)
        job.out[:] = np.nan
        job.run(threads)
        gradients = np.ones_like(queries), np.ones_like(known), np.ones_like(table)
        of_table = gradients[2][None] if reach else None
        bounds = one_shard(len(counts[0]))
        job.gradient(*columns(*gradients[:2]), grad, of_table, bounds, threads)
        return [job.out, *gradients]

    out, of_queries, of_known, of_table = on_threads(run)
    assert (of_queries[:, :3] == 1).all()
    actual = columns(of_queries, of_known)
    expected_out = np.empty_like(out, np.float64)
    expected = [np.empty_like(a, np.float64) for a in actual]
    expected_of_table, terms = np.ones(table.shape), np.ones(table.shape)
    rules = {name: options[name] for name in ("is_causal", "softcap", "scale") if name in options}
    rules["window"] = (options.get("left"), options.get("right"))
    for begin, count, key_begin, key_count in zip(*places, strict=True):
        own, others = slice(begin, begin + count), slice(key_begin, key_begin + key_count)
        q, g = (reference.split_heads(a[None, own], heads) for a in (query, grad))
        k, v = (reference.split_heads(a[None, others], kv_heads) for a in (key, value))
        bias = reference.biases_by_distance(table, count, key_count) if reach else None
        attended = reference.scaled_dot_product_attention(q, k, v, bias=bias, **rules)
        expected_out[own] = reference.merge_heads(attended)[0]
        *found, of_bias = reference_training.attention_gradients(g, q, k, v, bias=bias, **rules)
        for place, rows, one in zip(expected, (own, others, others), found, strict=True):
            place[rows] = 1 + reference.merge_heads(one)[0]
        if reach:
            expected_of_table += reference_training.bias_table_gradient(of_bias, reach)
            terms += reference_training.bias_table_gradient(np.abs(of_bias), reach)
    assert_rounded(out, expected_out, 3 * np.abs(value).max())
    for own, one in zip(actual, expected, strict=True):
        assert_rounded(own, one, 3 * np.abs(one).max())
    assert_rounded(of_table, expected_of_table, 3 * terms.max())


@pytest.mark.parametrize("n", [1, 7, 16, 1003, 20_011])
@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_tanh", "quick_gelu", "silu"])
@pytest.mark.parametrize("in_place", [False, True])
def test_gate_gradients(n, name, in_place, kernels, rng):
    """Of activation(before) value, elementwise."""
    grad, value, before = normal(rng, 3, n) * 2

    def run(threads):
        read = grad.copy(), before.copy()
        outs = read if in_place else (nans(n), nans(n))
        kernels.gate_gradients(*outs, read[0], value, read[1], kernels.ACTIVATIONS[name], threads)
        return outs

    of_value, of_before = on_threads(run)
    activation, step = getattr(reference, name), 1e-6
    wide = before.astype(np.float64)
    slope = (activation(wide + step) - activation(wide - step)) / (2 * step)
    assert_rounded(of_value, grad * activation(before), 4 * np.abs(grad) * (1 + np.abs(before)))
    assert_rounded(of_before, grad * value * slope, 8 * np.abs(grad * value) * (1 + before**2))
