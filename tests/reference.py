"""The float64 specification of pyx_transformer: one plain NumPy function per operation and layer.

These functions are written to be read, not to be fast. Every kernel and layer of the package is
tested against them, so where a docstring here and the code of the package disagree, this file is
right. Names and arguments mirror the public ones. Inputs are converted to float64 and never
written to; results are float64.

Size letters: B batch, T target length, S source length, D d_model, H heads, Hkv key/value heads,
K key width of a head, Kv value width of a head, F d_ff, V vocabulary.

The file goes from the bottom up, each part using those above it:
    activations -> linear, norms, softmax -> attention -> embedding and positions
    -> multi-head attention, feed-forward -> layers -> stacks -> the whole model, greedy decoding

Weights arrive as a dict of arrays under PyTorch's state-dict names (`linear1.weight`). A bias that
the dict does not hold is left out of the sum.
"""

import numpy as np
from scipy import special


def f64(array):
    """Return `array` as float64; None stays None."""
    return None if array is None else np.asarray(array, dtype=np.float64)


# Activations: any shape in, the same shape out. An input of -infinity gives NaN where the formula
# reads -inf * 0 (all but ReLU).


def relu(x):
    """max(x, 0); NaN stays NaN."""
    return np.maximum(f64(x), 0.0)


def gelu(x):
    """x * Phi(x) with the normal distribution function Phi(x) = erfc(-x / sqrt(2)) / 2.

    Written with erfc rather than 1 + erf, so that the result keeps its relative accuracy where x
    is very negative. Hendrycks and Gimpel, 2016.
    """
    x = f64(x)
    return x * (0.5 * special.erfc(-x / np.sqrt(2.0)))


def gelu_tanh(x):
    """x/2 * (1 + tanh(u)) with u = sqrt(2/pi) * (x + 0.044715 x^3).

    Written as x * sigmoid(2 u), which is the same number, without the cancellation of 1 + tanh(u).
    Hendrycks and Gimpel, 2016; `gelu_new` in GPT-2.
    """
    x = f64(x)
    return x * special.expit(2.0 * np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3))


def quick_gelu(x):
    """x * sigmoid(1.702 x). Hendrycks and Gimpel, 2016; used by CLIP."""
    x = f64(x)
    return x * special.expit(1.702 * x)


def silu(x):
    """x * sigmoid(x), also called swish."""
    x = f64(x)
    return x * special.expit(x)


ACTIVATIONS = {
    None: f64,
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": silu,
}


# Operations on the last axis.


def linear(x, weight, bias=None, activation=None, residual=None):
    """activation(x W^T + b) + residual.

    x (..., in), weight (out, in), bias (out,), residual (..., out) -> (..., out).
    """
    y = f64(x) @ f64(weight).T
    if bias is not None:
        y = y + f64(bias)
    y = ACTIVATIONS[activation](y)
    if residual is not None:
        y = y + f64(residual)
    return y


def layer_norm(x, weight=None, bias=None, eps=1e-5):
    """(x - mean) / sqrt(variance + eps) * weight + bias.

    x (..., D), weight (D,), bias (D,) -> (..., D). Mean and variance are those of each row; the
    variance divides by D. Ba, Kiros and Hinton, 2016.
    """
    x = f64(x)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    y = centred / np.sqrt(variance + eps)
    if weight is not None:
        y = y * f64(weight)
    if bias is not None:
        y = y + f64(bias)
    return y


def rms_norm(x, weight=None, eps=1e-6):
    """x / sqrt(mean(x^2) + eps) * weight.

    x (..., D), weight (D,) -> (..., D). Zhang and Sennrich, 2019.
    """
    x = f64(x)
    y = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
    if weight is not None:
        y = y * f64(weight)
    return y


def softmax(x):
    """exp(x_j) / sum_j exp(x_j) over the last axis: (..., N) -> (..., N).

    The maximum of each row is subtracted first, which changes nothing but the range. A row of
    nothing but -infinity gives NaN; the zeros of a fully masked row are attention's rule.
    """
    x = f64(x)
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def log_softmax(x):
    """x_j - log(sum_j exp(x_j)) over the last axis: (..., N) -> (..., N)."""
    x = f64(x)
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# Attention.


def may_attend(shape, *, mask=None, lengths=None, is_causal=False, query_offset=0, window=None):
    """Say which query may attend to which key: bool, of the given shape (B, H, T, S).

    Query i stands at position p = i + query_offset among the keys. It may attend to key j if all
    of these hold:
        mask[b, h, i, j]                        for a boolean mask, broadcast to (B, H, T, S)
        mask[b, h, i, j] > -infinity            for a float mask, broadcast likewise (NaN: yes)
        j < lengths[b]                          lengths (B,)
        j <= p                                  if is_causal
        p - left <= j <= p + right              window = (left, right), None leaves a side open
    query_offset is one integer, or one per sequence (B,).
    """
    B, _H, T, S = shape
    allowed = np.ones(shape, dtype=bool)
    if mask is not None:
        mask = np.asarray(mask)
        allowed &= mask if mask.dtype == bool else mask != -np.inf

    left, right = (None, None) if window is None else window
    keys = np.arange(S)
    for b in range(B):
        if lengths is not None:
            allowed[b] &= keys < lengths[b]
        for i in range(T):
            position = i + np.broadcast_to(query_offset, (B,))[b]
            if is_causal:
                allowed[b, :, i] &= keys <= position
            if left is not None:
                allowed[b, :, i] &= keys >= position - left
            if right is not None:
                allowed[b, :, i] &= keys <= position + right
    return allowed


def biases_by_distance(table, T, S, query_offset=0):
    """What is added to the score of query i and key j: the bias of their distance, from a table.

    table (H, 2 M + 1) holds each head's biases of the distances -M .. M; query_offset is an integer
    -> (H, T, S), or one per sequence (B,) -> (B, H, T, S). The distance is j - (i + query_offset),
    and what is further than M counts as M. Shaw et al., 2018; Raffel et al., 2020.
    """
    table = f64(table)
    reach = table.shape[1] // 2
    places = np.asarray(query_offset)[..., None] + np.arange(T)
    distances = np.arange(S) - places[..., None]
    return np.moveaxis(table[:, np.clip(distances, -reach, reach) + reach], 0, -3)


def bucket_of_distance(distance, num_buckets, max_distance, bidirectional):
    """The bucket of a distance, key less query, of `num_buckets` (Raffel et al., 2020).

    With `bidirectional` the second half of them is for keys after the query; else those share
    bucket 0. Half of the others hold one distance each; the next ones begin where

        distance = exact (max_distance / exact)^(n / exact),  n = 0, 1, ...

    and the last holds all that is further. The logarithm is taken in float32, as in what was
    trained.
    """
    first = 0
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if distance > 0 else 0
        away = abs(distance)
    else:
        away = max(-distance, 0)
    exact = num_buckets // 2
    if away < exact:
        return first + away
    grown = np.log(np.float32(away) / np.float32(exact)) / np.float32(np.log(max_distance / exact))
    return first + min(exact + int(grown * np.float32(num_buckets - exact)), num_buckets - 1)


# NaN and infinity in a visible slot are legitimate inputs, and their NaN is the right answer.
@np.errstate(invalid="ignore", over="ignore")
def scaled_dot_product_attention(
    query,
    key,
    value,
    *,
    mask=None,
    lengths=None,
    is_causal=False,
    query_offset=0,
    window=None,
    softcap=None,
    scale=None,
    bias=None,
    return_weights=False,
):
    """softmax(cap(scale * Q K^T) + bias + mask) V, over the keys that each query may attend to.

    query (B, H, T, K), key (B, Hkv, S, K), value (B, Hkv, S, Kv) -> output (B, H, T, Kv), and
    with return_weights also weights (B, H, T, S). Query head h reads key/value head
    h // (H / Hkv). scale defaults to 1 / sqrt(K); cap(s) = softcap * tanh(s / softcap), or s
    without softcap; bias, anything that broadcasts to (B, H, T, S), and a float mask are added
    after it. `may_attend` gives the rule for mask, lengths, is_causal, query_offset and window.

    Keys and values that a query may not attend to are left out of its sums altogether, so their
    content, NaN and infinity included, has no influence; their weight is 0. A query that may
    attend to nothing gives zeros. Vaswani et al., 2017, section 3.2.1.
    """
    query, key, value = f64(query), f64(key), f64(value)
    B, H, T, K = query.shape
    _, Hkv, S, Kv = value.shape
    if scale is None:
        scale = 1.0 / np.sqrt(K)
    allowed = may_attend(
        (B, H, T, S),
        mask=mask,
        lengths=lengths,
        is_causal=is_causal,
        query_offset=query_offset,
        window=window,
    )
    is_additive = mask is not None and np.asarray(mask).dtype != bool
    added = np.broadcast_to(f64(mask) if is_additive else 0.0, (B, H, T, S))
    if bias is not None:
        added = added + f64(bias)

    output = np.zeros((B, H, T, Kv))
    weights = np.zeros((B, H, T, S))
    for b, h, i in np.ndindex(B, H, T):
        visible = np.flatnonzero(allowed[b, h, i])
        if visible.size == 0:
            continue
        group = h // (H // Hkv)
        scores = key[b, group, visible] @ query[b, h, i] * scale
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        scores = scores + added[b, h, i, visible]
        weights[b, h, i, visible] = softmax(scores)
        output[b, h, i] = weights[b, h, i, visible] @ value[b, group, visible]
    return (output, weights) if return_weights else output


# Embeddings and positions.


def embedding(ids, table, scale=1.0, positions=None):
    """table[ids] * scale + positions.

    ids (..., T) integers in 0..V-1, table (V, D), positions (T, D) or anything that broadcasts
    -> (..., T, D).
    """
    y = f64(table)[np.asarray(ids)] * scale
    if positions is not None:
        y = y + f64(positions)
    return y


def sinusoidal_positions(length, d_model, start=0, layout="interleaved", frequencies="paper"):
    """sin(p w_i) and cos(p w_i) for positions p = start .. start + length - 1: (length, D).

    D is even, and i runs from 0 to D/2 - 1.
    frequencies: "paper"         w_i = 10000^(-2i / D)           Vaswani et al., 2017, section 3.5
                 "tensor2tensor" w_i = 10000^(-i / (D/2 - 1))    the paper's own code; also Marian,
                                 M2M100; for D = 2 the one frequency is 1
    layout: "interleaved" [sin_0, cos_0, sin_1, cos_1, ...]      the paper
            "halves"      [sin_0, sin_1, ... | cos_0, cos_1, ...]
    """
    i = np.arange(d_model // 2)
    exponents = {"paper": 2 * i / d_model, "tensor2tensor": i / max(d_model // 2 - 1, 1)}
    angles = np.outer(np.arange(start, start + length), 10000.0 ** -exponents[frequencies])
    columns = {
        "interleaved": (slice(0, None, 2), slice(1, None, 2)),
        "halves": (slice(0, d_model // 2), slice(d_model // 2, None)),
    }
    sine_columns, cosine_columns = columns[layout]
    positions = np.empty((length, d_model))
    positions[:, sine_columns] = np.sin(angles)
    positions[:, cosine_columns] = np.cos(angles)
    return positions


def rotary_frequencies(
    size,
    base=10_000.0,
    scaling=None,
    factor=1.0,
    low_frequency_factor=1.0,
    high_frequency_factor=4.0,
    original_length=8192,
):
    """base^(-2 i / size), how far pair i = 0 .. size / 2 - 1 turns by position: (size / 2,).

    scaling: "linear"  all divided by factor (Chen et al., 2023)
             "llama3"  those of fewer than low_frequency_factor turns in original_length positions
                       divided by factor, those of more than high_frequency_factor kept, and in
                       between a mixture of both by the number of turns (Llama 3.1)
    """
    frequencies = base ** (-2.0 * np.arange(size // 2) / size)
    if scaling == "linear":
        return frequencies / factor
    if scaling == "llama3":
        for i, frequency in enumerate(frequencies):
            turns = original_length / (2 * np.pi / frequency)
            if turns < low_frequency_factor:
                frequencies[i] = frequency / factor
            elif turns <= high_frequency_factor:
                kept = turns - low_frequency_factor
                kept /= high_frequency_factor - low_frequency_factor
                frequencies[i] = kept * frequency + (1 - kept) * frequency / factor
    return frequencies


def rotary(x, positions, size=None, base=10_000.0, pairing="halves", **scaling):
    """The first `size` values of each row, all unless given, turned in pairs: (x, y) becomes

        (x cos a - y sin a, y cos a + x sin a),  a = p f_i for pair i, f as in `rotary_frequencies`

    x (..., T, K), positions p (T,), or anything that broadcasts to (..., T) -> (..., T, K).
    pairing: "interleaved"  pair i is (2 i, 2 i + 1)
             "halves"       pair i is (i, i + size / 2)
    Su et al., 2021.
    """
    turned = f64(x).copy()
    size = turned.shape[-1] if size is None else size
    angles = f64(positions)[..., None] * rotary_frequencies(size, base, **scaling)
    first, second = {
        "interleaved": (slice(0, size, 2), slice(1, size, 2)),
        "halves": (slice(0, size // 2), slice(size // 2, size)),
    }[pairing]
    x, y = turned[..., first].copy(), turned[..., second].copy()
    turned[..., first] = x * np.cos(angles) - y * np.sin(angles)
    turned[..., second] = y * np.cos(angles) + x * np.sin(angles)
    return turned


# Multi-head attention and feed-forward.


def split_heads(x, num_heads):
    """(B, T, H * K) -> (B, H, T, K): head h owns columns h K .. (h + 1) K - 1."""
    B, T, width = x.shape
    return x.reshape(B, T, num_heads, width // num_heads).transpose(0, 2, 1, 3)


def merge_heads(x):
    """(B, H, T, K) -> (B, T, H * K), the inverse of `split_heads`."""
    B, H, T, K = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, T, H * K)


def multihead_attention(
    x_query,
    x_memory,
    in_proj_weight,
    in_proj_bias,
    out_proj_weight,
    out_proj_bias,
    num_heads,
    *,
    return_weights=False,
    **attention_options,
):
    """Attention from x_query to x_memory in num_heads heads, with packed input weights.

    x_query (B, T, D), x_memory (B, S, D), in_proj_weight (3 D, D) holding W_q, W_k and W_v one
    above the other, in_proj_bias (3 D,) or None, out_proj_weight (D, D), out_proj_bias (D,) or
    None -> (B, T, D), and with return_weights also weights (B, H, T, S), per head. The remaining
    options are those of `scaled_dot_product_attention`. Vaswani et al., 2017, section 3.2.2.
    """
    q_weight, k_weight, v_weight = np.split(f64(in_proj_weight), 3)
    return multihead_attention_of_widths(
        x_query,
        x_memory,
        x_memory,
        q_weight,
        k_weight,
        v_weight,
        in_proj_bias,
        out_proj_weight,
        out_proj_bias,
        num_heads,
        return_weights=return_weights,
        **attention_options,
    )


def multihead_attention_of_widths(
    x_query,
    x_key,
    x_value,
    q_proj_weight,
    k_proj_weight,
    v_proj_weight,
    in_proj_bias,
    out_proj_weight,
    out_proj_bias,
    num_heads,
    *,
    return_weights=False,
    **attention_options,
):
    """concat_h(attention(Q_h, K_h, V_h)) W_o^T + b_o, where keys and values have their own widths.

    Q = x_query W_q^T + b_q, K = x_key W_k^T + b_k, V = x_value W_v^T + b_v, each cut into heads.

    x_query (B, T, Dq), x_key (B, S, Dk), x_value (B, S, Dv),
    q_proj_weight (H K, Dq), k_proj_weight (Hkv K, Dk), v_proj_weight (Hkv Kv, Dv),
    in_proj_bias (H K + Hkv K + Hkv Kv,) or None, out_proj_weight (D, H Kv), out_proj_bias (D,) or
    None -> (B, T, D), and with return_weights also weights (B, H, T, S).
    """
    key_width = len(q_proj_weight) // num_heads
    num_kv_heads = len(k_proj_weight) // key_width
    bias_q = bias_k = bias_v = None
    if in_proj_bias is not None:
        ends = np.cumsum([len(q_proj_weight), len(k_proj_weight)])
        bias_q, bias_k, bias_v = np.split(f64(in_proj_bias), ends)
    context, weights = scaled_dot_product_attention(
        split_heads(linear(x_query, q_proj_weight, bias_q), num_heads),
        split_heads(linear(x_key, k_proj_weight, bias_k), num_kv_heads),
        split_heads(linear(x_value, v_proj_weight, bias_v), num_kv_heads),
        return_weights=True,
        **attention_options,
    )
    output = linear(merge_heads(context), out_proj_weight, out_proj_bias)
    return (output, weights) if return_weights else output


def feed_forward(x, linear1_weight, linear1_bias, linear2_weight, linear2_bias, activation="relu"):
    """activation(x W_1^T + b_1) W_2^T + b_2.

    x (..., D), linear1_weight (F, D), linear1_bias (F,) or None, linear2_weight (D, F),
    linear2_bias (D,) or None -> (..., D). Vaswani et al., 2017, section 3.3.
    """
    hidden = linear(x, linear1_weight, linear1_bias, activation)
    return linear(hidden, linear2_weight, linear2_bias)


# Layers: `params` is the state dict of one torch.nn.TransformerEncoderLayer or DecoderLayer. In
# training `drop` is dropout, on the output of each sub-layer (Vaswani et al. 2017, 5.4); it is
# called in the order in which the sub-layers stand.


def keep(x):
    """No dropout."""
    return x


def _norm(params, name, x, eps):
    return layer_norm(x, params[f"{name}.weight"], params.get(f"{name}.bias"), eps)


def _attend(params, name, x_query, x_memory, num_heads, attention_options):
    """The attention block `name`: output (B, T, D) and weights (B, H, T, S)."""
    return multihead_attention(
        x_query,
        x_memory,
        params[f"{name}.in_proj_weight"],
        params.get(f"{name}.in_proj_bias"),
        params[f"{name}.out_proj.weight"],
        params.get(f"{name}.out_proj.bias"),
        num_heads,
        return_weights=True,
        **attention_options,
    )


def _feed_forward(params, x, activation):
    return feed_forward(
        x,
        params["linear1.weight"],
        params.get("linear1.bias"),
        params["linear2.weight"],
        params.get("linear2.bias"),
        activation,
    )


def encoder_layer(
    params,
    x,
    num_heads,
    *,
    activation="relu",
    norm_first=False,
    layer_norm_eps=1e-5,
    drop=keep,
    return_weights=False,
    **attention_options,
):
    """Self-attention, then feed-forward, each with a residual and a norm: (B, T, D) -> (B, T, D).

    post-norm (the paper):  x = norm1(x + attention(x));   x = norm2(x + ff(x))
    pre-norm (norm_first):  x = x + attention(norm1(x));   x = x + ff(norm2(x))

    With return_weights also the attention weights (B, H, T, T). What a layer computes at padded
    positions is not specified; the stacks put zeros there.
    """
    x, eps = f64(x), layer_norm_eps
    if norm_first:
        normed = _norm(params, "norm1", x, eps)
        attended, weights = _attend(
            params, "self_attn", normed, normed, num_heads, attention_options
        )
        x = x + drop(attended)
        x = x + drop(_feed_forward(params, _norm(params, "norm2", x, eps), activation))
    else:
        attended, weights = _attend(params, "self_attn", x, x, num_heads, attention_options)
        x = _norm(params, "norm1", x + drop(attended), eps)
        x = _norm(params, "norm2", x + drop(_feed_forward(params, x, activation)), eps)
    return (x, weights) if return_weights else x


def decoder_layer(
    params,
    x,
    memory,
    num_heads,
    *,
    lengths=None,
    memory_lengths=None,
    activation="relu",
    norm_first=False,
    layer_norm_eps=1e-5,
    drop=keep,
    return_weights=False,
):
    """Causal self-attention, attention to memory, feed-forward, each with a residual and a norm.

    x (B, T, D), memory (B, S, D), lengths and memory_lengths (B,) -> (B, T, D).

    post-norm: x = norm1(x + self(x)); x = norm2(x + cross(x, memory)); x = norm3(x + ff(x))
    pre-norm:  x = x + self(norm1(x)); x = x + cross(norm2(x), memory); x = x + ff(norm3(x))

    With return_weights also the weights of self-attention (B, H, T, T) and of cross-attention
    (B, H, T, S). What a layer computes at padded positions is not specified.
    """
    x, memory, eps = f64(x), f64(memory), layer_norm_eps
    to_itself = {"lengths": lengths, "is_causal": True}
    to_memory = {"lengths": memory_lengths}
    if norm_first:
        normed = _norm(params, "norm1", x, eps)
        attended, self_weights = _attend(params, "self_attn", normed, normed, num_heads, to_itself)
        x = x + drop(attended)
        normed = _norm(params, "norm2", x, eps)
        attended, cross_weights = _attend(
            params, "multihead_attn", normed, memory, num_heads, to_memory
        )
        x = x + drop(attended)
        x = x + drop(_feed_forward(params, _norm(params, "norm3", x, eps), activation))
    else:
        attended, self_weights = _attend(params, "self_attn", x, x, num_heads, to_itself)
        x = _norm(params, "norm1", x + drop(attended), eps)
        attended, cross_weights = _attend(params, "multihead_attn", x, memory, num_heads, to_memory)
        x = _norm(params, "norm2", x + drop(attended), eps)
        x = _norm(params, "norm3", x + drop(_feed_forward(params, x, activation)), eps)
    return (x, self_weights, cross_weights) if return_weights else x


# Stacks: `state` is the flat state dict of one stack, `layers.0.norm1.weight` and so on, with an
# optional final `norm.weight` and `norm.bias`.


def substate(state, prefix):
    """The entries of a flat state dict below `prefix`, with the prefix removed."""
    return {
        name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)
    }


def layer_params(state):
    """One params dict per layer of a stack, in order."""
    layers = []
    while params := substate(state, f"layers.{len(layers)}."):
        layers.append(params)
    return layers


def zero_padding(x, lengths):
    """x (B, T, ...) with zeros, by selection, at positions >= lengths (B,); None is no padding."""
    x = f64(x).copy()
    if lengths is not None:
        for b, length in enumerate(lengths):
            x[b, length:] = 0.0
    return x


def _zero_padded_queries(weights, lengths):
    """Attention weights (B, H, T, S) with zeros in the rows of padded queries."""
    return zero_padding(weights.swapaxes(1, 2), lengths).swapaxes(1, 2)


def encoder(
    state,
    x,
    num_heads,
    *,
    lengths=None,
    mask=None,
    activation="relu",
    norm_first=False,
    layer_norm_eps=1e-5,
    drop=keep,
    return_attention=False,
):
    """All encoder layers, then the final norm if there is one: (B, T, D) -> (B, T, D).

    lengths (B,), mask broadcasting to (B, H, T, T). Padded positions are zero in the output,
    whatever they hold in the input. With return_attention also the list of each layer's weights
    (B, H, T, T), zero in the rows of padded queries.
    """
    x = zero_padding(x, lengths)
    attention = []
    for params in layer_params(state):
        x, weights = encoder_layer(
            params,
            x,
            num_heads,
            activation=activation,
            norm_first=norm_first,
            layer_norm_eps=layer_norm_eps,
            drop=drop,
            return_weights=True,
            lengths=lengths,
            mask=mask,
        )
        attention.append(_zero_padded_queries(weights, lengths))
    if "norm.weight" in state:
        x = _norm(state, "norm", x, layer_norm_eps)
    x = zero_padding(x, lengths)
    return (x, attention) if return_attention else x


def decoder(
    state,
    x,
    memory,
    num_heads,
    *,
    lengths=None,
    memory_lengths=None,
    activation="relu",
    norm_first=False,
    layer_norm_eps=1e-5,
    drop=keep,
    return_attention=False,
):
    """All decoder layers, then the final norm if there is one: (B, T, D) -> (B, T, D).

    memory (B, S, D), lengths and memory_lengths (B,). Padded positions are zero in the output,
    whatever they hold in the input. With return_attention also two lists, each layer's weights of
    self-attention (B, H, T, T) and of cross-attention (B, H, T, S), zero in the rows of padded
    queries.
    """
    x = zero_padding(x, lengths)
    memory = zero_padding(memory, memory_lengths)
    self_attention, cross_attention = [], []
    for params in layer_params(state):
        x, self_weights, cross_weights = decoder_layer(
            params,
            x,
            memory,
            num_heads,
            lengths=lengths,
            memory_lengths=memory_lengths,
            activation=activation,
            norm_first=norm_first,
            layer_norm_eps=layer_norm_eps,
            drop=drop,
            return_weights=True,
        )
        self_attention.append(_zero_padded_queries(self_weights, lengths))
        cross_attention.append(_zero_padded_queries(cross_weights, lengths))
    if "norm.weight" in state:
        x = _norm(state, "norm", x, layer_norm_eps)
    x = zero_padding(x, lengths)
    return (x, self_attention, cross_attention) if return_attention else x


# The whole model.


def transformer(
    state,
    src,
    tgt,
    *,
    num_heads,
    src_lengths=None,
    tgt_lengths=None,
    src_positions=None,
    tgt_positions=None,
    scale_embeddings=True,
    activation="relu",
    norm_first=False,
    layer_norm_eps=1e-5,
    drop=keep,
    return_attention=False,
):
    """Logits of every target position: src (B, S) and tgt (B, T) token ids -> (B, T, V).

        memory = encoder(src_embedding[src] * sqrt(D) + src_positions[:S])
        y      = decoder(tgt_embedding[tgt] * sqrt(D) + tgt_positions[:T], memory)
        logits = y W_output^T + b_output

    state holds `encoder.*`, `decoder.*`, `src_embedding.weight` (V_src, D),
    `tgt_embedding.weight` (V, D), `output_projection.weight` (V, D) and, if there is one,
    `output_projection.bias` (V,). Tied weights may be left out: the target embedding is then the
    source's, the output projection the target embedding. src_positions and tgt_positions are
    tables of at least S and T rows, sinusoidal or learned; None adds none. scale_embeddings says
    whether the factor sqrt(D) is there. drop: dropout in training, on both embeddings too. Logits
    at padded target positions are zero. With return_attention also three lists of weights per
    layer: encoder, decoder self, decoder cross.
    Vaswani et al., 2017, figure 1.
    """
    src, tgt = np.asarray(src), np.asarray(tgt)
    src_table = state["src_embedding.weight"]
    tgt_table = state.get("tgt_embedding.weight", src_table)
    output_weight = state.get("output_projection.weight", tgt_table)
    scale = np.sqrt(src_table.shape[1]) if scale_embeddings else 1.0
    if src_positions is not None:
        src_positions = src_positions[: src.shape[1]]
    if tgt_positions is not None:
        tgt_positions = tgt_positions[: tgt.shape[1]]
    layer_options = {
        "activation": activation,
        "norm_first": norm_first,
        "layer_norm_eps": layer_norm_eps,
        "drop": drop,
        "return_attention": True,
    }

    memory, encoder_attention = encoder(
        substate(state, "encoder."),
        drop(embedding(src, src_table, scale, src_positions)),
        num_heads,
        lengths=src_lengths,
        **layer_options,
    )
    y, self_attention, cross_attention = decoder(
        substate(state, "decoder."),
        drop(embedding(tgt, tgt_table, scale, tgt_positions)),
        memory,
        num_heads,
        lengths=tgt_lengths,
        memory_lengths=src_lengths,
        **layer_options,
    )
    logits = linear(y, output_weight, state.get("output_projection.bias"))
    logits = zero_padding(logits, tgt_lengths)
    if return_attention:
        return logits, encoder_attention, self_attention, cross_attention
    return logits


def greedy(state, src, *, start_id, end_id, max_length, src_lengths=None, **model_options):
    """The most probable next token, again and again: src (B, S) -> one list of ids per sequence.

    Every step runs the whole model on the whole prefix, one sequence at a time. A sequence ends
    before end_id, or with max_length tokens; neither start_id nor end_id is in the result. Of
    equal logits the lowest id wins. model_options are those of `transformer`.
    """
    generated = []
    for b, source in enumerate(np.asarray(src)):
        if src_lengths is not None:
            source = source[: src_lengths[b]]
        prefix = [start_id]
        while len(prefix) <= max_length:
            logits = transformer(state, source[None], np.array([prefix]), **model_options)
            next_id = int(np.argmax(logits[0, -1]))
            if next_id == end_id:
                break
            prefix.append(next_id)
        generated.append(prefix[1:])
    return generated
