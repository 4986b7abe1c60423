"""The float64 reference against PyTorch in float64, and against a model that somebody else trained.

Everything else in this folder trusts reference.py; this file is why. The tables of cases are
checked here too.
"""

import json

import numpy as np
import pytest
import reference
from cases import (
    ACTIVATION_CASES,
    ATTENTION_CASES,
    LINEAR_CASES,
    NORM_CASES,
    SOFTMAX_CASES,
    AttentionCase,
    arrays,
    without_bias,
)
from safetensors.numpy import load_file
from scipy import special


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="needs PyTorch as the oracle of the reference")


@pytest.fixture
def functional(torch):
    return torch.nn.functional


def assert_close(actual, expected, rtol=1e-12, atol=1e-12):
    """Closeness in float64; `expected` may be a torch tensor. NaN equals NaN."""
    expected = np.asarray(expected.detach() if hasattr(expected, "detach") else expected)
    assert actual.dtype == np.float64
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def tensors(torch, inputs):
    """The arrays of a case as torch tensors, floats in float64."""
    return {
        name: torch.from_numpy(a.astype(np.float64) if a.dtype == np.float32 else a)
        for name, a in inputs.items()
    }


# The tables.


@pytest.mark.parametrize(
    "table", [LINEAR_CASES, NORM_CASES, SOFTMAX_CASES, ACTIVATION_CASES, ATTENTION_CASES]
)
def test_cases_are_named_apart_and_reproducible(table):
    names = [str(case) for case in table]
    assert len(set(names)) == len(names)
    first, again, other = (arrays(table[-1], seed) for seed in (1, 1, 2))
    for name, array in first.items():
        assert array.dtype in (np.float32, np.int64, bool)
        np.testing.assert_array_equal(array, again[name])
    assert any(not np.array_equal(array, other[name]) for name, array in first.items())


def test_dimensions_of_a_case_are_distinct():
    for case in LINEAR_CASES:
        assert len({case.m, case.n, case.k}) == 3, case
    for case in (*NORM_CASES, *SOFTMAX_CASES):
        assert case.rows != case.features, case
    for case in ATTENTION_CASES:
        sizes = [case.B, case.H, case.T, case.S, case.K]
        sizes += [size for size in (case.Hkv, case.Kv) if size is not None]
        assert len(set(sizes)) == len(sizes), case


# Operations.


@pytest.mark.parametrize("case", LINEAR_CASES, ids=str)
def test_linear(torch, functional, case):
    inputs = arrays(case)
    expected = functional.linear(*tensors(torch, inputs).values()).numpy()
    expected = reference.ACTIVATIONS[case.activation](expected)
    assert_close(reference.linear(**inputs, **case.options), expected)
    residual = np.ones_like(expected)
    assert_close(reference.linear(**inputs, **case.options, residual=residual), expected + 1)


@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
def test_activations(torch, functional, case):
    x = arrays(case)["x"]
    t = torch.from_numpy(x.astype(np.float64))
    assert_close(reference.relu(x), functional.relu(t))
    assert_close(reference.gelu(x), functional.gelu(t))
    assert_close(reference.gelu_tanh(x), functional.gelu(t, approximate="tanh"))
    assert_close(reference.quick_gelu(x), t * torch.sigmoid(1.702 * t))
    assert_close(reference.silu(x), functional.silu(t))


def test_gelu_keeps_relative_accuracy_in_the_tail():
    x = -np.linspace(0.1, 30.0, num=300)
    assert_close(reference.gelu(x), x * np.exp(special.log_ndtr(x)), atol=0)
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    u = u[u > -300]
    tail = 1 / np.cosh(u) * np.exp(u)  # 1 + tanh(u)
    assert_close(reference.gelu_tanh(x)[: u.size], x[: u.size] / 2 * tail, atol=0)


@pytest.mark.parametrize("case", NORM_CASES, ids=str)
def test_norms(torch, functional, case):
    inputs = arrays(case)
    t = tensors(torch, inputs)
    parameters = t.get("weight"), t.get("bias")
    size = (case.features,)
    # Centring 10,000 costs PyTorch, too, four of the sixteen digits; the spread costs three more.
    rtol = 1e-7 if case.data == "offset" else 1e-11
    expected = functional.layer_norm(t["x"], size, *parameters, eps=case.eps or 1e-5)
    assert_close(reference.layer_norm(**inputs, **case.options), expected, rtol, rtol)
    expected = functional.rms_norm(t["x"], size, t.get("weight"), eps=case.eps or 1e-6)
    assert_close(reference.rms_norm(**without_bias(inputs), **case.options), expected)


@pytest.mark.parametrize("case", SOFTMAX_CASES, ids=str)
def test_softmax(torch, functional, case):
    x = arrays(case)["x"]
    t = torch.from_numpy(x.astype(np.float64))
    assert_close(reference.softmax(x), functional.softmax(t, dim=-1))
    assert_close(reference.log_softmax(x), functional.log_softmax(t, dim=-1))


# Attention.


def may_attend(case, inputs):
    """The rule of `reference.may_attend`, written a second time, without its loops."""
    i = np.arange(case.T)[:, None]
    j = np.arange(case.S)
    p = i + np.asarray(inputs.get("query_offset", case.query_offset)).reshape(-1, 1, 1, 1)
    left, right = (np.inf if side is None else side for side in case.window or (None, None))
    allowed = (j >= p - left) & (j <= p + right)
    if case.is_causal:
        allowed = allowed & (j <= p)
    if case.lengths is not None:
        allowed = allowed & (j < np.reshape(case.lengths, (-1, 1, 1, 1)))
    if case.mask == "bool":
        allowed = allowed & inputs["mask"]
    elif case.mask is not None:
        allowed = allowed & ~np.isneginf(inputs["mask"])
    return np.broadcast_to(allowed, (case.B, case.H, case.T, case.S))


def whole_matrix_attention(torch, case, inputs, added):
    """softmax(cap(scale * Q K^T) + added) V on whole matrices; rows all -infinity give zeros."""
    t = tensors(torch, inputs)
    groups = case.H // case.kv_heads
    key, value = (t[name].repeat_interleave(groups, dim=1) for name in ("key", "value"))
    scale = case.K**-0.5 if case.scale is None else case.scale
    scores = torch.einsum("bhik,bhjk->bhij", t["query"], key) * scale
    if case.softcap is not None:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    weights = torch.softmax(scores + added, dim=-1).nan_to_num(0.0)
    return torch.einsum("bhij,bhjv->bhiv", weights, value), weights


CLEAN_CASES = [case for case in ATTENTION_CASES if not case.poison]
POISONED_CASES = [case for case in ATTENTION_CASES if case.poison]


@pytest.mark.parametrize("case", CLEAN_CASES, ids=str)
def test_attention(torch, functional, case):
    inputs = arrays(case)
    allowed = may_attend(case, inputs)
    added = np.where(allowed, 0.0, -np.inf)
    if case.mask in ("float", "lowest"):
        added = added + inputs["mask"].astype(np.float64)
    added = torch.from_numpy(added)

    output, weights = reference.scaled_dot_product_attention(
        **inputs, **case.options, return_weights=True
    )
    expected, expected_weights = whole_matrix_attention(torch, case, inputs, added)
    assert_close(output, expected, atol=1e-11)
    assert_close(weights, expected_weights, atol=1e-11)
    assert not output[~allowed.any(axis=-1)].any()

    if case.softcap is None:
        t = tensors(torch, inputs)
        peer = functional.scaled_dot_product_attention(
            t["query"],
            t["key"],
            t["value"],
            attn_mask=added,
            scale=case.scale,
            enable_gqa=case.kv_heads != case.H,
        )
        assert_close(output, peer, atol=1e-11)


@pytest.mark.parametrize("case", POISONED_CASES, ids=str)
def test_what_sits_in_a_masked_slot_cannot_reach_an_output(case):
    poisoned = arrays(case)
    clean = {name: np.nan_to_num(a, posinf=0.0, neginf=-np.inf) for name, a in poisoned.items()}
    output, weights = reference.scaled_dot_product_attention(
        **poisoned, **case.options, return_weights=True
    )
    expected = reference.scaled_dot_product_attention(**clean, **case.options)
    sees_poison = may_attend(case, poisoned)[..., list(case.poison)].any(axis=-1)
    assert not sees_poison.all()
    np.testing.assert_array_equal(output[~sees_poison], expected[~sees_poison])
    assert np.isnan(output[sees_poison]).all()
    assert np.isfinite(weights[~sees_poison]).all()


def test_nan_in_a_query_shows_unless_it_may_attend_to_nothing():
    inputs = arrays(AttentionCase(lengths=(0, 19)))
    inputs["query"][:, :, 4, 0] = np.nan
    output = reference.scaled_dot_product_attention(**inputs)
    assert not output[0].any()
    assert np.isnan(output[1, :, 4]).all()
    assert np.isfinite(np.delete(output[1], 4, axis=1)).all()


def test_the_worked_example_of_the_explain_command():
    x = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]])
    w_k = np.array([[0.1, 0.3, 0.5], [0.2, 0.4, 0.6], [0.3, 0.5, 0.7]])
    q, k = x @ x, x @ w_k
    z = reference.scaled_dot_product_attention(q[None, None], k[None, None], q[None, None])
    expected = [[0.7163, 0.8804, 1.0445], [0.7829, 0.9636, 1.1443], [0.8402, 1.0353, 1.2304]]
    np.testing.assert_allclose(z[0, 0], expected, atol=5e-5)


# Embeddings and positions.


def test_embedding(torch, functional):
    rng = np.random.default_rng(0)
    table, positions = rng.normal(size=(17, 5)), rng.normal(size=(3, 5))
    ids = np.array([[0, 16, 4], [4, 1, 1]])
    looked_up = functional.embedding(torch.from_numpy(ids), torch.from_numpy(table))
    assert_close(reference.embedding(ids, table), looked_up)
    expected = looked_up.numpy() * 2.5 + positions
    assert_close(reference.embedding(ids, table, 2.5, positions), expected)


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
@pytest.mark.parametrize("frequencies", ["paper", "tensor2tensor"])
@pytest.mark.parametrize(("d_model", "start"), [(2, 0), (10, 0), (10, 3), (32, 1)])
def test_sinusoidal_positions(d_model, start, layout, frequencies):
    table = reference.sinusoidal_positions(7, d_model, start, layout, frequencies)
    assert table.shape == (7, d_model)
    half = d_model // 2
    for row, i in np.ndindex(7, half):
        if frequencies == "paper":
            angle = (row + start) / 10000 ** (2 * i / d_model)
        else:
            angle = (row + start) / 10000 ** (i / (half - 1) if half > 1 else 0)
        sine, cosine = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, half + i)
        assert table[row, sine] == pytest.approx(np.sin(angle), abs=1e-12)
        assert table[row, cosine] == pytest.approx(np.cos(angle), abs=1e-12)


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_rotary_is_a_product_of_complex_numbers(torch, base):
    rng = np.random.default_rng(0)
    x, positions = rng.normal(size=(2, 3, 7, 10)), np.arange(4, 11)
    angles = np.outer(positions, [base ** -(i / 5) for i in range(5)])
    turns = torch.polar(torch.ones(7, 5).double(), torch.from_numpy(angles))
    pairs = torch.view_as_complex(torch.from_numpy(x.reshape(2, 3, 7, 5, 2)))
    expected = torch.view_as_real(pairs * turns).numpy().reshape(x.shape)
    assert_close(reference.rotary(x, positions, base=base, pairing="interleaved"), expected)
    apart = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    assert_close(reference.rotary(x[..., apart], positions, base=base), expected[..., apart])


def test_rotary_turns_the_first_values_only():
    rng = np.random.default_rng(0)
    x, positions = rng.normal(size=(2, 7, 10)), rng.integers(0, 50, (2, 7))
    turned = reference.rotary(x, positions, size=6)
    assert_close(turned[..., :6], reference.rotary(x[..., :6], positions))
    np.testing.assert_array_equal(turned[..., 6:], x[..., 6:])
    assert_close(turned[1], reference.rotary(x[1], positions[1], size=6))


# Layers, stacks and the model.

B, S, T, D, H, F = 3, 7, 5, 24, 4, 40
SRC_LENGTHS, TGT_LENGTHS = np.array([7, 4, 1]), np.array([2, 5, 3])

each_kind_of_layer = pytest.mark.parametrize(
    "layer_options",
    [
        {"norm_first": norm_first, "activation": activation, "layer_norm_eps": eps}
        for norm_first in (False, True)
        for activation, eps in (("relu", 1e-5), ("gelu", 1e-3))
    ],
    ids=str,
)


def randomised(torch, module, seed=0):
    """The module in float64 and evaluation mode, every parameter random, and its state dict."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            spread = 0.3 if parameter.dim() > 1 else 0.1
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.normal_(centre, spread, generator=generator)
    return module, {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def random_input(torch, *shape):
    return torch.from_numpy(np.random.default_rng(len(shape) + sum(shape)).normal(size=shape))


def padding_mask(torch, lengths, size):
    """PyTorch's key_padding_mask: True where a key is padding."""
    return torch.arange(size) >= torch.from_numpy(lengths)[:, None]


def causal_mask(torch, size):
    """PyTorch's sense of a boolean mask in torch.nn modules: True may not be attended to."""
    return torch.ones(size, size, dtype=torch.bool).triu(1)


def real_positions(lengths, size):
    return np.arange(size) < lengths[:, None]


@pytest.mark.parametrize("bias", [True, False])
def test_multihead_attention(torch, bias):
    module, state = randomised(
        torch, torch.nn.MultiheadAttention(D, H, bias=bias, batch_first=True)
    )
    x, memory = random_input(torch, B, T, D), random_input(torch, B, S, D)
    expected, expected_weights = module(
        x,
        memory,
        memory,
        key_padding_mask=padding_mask(torch, SRC_LENGTHS, S),
        average_attn_weights=False,
    )
    output, weights = reference.multihead_attention(
        x,
        memory,
        state["in_proj_weight"],
        state.get("in_proj_bias"),
        state["out_proj.weight"],
        state.get("out_proj.bias"),
        H,
        lengths=SRC_LENGTHS,
        return_weights=True,
    )
    assert_close(output, expected)
    assert_close(weights, expected_weights)


def test_multihead_attention_with_key_and_value_widths_of_their_own(torch):
    key_width, value_width = 10, 14
    module, state = randomised(
        torch,
        torch.nn.MultiheadAttention(D, H, kdim=key_width, vdim=value_width, batch_first=True),
    )
    x = random_input(torch, B, T, D)
    x_key, x_value = random_input(torch, B, S, key_width), random_input(torch, B, S, value_width)
    expected, _ = module(x, x_key, x_value)
    output = reference.multihead_attention_of_widths(
        x,
        x_key,
        x_value,
        state["q_proj_weight"],
        state["k_proj_weight"],
        state["v_proj_weight"],
        state["in_proj_bias"],
        state["out_proj.weight"],
        state["out_proj.bias"],
        H,
    )
    assert_close(output, expected)


def test_multihead_attention_splits_grouped_heads_and_both_head_widths():
    rng = np.random.default_rng(0)
    kv_heads, key_width, value_width = 2, 5, 3
    x = rng.normal(size=(1, T, D))
    q_weight = rng.normal(size=(H * key_width, D))
    k_weight = rng.normal(size=(kv_heads * key_width, D))
    v_weight = rng.normal(size=(kv_heads * value_width, D))
    output = reference.multihead_attention_of_widths(
        x, x, x, q_weight, k_weight, v_weight, None, np.eye(H * value_width), None, H
    )
    for h in range(H):
        g = h // 2
        q = x[0] @ q_weight[h * key_width : (h + 1) * key_width].T
        k = x[0] @ k_weight[g * key_width : (g + 1) * key_width].T
        v = x[0] @ v_weight[g * value_width : (g + 1) * value_width].T
        expected = reference.softmax(q @ k.T / np.sqrt(key_width)) @ v
        assert_close(output[0, :, h * value_width : (h + 1) * value_width], expected)


@each_kind_of_layer
@pytest.mark.parametrize("bias", [True, False])
def test_encoder_layer(torch, layer_options, bias):
    module, params = randomised(
        torch,
        torch.nn.TransformerEncoderLayer(
            D, H, F, dropout=0.0, batch_first=True, bias=bias, **layer_options
        ),
    )
    x = random_input(torch, B, S, D)
    expected = module(x, src_key_padding_mask=padding_mask(torch, SRC_LENGTHS, S))
    real = real_positions(SRC_LENGTHS, S)
    output = reference.encoder_layer(params, x, H, lengths=SRC_LENGTHS, **layer_options)
    assert_close(output[real], expected[real])

    expected = module(x, src_mask=causal_mask(torch, S))
    assert_close(reference.encoder_layer(params, x, H, is_causal=True, **layer_options), expected)


@each_kind_of_layer
@pytest.mark.parametrize("bias", [True, False])
def test_decoder_layer(torch, layer_options, bias):
    module, params = randomised(
        torch,
        torch.nn.TransformerDecoderLayer(
            D, H, F, dropout=0.0, batch_first=True, bias=bias, **layer_options
        ),
    )
    x, memory = random_input(torch, B, T, D), random_input(torch, B, S, D)
    expected = module(
        x,
        memory,
        tgt_mask=causal_mask(torch, T),
        tgt_key_padding_mask=padding_mask(torch, TGT_LENGTHS, T),
        memory_key_padding_mask=padding_mask(torch, SRC_LENGTHS, S),
    )
    output = reference.decoder_layer(
        params,
        x,
        memory,
        H,
        lengths=TGT_LENGTHS,
        memory_lengths=SRC_LENGTHS,
        **layer_options,
    )
    real = real_positions(TGT_LENGTHS, T)
    assert_close(output[real], expected[real])


@each_kind_of_layer
@pytest.mark.parametrize("final_norm", [False, True])
def test_encoder(torch, layer_options, final_norm):
    layer = torch.nn.TransformerEncoderLayer(
        D, H, F, dropout=0.0, batch_first=True, **layer_options
    )
    norm = torch.nn.LayerNorm(D, eps=layer_options["layer_norm_eps"]) if final_norm else None
    module, state = randomised(
        torch, torch.nn.TransformerEncoder(layer, 3, norm=norm, enable_nested_tensor=False)
    )
    x = random_input(torch, B, S, D)
    expected = module(x, src_key_padding_mask=padding_mask(torch, SRC_LENGTHS, S))
    real = real_positions(SRC_LENGTHS, S)
    x[~real] = np.nan
    output, attention = reference.encoder(
        state, x, H, lengths=SRC_LENGTHS, return_attention=True, **layer_options
    )
    assert_close(output[real], expected[real])
    assert not output[~real].any()
    assert [weights.shape for weights in attention] == [(B, H, S, S)] * 3
    for weights in attention:
        rows = np.broadcast_to(real[:, None, :], (B, H, S))
        np.testing.assert_allclose(weights.sum(axis=-1), rows, atol=1e-12)

    mask = random_input(torch, S, S) > -0.5
    mask[:, 0] = True
    expected = module(x.nan_to_num(0.5), mask=~mask)
    output = reference.encoder(state, x.nan_to_num(0.5), H, mask=mask.numpy(), **layer_options)
    assert_close(output, expected)


# PyTorch says that pre-norm layers do not use its nested tensors.
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@each_kind_of_layer
def test_transformer_and_greedy(torch, layer_options):
    src_vocabulary, tgt_vocabulary, num_layers = 19, 23, 2
    stacks, stacks_state = randomised(
        torch,
        torch.nn.Transformer(
            D, H, num_layers, num_layers, F, dropout=0.0, batch_first=True, **layer_options
        ),
    )
    rng = np.random.default_rng(0)
    state = {
        **stacks_state,
        "src_embedding.weight": rng.normal(size=(src_vocabulary, D)) / 5,
        "tgt_embedding.weight": rng.normal(size=(tgt_vocabulary, D)) / 5,
        "output_projection.weight": rng.normal(size=(tgt_vocabulary, D)),
        "output_projection.bias": rng.normal(size=(tgt_vocabulary,)),
    }
    src = rng.integers(src_vocabulary, size=(B, S))
    tgt = rng.integers(tgt_vocabulary, size=(B, T))
    positions = reference.sinusoidal_positions(12, D)
    hidden = stacks(
        torch.from_numpy(state["src_embedding.weight"][src] * D**0.5 + positions[:S]),
        torch.from_numpy(state["tgt_embedding.weight"][tgt] * D**0.5 + positions[:T]),
        tgt_mask=causal_mask(torch, T),
        src_key_padding_mask=padding_mask(torch, SRC_LENGTHS, S),
        memory_key_padding_mask=padding_mask(torch, SRC_LENGTHS, S),
    )
    expected = hidden.detach().numpy() @ state["output_projection.weight"].T
    expected += state["output_projection.bias"]

    model_options = {
        **layer_options,
        "num_heads": H,
        "src_positions": positions,
        "tgt_positions": positions,
    }
    logits, encoder_attention, self_attention, cross_attention = reference.transformer(
        state,
        src,
        tgt,
        src_lengths=SRC_LENGTHS,
        tgt_lengths=TGT_LENGTHS,
        return_attention=True,
        **model_options,
    )
    real = real_positions(TGT_LENGTHS, T)
    assert_close(logits[real], expected[real], atol=1e-11)
    assert not logits[~real].any()
    assert [w.shape for w in encoder_attention] == [(B, H, S, S)] * num_layers
    assert [w.shape for w in self_attention] == [(B, H, T, T)] * num_layers
    assert [w.shape for w in cross_attention] == [(B, H, T, S)] * num_layers

    # A greedy token is the best one after the tokens before it; the end is never part of them.
    start_id, end_id, max_length = 1, 2, 6
    generated = reference.greedy(
        state,
        src,
        start_id=start_id,
        end_id=end_id,
        max_length=max_length,
        src_lengths=SRC_LENGTHS,
        **model_options,
    )
    for b, ids in enumerate(generated):
        prefix = np.array([[start_id, *ids]])
        source = src[b : b + 1, : SRC_LENGTHS[b]]
        best = reference.transformer(state, source, prefix, **model_options)[0].argmax(axis=-1)
        np.testing.assert_array_equal(best[: len(ids)], ids)
        assert end_id not in ids
        assert len(ids) == max_length or best[len(ids)] == end_id


def test_transformer_with_tied_embeddings(torch):
    _, state = randomised(torch, torch.nn.Transformer(D, H, 1, 1, F, batch_first=True))
    table = np.random.default_rng(0).normal(size=(19, D))
    tgt = np.array([[1, 5, 4]])
    src = np.array([[3, 18]])
    spelled_out = {
        **state,
        "src_embedding.weight": table,
        "tgt_embedding.weight": table,
        "output_projection.weight": table,
    }
    tied = {**state, "src_embedding.weight": table}
    assert_close(
        reference.transformer(tied, src, tgt, num_heads=H),
        reference.transformer(spelled_out, src, tgt, num_heads=H),
    )


# The trained model.


@pytest.fixture(scope="module")
def aren(shared_data):
    """The weights, vocabularies, model options and examples of a real transliterator."""
    folder = shared_data / "aren"
    positions = reference.sinusoidal_positions(
        64, 32, start=1, layout="halves", frequencies="tensor2tensor"
    )
    options = {
        "num_heads": 8,
        "norm_first": True,
        "src_positions": positions,
        "tgt_positions": positions,
    }
    src_tokens, tgt_tokens = (
        (folder / f"{side}_vocabulary.txt").read_text(encoding="utf-8").splitlines()
        for side in ("source", "target")
    )
    examples = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    return load_file(folder / "model.safetensors"), options, src_tokens, tgt_tokens, examples


def test_aren_scores(aren):
    state, options, src_tokens, tgt_tokens, examples = aren
    for example in examples["scoring"]:
        if not example["src"]:
            continue  # the original project defines the score of an empty source as 0
        src = np.array([[src_tokens.index(token) for token in example["src"]]])
        tgt = [tgt_tokens.index(token) for token in ("<s>", *example["tgt"], "</s>")]
        logits = reference.transformer(state, src, np.array([tgt[:-1]]), **options)
        scores = reference.log_softmax(logits)[0, np.arange(len(tgt) - 1), tgt[1:]]
        np.testing.assert_allclose(
            scores, example["token_logprobs"], rtol=0, atol=examples["scoring_abs_tol"]
        )


def test_aren_greedy(aren):
    state, options, src_tokens, tgt_tokens, examples = aren
    for example in examples["translate"]:
        src = np.array([[src_tokens.index(token) for token in example["src"]]])
        (ids,) = reference.greedy(
            state,
            src,
            start_id=tgt_tokens.index("<s>"),
            end_id=tgt_tokens.index("</s>"),
            max_length=30,
            **options,
        )
        assert "".join(tgt_tokens[i] for i in ids) == example["out"]
