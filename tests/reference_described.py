"""The float64 specification of what a `StackConfig` describes.

As reference.py, to be read: one function walks the description, layer by layer, over padded arrays.
Size letters: B batch, T target length, S source length, D d_model, H heads, K head size.
"""

from dataclasses import asdict

import numpy as np
import reference
from reference import f64, linear, merge_heads, split_heads, substate, zero_padding

import pyx_transformer as pt


def norm(config, params, x):
    """A `NormConfig` of rows (..., D); None leaves them as they are."""
    if config is None:
        return x
    if config.kind == "rms_norm":
        return reference.rms_norm(x, params.get("weight"), config.eps)
    return reference.layer_norm(x, params.get("weight"), params.get("bias"), config.eps)


def feed_forward(config, params, x):
    """A `FeedForwardConfig`: W2 f(W1 x), or gated W2 (f(W1 x) * (W3 x))."""

    def projected(name, rows, activation=None):
        return linear(rows, params[f"{name}.weight"], params.get(f"{name}.bias"), activation)

    hidden = projected("linear1", x, config.activation)
    if config.gated:
        hidden = hidden * projected("linear3", x)
    return projected("linear2", hidden)


def distance_bias(config, table, queries, keys):
    """Biases (H, T, S) of the scores, from a table (num_buckets, H)."""
    bias = np.empty((table.shape[1], queries, keys))
    for i, j in np.ndindex(queries, keys):
        bucket = reference.bucket_of_distance(
            j - i, config.num_buckets, config.max_distance, config.bidirectional
        )
        bias[:, i, j] = table[bucket]
    return bias


def attention(config, params, x, attended, lengths, table):
    """An `AttentionConfig` from x (B, T, D) to `attended` (B, S, D), real up to lengths (B,).

    Heads of queries and keys are normed, then turned. table holds the biases by distance.
    """
    rows = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
    ends = np.cumsum(rows)[:-1] * (len(params["in_proj_weight"]) // sum(rows))
    weights = np.split(f64(params["in_proj_weight"]), ends)
    biases = [None] * 3
    if config.bias:
        biases = np.split(f64(params["in_proj_bias"]), ends)
    query, key, value = (
        split_heads(linear(inputs, weight, bias), heads)
        for inputs, weight, bias, heads in zip(
            (x, attended, attended), weights, biases, rows, strict=True
        )
    )
    query = norm(config.head_norm, substate(params, "q_norm."), query)
    key = norm(config.head_norm, substate(params, "k_norm."), key)
    if config.rotary is not None:
        query, key = (
            reference.rotary(heads, np.arange(heads.shape[2]), **asdict(config.rotary))
            for heads in (query, key)
        )
    bias = None
    if config.distance_bias is not None:
        bias = distance_bias(config.distance_bias, f64(table), x.shape[1], attended.shape[1])
    context = reference.scaled_dot_product_attention(
        query,
        key,
        value,
        lengths=lengths,
        is_causal=config.is_causal,
        window=config.window,
        softcap=config.softcap,
        scale=config.scale,
        bias=bias,
    )
    return linear(merge_heads(context), params["out_proj.weight"], params.get("out_proj.bias"))


def layer(config, params, x, lengths, memory, memory_lengths, shared_table):
    """A `LayerConfig`: norm_sum(x + norm_after(block(norm_before(x)))) of each sub-layer, one after
    the other; side by side, each block reads the layer's input."""
    layer_input, norm_number = x, 0
    for one in config.sub_layers:
        norms = []
        for kind in (one.norm_before, one.norm_after, one.norm_sum):
            norm_number += kind is not None
            norms.append((kind, substate(params, f"norm{norm_number}.")))
        before, after, of_sum = norms
        rows = norm(*before, layer_input if config.side_by_side else x)
        if isinstance(one.block, pt.FeedForwardConfig):
            rows = feed_forward(one.block, params, rows)
        else:
            name = "multihead_attn" if one.block.is_cross else "self_attn"
            own = substate(params, f"{name}.")
            attended, real = (memory, memory_lengths) if one.block.is_cross else (rows, lengths)
            table = own.get("distance_bias.weight", shared_table)
            rows = attention(one.block, own, rows, attended, real, table)
        x = norm(*of_sum, x + norm(*after, rows))
    return x


def described_stack(config, state, x, lengths=None, memory=None, memory_lengths=None):
    """All layers of a `StackConfig` and its final norm: x (B, T, D) -> (B, T, D).

    memory (B, S, D) is for cross-attention. What stands behind lengths and memory_lengths (B,) has
    no influence, and is zero in the result.
    """
    x = zero_padding(x, lengths)
    if memory is not None:
        memory = zero_padding(memory, memory_lengths)
    for i in range(config.num_layers):
        number = i % len(config.layers) if config.share_weights else i
        params = substate(state, f"layers.{number}.")
        table = state.get("distance_bias.weight")
        one = config.layers[i % len(config.layers)]
        x = layer(one, params, x, lengths, memory, memory_lengths, table)
    return zero_padding(norm(config.final_norm, substate(state, "norm."), x), lengths)
