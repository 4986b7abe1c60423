"""Contracts 4 and 5: whatever is passed gives the right answer or one clear error, never a crash.

Every public operation is walked through every treatment of each of its arguments, with the results
of plain float32 arrays as the measure. Inputs must come out as they went in.
"""

import inspect
from dataclasses import dataclass

import numpy as np
import pytest
from cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st

import pyx_transformer as pt
from pyx_transformer import _checks, ops

B, H, HKV, T, S, K, KV = 2, 6, 3, 5, 7, 11, 13
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Operation:
    """A public operation with plain inputs for every array argument that it has."""

    name: str
    reals: dict
    integers: dict
    optional: tuple = ()

    def __call__(self, **replaced):
        return getattr(ops, self.name)(**{**self.reals, **self.integers, **replaced})

    @property
    def inputs(self):
        return {**self.reals, **self.integers}


def operation(name, *, integers=None, optional=(), **reals):
    return Operation(name, reals, integers or {}, optional)


OPERATIONS = {
    op.name: op
    for op in (
        operation(
            "linear",
            x=normal(RNG, 3, 5, 11),
            weight=normal(RNG, 7, 11),
            bias=normal(RNG, 7),
            optional=("bias",),
        ),
        operation(
            "layer_norm",
            x=normal(RNG, 3, 5, 11),
            weight=normal(RNG, 11),
            bias=normal(RNG, 11),
            optional=("weight", "bias"),
        ),
        operation(
            "rms_norm", x=normal(RNG, 3, 5, 11), weight=normal(RNG, 11), optional=("weight",)
        ),
        *(
            operation(name, x=normal(RNG, 3, 5, 11))
            for name in (
                "softmax",
                "log_softmax",
                "relu",
                "gelu",
                "gelu_tanh",
                "quick_gelu",
                "silu",
            )
        ),
        operation(
            "embedding",
            table=normal(RNG, 17, 11),
            positions=normal(RNG, 3, 5, 11),
            integers={"ids": RNG.integers(0, 17, (3, 5))},
            optional=("positions",),
        ),
        operation(
            "scaled_dot_product_attention",
            query=normal(RNG, B, H, T, K),
            key=normal(RNG, B, HKV, S, K),
            value=normal(RNG, B, HKV, S, KV),
            mask=normal(RNG, B, H, T, S),
            integers={"lengths": np.array([7, 4]), "query_offset": np.array([0, 3])},
            optional=("mask", "lengths"),
        ),
    )
}
REALS = [(name, argument) for name, op in OPERATIONS.items() for argument in op.reals]
INTEGERS = [(name, argument) for name, op in OPERATIONS.items() for argument in op.integers]
ARRAYS = REALS + INTEGERS
every_real = pytest.mark.parametrize(("name", "argument"), REALS)
every_integer = pytest.mark.parametrize(("name", "argument"), INTEGERS)
every_array = pytest.mark.parametrize(("name", "argument"), ARRAYS)


def test_every_operation_is_here():
    public = {
        name
        for name, member in vars(ops).items()
        if inspect.isfunction(member)
        and member.__module__ == ops.__name__
        and not name.startswith("_")
    }
    assert set(OPERATIONS) == public
    for name, op in OPERATIONS.items():
        parameters = inspect.signature(getattr(ops, name)).parameters
        plain = {"activation", "eps", "scale", "is_causal", "window", "softcap", "return_weights"}
        assert set(op.inputs) | plain >= set(parameters), name


def assert_same_bits(actual, expected):
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def assert_refuses(name, argument, value, error, says=""):
    """One error of that type, which begins with the operation and names the argument."""
    with pytest.raises(error) as caught:
        OPERATIONS[name](**{argument: value})
    message = str(caught.value)
    assert message.startswith(f"{name}: {argument}"), message
    assert says in message
    assert "\n" not in message


# What is accepted, and gives the same bits as plain arrays.


def misaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    moved = memory[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    assert not moved.flags.aligned
    return moved


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def non_contiguous(array):
    padded = np.full([2 * size + 1 for size in array.shape], 7, array.dtype)
    view = padded[tuple(slice(1, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def negative_strides(array):
    backwards = tuple(slice(None, None, -1) for _ in array.shape)
    return array[backwards].copy()[backwards]


class Subclass(np.ndarray):
    """An array that is up to something."""

    def __array_finalize__(self, other):
        self.origin = other


class ArrayLike:
    """What other libraries offer instead of an array."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


LAYOUTS = {
    "read-only": read_only,
    "non-contiguous": non_contiguous,
    "Fortran order": np.asfortranarray,
    "negative strides": negative_strides,
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "misaligned": misaligned,
    "misaligned big-endian": lambda a: misaligned(a.astype(a.dtype.newbyteorder(">"))),
    "subclass": lambda array: array.view(Subclass),
    "array-like": ArrayLike,
    "nested lists": np.ndarray.tolist,
    "float64 or int64": lambda a: a.astype({"f": np.float64, "i": np.int64}[a.dtype.kind]),
}


def memory_of(value):
    """The bytes of an array and of all around it that a careless kernel might write to."""
    while isinstance(getattr(value, "base", None), np.ndarray):
        value = value.base
    return np.asarray(value).tobytes()


@every_array
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout(name, argument, layout):
    op = OPERATIONS[name]
    value = LAYOUTS[layout](op.inputs[argument])
    before = memory_of(value)
    assert_same_bits(op(**{argument: value}), op())
    assert memory_of(value) == before


@every_array
def test_memory_mapped(name, argument, tmp_path):
    op = OPERATIONS[name]
    path = tmp_path / "array.npy"
    np.save(path, op.inputs[argument])
    before = path.read_bytes()
    for mode in ("r", "r+", "c"):
        assert_same_bits(op(**{argument: np.load(path, mmap_mode=mode)}), op())
    assert path.read_bytes() == before


@every_real
@pytest.mark.parametrize(
    "dtype",
    ["f2", "f4", "f8", ">f8", "g", "i1", "i2", "i4", "i8", ">i4", "u1", "u2", "u4", "u8", "?"],
)
def test_any_real_numbers(name, argument, dtype):
    op = OPERATIONS[name]
    value = (3 * op.inputs[argument]).astype(np.int8).astype(dtype)
    if argument == "mask":
        check_mask_dtype(op, value)
    else:
        assert_same_bits(op(**{argument: value}), op(**{argument: value.astype(np.float32)}))


def check_mask_dtype(op, mask):
    if mask.dtype.kind in "iu":
        assert_refuses(op.name, "mask", mask, TypeError, "for 0 and 1 pass mask.astype(bool)")
    elif mask.dtype == bool:
        assert_same_bits(op(mask=mask), op(mask=np.where(mask, 0, -np.inf)))
    else:
        assert_same_bits(op(mask=mask), op(mask=mask.astype(np.float32)))


@every_integer
@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", ">i2", "u1", "u2", "u4", "u8", ">u8"])
def test_any_integers(name, argument, dtype):
    op = OPERATIONS[name]
    value = op.inputs[argument].astype(dtype)
    before = value.tobytes()
    assert_same_bits(op(**{argument: value}), op())
    assert value.tobytes() == before


def test_arrays_are_copied_only_if_they_must_be():
    x = normal(RNG, 3, 5)
    assert _checks.as_float32("f", "x", x) is x
    assert _checks.as_float32("f", "x", read_only(x)).flags.writeable is False
    assert np.shares_memory(_checks.as_float32("f", "x", x.view(Subclass)), x)


@pytest.mark.parametrize("dtype", (np.int64, np.int32, np.uint8, ">i8"))
def test_integers_are_copied_before_they_are_checked(dtype):
    """What another thread or process writes later to the caller's array is not used."""
    x = np.arange(6, dtype=dtype)
    for value in (x, x.reshape(2, 3), x[::2], memoryview(x) if dtype != ">i8" else x):
        assert not np.shares_memory(_checks.as_integers("f", "x", value, 0, 9), x)


@pytest.mark.parametrize("dtype", [bool, "f4", "f8", ">f4"])
def test_broadcast_masks_stay_small(dtype):
    for axes, strides in (((), (0, 0, 0, 0)), ((7,), (0, 0, 0, 1)), ((6, 1, 7), (0, 7, 0, 1))):
        mask = np.ones(axes, dtype)
        for given_mask in (mask, np.broadcast_to(mask, (2, 6, 5, 7))):
            view = _checks.as_mask("f", "mask", given_mask, (2, 6, 5, 7))
            assert view.dtype == (bool if dtype is bool else np.float32)
            assert view.shape == (2, 6, 5, 7)
            assert view.strides == tuple(view.itemsize * stride for stride in strides)


@every_array
def test_inputs_are_not_written_to(name, argument):
    op = OPERATIONS[name]
    before = {key: value.copy() for key, value in op.inputs.items()}
    result = op()
    assert not any(np.shares_memory(result, value) for value in op.inputs.values())
    for key, value in op.inputs.items():
        np.testing.assert_array_equal(value, before[key])


@every_real
def test_beyond_float32_is_infinite(name, argument, recwarn):
    op = OPERATIONS[name]
    value = op.inputs[argument].astype(np.float64)
    value.flat[3], value.flat[4] = 1e300, -1e300
    with np.errstate(all="raise"):
        result = op(**{argument: value})
    value.flat[3], value.flat[4] = np.inf, -np.inf
    np.testing.assert_array_equal(result, op(**{argument: value}))
    assert not recwarn.list


@every_real
def test_nan_shows(name, argument):
    op = OPERATIONS[name]
    value = op.inputs[argument].copy()
    value[...] = np.nan
    assert np.isnan(op(**{argument: value})).any()


@pytest.mark.parametrize("name", OPERATIONS)
def test_subnormal_numbers_survive_a_call(name):
    OPERATIONS[name]()
    assert np.float32(1e-40) * np.float32(0.5) > 0


# What is refused.

WRONG_KINDS = {
    "complex": lambda array: array.astype(np.complex64),
    "object": lambda array: array.astype(object),
    "str": lambda array: array.astype(str),
    "bytes": lambda array: array.astype("S"),
    "datetime": lambda array: array.astype(np.int64).astype("M8[s]"),
    "timedelta": lambda array: array.astype(np.int64).astype("m8[s]"),
    "structured": lambda array: np.zeros(array.shape, [("a", "f4"), ("b", "f4")]),
    "raw bytes": lambda array: np.zeros(array.shape, "V4"),
    "a word": lambda array: "hello",
    "a dict": lambda array: {"x": array},
    "a set": lambda array: {1, 2},
    "a function": lambda array: len,
    "a class": lambda array: np.float32,
    "a list with None": lambda array: [None, 1.0],
}


@every_array
@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_wrong_kinds(name, argument, kind):
    value = WRONG_KINDS[kind](OPERATIONS[name].inputs[argument])
    assert_refuses(name, argument, value, TypeError, " has dtype ")


@every_integer
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "?"])
def test_integers_are_not_floats_or_flags(name, argument, dtype):
    value = OPERATIONS[name].inputs[argument].astype(dtype)
    assert_refuses(name, argument, value, TypeError, "expected integers")


@every_array
def test_none(name, argument):
    op = OPERATIONS[name]
    if argument in op.optional:
        assert np.isfinite(op(**{argument: None})).all()
    else:
        assert_refuses(name, argument, None, TypeError, "is None, expected an array")


@every_array
def test_ragged_lists(name, argument):
    assert_refuses(name, argument, [[1.0, 2.0], [3.0]], ValueError, "not a regular array")


class Broken:
    """An array of a library that cannot hand it over."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("it is on another device")


@every_array
def test_arrays_that_cannot_be_read(name, argument):
    assert_refuses(name, argument, Broken(), TypeError, "it is on another device")


WRONG_SHAPES = {
    "linear": {
        "x": [((), "(..., in_features)")],
        "weight": [
            ((7, 12), "(out_features, 11) because x is (3, 5, 11)"),
            ((7, 0), "(out_features, 11) because x is (3, 5, 11)"),
            ((11,), "(out_features, 11) because x is (3, 5, 11)"),
            ((1, 7, 11), "(out_features, 11) because x is (3, 5, 11)"),
        ],
        "bias": [
            ((), "(7,) because weight is (7, 11)"),
            ((1,), "(7,) because weight is (7, 11)"),
            ((1, 7), "(7,) because weight is (7, 11)"),
        ],
    },
    "layer_norm": {
        "x": [((), "(..., features)")],
        "weight": [((12,), "(11,) because x is (3, 5, 11)"), ((), "(11,) because x is (3, 5, 11)")],
        "bias": [
            ((0,), "(11,) because x is (3, 5, 11)"),
            ((5, 11), "(11,) because x is (3, 5, 11)"),
        ],
    },
    "rms_norm": {
        "x": [((), "(..., features)")],
        "weight": [((1,), "(11,) because x is (3, 5, 11)")],
    },
    "softmax": {"x": [((), "(..., features)")]},
    "log_softmax": {"x": [((), "(..., features)")]},
    "embedding": {
        "table": [((17,), "(V, D)"), ((), "(V, D)"), ((1, 17, 11), "(V, D)")],
        "positions": [
            ((5, 12), "(..., 11) because table is (17, 11)"),
            ((), "(..., 11) because table is (17, 11)"),
            ((4, 11), "one that broadcasts to (..., T, D) = (3, 5, 11)"),
            ((1, 3, 5, 11), "one that broadcasts to (..., T, D) = (3, 5, 11)"),
        ],
    },
    "scaled_dot_product_attention": {
        "query": [
            ((5, 11), "(B, H, T, K)"),
            ((), "(B, H, T, K)"),
            ((1, 2, 6, 5, 11), "(B, H, T, K)"),
        ],
        "key": [
            ((3, 3, 7, 11), "(2, Hkv, S, 11) because query is (2, 6, 5, 11)"),
            ((2, 3, 7, 10), "(2, Hkv, S, 11) because query is (2, 6, 5, 11)"),
            ((7, 11), "(2, Hkv, S, 11) because query is (2, 6, 5, 11)"),
        ],
        "value": [
            ((2, 3, 8, 13), "(2, 3, 7, Kv) because key is (2, 3, 7, 11)"),
            ((2, 6, 7, 13), "(2, 3, 7, Kv) because key is (2, 3, 7, 11)"),
            ((2, 3, 7, 13, 1), "(2, 3, 7, Kv) because key is (2, 3, 7, 11)"),
        ],
        "mask": [
            ((8,), "one that broadcasts to (B, H, T, S) = (2, 6, 5, 7)"),
            ((4, 6), "one that broadcasts to (B, H, T, S) = (2, 6, 5, 7)"),
            ((7, 5), "one that broadcasts to (B, H, T, S) = (2, 6, 5, 7)"),
            ((2, 5, 7), "one that broadcasts to (B, H, T, S) = (2, 6, 5, 7)"),
            ((1, 2, 6, 5, 7), "one that broadcasts to (B, H, T, S) = (2, 6, 5, 7)"),
            ((0,), "one that broadcasts to (B, H, T, S) = (2, 6, 5, 7)"),
        ],
        "lengths": [
            ((), "(2,) because key is (2, 3, 7, 11)"),
            ((3,), "(2,) because key is (2, 3, 7, 11)"),
            ((2, 7), "(2,) because key is (2, 3, 7, 11)"),
        ],
        "query_offset": [
            ((1,), "(2,) because query is (2, 6, 5, 11)"),
            ((2, 1), "(2,) because query is (2, 6, 5, 11)"),
        ],
    },
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_wrong_shapes(name):
    for argument, shapes in WRONG_SHAPES[name].items():
        for shape, expected in shapes:
            wrong = np.zeros(shape, OPERATIONS[name].inputs[argument].dtype)
            says = f"{argument} has shape {shape}, expected {expected}"
            assert_refuses(name, argument, wrong, ValueError, says)


def test_heads_that_do_not_divide():
    for heads in (4, 0):
        wrong = {"key": np.zeros((B, heads, S, K)), "value": np.zeros((B, heads, S, KV))}
        with pytest.raises(ValueError) as caught:
            OPERATIONS["scaled_dot_product_attention"](**wrong)
        assert str(caught.value) == (
            "scaled_dot_product_attention: query has H = 6 heads, expected a multiple of "
            f"Hkv = {heads} because key is (2, {heads}, 7, 11)"
        )


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (17, "ids is 17, expected 0 to 16 because the table is (17, 11)"),
        (-1, "ids is -1, expected 0 to 16"),
        ([0, 1, 17, 18], "ids[2] is 17, expected 0 to 16"),
        ([[0, 1], [-(2**63), 17]], "ids[1, 0] is -9223372036854775808, expected 0 to 16"),
        (np.array([3, 2**64 - 1], np.uint64), "ids[1] is 18446744073709551615, expected 0 to 16"),
        (np.array([3, 2**32], np.int64), "ids[1] is 4294967296, expected 0 to 16"),
        (np.array([-128], np.int8), "ids[0] is -128, expected 0 to 16"),
    ],
    ids=str,
)
def test_token_ids_out_of_range(ids, says):
    with pytest.raises(ValueError) as caught:
        ops.embedding(ids, OPERATIONS["embedding"].reals["table"])
    assert str(caught.value).startswith(f"embedding: {says}")


def test_no_token_id_fits_an_empty_table():
    with pytest.raises(
        ValueError, match=r"ids\[0\] is 0, expected none at all because the table is"
    ):
        ops.embedding([0], np.zeros((0, 11)))


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("lengths", [7, 8], "lengths[1] is 8, expected 0 to 7 because key is (2, 3, 7, 11)"),
        ("lengths", [-1, 7], "lengths[0] is -1, expected 0 to 7"),
        ("query_offset", 2**62, f"query_offset is {2**62}, expected {-(2**61)} to {2**61}"),
        ("query_offset", [0, -(2**62)], f"query_offset[1] is {-(2**62)}, expected {-(2**61)} to"),
    ],
    ids=str,
)
def test_integers_out_of_range(argument, value, says):
    assert_refuses("scaled_dot_product_attention", argument, value, ValueError, says)


NOT_NUMBERS = [None, "1", 1j, True, [1.0], np.ones(1), object()]
NOT_FLAGS = [None, 1, 0, "yes", np.ones(3, bool), []]
NOT_WINDOWS = [3, "ab", (1,), (1, 2, 3), {1, 2}, np.array([1, 2])]
WRONG_SCALARS = [
    *[("linear", "activation", v, TypeError) for v in (1, True, np.tanh, ["relu"], {})],
    *[("linear", "activation", v, ValueError) for v in ("", "ReLU", "swish", "identity")],
    *[(name, "eps", v, TypeError) for name in ("layer_norm", "rms_norm") for v in NOT_NUMBERS],
    *[
        (name, "eps", v, ValueError)
        for name in ("layer_norm", "rms_norm")
        for v in (-1e-9, np.nan, np.inf, 1e39, 10**400)
    ],
    *[("embedding", "scale", v, TypeError) for v in NOT_NUMBERS],
    *[("embedding", "scale", v, ValueError) for v in (np.nan, -np.inf, -1e39, np.float16("inf"))],
    *[
        ("scaled_dot_product_attention", argument, v, error)
        for argument, values, error in (
            ("scale", NOT_NUMBERS[1:], TypeError),
            ("scale", (np.nan, np.inf, 1e39), ValueError),
            ("softcap", NOT_NUMBERS[1:], TypeError),
            ("softcap", (0, -1.0, np.nan, np.inf, 1e-50), ValueError),
            ("is_causal", NOT_FLAGS, TypeError),
            ("return_weights", NOT_FLAGS, TypeError),
            ("window", NOT_WINDOWS, TypeError),
            ("window", ((1.0, 2), ("1", 2), (True, 0), ([], None)), TypeError),
            ("window", ((-1, 2), (2, -1), [None, -(2**80)]), ValueError),
        )
        for v in values
    ],
]


@pytest.mark.parametrize(("name", "argument", "value", "error"), WRONG_SCALARS)
def test_wrong_scalars(name, argument, value, error):
    assert_refuses(name, argument, value, error, "expected")


@pytest.mark.parametrize(
    ("bounds", "says", "good", "bad"),
    [
        ({}, "a finite number", (0, -1e30), (np.nan, np.inf, -1e39)),
        ({"minimum": 0}, "a finite number, at least 0", (0, 3e38), (-1e-9, np.nan, 1e39)),
        ({"above": 0}, "a finite number, above 0", (1e-9,), (0, -1, np.nan, np.inf)),
        ({"maximum": 1}, "a finite number, at most 1", (1, -5), (1.1, np.nan, -np.inf)),
        (
            {"minimum": 0, "below": 1},
            "a finite number, at least 0 and below 1",
            (0, 0.999),
            (1, -1e-9, np.nan),
        ),
        (
            {"above": 0, "maximum": 1},
            "a finite number, above 0 and at most 1",
            (1, 1e-9),
            (0, 1.001, np.nan),
        ),
    ],
    ids=str,
)
def test_bounds_of_a_number(bounds, says, good, bad):
    for value in good:
        assert _checks.as_number("f", "x", value, **bounds) == value
    for value in bad:
        with pytest.raises(ValueError) as caught:
            _checks.as_number("f", "x", value, **bounds)
        assert str(caught.value) == f"f: x is {value!r}, expected {says}"


def test_unknown_activations_are_told_the_known_ones():
    known = "one of None, 'relu', 'gelu', 'gelu_tanh', 'quick_gelu', 'silu'"
    assert_refuses("linear", "activation", "tanh", ValueError, f"is 'tanh', expected {known}")


@pytest.mark.parametrize("eps", [0, 0.25, np.float16(0.25), np.float64(0.25), np.array(0.25)])
def test_any_real_number(eps):
    op = OPERATIONS["layer_norm"]
    assert_same_bits(op(eps=eps), op(eps=float(eps)))


# Empty arrays.


@pytest.mark.parametrize("axis", (0, 1, 2))
@pytest.mark.parametrize(
    "name", [name for name, op in OPERATIONS.items() if set(op.inputs) == {"x"}]
)
def test_an_empty_axis(name, axis):
    shape = [3, 5, 11]
    shape[axis] = 0
    assert_same_bits(getattr(ops, name)(np.zeros(shape)), np.zeros(shape, np.float32))
    assert_same_bits(getattr(ops, name)([]), np.zeros(0, np.float32))


def test_empty_arguments():
    def zeros(*shape):
        return np.zeros(shape, np.float32)

    for m, n, k in ((0, 7, 11), (5, 0, 11), (5, 7, 0), (0, 0, 0)):
        assert_same_bits(ops.linear(zeros(m, k), zeros(n, k), zeros(n)), zeros(m, n))
        assert_same_bits(ops.linear(zeros(m, k), zeros(n, k), activation="gelu"), zeros(m, n))
    for m, d in ((0, 11), (5, 0), (0, 0)):
        assert_same_bits(ops.layer_norm(zeros(m, d), zeros(d), zeros(d)), zeros(m, d))
        assert_same_bits(ops.rms_norm(zeros(m, d), zeros(d)), zeros(m, d))
    for ids, shape in (([], (0,)), ([[], []], (2, 0)), (np.zeros((0, 3), int), (0, 3))):
        for v, d in ((17, 11), (0, 11), (17, 0)):
            assert_same_bits(ops.embedding(ids, zeros(v, d)), zeros(*shape, d))
            result = ops.embedding(ids, zeros(v, d), positions=zeros(*shape, d))
            assert_same_bits(result, zeros(*shape, d))
    assert_same_bits(ops.embedding([1, 2], zeros(17, 0)), zeros(2, 0))


def test_a_result_too_large_to_exist():
    nothing = np.zeros((2**40, 0), np.float32)
    with pytest.raises(MemoryError, match=r"^linear: no memory for a result of shape \(1099511627"):
        ops.linear(nothing, nothing)


def test_no_query_of_any_width_has_no_result():
    wide = np.zeros((1, 1, 0, 2**50), np.float32)
    result = ops.scaled_dot_product_attention(wide, wide, wide, return_weights=True)
    assert [array.shape for array in result] == [wide.shape, (1, 1, 0, 0)]
    result = ops.scaled_dot_product_attention(wide, wide, np.zeros((1, 1, 0, 3)))
    assert result.shape == (1, 1, 0, 3)


@pytest.mark.parametrize("dtype", ("f4", "f8", "i8"))
def test_an_input_too_large_to_copy(dtype):
    """A view that repeats one number takes no memory itself."""
    wide = np.broadcast_to(np.zeros(1, dtype), (2**50,))
    with pytest.raises(MemoryError, match=r"^relu: no memory for x as a float32 array of shape \("):
        ops.relu(wide)


@pytest.mark.parametrize("shape", [(2**50, 4), (2**53, 2), (3, 2**50), (0, 2**62), (1, 2**70)])
def test_positions_too_many_to_exist(shape):
    says = rf"^sinusoidal_positions: no memory for positions of shape \({shape[0]}, {shape[1]}\)"
    with pytest.raises(MemoryError, match=says):
        pt.sinusoidal_positions(*shape)


# Anything at all.

STRANGE = [
    *(None, True, 0, -1, 1.5, 2**70, 1j, np.nan, np.inf, "", "relu", b"x", (), [], {}, set(), ...),
    *(object(), len, int, range(3), [[]], [[1], [1, 2]], [None], ["a"], [2**70], np.float32(3)),
    *(np.zeros(()), np.zeros(0), np.zeros((0, 0)), np.zeros((2, 3, 5, 7)), np.zeros(7, int)),
    *(np.ma.masked_array([1.0, 2.0], [True, False]), np.array(["a"]), np.array([None]), Broken()),
    *(np.zeros((1,) * 32), memoryview(b"abcd")),
]


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(data=st.data())
def test_anything_at_all(data):
    name = data.draw(st.sampled_from(sorted(OPERATIONS)))
    op = OPERATIONS[name]
    parameters = sorted(inspect.signature(getattr(ops, name)).parameters)
    changed = data.draw(st.lists(st.sampled_from(parameters), min_size=1, max_size=3, unique=True))
    strange = {argument: data.draw(st.sampled_from(STRANGE)) for argument in changed}
    before = {key: value.tobytes() for key, value in op.inputs.items()}
    try:
        result = op(**strange)
    except (TypeError, ValueError) as error:
        assert str(error).startswith(f"{name}: ")
    else:
        results = result if isinstance(result, tuple) else (result,)
        assert all(isinstance(r, np.ndarray) and r.dtype == np.float32 for r in results)
    assert {key: value.tobytes() for key, value in op.inputs.items()} == before
