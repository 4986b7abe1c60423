"""Stacks of many descriptions against float64: the whole pass, decoding with caches, gradients."""

from functools import cache

import numpy as np
import pytest
from cases import normal
from differences import STEP
from models import assert_close, assert_same_bits, num_threads
from reference_described import described_stack

import pyx_transformer as pt
from pyx_transformer import (
    AttentionConfig,
    DistanceBiasConfig,
    FeedForwardConfig,
    LayerConfig,
    NormConfig,
    RotaryConfig,
    StackConfig,
    SubLayerConfig,
    _runtime,
)
from pyx_transformer.attention import Memory
from pyx_transformer.generation import KeyValueCache
from pyx_transformer.parameters import Layer, Parameters
from pyx_transformer.sequences import Sequences
from pyx_transformer.sizes import num_parameters
from pyx_transformer.sub_layers import TrainingPass
from pyx_transformer.training.gradients import Dropout

B, T, S, D = 4, 7, 11, 10
LENGTHS, MEMORY_LENGTHS = np.array([7, 0, 1, 5]), np.array([4, 11, 1, 0])
LAYER_NORM, RMS_NORM = NormConfig(eps=1e-3), NormConfig("rms_norm", 1e-3)
BARE = {"bias": False, "output_bias": False}


def sub(block, **norms):
    return SubLayerConfig(block, **norms)


def layer(*sub_layers, **options):
    return LayerConfig(sub_layers, **options)


def stack(num_layers, *layers, **options):
    return StackConfig(D, num_layers, layers, **options)


CAUSAL = {"is_causal": True}
SCALED = RotaryConfig(50.0, scaling="llama3", factor=3.0, original_length=16)
OWN_TABLE = DistanceBiasConfig(6, 4, bidirectional=False, shared=False)
DESCRIPTIONS = {
    "the paper's encoder": stack(
        2,
        layer(
            sub(AttentionConfig(2), norm_sum=LAYER_NORM),
            sub(FeedForwardConfig(13), norm_sum=LAYER_NORM),
        ),
    ),
    "grouped heads of their own size that turn, gated": stack(
        2,
        layer(
            sub(AttentionConfig(4, 2, 6, **CAUSAL, rotary=SCALED, **BARE), norm_before=RMS_NORM),
            sub(FeedForwardConfig(13, "silu", gated=True, bias=False), norm_before=RMS_NORM),
        ),
        final_norm=RMS_NORM,
    ),
    "side by side, a part of each head turns": stack(
        3,
        layer(
            sub(
                AttentionConfig(
                    3, 1, 8, **CAUSAL, rotary=RotaryConfig(20.0, 6, "interleaved", "linear", 1.5)
                ),
                norm_before=LAYER_NORM,
            ),
            sub(FeedForwardConfig(13, "gelu"), norm_before=LAYER_NORM),
            side_by_side=True,
        ),
    ),
    "norms on both sides, capped, near and far in turn": stack(
        3,
        *(
            layer(
                sub(
                    AttentionConfig(
                        2, 1, **CAUSAL, scale=0.9, softcap=1.5, window=window, rotary=None, **BARE
                    ),
                    norm_before=RMS_NORM,
                    norm_after=RMS_NORM,
                ),
                sub(
                    FeedForwardConfig(13, "gelu_tanh", gated=True),
                    norm_before=RMS_NORM,
                    norm_after=RMS_NORM,
                ),
            )
            for window in ((2, None), None)
        ),
        final_norm=RMS_NORM,
    ),
    "a shared bias by distance, both ways": stack(
        2,
        layer(
            sub(
                AttentionConfig(5, scale=1.0, distance_bias=DistanceBiasConfig(8, 5), **BARE),
                norm_before=RMS_NORM,
            ),
            sub(FeedForwardConfig(13, bias=False), norm_before=RMS_NORM),
        ),
        final_norm=RMS_NORM,
    ),
    "a bias by distance in each layer, with a memory": stack(
        2,
        layer(
            sub(AttentionConfig(5, **CAUSAL, distance_bias=OWN_TABLE), norm_before=RMS_NORM),
            sub(AttentionConfig(5, is_cross=True, **BARE), norm_before=RMS_NORM),
            sub(FeedForwardConfig(13), norm_before=RMS_NORM),
        ),
    ),
    "two layers that share their weights": stack(
        5,
        layer(
            sub(AttentionConfig(2), norm_sum=LAYER_NORM),
            sub(FeedForwardConfig(13, "gelu_tanh"), norm_sum=LAYER_NORM),
        ),
        layer(sub(FeedForwardConfig(17, "quick_gelu"), norm_sum=LAYER_NORM)),
        share_weights=True,
    ),
    "windows on both sides, the first norm missing": stack(
        3,
        layer(
            sub(AttentionConfig(1, rotary=RotaryConfig(30.0), **BARE)),
            sub(FeedForwardConfig(13, "gelu", gated=True), norm_before=NormConfig(bias=False)),
        ),
        *(
            layer(
                sub(
                    AttentionConfig(1, window=(1, 2), rotary=RotaryConfig(9.0), **BARE),
                    norm_before=NormConfig(bias=False),
                ),
                sub(FeedForwardConfig(13, "gelu", gated=True), norm_before=NormConfig(bias=False)),
            )
            for _ in range(2)
        ),
        final_norm=NormConfig(bias=False),
    ),
    "heads are normed, also those of a memory": stack(
        2,
        layer(
            sub(
                AttentionConfig(4, 2, 6, **CAUSAL, head_norm=RMS_NORM, rotary=RotaryConfig(7.0)),
                norm_sum=LAYER_NORM,
            ),
            sub(
                AttentionConfig(4, 4, 3, is_cross=True, head_norm=LAYER_NORM, output_bias=False),
                norm_sum=LAYER_NORM,
            ),
            sub(FeedForwardConfig(13, None), norm_sum=LAYER_NORM),
        ),
    ),
    "every norm, none with a weight": stack(
        2,
        layer(
            sub(
                AttentionConfig(2),
                norm_before=NormConfig(weight=False),
                norm_after=NormConfig("rms_norm", weight=False),
                norm_sum=NormConfig(weight=False, bias=False),
            ),
            sub(FeedForwardConfig(13), norm_sum=NormConfig("rms_norm", weight=False)),
        ),
    ),
    "the memory first, then the rest": stack(
        2,
        layer(
            sub(FeedForwardConfig(13, "silu"), norm_after=LAYER_NORM),
            sub(AttentionConfig(2, 1, 3, is_cross=True, softcap=2.0), norm_before=RMS_NORM),
            sub(AttentionConfig(2, 2, 8, **CAUSAL, window=(3, 0)), norm_sum=RMS_NORM),
        ),
        final_norm=LAYER_NORM,
    ),
    "side by side with a memory": stack(
        3,
        layer(
            sub(AttentionConfig(2, **CAUSAL), norm_before=LAYER_NORM),
            sub(AttentionConfig(2, is_cross=True), norm_before=LAYER_NORM, norm_after=RMS_NORM),
            side_by_side=True,
        ),
    ),
    "all at once": stack(
        2,
        layer(
            sub(
                AttentionConfig(
                    4,
                    2,
                    6,
                    **CAUSAL,
                    scale=-0.7,
                    softcap=2.5,
                    window=(4, 1),
                    rotary=RotaryConfig(40.0, 4, "interleaved"),
                    distance_bias=DistanceBiasConfig(6, 7, bidirectional=False),
                    head_norm=LAYER_NORM,
                ),
                norm_before=LAYER_NORM,
                norm_after=LAYER_NORM,
                norm_sum=RMS_NORM,
            ),
            sub(FeedForwardConfig(13, "quick_gelu", gated=True), norm_after=RMS_NORM),
        ),
        final_norm=LAYER_NORM,
    ),
    "attention and feed-forward in turn": stack(
        3,
        layer(sub(AttentionConfig(2, **CAUSAL), norm_before=LAYER_NORM)),
        layer(sub(FeedForwardConfig(13), norm_before=LAYER_NORM)),
    ),
    "no layers": stack(0, final_norm=LAYER_NORM),
}
each_description = pytest.mark.parametrize("name", DESCRIPTIONS)
CACHED = [
    name
    for name, config in DESCRIPTIONS.items()
    if config.num_layers and all(one.is_causal or one.is_cross for one in config.attentions)
]


@pytest.fixture(autouse=True)
def each_instruction_set(kernels, monkeypatch):
    monkeypatch.setattr(_runtime, "kernels", kernels)


def with_state(made, seed=0):
    """The layer itself with random parameters, and those."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, array in made.state_dict().items():
        scale = array.shape[1] ** -0.5 if array.ndim == 2 and "bias" not in name else 0.5
        state[name] = normal(rng, *array.shape) * np.float32(scale)
        if "norm" in name and name.endswith("weight"):
            state[name] += 1
    made.load_state_dict(state)
    return made, state


def made_of(config):
    kind = pt.TransformerDecoder if config.has_memory else pt.TransformerEncoder
    return with_state(kind.of(config, 0))


def inputs_of(config):
    """x, and what else the stack is called with."""
    rng = np.random.default_rng(5)
    x, memory = normal(rng, B, T, D), normal(rng, B, S, D)
    if config.has_memory:
        return x, {"memory": memory, "lengths": LENGTHS, "memory_lengths": MEMORY_LENGTHS}
    return x, {"lengths": LENGTHS}


@each_description
def test_the_whole_pass(name):
    config = DESCRIPTIONS[name]
    made, state = made_of(config)
    x, options = inputs_of(config)
    expected = described_stack(config, state, x, **options)
    for threads in (1, 3):
        with num_threads(threads):
            assert_close(made(x, **options), expected)


@each_description
def test_parameters_are_counted_from_the_description(name):
    made, state = made_of(DESCRIPTIONS[name])
    assert num_parameters(DESCRIPTIONS[name]) == made.num_parameters
    assert made.num_parameters == sum(array.size for array in state.values())


@each_description
def test_hidden_states(name):
    """Those after n layers are what a stack of n gives without a final norm."""
    config = DESCRIPTIONS[name]
    made, state = made_of(config)
    x, options = inputs_of(config)
    out, hidden = made(x, **options, return_hidden_states=True)
    assert_same_bits(out, made(x, **options))
    assert len(hidden) == config.num_layers + 1
    for layers, rows in enumerate(hidden):
        part = StackConfig(D, layers, config.layers, None, config.share_weights)
        assert_close(rows, described_stack(part, state, x, **options))


@each_description
def test_attention_weights(name):
    """Rows of weights add up to 1, or are nothing; asking for them changes no bit."""
    config = DESCRIPTIONS[name]
    made, _ = made_of(config)
    x, options = inputs_of(config)
    out, *weights = made(x, **options, return_attention=True)
    assert_same_bits(out, made(x, **options))
    own = weights[0]
    assert len(own) == config.num_layers
    has_own = [
        any(isinstance(one.block, AttentionConfig) and not one.block.is_cross for one in sub_layers)
        for sub_layers in (config.layer(i).sub_layers for i in range(config.num_layers))
    ]
    real = np.arange(T) < LENGTHS[:, None]
    for array, there in zip(own, has_own, strict=True):
        sums = np.broadcast_to((real & there)[:, None], array.shape[:3])
        np.testing.assert_allclose(array.sum(axis=-1), sums, atol=1e-6)


@pytest.mark.parametrize("name", CACHED)
def test_decoding_with_caches(name):
    """Some tokens at a time, slots in another order, gives the bits of the whole pass."""
    config = DESCRIPTIONS[name]
    sizes = {"positions": "none", "scale_embeddings": False}
    if config.has_memory:
        encoder = stack(1, layer(sub(AttentionConfig(2), norm_sum=LAYER_NORM)))
        model, state = with_state(
            pt.Transformer(pt.TransformerConfig(17, 19, encoder, config, **sizes))
        )
    else:
        model, state = with_state(pt.TransformerLM(pt.TransformerLMConfig(19, config, **sizes)))
    rng = np.random.default_rng(3)
    ids, memory = rng.integers(0, 19, (B, T)), normal(rng, B, S, D)
    sources = Sequences.of(B, S, MEMORY_LENGTHS)
    known = model.decoder.project(sources.rows(memory), sources) if config.has_memory else None
    options = {}
    if config.has_memory:
        options = {"memory": memory, "memory_lengths": MEMORY_LENGTHS}
    x = state["tgt_embedding.weight"][ids]
    whole = model.decoder(x, **options)
    own = {key.removeprefix("decoder."): state[key] for key in state if key.startswith("decoder.")}
    # Without fused multiply-add each product is rounded once more: 1.2e-6 in the gated stack.
    tolerance = 2e-6 if _runtime.kernels.ISA_NAME == "x86-64-v2" else 1e-6
    assert_close(whole, described_stack(config, own, x, **options), tolerance)
    for counts in [1] * T, [3, 1, 1, 2]:
        caches = KeyValueCache(model, B, memory=known)
        place = 0
        for step in counts:
            slots = rng.permutation(B)
            part = ids[slots, place : place + step].reshape(-1)
            rows = caches.extend(part, slots, np.full(B, step)).reshape(B, step, D)
            assert_same_bits(rows, whole[slots, place : place + step])
            place += step


def test_gated_rows_in_runs(rng):
    """So wide that three rows pass at a time."""
    gate = FeedForwardConfig(150_001, "silu", gated=True)
    config = stack(1, layer(sub(gate, norm_before=RMS_NORM)))
    made, state = made_of(config)
    x = normal(rng, 1, 7, D)
    whole = made(x)
    assert_close(whole, described_stack(config, state, x))
    for i in range(7):
        assert_same_bits(made(x[:, i : i + 1]), whole[:, i : i + 1])


# Gradients, along two random directions of each array: one number each, in float64.


class Held(Layer):
    """A stack as a model that can be trained."""

    def __init__(self, stack):
        self.stack = stack

    def ties(self):
        return {}


def directions(arrays):
    """By name, directions of length sqrt(size) of each array."""
    rng = np.random.default_rng(9)
    return {name: rng.standard_normal((2, *array.shape)) for name, array in arrays.items()}


@cache
def expected_slopes(name):
    """The slopes of sum(grad * stack(x, memory)) along the directions of x, memory and state."""
    config = DESCRIPTIONS[name]
    _, state = made_of(config)
    x, options = inputs_of(config)
    memory = {"memory": options.pop("memory")} if config.has_memory else {}
    grad = normal(np.random.default_rng(6), B, T, D)
    arrays = {"x": x, **memory, **{f"stack.{key}": array for key, array in state.items()}}

    def value(changed):
        inner = {k.removeprefix("stack."): a for k, a in changed.items() if k.startswith("stack.")}
        inputs = {"memory": changed["memory"]} if memory else {}
        return np.sum(grad * described_stack(config, inner, changed["x"], **options, **inputs))

    slopes = {}
    for key, ways in directions(arrays).items():
        for n, way in enumerate(ways):
            ends = (value({**arrays, key: arrays[key] + step * way}) for step in (STEP, -STEP))
            slopes[key, n] = next(ends) - next(ends)
            slopes[key, n] /= 2 * STEP
    return grad, arrays, slopes


@each_description
def test_gradients(name):
    config = DESCRIPTIONS[name]
    made, _ = made_of(config)
    x, options = inputs_of(config)
    grad, arrays, slopes = expected_slopes(name)
    targets, sources = Sequences.of(B, T, LENGTHS), Sequences.of(B, S, MEMORY_LENGTHS)
    results = []
    for threads in (1, 3):
        model = Held(made)
        parameters = Parameters(model)
        memory = None
        if config.has_memory:
            memory = Memory(sources.rows(options["memory"]), sources)
        run = TrainingPass(parameters.whole(), Dropout(0.0), targets, memory)
        with num_threads(threads):
            rows, back = made.forward(targets.rows(x), run)
            assert_same_bits(targets.padded(rows), made(x, **options))
            grad_x = back(targets.rows(grad))
        actual = {"x": targets.padded(grad_x), **parameters.state_dict(parameters.gradients)}
        if memory is not None:
            actual["memory"] = sources.padded(memory.gradient)
        results.append(actual)
    for key, array in results[0].items():
        assert_same_bits(results[1][key], array)
    assert results[0].keys() == arrays.keys()
    for key, ways in directions(arrays).items():
        for n, way in enumerate(ways):
            actual = np.sum(results[0][key] * way)
            size = np.abs(results[0][key]).max() * np.sqrt(way.size)
            assert abs(actual - slopes[key, n]) <= 3e-6 * max(size, 1), key
