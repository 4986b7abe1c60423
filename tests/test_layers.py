"""Each layer against float64, and what all layers share: parameters, their files and copies."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import reference
from cases import normal
from models import assert_close, assert_same_bits, randomised

import pyx_transformer as pt
from pyx_transformer import _runtime

ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "quick_gelu", "silu")


# Against the reference.


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("leading", [(), (5,), (3, 5), (2, 3, 5), (0,), (3, 0)], ids=str)
def test_linear(activation, bias, leading, rng):
    layer = randomised(pt.Linear(29, 43, bias=bias))
    x = normal(rng, *leading, 29)
    expected = reference.linear(x, layer.weight, layer.bias, activation)
    assert_close(layer(x, activation=activation), expected)


def test_linear_shows_its_parameters(rng):
    layer = pt.Linear(29, 43)
    weight, bias = normal(rng, 43, 29), normal(rng, 43)
    layer.load_state_dict({"weight": weight, "bias": bias})
    assert_same_bits(layer.weight, weight)
    assert_same_bits(layer.bias, bias)
    assert pt.Linear(29, 43, bias=False).bias is None


@pytest.mark.parametrize("shape", [(), (7,), (3, 7), (0,), (3, 0)], ids=str)
def test_embedding(shape, rng):
    layer = pt.Embedding(19, 13, rng=0)
    ids = rng.integers(0, 19, shape)
    assert_same_bits(layer(ids), layer.weight[ids])


@pytest.mark.parametrize("eps", (1e-5, 0.5))
@pytest.mark.parametrize("leading", [(), (5,), (3, 5), (0,)], ids=str)
def test_layer_norm(eps, leading, rng):
    layer = randomised(pt.LayerNorm(29, eps=eps))
    x = normal(rng, *leading, 29)
    assert_close(layer(x), reference.layer_norm(x, layer.weight, layer.bias, eps))


@pytest.mark.parametrize("eps", (1e-6, 0.5))
@pytest.mark.parametrize("leading", [(), (5,), (3, 5), (0,)], ids=str)
def test_rms_norm(eps, leading, rng):
    layer = randomised(pt.RMSNorm(29, eps=eps))
    x = normal(rng, *leading, 29)
    assert_close(layer(x), reference.rms_norm(x, layer.weight, eps))


def test_the_usual_epsilons():
    assert pt.LayerNorm(4).eps == 1e-5
    assert pt.RMSNorm(4).eps == 1e-6


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("leading", [(), (3, 5), (3, 0)], ids=str)
def test_feed_forward(activation, leading, rng):
    layer = randomised(pt.FeedForward(29, 43, activation=activation))
    x = normal(rng, *leading, 29)
    assert_close(layer(x), reference.feed_forward(x, *layer.state_dict().values(), activation))


def test_feed_forward_is_relu_unless_told_otherwise(rng):
    layer = randomised(pt.FeedForward(29, 43))
    x = normal(rng, 3, 29)
    assert_close(layer(x), reference.feed_forward(x, *layer.state_dict().values(), "relu"))


# Multi-head attention: B 2, T 7, S 11, d_model 24 in 3 heads.


def attention_options(rng, length, source):
    """Every kind of mask by name, for 2 sequences and 3 heads."""
    attend = rng.random((2, 3, length, source)) < 0.6
    attend[1, :, 2] = False
    scores = np.where(attend, normal(rng, *attend.shape), np.float32(-np.inf))
    return {
        "plain": {},
        "bool mask": {"mask": attend},
        "float mask": {"mask": scores},
        "shared mask": {"mask": attend[0, 0]},
        "lengths": {"lengths": np.array([source - 2, 0])},
        "causal": {"is_causal": True},
        "offset": {"is_causal": True, "query_offset": 2},
        "offsets": {"is_causal": True, "query_offset": np.array([-3, 4])},
        "all": {
            "mask": scores,
            "lengths": np.array([source - 1, source]),
            "is_causal": True,
            "query_offset": np.array([3, 0]),
        },
    }


OPTION_NAMES = list(attention_options(np.random.default_rng(0), 7, 11))


@pytest.mark.parametrize("options", OPTION_NAMES)
@pytest.mark.parametrize("to", ("itself", "a memory"))
def test_multihead_attention(to, options, rng):
    layer = randomised(pt.MultiheadAttention(24, 3))
    query = normal(rng, 2, 7, 24)
    memory = query if to == "itself" else normal(rng, 2, 11, 24)
    options = attention_options(rng, 7, memory.shape[1])[options]
    arguments = [query] if to == "itself" else [query, memory]
    expected, expected_weights = reference.multihead_attention(
        query, memory, *layer.state_dict().values(), num_heads=3, return_weights=True, **options
    )
    output, weights = layer(*arguments, **options, return_weights=True)
    assert_close(output, expected)
    assert_close(weights, expected_weights)
    assert_same_bits(layer(*arguments, **options), output)


@pytest.mark.parametrize("options", OPTION_NAMES)
@pytest.mark.parametrize("widths", [(24, 17), (31, 24), (31, 17), (17, 17)], ids=str)
def test_multihead_attention_of_other_widths(widths, options, rng):
    kdim, vdim = widths
    layer = randomised(pt.MultiheadAttention(24, 3, kdim=kdim, vdim=vdim))
    query, key, value = normal(rng, 2, 7, 24), normal(rng, 2, 11, kdim), normal(rng, 2, 11, vdim)
    options = attention_options(rng, 7, 11)[options]
    expected, expected_weights = reference.multihead_attention_of_widths(
        query,
        key,
        value,
        *layer.state_dict().values(),
        num_heads=3,
        return_weights=True,
        **options,
    )
    output, weights = layer(query, key, value, **options, return_weights=True)
    assert_close(output, expected)
    assert_close(weights, expected_weights)
    assert_same_bits(layer(query, key, value, **options), output)


def test_the_memory_is_the_value_unless_one_is_given(rng):
    layer = randomised(pt.MultiheadAttention(24, 3, kdim=17, vdim=17))
    query, memory, value = normal(rng, 2, 7, 24), normal(rng, 2, 11, 17), normal(rng, 2, 11, 17)
    assert_same_bits(layer(query, memory), layer(query, memory, memory))
    assert not np.array_equal(layer(query, memory), layer(query, memory, value))


def test_attention_to_nothing_leaves_the_bias(rng):
    layer = randomised(pt.MultiheadAttention(24, 3))
    query, empty = normal(rng, 2, 7, 24), np.empty((2, 0, 24), np.float32)
    bias = layer.state_dict()["out_proj.bias"]
    for output in layer(query, empty), layer(query, lengths=[0, 0]):
        assert_same_bits(output, np.broadcast_to(bias, (2, 7, 24)))


@pytest.mark.parametrize("filler", (np.nan, np.inf, 1e38))
def test_padded_keys_and_values_do_not_matter(filler, rng):
    layer = randomised(pt.MultiheadAttention(24, 3, kdim=17, vdim=31))
    query, key, value = normal(rng, 2, 7, 24), normal(rng, 2, 11, 17), normal(rng, 2, 11, 31)
    lengths = [4, 9]
    expected, expected_weights = layer(query, key, value, lengths=lengths, return_weights=True)
    for b, length in enumerate(lengths):
        key[b, length:] = value[b, length:] = filler
    output, weights = layer(query, key, value, lengths=lengths, return_weights=True)
    assert_same_bits(output, expected)
    assert_same_bits(weights, expected_weights)


# What all layers share. Each is built from a seed, and called with one array.

CONFIG = pt.TransformerConfig(
    src_vocab_size=23,
    tgt_vocab_size=19,
    d_model=8,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=2,
    d_ff=13,
)
LAYERS = {
    "Linear": lambda rng: pt.Linear(8, 5, rng=rng),
    "Linear without bias": lambda rng: pt.Linear(8, 5, bias=False, rng=rng),
    "Embedding": lambda rng: pt.Embedding(19, 8, rng=rng),
    "LayerNorm": lambda rng: pt.LayerNorm(8),
    "RMSNorm": lambda rng: pt.RMSNorm(8),
    "FeedForward": lambda rng: pt.FeedForward(8, 13, rng=rng),
    "MultiheadAttention": lambda rng: pt.MultiheadAttention(8, 2, rng=rng),
    "MultiheadAttention of widths": lambda rng: pt.MultiheadAttention(
        8, 2, kdim=5, vdim=7, rng=rng
    ),
    "TransformerEncoder": lambda rng: pt.TransformerEncoder(2, 8, 2, 13, final_norm=True, rng=rng),
    "TransformerDecoder": lambda rng: pt.TransformerDecoder(2, 8, 2, 13, norm_first=True, rng=rng),
    "Transformer": lambda rng: pt.Transformer(CONFIG, rng=rng),
}
SHAPES = {
    "Linear": {"weight": (5, 8), "bias": (5,)},
    "Linear without bias": {"weight": (5, 8)},
    "Embedding": {"weight": (19, 8)},
    "LayerNorm": {"weight": (8,), "bias": (8,)},
    "RMSNorm": {"weight": (8,)},
    "FeedForward": {
        "linear1.weight": (13, 8),
        "linear1.bias": (13,),
        "linear2.weight": (8, 13),
        "linear2.bias": (8,),
    },
    "MultiheadAttention": {
        "in_proj_weight": (24, 8),
        "in_proj_bias": (24,),
        "out_proj.weight": (8, 8),
        "out_proj.bias": (8,),
    },
    "MultiheadAttention of widths": {
        "q_proj_weight": (8, 8),
        "k_proj_weight": (8, 5),
        "v_proj_weight": (8, 7),
        "in_proj_bias": (24,),
        "out_proj.weight": (8, 8),
        "out_proj.bias": (8,),
    },
}
RANDOM = [name for name in LAYERS if not name.endswith("Norm")]
each_layer = pytest.mark.parametrize("name", LAYERS)


def built(name, seed=0):
    return LAYERS[name](seed)


def called(layer):
    """What the layer makes of some fixed input."""
    rng = np.random.default_rng(1)
    if isinstance(layer, pt.Transformer):
        return layer(rng.integers(0, 23, (2, 5)), rng.integers(0, 19, (2, 3)))
    if isinstance(layer, pt.Embedding):
        return layer(rng.integers(0, 19, (2, 5)))
    x = normal(rng, 2, 5, 8)
    if isinstance(layer, pt.TransformerDecoder):
        return layer(x, normal(rng, 2, 7, 8))
    if isinstance(layer, pt.MultiheadAttention):
        return layer(x, normal(rng, 2, 3, layer.kdim), normal(rng, 2, 3, layer.vdim))
    return layer(x)


def assert_same_state(actual, expected):
    assert list(actual) == list(expected)
    for key, array in expected.items():
        assert_same_bits(actual[key], array)


@pytest.mark.parametrize("name", SHAPES)
def test_names_and_shapes_of_parameters(name):
    assert {key: a.shape for key, a in built(name).state_dict().items()} == SHAPES[name]


@each_layer
def test_num_parameters(name):
    layer = built(name)
    assert layer.num_parameters == sum(array.size for array in layer.state_dict().values())
    assert type(layer.num_parameters) is int


@each_layer
def test_state_dicts_go_round(name):
    source, other = randomised(built(name)), randomised(built(name, seed=1), seed=1)
    assert not np.array_equal(called(other), called(source))
    other.load_state_dict(source.state_dict())
    assert_same_state(other.state_dict(), source.state_dict())
    assert_same_bits(called(other), called(source))


@each_layer
def test_a_state_dict_is_a_copy(name):
    layer = randomised(built(name))
    state, expected = layer.state_dict(), called(layer)
    for array in state.values():
        array[...] = 7
    assert_same_bits(called(layer), expected)


@each_layer
def test_loaded_arrays_are_copied(name):
    layer = built(name)
    state = randomised(built(name)).state_dict()
    before = copy.deepcopy(state)
    layer.load_state_dict(state)
    expected = called(layer)
    assert_same_state(state, before)
    for array in state.values():
        array[...] = 7
    assert_same_bits(called(layer), expected)
    assert_same_state(layer.state_dict(), before)


@each_layer
def test_any_real_numbers_in_any_layout_are_loaded(name):
    layer = built(name)
    state = {key: np.round(4 * a) + 0 for key, a in randomised(built(name)).state_dict().items()}
    conversions = (
        lambda a: a.astype(np.float16),
        lambda a: a.astype(np.int8),
        lambda a: a.astype(">f8"),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        np.ndarray.tolist,
    )
    for convert in conversions:
        randomised(layer, seed=2)
        layer.load_state_dict({key: convert(array) for key, array in state.items()})
        assert_same_state(layer.state_dict(), state)


@each_layer
def test_one_error_lists_all_that_does_not_fit(name):
    layer = randomised(built(name))
    before, expected = layer.state_dict(), called(layer)
    first, *others = before
    state = {key: before[key] + 1 for key in others}
    wrong = []
    if others:  # the first one is missing, the second misshapen
        state[others[0]] = np.zeros((3, *before[others[0]].shape), np.float32)
        wrong = [f"{others[0]} is {state[others[0]].shape}, expected {before[others[0]].shape}"]
    state |= {"surplus": np.zeros(2), "layers.9.bias": np.zeros(2)}
    with pytest.raises(ValueError) as error:
        layer.load_state_dict(state)
    parts = [f"missing: {first}", "unexpected: layers.9.bias, surplus"]
    if wrong:
        parts.append(f"misshapen: {wrong[0]}")
    assert str(error.value) == f"{type(layer).__name__}.load_state_dict: {'; '.join(parts)}"
    assert_same_state(layer.state_dict(), before)
    assert_same_bits(called(layer), expected)


def test_every_misshapen_key_is_listed():
    layer = pt.FeedForward(8, 13)
    with pytest.raises(ValueError) as error:
        layer.load_state_dict({key: np.zeros((2, 2)) for key in layer.state_dict()})
    assert str(error.value) == (
        "FeedForward.load_state_dict: misshapen: linear1.bias is (2, 2), expected (13,), "
        "linear1.weight is (2, 2), expected (13, 8), linear2.bias is (2, 2), expected (8,), "
        "linear2.weight is (2, 2), expected (8, 13)"
    )


def test_the_argument_that_a_key_depends_on_is_named():
    def stack(**changes):
        return pt.TransformerEncoder(1, 8, 2, 16, **changes)

    with pytest.raises(ValueError, match=r"; norm.weight is there with final_norm=True$"):
        stack().load_state_dict(stack(final_norm=True).state_dict())
    with pytest.raises(ValueError, match=r"; norm.weight is not there with final_norm=False$"):
        stack(final_norm=True).load_state_dict(stack().state_dict())

    def model(**changes):
        return pt.Transformer(pt.TransformerConfig(9, 9, d_model=8, **changes), rng=0)

    with pytest.raises(ValueError, match=r"; decoder.norm.weight is there with final_norm=True"):
        model().load_state_dict(model(final_norm=True).state_dict())
    with pytest.raises(ValueError, match=r"; output_projection.bias is .* output_bias=False$"):
        model().load_state_dict(model(output_bias=False).state_dict())


@each_layer
def test_parameters_are_real_numbers(name):
    layer = randomised(built(name))
    before = layer.state_dict()
    last = list(before)[-1]
    for value in (before[last].astype(complex), before[last].astype(object), None, "a word"):
        with pytest.raises(TypeError) as error:
            layer.load_state_dict({key: a + 1 for key, a in before.items()} | {last: value})
        assert str(error.value).startswith(f"{type(layer).__name__}.load_state_dict: {last} ")
        assert_same_state(layer.state_dict(), before)


@each_layer
@pytest.mark.parametrize("state", [None, [], ["weight"], 3, "weight", np.zeros(3)], ids=repr)
def test_a_state_is_a_mapping_of_names(name, state):
    layer = built(name)
    who = f"{type(layer).__name__}.load_state_dict"
    with pytest.raises(TypeError, match=rf"^{who}: state is .*, expected a mapping"):
        layer.load_state_dict(state)


@each_layer
def test_keys_that_are_no_names(name):
    layer = built(name)
    with pytest.raises(ValueError, match=r"load_state_dict: unexpected: 5, surplus$"):
        layer.load_state_dict(layer.state_dict() | {"surplus": 1, 5: 1})


# Copies and pickles.

COPIES = {
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "oldest pickle": lambda layer: pickle.loads(pickle.dumps(layer, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@each_layer
@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_the_same(name, kind):
    layer = randomised(built(name))
    again = COPIES[kind](layer)
    assert type(again) is type(layer)
    assert again.num_parameters == layer.num_parameters
    assert_same_state(again.state_dict(), layer.state_dict())
    assert_same_bits(called(again), called(layer))


@each_layer
@pytest.mark.parametrize("kind", ["pickle", "deepcopy"])
def test_copies_are_apart(name, kind):
    layer = randomised(built(name))
    expected = called(layer)
    randomised(COPIES[kind](layer), seed=1)
    assert_same_bits(called(layer), expected)
    again = COPIES[kind](layer)
    randomised(layer, seed=1)
    assert_same_bits(called(again), expected)


@pytest.mark.parametrize(
    "layer",
    [
        pt.Linear(64, 65),
        pt.Embedding(99, 64),
        pt.LayerNorm(5000),
        pt.RMSNorm(5000),
        pt.FeedForward(64, 65),
        pt.MultiheadAttention(64, 2),
        pt.TransformerEncoder(1, 64, 2, 65),
        pt.TransformerDecoder(1, 64, 2, 65),
        pt.Transformer(replace(CONFIG, d_model=64, src_vocab_size=99)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_pickle_holds_every_parameter_once(layer):
    assert len(pickle.dumps(layer)) < 1.2 * 4 * layer.num_parameters


@each_layer
@pytest.mark.parametrize("isa", _runtime.available_isas())
def test_a_pickle_suits_every_instruction_set(name, isa, monkeypatch):
    layer = randomised(built(name))
    state, content = layer.state_dict(), pickle.dumps(layer)
    monkeypatch.setattr(_runtime, "kernels", _runtime.load_kernels(isa))
    again = pickle.loads(content)
    fresh = built(name)
    fresh.load_state_dict(state)
    assert_same_state(again.state_dict(), state)
    assert_same_bits(called(again), called(fresh))


# Initialisation.


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_gives_the_same_parameters(name):
    state = built(name, seed=3).state_dict()
    assert_same_state(built(name, seed=3).state_dict(), state)
    assert_same_state(LAYERS[name](np.random.default_rng(3)).state_dict(), state)
    key = next(iter(state))
    for other in (4, None, np.random.default_rng(4)):
        assert not np.array_equal(LAYERS[name](other).state_dict()[key], state[key])


def test_a_generator_goes_on_from_layer_to_layer():
    rng = np.random.default_rng(0)
    first, second = pt.Linear(8, 5, rng=rng), pt.Linear(8, 5, rng=rng)
    assert not np.array_equal(first.weight, second.weight)
    layers = pt.TransformerEncoder(2, 8, 2, 13, rng=0).state_dict()
    first, second = (layers[f"layers.{i}.linear1.weight"] for i in (0, 1))
    assert not np.array_equal(first, second)


def test_linear_weights_are_uniform():
    """Glorot and Bengio, 2010: a standard deviation of sqrt(2 / (in + out))."""
    layer = pt.Linear(300, 200, rng=0)
    weight = layer.weight
    assert 0.999 < np.abs(weight).max() / np.sqrt(6 / 500) <= 1
    np.testing.assert_allclose(weight.std(), np.sqrt(2 / 500), rtol=0.01)
    np.testing.assert_allclose(weight.mean(), 0, atol=1e-3)
    assert not layer.bias.any()


def test_embeddings_are_normal():
    weight = pt.Embedding(1000, 64, rng=0).weight
    np.testing.assert_allclose(weight.std(), 1 / 8, rtol=0.01)
    np.testing.assert_allclose(weight.mean(), 0, atol=2e-3)


@pytest.mark.parametrize("name", LAYERS)
def test_biases_start_at_0_and_norms_at_1(name):
    for key, array in built(name).state_dict().items():
        if key.endswith("bias"):
            assert not array.any(), key
        elif array.ndim == 1:
            assert (array == 1).all(), key
        else:
            assert array.std() > 0, key


@pytest.mark.parametrize(
    "layer", [pt.LayerNorm(5), pt.RMSNorm(5), pt.Embedding(7, 5, rng=0)], ids=lambda x: str(type(x))
)
def test_parameters_change_only_through_load_state_dict(layer):
    """Kernels trust their shapes."""
    with pytest.raises(AttributeError):
        layer.weight = np.ones(2, np.float32)
    with pytest.raises(ValueError):
        layer.weight[...] = 0
    state = {key: np.full_like(value, 2) for key, value in layer.state_dict().items()}
    layer.load_state_dict(state)
    np.testing.assert_array_equal(layer.weight, state["weight"])
