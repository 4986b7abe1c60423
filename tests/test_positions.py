"""Positions: sinusoids, turns and buckets of distance against the float64 reference."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import pyx_transformer as pt
from pyx_transformer.positions import (
    FREQUENCIES,
    LAYOUTS,
    distance_buckets,
    rotary_frequencies,
    rotary_table,
)

layouts = st.sampled_from(LAYOUTS)
frequency_formulas = st.sampled_from(FREQUENCIES)


@settings(deadline=None, derandomize=True)
@given(
    length=st.integers(0, 40),
    pairs=st.integers(1, 40),
    start=st.integers(-10, 10_000),
    layout=layouts,
    frequencies=frequency_formulas,
)
def test_is_the_reference_rounded_once(length, pairs, start, layout, frequencies):
    options = {"start": start, "layout": layout, "frequencies": frequencies}
    positions = pt.sinusoidal_positions(length, 2 * pairs, **options)
    expected = reference.sinusoidal_positions(length, 2 * pairs, **options)
    assert positions.dtype == np.float32
    assert positions.shape == (length, 2 * pairs)
    # One rounding of a number up to 1, and the last bit of sine and cosine in float64.
    np.testing.assert_allclose(positions, expected, rtol=2**-24 * 1.001, atol=1e-15)


@pytest.mark.parametrize("frequencies", FREQUENCIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_does_not_depend_on_where_the_table_starts(layout, frequencies):
    options = {"layout": layout, "frequencies": frequencies}
    table = pt.sinusoidal_positions(523, 96, **options).view(np.uint32)
    for start in (0, 1, 2, 255, 521):
        for length in (1, 2, 5):
            part = pt.sinusoidal_positions(length, 96, start=start, **options).view(np.uint32)
            np.testing.assert_array_equal(part[: 523 - start], table[start : start + length])


def test_the_paper():
    """Section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i + 1) the cosine of it."""
    positions = pt.sinusoidal_positions(3, 4)
    expected = [
        [0, 1, 0, 1],
        [np.sin(1), np.cos(1), np.sin(0.01), np.cos(0.01)],
        [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)],
    ]
    np.testing.assert_allclose(positions, expected, rtol=1e-7, atol=1e-9)


def test_tensor2tensor_reaches_one_ten_thousandth():
    positions = pt.sinusoidal_positions(1, 6, start=1, layout="halves", frequencies="tensor2tensor")
    expected = [*np.sin([1, 1e-2, 1e-4]), *np.cos([1, 1e-2, 1e-4])]
    np.testing.assert_allclose(positions, [expected], rtol=1e-7)


def test_layouts_hold_the_same_columns():
    interleaved = pt.sinusoidal_positions(7, 10)
    halves = pt.sinusoidal_positions(7, 10, layout="halves")
    np.testing.assert_array_equal(interleaved[:, 0::2], halves[:, :5])
    np.testing.assert_array_equal(interleaved[:, 1::2], halves[:, 5:])


def test_two_columns_have_the_frequency_1():
    for frequencies in FREQUENCIES:
        positions = pt.sinusoidal_positions(3, 2, frequencies=frequencies)
        np.testing.assert_allclose(positions, [[np.sin(p), np.cos(p)] for p in range(3)], rtol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"length": -1}, ValueError, "length is -1, expected at least 0"),
        ({"length": 2.0}, TypeError, "length is 2.0, expected an integer"),
        ({"length": None}, TypeError, "length is None, expected an integer"),
        ({"length": True}, TypeError, "length is True, expected an integer"),
        ({"length": 10**100}, ValueError, "length is 1000"),
        ({"d_model": 0}, ValueError, "d_model is 0, expected at least 2"),
        ({"d_model": 7}, ValueError, "d_model is 7, expected an even number"),
        ({"d_model": "8"}, TypeError, "d_model is '8', expected an integer"),
        ({"start": 0.5}, TypeError, "start is 0.5, expected an integer"),
        ({"start": 10**100}, ValueError, "start is 1000"),
        ({"layout": "half"}, ValueError, "layout is 'half', expected one of 'interleaved', 'ha"),
        ({"layout": None}, ValueError, "layout is None, expected one of"),
        ({"frequencies": "marian"}, ValueError, "frequencies is 'marian', expected one of 'paper'"),
        ({"frequencies": 10_000}, TypeError, "frequencies is 10000, expected one of"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, says):
    with pytest.raises(error) as caught:
        pt.sinusoidal_positions(**{"length": 3, "d_model": 8, **arguments})
    assert str(caught.value).startswith(f"sinusoidal_positions: {says}")


# What a description says of distances and of turns.


@pytest.mark.parametrize(
    ("num_buckets", "max_distance", "bidirectional"),
    [
        (32, 128, True),
        (32, 128, False),
        (4, 2, True),
        (2, 3, False),
        (12, 40, True),
        (10, 6, False),
    ],
)
def test_buckets_of_distances(num_buckets, max_distance, bidirectional):
    config = pt.DistanceBiasConfig(num_buckets, max_distance, bidirectional)
    reach = range(-max_distance, max_distance + 1)
    expected = [
        reference.bucket_of_distance(distance, num_buckets, max_distance, bidirectional)
        for distance in reach
    ]
    assert distance_buckets(config).tolist() == expected
    for far in (-10 * max_distance, 10 * max_distance):
        end = reference.bucket_of_distance(far, num_buckets, max_distance, bidirectional)
        assert expected[0 if far < 0 else -1] == end


@pytest.mark.parametrize(
    "scaling",
    [
        {},
        {"scaling": "linear", "factor": 2.5},
        {"scaling": "llama3", "factor": 8.0, "original_length": 32},
        {
            "scaling": "llama3",
            "factor": 4.0,
            "low_frequency_factor": 2.0,
            "high_frequency_factor": 9.0,
            "original_length": 500,
        },
    ],
)
def test_frequencies_of_turns(scaling):
    config = pt.RotaryConfig(500_000.0, 26, **scaling)
    expected = reference.rotary_frequencies(26, 500_000.0, **scaling)
    np.testing.assert_allclose(rotary_frequencies(config, 40), expected, rtol=1e-13)
    cosines, sines = rotary_table(config, 40, 7)
    angles = np.outer(np.arange(7), expected)
    np.testing.assert_allclose(cosines, np.cos(angles), rtol=1e-7)
    np.testing.assert_allclose(sines, np.sin(angles), rtol=1e-7)
