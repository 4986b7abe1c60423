"""Gradients of the operations: against central differences in float64, against PyTorch, and the
same bits for any number of threads. Those of attention have a file of their own."""

import re

import numpy as np
import pytest
import reference
from differences import assert_close, differences, draw

from pyx_transformer import _runtime
from pyx_transformer.training import functions

SIZES = [(1, 1, 1), (2, 17, 3), (5, 8, 16), (7, 33, 31), (40, 19, 35)]


@pytest.fixture(autouse=True)
def each_instruction_set(kernels, monkeypatch):
    monkeypatch.setattr(_runtime, "kernels", kernels)


def assert_gradients(forward, specification, arrays):
    """What `back` gives, against central differences of the specification."""
    out, back = forward(*arrays)
    grad = draw(*out.shape, seed=9)
    gradients = back(grad)
    assert len(gradients) == len(arrays)
    for which, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        if array is None:
            assert gradient is None
        else:
            assert_close(gradient, differences(specification, grad, arrays, which))


@pytest.mark.parametrize("m, k, n", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(m, k, n, bias):
    arrays = draw(m, k), draw(n, k, seed=1), draw(n, seed=2) if bias else None
    assert_gradients(functions.linear, reference.linear, arrays)


@pytest.mark.parametrize("m, k, n", [(1537, 70, 33), (3, 1100, 1030), (0, 5, 7), (4, 0, 3)])
def test_linear_of_many_rows_and_features(m, k, n):
    x, weight, bias = draw(m, k), draw(n, k, seed=1), draw(n, seed=2)
    out, back = functions.linear(x, weight, bias)
    grad = draw(*out.shape, seed=3)
    wide = grad.astype(np.float64)
    expected = wide @ weight, wide.T @ x, wide.sum(axis=0)
    for actual, right in zip(back(grad), expected, strict=True):
        assert_close(actual, right)


def test_linear_takes_leading_axes():
    x, weight = draw(2, 3, 5), draw(4, 5, seed=1)
    out, back = functions.linear(x, weight)
    grad = draw(*out.shape, seed=2)
    flat_out, flat_back = functions.linear(x.reshape(6, 5), weight)
    assert out.tobytes() == flat_out.tobytes()
    for one, other in zip(back(grad), flat_back(grad.reshape(6, 4)), strict=True):
        assert (one is None and other is None) or one.tobytes() == other.tobytes()


@pytest.mark.parametrize("m, d", [(1, 1), (3, 2), (5, 17), (40, 33), (2, 70)])
@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(m, d, weight, bias):
    arrays = (
        draw(m, d) * 3 + 1,
        draw(d, seed=1) if weight else None,
        draw(d, seed=2) if bias else None,
    )
    assert_gradients(
        lambda *a: functions.layer_norm(*a, eps=0.1),
        lambda *a: reference.layer_norm(*a, eps=0.1),
        arrays,
    )


@pytest.mark.parametrize("d", range(1, 20))
def test_layer_norm_of_a_constant_row_of_huge_values_is_finite(d):
    _, back = functions.layer_norm(np.full((1, d), 3e36, np.float32))
    assert np.isfinite(back(np.arange(d)[None])[0]).all()


@pytest.mark.parametrize("m, d", [(1, 1), (3, 2), (5, 17), (40, 33)])
@pytest.mark.parametrize("weight", [True, False])
def test_rms_norm(m, d, weight):
    arrays = draw(m, d) * 3 + 1, draw(d, seed=1) if weight else None
    assert_gradients(functions.rms_norm, reference.rms_norm, arrays)


@pytest.mark.parametrize("name", functions.ACTIVATIONS)
def test_activations(name):
    x = draw(11, 7) * 3
    assert_gradients(lambda x: functions.activation(name, x), getattr(reference, name), (x,))


@pytest.mark.parametrize("name", functions.ACTIVATIONS)
@pytest.mark.parametrize("size", [20, 100, 1e4, 1e19, 3e38, np.inf])
def test_activations_are_straight_far_out(name, size):
    (gradient,) = functions.activation(name, [size, -size])[1]([3.0, 3.0])
    np.testing.assert_allclose(gradient, [3, 0], atol=3e-6)


def test_nan_shows_in_the_gradient_of_an_activation():
    for name in functions.ACTIVATIONS[1:]:
        (gradient,) = functions.activation(name, [np.nan, 1.0])[1]([1.0, 1.0])
        assert np.isnan(gradient).tolist() == [True, False]


@pytest.mark.parametrize("d", [1, 7, 16, 37])
def test_embedding(d):
    ids, table = np.array([[3, 0, 3], [5, 3, 1]]), draw(6, d)
    out, back = functions.embedding(ids, table, scale=0.5)
    grad = draw(*out.shape, seed=1)
    expected = np.zeros((6, d))
    np.add.at(expected, ids, 0.5 * grad.astype(np.float64))
    (gradient,) = back(grad)
    assert_close(gradient, expected)
    assert not gradient[[2, 4]].any()


def smoothed(x, weight, bias, targets, smoothing):
    """The loss of `cross_entropy`, from the formula."""
    log_p = reference.log_softmax(reference.linear(x, weight, bias))
    places = [t for t in range(len(targets)) if targets[t] >= 0]
    q = np.full(log_p.shape, smoothing / log_p.shape[-1])
    for t in places:
        q[t, targets[t]] += 1 - smoothing
    return -sum(np.sum(q[t] * log_p[t]) for t in places) / max(len(places), 1)


@pytest.mark.parametrize("m, d, size", [(1, 3, 1), (5, 4, 2), (6, 17, 33), (12, 9, 300)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("padded", [False, True])
def test_cross_entropy(m, d, size, smoothing, padded):
    arrays = draw(m, d), draw(size, d, seed=1), draw(size, seed=2)
    targets = np.random.default_rng(m).integers(0, size, m)
    if padded:
        targets[::2] = -1
    loss, back = functions.cross_entropy(*arrays, targets, label_smoothing=smoothing)
    expected = smoothed(*arrays, targets, smoothing)
    assert loss == pytest.approx(expected, rel=1e-6, abs=1e-7)
    gradients = back()
    for which, gradient in enumerate(gradients):
        right = differences(lambda *a: smoothed(*a, targets, smoothing), 1.0, arrays, which)
        assert_close(gradient, right, tolerance=5e-6)
    if padded:
        assert not gradients[0][::2].any()


def test_cross_entropy_of_padding_alone():
    loss, back = functions.cross_entropy(draw(2, 3), draw(5, 3), None, [-1, -1])
    assert loss == 0
    assert not back()[0].any()
    assert not back()[1].any()
    assert back()[2] is None


def test_cross_entropy_of_large_logits():
    x = np.array([[1e4, 1e4 - 1], [-3e4, 3e4]], np.float32)
    loss, back = functions.cross_entropy(x, np.eye(2), None, [1, 0])
    assert loss == pytest.approx((np.log1p(np.e) + 6e4) / 2, rel=1e-6)
    p = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(back()[0], [[p / 2, -p / 2], [-0.5, 0.5]], atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_keeps_what_it_says(rate):
    x = draw(300, 401)
    out, back = functions.dropout(x, rate, seed=12345)
    kept = out != 0
    np.testing.assert_array_equal(out, np.where(kept, x * np.float32(1 / (1 - rate)), 0))
    deviation = np.sqrt(rate * (1 - rate) / x.size)
    assert abs(kept.mean() - (1 - rate)) <= 4 * deviation
    np.testing.assert_array_equal(back(np.ones(x.shape))[0] != 0, kept)


def test_dropout_has_no_visible_pattern():
    """Values of one stream, of neighbouring seeds and of neighbouring places are independent:
    correlations are those of 200,000 coin tosses."""
    ones = np.ones(200_000, np.float32)
    seeds = [0, 1, 2, 3, 2**31, 2**32, 2**32 + 1, 2**63]
    tosses = [functions.dropout(ones, 0.5, seed=seed)[0] - 1 for seed in seeds]
    pairs = [(a, b) for i, a in enumerate(tosses) for b in tosses[:i]]
    pairs += [(a[:-lag], a[lag:]) for a in tosses for lag in (1, 2, 3, 8, 16, 512)]
    # A stream is not another one in a different order.
    assert len({toss.sum() for toss in tosses}) == len(tosses)
    swapped = [toss.reshape(-1, 2)[:, ::-1].ravel() for toss in tosses]
    pairs += [(a, b) for a in tosses for b in swapped]
    for a, b in pairs:
        assert abs(np.mean(a * b)) < 5 / np.sqrt(len(a))


def test_dropout_is_the_same_for_every_instruction_set():
    x = draw(1003)
    expected, _ = functions.dropout(x, 0.3, seed=7)
    for name in _runtime.available_isas():
        out = np.empty_like(x)
        seeds = np.array([7], np.uint64)
        _runtime.load_kernels(name).dropout(out, x, None, 0.3, np.array([0, 1003]), seeds, 1)
        assert out.tobytes() == expected.tobytes()


def everything():
    """The bytes of each operation's output and gradients."""
    results = []

    def keep(out_back):
        out, back = out_back
        results.append(out)
        results.extend(g for g in back(draw(*out.shape, seed=5)) if g is not None)

    # Of each operation enough for every thread.
    x, weight = draw(331, 65), draw(49, 65, seed=1)
    keep(functions.linear(x, weight, draw(49, seed=2)))
    keep(functions.layer_norm(x, draw(65, seed=3), draw(65, seed=4)))
    keep(functions.rms_norm(x, draw(65, seed=3)))
    for name in functions.ACTIVATIONS:
        keep(functions.activation(name, x))
    keep(functions.embedding(np.arange(999) % 7, draw(7, 500)))
    query, key, value = draw(2, 4, 150, 33), draw(2, 2, 150, 33), draw(2, 2, 150, 17)
    keep(functions.scaled_dot_product_attention(query, key, value, is_causal=True))
    keep(functions.dropout(draw(100, 301), 0.3, seed=3))
    loss, back = functions.cross_entropy(
        draw(64, 65), draw(501, 65), None, np.arange(64), label_smoothing=0.1
    )
    results.append(np.float64(loss))
    results.extend(g for g in back() if g is not None)
    return [np.asarray(r).tobytes() for r in results]


def test_the_same_bits_for_any_number_of_threads(use_threads):
    use_threads(1)
    expected = everything()
    for count in (2, 3, 4):
        use_threads(count)
        assert everything() == expected


def test_rows_of_padding_change_no_gradient():
    """The gradient of a parameter does not change when rows whose gradient is 0 follow."""
    x, weight, grad = draw(37, 20), draw(9, 20, seed=1), draw(37, 9, seed=2)
    padding = np.zeros((50, 1), np.float32)
    _, back = functions.linear(x, weight, np.zeros(9))
    _, padded_back = functions.linear(np.concatenate([x, padding + x[0]]), weight, np.zeros(9))
    alone = back(grad)
    padded = padded_back(np.concatenate([grad, padding * grad[0]]))
    assert padded[0][:37].tobytes() == alone[0].tobytes()
    assert not padded[0][37:].any()
    assert padded[1].tobytes() == alone[1].tobytes()
    assert padded[2].tobytes() == alone[2].tobytes()


# Against PyTorch: errors against float64 are no larger than its own.


def test_errors_are_at_most_those_of_torch(use_threads):
    """Root mean squares; below half a unit, the last rounding, nobody is better than the other."""
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare gradients with")
    # x86-64-v2 has no fused multiply-add: see test_ops.py.
    allowed = 4 if _runtime.kernels.ISA_NAME == "x86-64-v2" else 1
    use_threads(1)
    nn = torch.nn.functional
    x, weight, bias = draw(300, 129), draw(200, 129, seed=1), draw(200, seed=2)
    scale, shift = draw(129, seed=3), draw(129, seed=4)
    targets = np.arange(300) % 200
    tokens = torch.from_numpy(targets)
    cases = {
        "linear": (functions.linear, nn.linear, (x, weight, bias)),
        "layer_norm": (
            functions.layer_norm,
            lambda x, w, b: nn.layer_norm(x, x.shape[-1:], w, b),
            (x, scale, shift),
        ),
        "rms_norm": (
            functions.rms_norm,
            lambda x, w: nn.rms_norm(x, x.shape[-1:], w, 1e-6),
            (x, scale),
        ),
        "gelu": (lambda x: functions.activation("gelu", x), nn.gelu, (x * 2,)),
        "silu": (lambda x: functions.activation("silu", x), nn.silu, (x * 2,)),
        "cross_entropy": (
            lambda x, w, b: functions.cross_entropy(x, w, b, targets, label_smoothing=0.1),
            lambda x, w, b: nn.cross_entropy(nn.linear(x, w, b), tokens, label_smoothing=0.1),
            (x, weight / 10, bias),
        ),
    }
    for name, (ours, theirs, arrays) in cases.items():
        out, back = ours(*arrays)
        grad = np.float32(1) if name == "cross_entropy" else draw(*out.shape, seed=6)
        gradients = back() if name == "cross_entropy" else back(grad)
        of_torch = {}
        for kind in (torch.float32, torch.float64):
            inputs = [torch.tensor(a, dtype=kind, requires_grad=True) for a in arrays]
            theirs(*inputs).backward(torch.tensor(grad, dtype=kind))
            of_torch[kind] = [i.grad.numpy() for i in inputs]
        for g, near, exact in zip(
            gradients, of_torch[torch.float32], of_torch[torch.float64], strict=True
        ):
            unit = np.finfo(np.float32).eps * np.sqrt(np.mean(exact**2))
            error, of_peer = (np.sqrt(np.mean((a - exact) ** 2)) / unit for a in (g, near))
            assert error <= allowed * max(0.5, of_peer), name


# Bad input.


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: functions.linear(np.ones((2, 3)), np.ones((4, 5))), "weight has shape (4, 5)"),
        (
            lambda: functions.linear(np.ones((2, 3)), np.ones((4, 3)))[1](np.ones((2, 3))),
            "linear: grad has shape (2, 3), expected (2, 4)",
        ),
        (
            lambda: functions.layer_norm(np.ones((2, 3)))[1](np.ones(3)),
            "layer_norm: grad has shape (3,), expected (2, 3)",
        ),
        (lambda: functions.activation("tanh", [1.0]), "name is 'tanh'"),
        (lambda: functions.embedding([7], np.ones((7, 2))), "ids[0] is 7, expected 0 to 6"),
        (lambda: functions.dropout([1.0], 1, seed=0), "rate is 1"),
        (lambda: functions.dropout([1.0], -0.1, seed=0), "rate is -0.1"),
        (lambda: functions.dropout([1.0], 0.1, seed=-1), "seed is -1"),
        (
            lambda: functions.cross_entropy(np.ones((2, 3)), np.ones((4, 3)), None, [0, 4]),
            "targets[1] is 4, expected -1 to 3",
        ),
        (
            lambda: functions.cross_entropy(np.ones((2, 3)), np.ones((4, 3)), None, [0]),
            "targets has shape (1,), expected (2,)",
        ),
        (
            lambda: functions.cross_entropy(
                np.ones((1, 3)), np.ones((4, 3)), None, [0], label_smoothing=2
            ),
            "label_smoothing is 2",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
