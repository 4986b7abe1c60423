"""The encoder and decoder stacks against float64: norms, masks, lengths, weights, padding."""

from itertools import product

import numpy as np
import pytest
import reference
from cases import normal
from models import assert_close, assert_same_bits, randomised

import pyx_transformer as pt
from pyx_transformer.description import StackConfig, plain_stack

# B 4, T 7, S 11, d_model 24 in 3 heads, d_ff 41.
B, T, S, D, H, F = 4, 7, 11, 24, 3, 41
TARGET_LENGTHS = {"none": None, "mixed": [0, T, 1, 5], "full": [T] * B, "empty": [0] * B}
SOURCE_LENGTHS = {"none": None, "mixed": [S, 0, 6, 1], "full": [S] * B, "empty": [0] * B}
OPTIONS = [
    {"activation": activation, "norm_first": norm_first, "final_norm": final_norm}
    for activation, norm_first, final_norm in product(
        ("relu", "gelu"), (False, True), (False, True)
    )
]
each_option = pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: "-".join(map(str, options.values()))
)


def encoder_of(num_layers=2, **options):
    return randomised(pt.TransformerEncoder(num_layers, D, H, F, **options))


def decoder_of(num_layers=2, **options):
    return randomised(pt.TransformerDecoder(num_layers, D, H, F, **options))


def for_reference(options):
    """The options that the reference takes; it sees a final norm in the parameters."""
    return {name: value for name, value in options.items() if name != "final_norm"}


@pytest.fixture
def x(rng):
    return normal(rng, B, T, D)


@pytest.fixture
def memory(rng):
    return normal(rng, B, S, D)


def masks(rng, queries, keys):
    """By name, masks that hide everything from query 2 of each sequence."""
    attend = rng.random((B, H, queries, keys)) < 0.6
    attend[:, :, 2] = False
    scores = np.where(attend, normal(rng, *attend.shape), np.float32(-np.inf))
    return {
        "none": None,
        "bool": attend,
        "float": scores,
        "bool of two axes": attend[0, 0],
        "float per sequence": scores[:, :1],
        "bool per key": attend[:, :1, :1],
        "hides all": np.zeros((queries, keys), bool),
        "hides nothing": np.zeros((1, keys), np.float32),
    }


MASKS = list(masks(np.random.default_rng(0), T, T))


def assert_zero_beyond(x, lengths):
    """Exactly 0 at padded positions; axis 1 of x is the position."""
    for b, length in enumerate(lengths or [x.shape[1]] * B):
        assert not x[b, length:].any()
        assert x[b, :length].all() or length == 0


# Against the reference.


@each_option
@pytest.mark.parametrize("lengths", TARGET_LENGTHS)
def test_encoder(options, lengths, x):
    encoder, lengths = encoder_of(**options), TARGET_LENGTHS[lengths]
    expected = reference.encoder(
        encoder.state_dict(), x, H, lengths=lengths, **for_reference(options)
    )
    output = encoder(x, lengths)
    assert_close(output, expected)
    assert_zero_beyond(output, lengths)


@each_option
@pytest.mark.parametrize("lengths", TARGET_LENGTHS)
@pytest.mark.parametrize("memory_lengths", SOURCE_LENGTHS)
def test_decoder(options, lengths, memory_lengths, x, memory):
    decoder = decoder_of(**options)
    lengths, memory_lengths = TARGET_LENGTHS[lengths], SOURCE_LENGTHS[memory_lengths]
    expected = reference.decoder(
        decoder.state_dict(),
        x,
        memory,
        H,
        lengths=lengths,
        memory_lengths=memory_lengths,
        **for_reference(options),
    )
    output = decoder(x, memory, lengths, memory_lengths)
    assert_close(output, expected)
    assert_zero_beyond(output, lengths)


@pytest.mark.parametrize("lengths", TARGET_LENGTHS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("norm_first", (False, True))
def test_encoder_masks_and_attention(lengths, mask, norm_first, x, rng):
    encoder, lengths = encoder_of(3, norm_first=norm_first), TARGET_LENGTHS[lengths]
    mask = masks(rng, T, T)[mask]
    expected, expected_attention = reference.encoder(
        encoder.state_dict(),
        x,
        H,
        lengths=lengths,
        mask=mask,
        norm_first=norm_first,
        return_attention=True,
    )
    output, attention = encoder(x, lengths, mask, return_attention=True)
    assert_close(output, expected)
    assert len(attention) == len(expected_attention) == 3
    for weights, expected_weights in zip(attention, expected_attention, strict=True):
        assert_close(weights, expected_weights)
        np.testing.assert_array_equal(weights == 0, expected_weights == 0)
    assert_same_bits(encoder(x, lengths, mask), output)


@pytest.mark.parametrize("lengths", TARGET_LENGTHS)
@pytest.mark.parametrize("memory_lengths", SOURCE_LENGTHS)
@pytest.mark.parametrize("norm_first", (False, True))
def test_decoder_attention(lengths, memory_lengths, norm_first, x, memory):
    decoder = decoder_of(3, norm_first=norm_first)
    lengths, memory_lengths = TARGET_LENGTHS[lengths], SOURCE_LENGTHS[memory_lengths]
    expected = reference.decoder(
        decoder.state_dict(),
        x,
        memory,
        H,
        lengths=lengths,
        memory_lengths=memory_lengths,
        norm_first=norm_first,
        return_attention=True,
    )
    output, *attention = decoder(x, memory, lengths, memory_lengths, return_attention=True)
    assert_close(output, expected[0])
    for kind, expected_kind in zip(attention, expected[1:], strict=True):
        assert len(kind) == len(expected_kind) == 3
        for weights, expected_weights in zip(kind, expected_kind, strict=True):
            assert_close(weights, expected_weights)
            np.testing.assert_array_equal(weights == 0, expected_weights == 0)
    assert_same_bits(decoder(x, memory, lengths, memory_lengths), output)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("memory_mask", MASKS)
def test_decoder_masks(mask, memory_mask, x, memory, rng):
    """One post-norm layer, put together from the reference's blocks."""
    decoder = decoder_of(1)
    mask, memory_mask = masks(rng, T, T)[mask], masks(rng, T, S)[memory_mask]
    state = reference.substate(decoder.state_dict(), "layers.0.")

    def block(name):
        return list(reference.substate(state, name).values())

    own, own_weights = reference.multihead_attention(
        x, x, *block("self_attn."), H, mask=mask, is_causal=True, return_weights=True
    )
    y = reference.layer_norm(x + own, *block("norm1."))
    cross, cross_weights = reference.multihead_attention(
        y, memory, *block("multihead_attn."), H, mask=memory_mask, return_weights=True
    )
    y = reference.layer_norm(y + cross, *block("norm2."))
    hidden = reference.feed_forward(y, *block("linear1."), *block("linear2."))
    expected = reference.layer_norm(y + hidden, *block("norm3."))

    output, [weights], [memory_weights] = decoder(
        x, memory, mask=mask, memory_mask=memory_mask, return_attention=True
    )
    assert_close(output, expected)
    assert_close(weights, own_weights)
    assert_close(memory_weights, cross_weights)
    assert_same_bits(decoder(x, memory, mask=mask, memory_mask=memory_mask), output)


def test_decoder_masks_with_lengths(x, memory, rng):
    """Lengths are the mask that hides the keys after them."""
    decoder = decoder_of()
    lengths, memory_lengths = [1, T, 4, 5], [S, 3, 6, 1]
    mask, memory_mask = masks(rng, T, T)["bool"], masks(rng, T, S)["float"]
    real = np.arange(T) < np.array(lengths)[:, None]
    real_memory = np.arange(S) < np.array(memory_lengths)[:, None]
    output = decoder(x, memory, lengths, memory_lengths, mask=mask, memory_mask=memory_mask)
    spelt_out = decoder(
        x,
        memory,
        mask=mask & real[:, None, None],
        memory_mask=np.where(real_memory[:, None, None], memory_mask, np.float32(-np.inf)),
    )
    assert_same_bits(output[real], spelt_out[real])


@pytest.mark.parametrize("eps", (1e-5, 0.5))
def test_layer_norm_eps(eps, x, memory):
    encoder = encoder_of(final_norm=True, layer_norm_eps=eps)
    decoder = decoder_of(final_norm=True, layer_norm_eps=eps)
    expected = reference.encoder(encoder.state_dict(), x, H, layer_norm_eps=eps)
    assert_close(encoder(x), expected)
    expected = reference.decoder(decoder.state_dict(), x, memory, H, layer_norm_eps=eps)
    assert_close(decoder(x, memory), expected)


@pytest.mark.parametrize("activation", (None, "gelu_tanh", "quick_gelu", "silu"))
def test_other_activations(activation, x, memory):
    encoder, decoder = encoder_of(activation=activation), decoder_of(activation=activation)
    expected = reference.encoder(encoder.state_dict(), x, H, activation=activation)
    assert_close(encoder(x), expected)
    expected = reference.decoder(decoder.state_dict(), x, memory, H, activation=activation)
    assert_close(decoder(x, memory), expected)


@pytest.mark.parametrize("num_layers", (0, 1, 4))
@pytest.mark.parametrize("final_norm", (False, True))
def test_any_number_of_layers(num_layers, final_norm, x, memory):
    lengths, memory_lengths = TARGET_LENGTHS["mixed"], SOURCE_LENGTHS["mixed"]
    encoder = encoder_of(num_layers, final_norm=final_norm)
    decoder = decoder_of(num_layers, final_norm=final_norm)
    for own in None, lengths:
        expected = reference.encoder(encoder.state_dict(), x, H, lengths=own)
        assert_close(encoder(x, own), expected)
        expected = reference.decoder(
            decoder.state_dict(), x, memory, H, lengths=own, memory_lengths=memory_lengths
        )
        assert_close(decoder(x, memory, own, memory_lengths), expected)
    assert len(encoder(x, return_attention=True)[1]) == num_layers
    assert [len(kind) for kind in decoder(x, memory, return_attention=True)[1:]] == [num_layers] * 2


@pytest.mark.parametrize("batch", (0, 1, 3))
@pytest.mark.parametrize("length", (0, 1, 5))
@pytest.mark.parametrize("source", (0, 1, 6))
def test_empty_axes(batch, length, source, rng):
    x, memory = normal(rng, batch, length, D), normal(rng, batch, source, D)
    encoder, decoder = encoder_of(norm_first=True), decoder_of(norm_first=True)
    output, attention = encoder(x, return_attention=True)
    assert_close(output, reference.encoder(encoder.state_dict(), x, H, norm_first=True))
    assert attention[1].shape == (batch, H, length, length)
    output, own, cross = decoder(x, memory, return_attention=True)
    assert_close(output, reference.decoder(decoder.state_dict(), x, memory, H, norm_first=True))
    assert own[1].shape == (batch, H, length, length)
    assert cross[1].shape == (batch, H, length, source)


# The mask rule.


FILLERS = (np.nan, np.inf, -np.inf, 3e38, 7.0)


def filled(x, lengths, filler):
    """x with its padding set to `filler`."""
    x = x.copy()
    for b, length in enumerate(lengths):
        x[b, length:] = filler
    return x


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("norm_first", (False, True))
def test_what_the_padding_holds_cannot_reach_a_result(filler, norm_first, x, memory, rng):
    lengths, memory_lengths = TARGET_LENGTHS["mixed"], SOURCE_LENGTHS["mixed"]
    mask, memory_mask = masks(rng, T, T)["float"], masks(rng, T, S)["bool"]
    # What a mask says of padded keys does not matter either.
    padded_mask = np.where(
        np.arange(T) < np.array(lengths)[:, None, None, None], mask, np.float32(filler)
    )
    encoder, decoder = encoder_of(norm_first=norm_first), decoder_of(norm_first=norm_first)
    output, attention = encoder(x, lengths, mask, return_attention=True)
    again = encoder(filled(x, lengths, filler), lengths, padded_mask, return_attention=True)
    assert_same_bits(again[0], output)
    for weights, expected in zip(again[1], attention, strict=True):
        assert_same_bits(weights, expected)

    output, *attention = decoder(
        x,
        memory,
        lengths,
        memory_lengths,
        mask=mask,
        memory_mask=memory_mask,
        return_attention=True,
    )
    again = decoder(
        filled(x, lengths, filler),
        filled(memory, memory_lengths, filler),
        lengths,
        memory_lengths,
        mask=padded_mask,
        memory_mask=memory_mask,
        return_attention=True,
    )
    assert_same_bits(again[0], output)
    for kind, expected_kind in zip(again[1:], attention, strict=True):
        for weights, expected in zip(kind, expected_kind, strict=True):
            assert_same_bits(weights, expected)


@pytest.mark.parametrize("filler", FILLERS)
def test_what_a_mask_hides_cannot_reach_other_rows(filler, x, memory):
    """One layer: in the next, a row that attends to itself is somebody's key again."""
    attend = np.ones((B, 1, 1, T), bool)
    attend[:, :, :, 3] = False
    changed = x.copy()
    changed[:, 3] = filler
    others = [0, 1, 2, 4, 5, 6]
    encoder, decoder = encoder_of(1), decoder_of(1)
    expected = encoder(x, mask=attend)[:, others]
    assert_same_bits(encoder(changed, mask=attend)[:, others], expected)
    expected = decoder(x, memory, mask=attend)[:, others]
    assert_same_bits(decoder(changed, memory, mask=attend)[:, others], expected)

    hidden = np.ones((T, S), bool)
    hidden[:, 4] = False
    changed = memory.copy()
    changed[:, 4] = filler
    expected = decoder(x, memory, mask=attend, memory_mask=hidden)
    assert_same_bits(decoder(x, changed, mask=attend, memory_mask=hidden), expected)


def test_the_decoder_does_not_see_the_future(x, memory):
    decoder = decoder_of(3)
    output = decoder(x, memory)
    for t in range(T):
        changed = x.copy()
        changed[:, t:] = np.nan
        assert_same_bits(decoder(changed, memory)[:, :t], output[:, :t])


def test_nan_in_a_real_place_shows(x, memory):
    encoder, decoder = encoder_of(), decoder_of()
    x[0, 3] = np.nan
    assert np.isnan(encoder(x)[0]).all()
    assert np.isfinite(encoder(x)[1:]).all()
    output = decoder(x, memory)
    assert np.isnan(output[0, 3:]).all()
    assert np.isfinite(output[0, :3]).all()
    assert np.isfinite(output[1:]).all()


@pytest.mark.parametrize("num_layers", (0, 2))
def test_results_are_new_arrays(num_layers, x, memory):
    encoder, decoder = encoder_of(num_layers), decoder_of(num_layers)
    before = x.copy(), memory.copy()
    for output in encoder(x), encoder(x, [T] * B), decoder(x, memory), decoder(x, memory, [T] * B):
        assert not np.may_share_memory(output, x)
        output[...] = 7
    assert_same_bits(x, before[0])
    assert_same_bits(memory, before[1])


def test_all_layers_read_the_memory_or_none():
    alone, crossing = (
        plain_stack(1, D, H, F, has_memory=there).layers[0] for there in (False, True)
    )
    expected = "StackConfig: layers with cross-attention and without were given, expected all of"
    with pytest.raises(ValueError, match=expected):
        StackConfig(D, 4, (alone, crossing, alone))


def test_an_unknown_argument_is_told_with_the_name_of_the_class():
    with pytest.raises(TypeError, match=r"^TransformerEncoder.__init__\(\) .*'nhead'"):
        pt.TransformerEncoder(1, 8, nhead=2, d_ff=8)
