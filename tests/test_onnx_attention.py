"""Scaled dot product attention as ONNX defines it: against the reference of its Attention operator.

Opset 24 has everything but a window, which came with opset 25.
"""

import numpy as np
import pytest
from cases import normal

from pyx_transformer import ops

pytest.importorskip("onnx.reference")
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

B, H, T, S, K, KV = 2, 6, 5, 7, 11, 13
KINDS = {"f": TensorProto.FLOAT, "b": TensorProto.BOOL, "i": TensorProto.INT64}
# At most this share of the largest result: both compute in float32.
TOLERANCE = 2e-6


def onnx_attention(query, key, value, mask=None, lengths=None, *, opset=24, **attributes):
    """What the operator's reference gives; lengths is its nonpad_kv_seqlen."""
    if max(onnx.defs.get_schema("Attention").since_version, 24) < opset:
        pytest.skip(f"this onnx has no Attention of opset {opset}")
    inputs = dict(Q=query, K=key, V=value, mask=mask, past_key=None, past_value=None)
    inputs["lengths"] = lengths
    given = {name: array for name, array in inputs.items() if array is not None}
    names = [name if name in given else "" for name in inputs]
    while not names[-1]:
        names.pop()
    graph = helper.make_graph(
        [helper.make_node("Attention", names, ["Y"], **attributes)],
        "attention",
        [
            helper.make_tensor_value_info(name, KINDS[array.dtype.kind], array.shape)
            for name, array in given.items()
        ],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    (result,) = ReferenceEvaluator(model).run(None, given)
    return result


def heads(rng, key_heads=H):
    shapes = (B, H, T, K), (B, key_heads, S, K), (B, key_heads, S, KV)
    return [normal(rng, *shape) for shape in shapes]


def assert_close(actual, expected):
    assert actual.dtype == expected.dtype == np.float32
    error = np.abs(actual - expected).max()
    assert error <= TOLERANCE * np.abs(expected).max()


def attend(rng, *shape):
    """A boolean mask that leaves each query its first key."""
    mask = rng.random(shape) < 0.6
    mask[..., 0] = True
    return mask


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 0.7}, {"softcap": 1.5}, {"is_causal": 1}, {"is_causal": 1, "softcap": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("key_heads", (H, 3, 1))
def test_options(options, key_heads, rng):
    inputs = heads(rng, key_heads)
    flags = {name: bool(v) if name == "is_causal" else v for name, v in options.items()}
    actual = ops.scaled_dot_product_attention(*inputs, **flags)
    assert_close(actual, onnx_attention(*inputs, **options))


SHAPES = [(B, H, T, S), (1, H, T, S), (H, T, S), (B, 1, 1, S), (T, S), (1, S), (T, 1)]
SHORT = [(B, H, T, 4), (1, 1, T, 6), (B, H, 1, 2), (T, 3), (1, 6), (5,)]


@pytest.mark.parametrize("shape", SHAPES + SHORT, ids=str)
@pytest.mark.parametrize("is_causal", (False, True))
@pytest.mark.parametrize("kind", ("bool", "float"))
def test_masks(kind, shape, is_causal, rng):
    """One with fewer keys than there are does not let the queries see the others."""
    inputs = heads(rng, 3)
    mask = attend(rng, *shape)
    if kind == "float":
        mask = np.where(mask, normal(rng, *shape), np.float32(-np.inf))
    actual = ops.scaled_dot_product_attention(*inputs, mask=mask, is_causal=is_causal)
    # The reference takes a last axis of 1 for a short one, and counts queries by the one before.
    keys = S if shape[-1] == 1 else shape[-1]
    theirs = np.broadcast_to(mask, np.broadcast_shapes(shape, (T, keys))).copy()
    expected = onnx_attention(*inputs, theirs, is_causal=int(is_causal))
    assert_close(actual, expected)


def test_a_short_mask_in_any_layout(rng):
    """Repeated, transposed, of another type: as the same mask in plain memory."""
    inputs = heads(rng, 3)
    mask = attend(rng, T, 4)
    expected = onnx_attention(*inputs, mask)
    repeated = np.broadcast_to(mask, (B, H, T, 4))
    bias = np.where(mask, 0.0, -np.inf)
    for given in (mask.tolist(), np.asfortranarray(mask), repeated, bias, bias.astype(">f4")):
        assert_close(ops.scaled_dot_product_attention(*inputs, mask=given), expected)
    everything = np.broadcast_to(np.True_, (4,))
    first = [inputs[0], inputs[1][:, :, :4], inputs[2][:, :, :4]]
    assert_close(ops.scaled_dot_product_attention(*inputs, mask=everything), onnx_attention(*first))


@pytest.mark.parametrize("lengths", [(7, 7), (7, 5), (6, 1), (3, 0)], ids=str)
@pytest.mark.parametrize("is_causal", (False, True))
@pytest.mark.parametrize("masked", (False, True))
def test_lengths(lengths, is_causal, masked, rng):
    """nonpad_kv_seqlen: the queries are the last of the real keys, and see nothing where there
    are fewer keys than queries."""
    inputs = heads(rng, 2)
    lengths = np.array(lengths)
    mask = attend(rng, T, S) if masked else None
    actual = ops.scaled_dot_product_attention(
        *inputs, mask=mask, lengths=lengths, is_causal=is_causal, query_offset=lengths - T
    )
    expected = onnx_attention(*inputs, mask, lengths, is_causal=int(is_causal))
    assert_close(actual, expected)


@pytest.mark.parametrize("window", [(2, 1), (0, 0), (None, 1), (3, None)], ids=str)
@pytest.mark.parametrize("lengths", [None, (7, 5)], ids=str)
def test_windows_of_opset_25(window, lengths, rng):
    inputs = heads(rng, 3)
    left, right = (-1 if side is None else side for side in window)
    lengths = None if lengths is None else np.array(lengths)
    actual = ops.scaled_dot_product_attention(
        *inputs,
        lengths=lengths,
        window=window,
        query_offset=0 if lengths is None else lengths - T,
    )
    expected = onnx_attention(
        *inputs, None, lengths, opset=25, left_window_size=left, right_window_size=right
    )
    assert_close(actual, expected)
