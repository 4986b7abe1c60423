"""Gradients of scaled_dot_product_attention: against central differences in float64 and against
PyTorch, from what the mask hides nothing, and without an array of scores."""

import subprocess
import sys

import numpy as np
import pytest
import reference
from differences import assert_close, differences, draw

from pyx_transformer import _runtime, ops
from pyx_transformer.training import functions


@pytest.fixture(autouse=True)
def each_instruction_set(kernels, monkeypatch):
    monkeypatch.setattr(_runtime, "kernels", kernels)


ATTENTION = {
    "one": dict(shape=(1, 1, 1, 1, 1, 1, 1)),
    "plain": dict(shape=(2, 3, 3, 7, 5, 4, 6)),
    "causal": dict(shape=(1, 2, 2, 9, 9, 3, 5), is_causal=True),
    "offset": dict(shape=(2, 1, 1, 4, 9, 3, 2), is_causal=True, query_offset=[5, 2]),
    "lengths": dict(shape=(3, 2, 2, 5, 8, 4, 4), lengths=[8, 3, 0]),
    "window": dict(shape=(1, 2, 2, 11, 11, 3, 3), window=(2, 1)),
    "nothing seen": dict(shape=(1, 1, 1, 6, 9, 3, 3), is_causal=True, query_offset=-3),
    "softcap": dict(shape=(1, 2, 2, 6, 7, 4, 3), softcap=0.7),
    "grouped": dict(shape=(2, 6, 2, 5, 7, 3, 4), scale=0.3),
    "bool mask": dict(shape=(2, 2, 1, 5, 20, 3, 4), mask="bool"),
    "float mask": dict(shape=(2, 2, 2, 5, 20, 3, 4), mask="float", softcap=2.0),
}


def attention_case(shape, mask=None, **options):
    """Query, key and value, and the options with a mask drawn."""
    B, H, Hkv, T, S, K, Kv = shape
    arrays = draw(B, H, T, K), draw(B, Hkv, S, K, seed=1), draw(B, Hkv, S, Kv, seed=2)
    rng = np.random.default_rng(8)
    if mask == "bool":
        options["mask"] = rng.random((B, 1, T, S)) < 0.6
        options["mask"][0, 0, 1] = False
    if mask == "float":
        options["mask"] = rng.standard_normal((T, S), dtype=np.float32)
        options["mask"][rng.random((T, S)) < 0.3] = -np.inf
    return arrays, options


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    arrays, options = attention_case(**ATTENTION[name])
    out, back = functions.scaled_dot_product_attention(*arrays, **options)
    expected = ops.scaled_dot_product_attention(*arrays, **options)
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    grad = draw(*out.shape, seed=9)
    for which, gradient in enumerate(back(grad)):
        right = differences(
            lambda *a: reference.scaled_dot_product_attention(*a, **options), grad, arrays, which
        )
        assert_close(gradient, right, tolerance=5e-6)


def test_attention_with_a_finite_number_for_minus_infinity():
    arrays, _ = attention_case((1, 1, 1, 5, 6, 4, 4))
    grad = draw(1, 1, 5, 4, seed=9)
    lowest = np.full(6, np.finfo(np.float32).min)
    _, back = functions.scaled_dot_product_attention(*arrays, mask=lowest)
    query_gradient, key_gradient, value_gradient = back(grad)
    assert_close(value_gradient, np.broadcast_to(grad.sum(axis=2, keepdims=True) / 6, (1, 1, 6, 4)))
    assert np.isfinite(query_gradient).all()
    assert np.isfinite(key_gradient).all()


def test_attention_without_key_features():
    query, key, value = np.ones((1, 1, 2, 0)), np.ones((1, 1, 4, 0)), np.ones((1, 1, 4, 3))
    out, back = functions.scaled_dot_product_attention(query, key, value)
    np.testing.assert_array_equal(back(out)[2], np.full((1, 1, 4, 3), 0.5))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "options",
    [
        dict(mask=[True] * 5 + [False]),
        dict(is_causal=True),
        dict(lengths=[5]),
        dict(window=(None, 0)),
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_no_query_sees_reaches_no_gradient(options, bad):
    arrays, _ = attention_case((1, 2, 2, 5, 6, 7, 9))
    grad = draw(1, 2, 5, 9, seed=9)
    expected = functions.scaled_dot_product_attention(*arrays, **options)[1](grad)
    query, key, value = (a.copy() for a in arrays)
    key[:, :, 5] = value[:, :, 5] = bad
    gradients = functions.scaled_dot_product_attention(query, key, value, **options)[1](grad)
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_key_seen_alone_gets_nothing():
    arrays, _ = attention_case((1, 1, 1, 9, 1, 8, 64))
    gradients = functions.scaled_dot_product_attention(*arrays)[1](draw(1, 1, 9, 64, seed=9))
    assert not gradients[0].any()
    assert not gradients[1].any()


LONG_ATTENTION = {
    "long": dict(shape=(1, 2, 1, 300, 700, 64, 64)),
    "causal": dict(shape=(1, 1, 1, 530, 530, 33, 70), is_causal=True),
    "lengths": dict(shape=(2, 1, 1, 130, 300, 64, 64), lengths=[300, 7]),
    "window": dict(shape=(1, 1, 1, 600, 600, 16, 16), window=(100, 0)),
}


@pytest.mark.parametrize("name", LONG_ATTENTION)
def test_long_attention_agrees_with_torch(name):
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare gradients with")
    arrays, options = attention_case(**LONG_ATTENTION[name])
    seen = reference.may_attend((*arrays[0].shape[:3], arrays[1].shape[2]), **options)
    inputs = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    of_torch = torch.nn.functional.scaled_dot_product_attention(
        *inputs, attn_mask=torch.from_numpy(np.ascontiguousarray(seen)), enable_gqa=True
    )
    out, back = functions.scaled_dot_product_attention(*arrays, **options)
    grad = draw(*out.shape, seed=9)
    of_torch.backward(torch.from_numpy(grad).double())
    for gradient, tensor in zip(back(grad), inputs, strict=True):
        assert_close(gradient, tensor.grad.numpy(), tolerance=2e-6)


def test_attention_taken_in_windows_of_queries_is_that_of_its_heads():
    """Two heads of one key head are so much work that Ctrl-C is looked for half way."""
    (query, key, value), _ = attention_case((1, 2, 1, 2200, 4200, 64, 64))
    grad = draw(1, 2, 2200, 64, seed=9)
    together = functions.scaled_dot_product_attention(query, key, value)[1](grad)
    shared = [np.zeros(a.shape) for a in (key, value)]
    for h in range(2):
        _, back = functions.scaled_dot_product_attention(query[:, h : h + 1], key, value)
        gradients = back(grad[:, h : h + 1])
        assert gradients[0].tobytes() == together[0][:, h].tobytes()
        for total, gradient in zip(shared, gradients[1:], strict=True):
            total += gradient
    for gradient, total in zip(together[1:], shared, strict=True):
        assert_close(gradient, total)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_scores_are_not_kept(kernels):
    """On the way there and back, of arrays of heads and of a batch's rows: scores of 6,000 queries
    and keys would take 144 MB."""
    program = """
import re, sys
import numpy as np
from pyx_transformer import _runtime
from pyx_transformer.training import functions

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

def heads(x):
    _, back = functions.scaled_dot_product_attention(x, x, x)
    back(x)

def rows(x):
    x = x[0, 0]
    starts, counts = np.zeros(1, np.int64), np.full(1, len(x))
    job = _runtime.kernels.RowsJob(x, x, x, 1, 1, starts, counts, starts, counts)
    job.run(2)
    job.gradient(*(np.zeros_like(x) for _ in range(3)), x, None, None, 2)

_runtime.kernels = _runtime.load_kernels(sys.argv[1])
_runtime.set_num_threads(2)
x = np.ones((1, 1, 6000, 8), np.float32)
for attention in (heads, rows):
    attention(x[:, :, :600])
    before = peak()
    attention(x)
    print(peak() - before)
"""
    command = [sys.executable, "-c", program, kernels.ISA_NAME]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    grown = list(map(int, run.stdout.split()))
    assert len(grown) == 2
    assert max(grown) < 8_000


def test_padding_changes_no_gradient_of_attention():
    """Longer keys and more sequences beside it: a sequence's gradients keep their bits."""
    arrays, _ = attention_case((1, 2, 2, 40, 300, 24, 24))
    grad = draw(1, 2, 40, 24, seed=9)
    _, back = functions.scaled_dot_product_attention(*arrays)
    alone = back(grad)
    query, key, value = (np.concatenate([draw(*a.shape, seed=7), a]) for a in arrays)
    space = np.full((2, 2, 90, 24), np.nan, np.float32)
    key, value = (np.concatenate([a, space], axis=2) for a in (key, value))
    _, back = functions.scaled_dot_product_attention(query, key, value, lengths=[11, 300])
    for one, among in zip(alone, back(np.concatenate([grad * 2, grad])), strict=True):
        assert among[1, :, : one.shape[2]].tobytes() == one[0].tobytes()
        assert not among[1, :, one.shape[2] :].any()
