"""Gradients by central differences in float64, and how near to them float32 ones are."""

import numpy as np

STEP = 1e-6  # of a central difference in float64: its error is 1e-9 or so of the largest value


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def differences(function, grad, arrays, which):
    """The gradient of sum(grad * function(*arrays)) by arrays[which], by central differences."""
    arrays = [None if a is None else np.array(a, np.float64) for a in arrays]
    result = np.empty(arrays[which].shape)
    for index in np.ndindex(result.shape):
        ends = []
        for step in (STEP, -STEP):
            moved = list(arrays)
            moved[which] = arrays[which].copy()
            moved[which][index] += step
            ends.append(np.sum(grad * function(*moved)))
        result[index] = (ends[0] - ends[1]) / (2 * STEP)
    return result


def assert_close(actual, expected, tolerance=2e-6):
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    scale = np.abs(expected).max(initial=0.1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)
