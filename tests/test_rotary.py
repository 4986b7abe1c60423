"""Rotary positions in the kernel against the float64 reference, on every instruction set."""

import numpy as np
import pytest
import reference
from cases import normal

EPS = float(np.finfo(np.float32).eps)
THREADS = (1, 2, 3)
PAIRS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 67)
PAIRINGS = ("interleaved", "halves")


def tables(positions, pairs):
    """Cosines and sines of each position's angles, (positions, pairs) each, rounded once."""
    angles = np.outer(np.arange(positions), reference.rotary_frequencies(2 * pairs))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def turned(kernels, rows, heads, size, pairs, pairing, ids, *, inverse=False, threads=1):
    """A copy of rows (m, heads size), which are columns of longer rows, turned."""
    longer = np.full((len(rows), rows.shape[1] + 5), np.nan, np.float32)
    inside = longer[:, 2:-3]
    inside[:] = rows
    cosines, sines = tables(max(ids) + 1, pairs)
    is_interleaved = pairing == "interleaved"
    kernels.rotate(inside, heads, size, cosines, sines, is_interleaved, ids, inverse, threads)
    assert np.isnan(longer[:, :2]).all()
    assert np.isnan(longer[:, -3:]).all()
    return inside.copy()


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("rest", (0, 1, 6))
def test_the_first_values_of_each_head_turn(pairs, pairing, rest, kernels, rng):
    m, heads, size = 13, 3, 2 * pairs + rest
    rows, ids = normal(rng, m, heads * size), rng.integers(0, 1000, m)
    actual = turned(kernels, rows, heads, size, pairs, pairing, ids)
    by_head = rows.reshape(m, heads, size).transpose(1, 0, 2)
    expected = reference.rotary(by_head, ids, 2 * pairs, pairing=pairing)
    actual_by_head = actual.reshape(m, heads, size).transpose(1, 0, 2)
    # A table's rounding and that of the products, of numbers no larger than the pair's.
    np.testing.assert_allclose(actual_by_head, expected, rtol=0, atol=4 * EPS * np.abs(rows).max())
    still = actual_by_head[..., 2 * pairs :]
    np.testing.assert_array_equal(still, by_head[..., 2 * pairs :])


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_what_is_turned_back_is_as_before(pairing, kernels, rng):
    rows, ids = normal(rng, 7, 3 * 33), rng.integers(0, 1000, 7)
    there = turned(kernels, rows, 3, 33, 16, pairing, ids)
    back = turned(kernels, there, 3, 33, 16, pairing, ids, inverse=True)
    assert np.abs(there - rows).max() > 1
    np.testing.assert_allclose(back, rows, rtol=0, atol=8 * EPS * np.abs(rows).max())


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_the_product_of_two_depends_on_their_distance(pairing, kernels, rng):
    rows = normal(rng, 2, 18)
    ids = np.array([[3, 11], [103, 111]])
    near, far = (turned(kernels, rows, 1, 18, 9, pairing, places) for places in ids)
    assert near[0] @ near[1] == pytest.approx(far[0] @ far[1], rel=1e-5)
    assert abs(near[0] @ near[1] - rows[0] @ rows[1]) > 0.1


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_row_is_the_same_alone_and_on_any_thread(pairing, kernels, rng):
    """521 rows of 3 heads of 67 pairs are work enough to be shared."""
    m, heads, pairs = 521, 3, 67
    rows, ids = normal(rng, m, heads * 2 * pairs), rng.integers(0, 1000, m)
    sizes = (heads, 2 * pairs, pairs, pairing)
    all_rows = turned(kernels, rows, *sizes, ids)
    for threads in THREADS:
        again = turned(kernels, rows, *sizes, ids, threads=threads)
        assert again.tobytes() == all_rows.tobytes()
    for row in range(0, m, 40):
        alone = turned(kernels, rows[row : row + 1], *sizes, ids[row : row + 1])
        assert alone.tobytes() == all_rows[row].tobytes()


@pytest.mark.parametrize("inverse", (False, True))
def test_both_pairings_give_the_same_bits(inverse, kernels, rng):
    rows, ids = normal(rng, 11, 66), rng.integers(0, 1000, 11)
    interleaved = turned(kernels, rows, 1, 66, 33, "interleaved", ids, inverse=inverse)
    in_halves = np.concatenate([rows[:, 0::2], rows[:, 1::2]], axis=1)
    halves = turned(kernels, in_halves, 1, 66, 33, "halves", ids, inverse=inverse)
    assert interleaved[:, 0::2].tobytes() == halves[:, :33].tobytes()
    assert interleaved[:, 1::2].tobytes() == halves[:, 33:].tobytes()
