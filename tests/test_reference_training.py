"""The float64 reference of training against PyTorch in float64."""

import numpy as np
import pytest
import reference
import reference_training

torch = pytest.importorskip("torch", reason="needs PyTorch as the oracle of the reference")
functional = torch.nn.functional


def leaf(*shape, seed):
    """A float64 tensor that gradients are taken of."""
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return torch.tensor(values, requires_grad=True)


def arrays(*tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def assert_gradients(actual, *leaves):
    for own, tensor in zip(actual, leaves, strict=True):
        assert own.dtype == np.float64
        np.testing.assert_allclose(own, tensor.grad.numpy(), rtol=1e-12, atol=1e-12)


def backward(out):
    """The gradient that was sent back, drawn at random."""
    grad = torch.tensor(np.random.default_rng(9).standard_normal(out.shape))
    out.backward(grad)
    return grad.numpy()


def test_linear():
    x, weight, bias = leaf(5, 3, seed=0), leaf(4, 3, seed=1), leaf(4, seed=2)
    grad = backward(functional.linear(x, weight, bias))
    assert_gradients(reference_training.linear_gradients(grad, *arrays(x, weight)), x, weight, bias)


@pytest.mark.parametrize("rms", [False, True])
def test_norms(rms):
    x, weight, bias = leaf(5, 7, seed=0), leaf(7, seed=1), leaf(7, seed=2)
    if rms:
        out = functional.rms_norm(x, (7,), weight, 0.1) + bias
    else:
        out = functional.layer_norm(x, (7,), weight, bias, 0.1)
    grad = backward(out)
    actual = reference_training.norm_gradients(grad, *arrays(x, weight), 0.1, rms)
    assert_gradients(actual, x, weight, bias)


def test_embedding():
    table, ids = leaf(6, 3, seed=0), np.array([3, 0, 3, 5])
    grad = backward(functional.embedding(torch.tensor(ids), table) * 0.7)
    assert_gradients([reference_training.embedding_gradient(grad, ids, 6, 0.7)], table)


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention(is_causal):
    query, key, value = leaf(2, 3, 5, 4, seed=0), leaf(2, 3, 7, 4, seed=1), leaf(2, 3, 7, 4, seed=2)
    grad = backward(functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal))
    inputs = arrays(query, key, value)
    actual = reference_training.attention_gradients(grad, *inputs, is_causal=is_causal)
    assert_gradients(actual[:3], query, key, value)


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("reach", [0, 2, 9])
def test_attention_with_a_bias_by_distance(softcap, reach):
    query, key, value = leaf(2, 6, 5, 4, seed=0), leaf(2, 2, 7, 4, seed=1), leaf(2, 2, 7, 3, seed=2)
    table = leaf(6, 2 * reach + 1, seed=3)
    distances = torch.arange(7) - torch.arange(5)[:, None] - torch.tensor([3, -1])[:, None, None]
    bias = table[:, distances.clamp(-reach, reach) + reach].transpose(0, 1)
    scores = query @ key.repeat_interleave(3, 1).mT * 0.4
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    out = functional.softmax(scores + bias, dim=-1) @ value.repeat_interleave(3, 1)
    grad = backward(out)
    inputs = arrays(query, key, value)
    options = {"query_offset": [3, -1], "softcap": softcap, "scale": 0.4}
    written_out = reference.biases_by_distance(*arrays(table), 5, 7, [3, -1])
    *actual, of_bias = reference_training.attention_gradients(
        grad, *inputs, bias=written_out, **options
    )
    of_table = reference_training.bias_table_gradient(of_bias, reach, [3, -1])
    assert_gradients([*actual, of_table], query, key, value, table)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy(smoothing):
    logits, targets = leaf(5, 7, seed=0), np.array([3, -1, 0, 6, 3])
    out = functional.cross_entropy(
        logits,
        torch.tensor(targets),
        ignore_index=-1,
        label_smoothing=smoothing,
        reduction="none",
    )
    out.sum().backward()
    losses, gradient = reference_training.cross_entropy(*arrays(logits), targets, smoothing)
    np.testing.assert_allclose(losses, out.detach().numpy(), rtol=1e-12)
    assert_gradients([gradient], logits)


def test_adamw():
    parameter = leaf(11, seed=0)
    settings = {"betas": (0.8, 0.95), "eps": 1e-6}
    optimizer = torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.1, **settings)
    values, mean, square = parameter.detach().numpy().copy(), np.zeros(11), np.zeros(11)
    for t in range(1, 6):
        gradient = np.random.default_rng(t).standard_normal(11)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        values, mean, square = reference_training.adamw(
            values, gradient, mean, square, t, rate=0.01, decay=0.1, **settings
        )
        np.testing.assert_allclose(values, parameter.detach().numpy(), rtol=1e-12)
