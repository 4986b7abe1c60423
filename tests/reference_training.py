"""The float64 specification of training: what inputs and parameters get back, the loss, the update.

As reference.py, to be read: every function is its formula, and each gradient is that of
sum(grad * output). Size letters: N rows, D features, V vocabulary, T queries, S keys, K head size.
"""

import numpy as np
import reference
from reference import f64


def linear_gradients(grad, x, weight):
    """Of x W^T + b, from grad (N, out): those of x (N, in), weight (out, in) and bias (out,)."""
    grad = f64(grad)
    return grad @ f64(weight), grad.T @ f64(x), grad.sum(axis=0)


def norm_gradients(grad, x, weight, eps, rms):
    """Of layer_norm or, with rms, rms_norm, from grad (N, D): those of x (N, D), weight and bias.

    With y the row before weight and bias, s = y / x's deviation and g = grad weight:
    s (g - mean g - y mean(g y)), sum(grad y) and sum(grad); an RMS norm subtracts no mean.
    """
    grad, x = f64(grad), f64(x)
    y = reference.rms_norm(x, eps=eps) if rms else reference.layer_norm(x, eps=eps)
    square = (x**2).mean(axis=1, keepdims=True) if rms else x.var(axis=1, keepdims=True)
    g = grad if weight is None else grad * f64(weight)
    mean = 0.0 if rms else g.mean(axis=1, keepdims=True)
    grad_x = (g - mean - y * (g * y).mean(axis=1, keepdims=True)) / np.sqrt(square + eps)
    return grad_x, (grad * y).sum(axis=0), grad.sum(axis=0)


def embedding_gradient(grad, ids, size, scale):
    """Of embedding, from grad (N, D): that of the table (size, D)."""
    table = np.zeros((size, grad.shape[1]))
    np.add.at(table, ids, scale * f64(grad))
    return table


def attention_gradients(grad, query, key, value, **options):
    """Of scaled_dot_product_attention with these options, from grad (B, H, T, Kv): those of query,
    key and value, and of the bias of each pair (B, H, T, S).

    With P the weights: P^T grad for the value, G = P (grad V^T - sum(grad out)) for the bias and,
    with G' = G scale (1 - tanh^2(scale Q K^T / softcap)), G' key and G'^T query. Heads of queries
    that share a key head give it the sum.
    """
    grad, query, key, value = map(f64, (grad, query, key, value))
    out, weights = reference.scaled_dot_product_attention(
        query, key, value, **options, return_weights=True
    )
    (B, Hkv, S, K), heads = key.shape, query.shape[1]
    keys, values = (np.repeat(a, heads // Hkv, axis=1) for a in (key, value))
    of_bias = weights * (grad @ values.swapaxes(-1, -2) - (grad * out).sum(-1, keepdims=True))
    scale = options.get("scale") or 1 / np.sqrt(K)
    of_products = of_bias * scale
    if options.get("softcap") is not None:
        capped = np.tanh(query @ keys.swapaxes(-1, -2) * scale / options["softcap"])
        of_products = of_products * (1 - capped**2)
    shared = (B, Hkv, heads // Hkv, S)
    of_key = (of_products.swapaxes(-1, -2) @ query).reshape(*shared, K).sum(axis=2)
    of_value = (weights.swapaxes(-1, -2) @ grad).reshape(*shared, value.shape[3]).sum(axis=2)
    return of_products @ keys, of_key, of_value, of_bias


def bias_table_gradient(of_bias, reach, query_offset=0):
    """Of a table of biases by distance (H, 2 reach + 1), from those of all pairs (B, H, T, S)."""
    B, H, T, S = of_bias.shape
    table = np.zeros((H, 2 * reach + 1))
    for b, offset in enumerate(np.broadcast_to(query_offset, (B,))):
        for i, j in np.ndindex(T, S):
            distance = np.clip(j - (i + offset), -reach, reach)
            table[:, distance + reach] += of_bias[b, :, i, j]
    return table


def _mixed(x):
    """x, uint32, each of whose bits turns half of those of the result: Wellons, "lowbias32"."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def uniform(seed, size):
    """The first numbers of the stream `seed`, 0 to 2^64 - 1: in [0, 1), of 24 bits each."""
    low, high = np.uint32(seed & 0xFFFFFFFF), np.uint32((seed >> 32) * 0x85EBCA6B & 0xFFFFFFFF)
    x = _mixed(np.arange(size, dtype=np.uint32))
    return (_mixed(_mixed(_mixed(x ^ low) + high)) >> 8) / 2.0**24


def dropout(x, rate, seed):
    """x / (1 - rate) where the stream is at least rate, else 0. Srivastava et al., 2014."""
    x = f64(x)
    return np.where(uniform(seed, x.size).reshape(x.shape) >= np.float32(rate), x / (1 - rate), 0.0)


def cross_entropy(logits, targets, smoothing):
    """-sum(q log p) of each row of logits (N, V), and the gradient of their sum: p - q.

    q has 1 - smoothing at the target and smoothing / V everywhere; a row whose target is negative
    counts nothing. Szegedy et al., 2016.
    """
    log_p = reference.log_softmax(logits)
    q = np.full(log_p.shape, smoothing / log_p.shape[1])
    q[np.arange(len(targets)), targets] += 1 - smoothing
    counts = (np.asarray(targets) >= 0)[:, None]
    return -(counts * q * log_p).sum(axis=1), np.where(counts, np.exp(log_p) - q, 0.0)


def adamw(values, gradient, mean, square, t, *, rate, betas, eps, decay):
    """Update number t, counted from 1: the new values, mean and square, all (P,).

    Loshchilov and Hutter, 2019, algorithm 2, the decay being rate * decay.
    """
    values, gradient, mean, square = map(f64, (values, gradient, mean, square))
    beta1, beta2 = betas
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient**2
    step = mean / (1 - beta1**t) / (np.sqrt(square / (1 - beta2**t)) + eps)
    return values - rate * (step + decay * values), mean, square
