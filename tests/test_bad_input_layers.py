"""Contracts 4 and 5 above the operations: layers, stacks, the model, generating and scoring.

Whatever is passed to a call or a constructor gives the right answer or one clear error, never a
crash, and arrays come out as they went in. The treatments are those of test_bad_input, which walks
through the operations.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cases import normal
from models import randomised, small_model, token_ids
from test_bad_input import LAYOUTS, WRONG_KINDS, Broken, memory_of

import pyx_transformer as pt

RNG = np.random.default_rng(0)
D, H, F = 24, 3, 41
KDIM, VDIM = 17, 31
B, T, S = 2, 5, 7
MODEL = small_model()
LANGUAGE_MODEL = randomised(pt.TransformerLM(MODEL.config))
ENCODER_MODEL = randomised(
    pt.EncoderModel(
        pt.EncoderConfig(
            23,
            d_model=D,
            num_heads=H,
            num_encoder_layers=2,
            d_ff=F,
            num_token_types=3,
            embedding_norm=pt.NormConfig(),
            pooler=True,
            head=pt.MaskedLMConfig(),
        )
    )
)


@dataclass(frozen=True)
class Call:
    """Something public that is called, with plain inputs for all its array arguments."""

    function: Any
    reals: dict
    integers: dict
    optional: tuple

    def __call__(self, **replaced):
        return arrays_of(self.function(**{**self.reals, **self.integers, **replaced}))

    @property
    def inputs(self):
        return {**self.reals, **self.integers}


def arrays_of(result):
    """All arrays in a result, as bits."""
    if isinstance(result, np.ndarray):
        return [result.view(np.uint32) if result.dtype == np.float32 else result]
    return [array for part in result for array in arrays_of(part)]


def in_order(completed):
    """The sequences of a generation, whatever the order in which they came."""
    return [found[0].sequence for _, found in sorted(completed, key=lambda pair: pair[0])]


def call(function, *, integers=None, optional=(), **reals):
    return Call(function, reals, integers or {}, optional)


def x_only(layer):
    return call(randomised(layer), x=normal(RNG, B, T, D))


SRC, TGT = token_ids(RNG, 23, B, S), token_ids(RNG, 19, B, T)
SRC_LENGTHS, TGT_LENGTHS = np.array([7, 4]), np.array([3, 5])
CALLS = {
    "Linear": x_only(pt.Linear(D, F)),
    "LayerNorm": x_only(pt.LayerNorm(D)),
    "RMSNorm": x_only(pt.RMSNorm(D)),
    "FeedForward": x_only(pt.FeedForward(D, F)),
    "Embedding": call(pt.Embedding(19, D, rng=0), integers={"ids": TGT}),
    "MultiheadAttention": call(
        randomised(pt.MultiheadAttention(D, H, kdim=KDIM, vdim=VDIM)),
        query=normal(RNG, B, T, D),
        memory=normal(RNG, B, S, KDIM),
        value=normal(RNG, B, S, VDIM),
        mask=normal(RNG, B, H, T, S),
        integers={"lengths": SRC_LENGTHS, "query_offset": np.array([0, 3])},
        optional=("mask", "lengths"),
    ),
    "TransformerEncoder": call(
        randomised(pt.TransformerEncoder(2, D, H, F)),
        x=normal(RNG, B, T, D),
        mask=normal(RNG, B, H, T, T),
        integers={"lengths": TGT_LENGTHS},
        optional=("mask", "lengths"),
    ),
    "TransformerDecoder": call(
        randomised(pt.TransformerDecoder(2, D, H, F)),
        x=normal(RNG, B, T, D),
        memory=normal(RNG, B, S, D),
        mask=normal(RNG, B, H, T, T),
        memory_mask=normal(RNG, B, H, T, S),
        integers={"lengths": TGT_LENGTHS, "memory_lengths": SRC_LENGTHS},
        optional=("mask", "memory_mask", "lengths", "memory_lengths"),
    ),
    "Transformer": call(
        MODEL,
        integers={
            "src": SRC,
            "tgt": TGT,
            "src_lengths": SRC_LENGTHS,
            "tgt_lengths": TGT_LENGTHS,
        },
        optional=("src_lengths", "tgt_lengths"),
    ),
    "Transformer.encode": call(
        MODEL.encode,
        integers={"src": SRC, "src_lengths": SRC_LENGTHS},
        optional=("src_lengths",),
    ),
    "Transformer.generate": call(
        lambda max_length=4, **ids: MODEL.generate(**ids, max_length=max_length),
        integers={"src": SRC, "src_lengths": SRC_LENGTHS},
        optional=("src_lengths",),
    ),
    "Transformer.generate_as_completed": call(
        lambda max_length=4, **ids: in_order(
            MODEL.generate_as_completed(**ids, max_length=max_length)
        ),
        integers={"src": SRC, "src_lengths": SRC_LENGTHS},
        optional=("src_lengths",),
    ),
    "Transformer.score": call(
        MODEL.score,
        integers={
            "src": SRC,
            "tgt": TGT,
            "src_lengths": SRC_LENGTHS,
            "tgt_lengths": TGT_LENGTHS,
        },
        optional=("src_lengths", "tgt_lengths"),
    ),
    "TransformerLM": call(
        LANGUAGE_MODEL,
        integers={"tgt": TGT, "tgt_lengths": TGT_LENGTHS},
        optional=("tgt_lengths",),
    ),
    "TransformerLM.generate": call(
        lambda max_length=4, **ids: LANGUAGE_MODEL.generate(**ids, max_length=max_length),
        integers={"prompt": TGT, "prompt_lengths": TGT_LENGTHS},
        optional=("prompt_lengths",),
    ),
    "TransformerLM.generate_as_completed": call(
        lambda max_length=4, **ids: in_order(
            LANGUAGE_MODEL.generate_as_completed(**ids, max_length=max_length)
        ),
        integers={"prompt": TGT, "prompt_lengths": TGT_LENGTHS},
        optional=("prompt_lengths",),
    ),
    "TransformerLM.score": call(
        LANGUAGE_MODEL.score,
        integers={"tgt": TGT, "tgt_lengths": TGT_LENGTHS},
        optional=("tgt_lengths",),
    ),
}
for method in ("", ".encode", ".pooled"):
    CALLS[f"EncoderModel{method}"] = call(
        getattr(ENCODER_MODEL, method[1:] or "__call__"),
        integers={
            "src": SRC,
            "src_lengths": SRC_LENGTHS,
            "token_types": RNG.integers(0, 3, (B, S)),
        },
        optional=("src_lengths", "token_types"),
    )
REALS = [(name, argument) for name, c in CALLS.items() for argument in c.reals]
INTEGERS = [(name, argument) for name, c in CALLS.items() for argument in c.integers]
every_real = pytest.mark.parametrize(("name", "argument"), REALS)
every_integer = pytest.mark.parametrize(("name", "argument"), INTEGERS)
every_array = pytest.mark.parametrize(("name", "argument"), REALS + INTEGERS)


def test_every_layer_and_method_is_here():
    classes = {name for name in pt.__all__ if inspect.isclass(getattr(pt, name))}
    classes -= {name for name in classes if name.endswith("Config")}  # see test_bad_descriptions
    classes -= {"AttentionWeights", "HiddenStates"}
    classes -= {"Generation", "GenerationOptions", "Hypothesis"}  # see test_generation_options
    classes -= {"GeneratedText", "NBest"}  # see test_translator
    # What takes texts has tests of its own.
    classes -= {name for name in classes if getattr(pt, name).__module__.count(".pipelines.")}
    assert classes == {name for name in CALLS if "." not in name}
    takes_no_arrays = {"apply", "state_dict", "load_state_dict", "save", "memory_estimate"}
    for name in classes:
        methods = {
            f"{name}.{method}"
            for method, member in vars(getattr(pt, name)).items()
            if inspect.isfunction(member) and method[0] != "_" and method not in takes_no_arrays
        }
        inner = {
            "project",
            "forward",
            "compiled",
            "block",
            "tables",
            "new_weights",
            "ties",
            "share",
            "in_words",  # what its repr says
            "rows_of",  # of what was checked, as this is
            "logits_of",
        }
        assert {m for m in methods if m.split(".")[1] not in inner} <= CALLS.keys()


@pytest.mark.parametrize("name", [name for name in CALLS if "." not in name])
def test_every_argument_is_here(name):
    parameters = set(inspect.signature(getattr(pt, name).__call__).parameters) - {"self"}
    scalars = {"activation", "is_causal", "return_weights"}
    scalars |= {"return_attention", "return_hidden_states"}
    assert parameters - scalars == set(CALLS[name].inputs)


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for array, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(array, wanted, strict=True)


def assert_refuses(name, argument, value, error, says=""):
    """One error of that type, which begins with who was called and names the argument."""
    with pytest.raises(error) as caught:
        CALLS[name](**{argument: value})
    message = str(caught.value)
    assert message.startswith(f"{name}: {argument}"), message
    assert says in message
    assert "\n" not in message


# What is accepted, and gives the same bits as plain arrays.


@every_array
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout(name, argument, layout):
    c = CALLS[name]
    value = LAYOUTS[layout](c.inputs[argument])
    before = memory_of(value)
    assert_same(c(**{argument: value}), c())
    assert memory_of(value) == before


@pytest.mark.parametrize("name", CALLS)
def test_inputs_are_not_written_to(name):
    c = CALLS[name]
    before = {argument: value.copy() for argument, value in c.inputs.items()}
    results = c()
    for argument, value in c.inputs.items():
        assert not any(np.shares_memory(result, value) for result in results)
        np.testing.assert_array_equal(value, before[argument])


@every_real
@pytest.mark.parametrize(
    "dtype", ["f2", "f8", ">f8", "g", "i1", "i4", ">i4", "i8", "u1", "u8", "?"]
)
def test_any_real_numbers(name, argument, dtype):
    c = CALLS[name]
    value = (3 * c.inputs[argument]).astype(np.int8).astype(dtype)
    if not argument.endswith("mask"):
        assert_same(c(**{argument: value}), c(**{argument: value.astype(np.float32)}))
    elif value.dtype.kind in "iu":
        hint = f"for 0 and 1 pass {argument}.astype(bool)"
        assert_refuses(name, argument, value, TypeError, hint)
    elif value.dtype == bool:
        assert_same(c(**{argument: value}), c(**{argument: np.where(value, 0, -np.inf)}))
    else:
        assert_same(c(**{argument: value}), c(**{argument: value.astype(np.float32)}))


@every_integer
@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", ">i4", "u1", "u2", "u4", "u8", ">u8"])
def test_any_integers(name, argument, dtype):
    c = CALLS[name]
    assert_same(c(**{argument: c.inputs[argument].astype(dtype)}), c())


@every_real
@pytest.mark.parametrize("number", (np.nan, np.inf, -np.inf, 1e300, -1e300))
def test_numbers_beyond_all(name, argument, number, recwarn):
    """NaN shows where it is seen; nothing warns, whatever NumPy is told to do about overflow."""
    c = CALLS[name]
    value = c.inputs[argument].astype(np.float64)
    value[0] = number
    with np.errstate(all="raise"):
        results = c(**{argument: value})
    if np.isnan(number):
        assert np.isnan(results[0].view(np.float32)).any()
    with np.errstate(over="ignore"):
        assert_same(c(**{argument: value.astype(np.float32)}), results)
    assert not recwarn.list


# What is refused.


@every_array
@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_wrong_kinds(name, argument, kind):
    value = WRONG_KINDS[kind](CALLS[name].inputs[argument])
    says = " has dtype "
    if kind == "a word" and argument in ("src", "tgt", "prompt"):
        says = " is 'hello', expected token ids; pt."  # and what takes texts
    assert_refuses(name, argument, value, TypeError, says)


@every_integer
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "?"])
def test_integers_are_not_floats_or_flags(name, argument, dtype):
    value = CALLS[name].inputs[argument].astype(dtype)
    assert_refuses(name, argument, value, TypeError, "expected integers")


@every_array
def test_ragged_lists_and_arrays_that_cannot_be_read(name, argument):
    assert_refuses(name, argument, [[1.0, 2.0], [3.0]], ValueError, "not a regular array")
    assert_refuses(name, argument, Broken(), TypeError, "it is on another device")


@every_array
def test_none(name, argument):
    c = CALLS[name]
    if name == "MultiheadAttention" and argument in ("memory", "value"):
        return  # these have a meaning: see test_layers
    if argument in c.optional:
        assert c(**{argument: None})
    else:
        assert_refuses(name, argument, None, TypeError, "is None, expected an array")


@every_array
def test_wrong_ranks(name, argument):
    """One axis more and one less than there should be, where that number is fixed."""
    value = CALLS[name].inputs[argument]
    if name == "Embedding":
        return  # ids of any shape
    if argument == "query_offset" or argument.endswith("mask"):
        wrong = [np.stack([value] * 3)]
    elif value.ndim == 3 and name in ("Linear", "LayerNorm", "RMSNorm", "FeedForward"):
        wrong = [np.zeros(())]
    else:
        wrong = [value[None], value[0], np.zeros((), value.dtype)]
    for array in wrong:
        shape = f"({array.shape[0]},)" if array.ndim == 1 else str(array.shape)
        assert_refuses(name, argument, array, ValueError, f"has shape {shape}, expected ")


WRONG_SIZES = {
    "Linear": {"x": [((2, 5, 25), "(..., 24)"), ((0,), "(..., 24)")]},
    "LayerNorm": {"x": [((2, 5, 23), "(..., 24)"), ((24, 1), "(..., 24)")]},
    "RMSNorm": {"x": [((2, 5, 0), "(..., 24)")]},
    "FeedForward": {"x": [((2, 24, 5), "(..., 24)")]},
    "MultiheadAttention": {
        "query": [((2, 5, 25), "(B, T, 24)")],
        "memory": [
            ((2, 7, 24), "(2, S, 17) because query is (2, 5, 24)"),
            ((3, 7, 17), "(2, S, 17) because query is (2, 5, 24)"),
        ],
        "value": [
            ((2, 8, 31), "(2, 7, 31) because memory is (2, 7, 17)"),
            ((2, 7, 17), "(2, 7, 31) because memory is (2, 7, 17)"),
        ],
        "mask": [((2, 3, 7, 5), "one that broadcasts to (B, H, T, S) = (2, 3, 5, 7)")],
        "lengths": [((3,), "(2,) because memory is (2, 7, 17)")],
        "query_offset": [
            ((3,), "(2,) because query is (2, 5, 24)"),
            ((1,), "(2,) because query is (2, 5, 24)"),
        ],
    },
    "TransformerEncoder": {
        "x": [((2, 5, 25), "(B, S, 24)")],
        "mask": [((2, 5, 5), "one that broadcasts to (B, H, T, S) = (2, 3, 5, 5)")],
        "lengths": [((1,), "(2,) because x is (2, 5, 24)"), ((0,), "(2,) because x is (2, 5, 24)")],
    },
    "TransformerDecoder": {
        "x": [((2, 5, 0), "(B, T, 24)")],
        "memory": [
            ((3, 7, 24), "(2, S, 24) because x is (2, 5, 24)"),
            ((2, 7, 25), "(2, S, 24) because x is (2, 5, 24)"),
        ],
        "mask": [((5, 7), "one that broadcasts to (B, H, T, S) = (2, 3, 5, 5)")],
        "memory_mask": [((7, 5), "one that broadcasts to (B, H, T, S) = (2, 3, 5, 7)")],
        "lengths": [((3,), "(2,) because x is (2, 5, 24)")],
        "memory_lengths": [((3,), "(2,) because memory is (2, 7, 24)")],
    },
    "Transformer": {
        "tgt": [((3, 5), "(2, T)")],
        "src_lengths": [((3,), "(2,) because src is (2, 7)")],
        "tgt_lengths": [((1,), "(2,) because tgt is (2, 5)")],
    },
    "Transformer.encode": {"src_lengths": [((0,), "(2,) because src is (2, 7)")]},
    "Transformer.generate": {"src_lengths": [((3,), "(2,) because src is (2, 7)")]},
    "Transformer.score": {
        "tgt": [((1, 5), "(2, T)")],
        "src_lengths": [((3,), "(2,) because src is (2, 7)")],
        "tgt_lengths": [((3,), "(2,) because tgt is (2, 5)")],
    },
    "TransformerLM": {"tgt_lengths": [((1,), "(2,) because tgt is (2, 5)")]},
    "TransformerLM.generate": {"prompt_lengths": [((3,), "(2,) because prompt is (2, 5)")]},
    "TransformerLM.score": {"tgt_lengths": [((0,), "(2,) because tgt is (2, 5)")]},
}


@pytest.mark.parametrize("name", WRONG_SIZES)
def test_wrong_sizes(name):
    for argument, sizes in WRONG_SIZES[name].items():
        for shape, expected in sizes:
            wrong = np.zeros(shape, CALLS[name].inputs[argument].dtype)
            shown = f"({shape[0]},)" if len(shape) == 1 else str(shape)
            says = f"{argument} has shape {shown}, expected {expected}"
            assert_refuses(name, argument, wrong, ValueError, says)


@pytest.mark.parametrize(
    ("widths", "arguments", "error", "says"),
    [
        ((24, 24), {"lengths": [4, 1]}, ValueError, "lengths has shape (2,), expected (1,)"),
        ((24, 24), {"lengths": [6]}, ValueError, "lengths[0] is 6, expected 0 to 5"),
        ((24, 24), {"value": np.zeros((1, 6, 24))}, ValueError, "value has shape (1, 6, 24)"),
        ((17, 24), {}, TypeError, "memory is None, expected an array"),
        ((24, 31), {}, TypeError, "value is None, expected an array"),
    ],
)
def test_attention_without_a_memory_blames_the_query(widths, arguments, error, says):
    layer = pt.MultiheadAttention(D, H, kdim=widths[0], vdim=widths[1])
    with pytest.raises(error) as caught:
        layer(np.zeros((1, 5, D)), **arguments)
    assert str(caught.value).startswith(f"MultiheadAttention: {says}")
    if error is ValueError:
        assert str(caught.value).endswith(" because query is (1, 5, 24)")


VOCABULARIES = {"ids": 19, "src": 23, "tgt": 19, "prompt": 19}
LENGTHS = {
    "src_lengths": 7,
    "tgt_lengths": 5,
    "prompt_lengths": 5,
    "memory_lengths": 7,
    "lengths": 5,
}


@pytest.mark.parametrize(("name", "argument"), [i for i in INTEGERS if i[1] in VOCABULARIES])
@pytest.mark.parametrize("wrong", (-1, -(2**63), 2**32, 2**63 - 1, "size"))
def test_token_ids_out_of_range(name, argument, wrong):
    size = VOCABULARIES[argument]
    wrong = size if wrong == "size" else wrong
    ids = CALLS[name].inputs[argument].copy()
    ids[1, 2] = wrong
    says = (
        f"{argument}[1, 2] is {wrong}, expected 0 to {size - 1} because the table is ({size}, 24)"
    )
    assert_refuses(name, argument, ids, ValueError, says)
    assert_refuses(name, argument, ids.astype(np.uint64), ValueError, f"{argument}[1, 2] is ")


@pytest.mark.parametrize(("name", "argument"), [i for i in INTEGERS if i[1] in LENGTHS])
@pytest.mark.parametrize("wrong", (-1, -(2**63), 2**62, "longest + 1"))
def test_lengths_out_of_range(name, argument, wrong):
    longest = 7 if name == "MultiheadAttention" else LENGTHS[argument]
    wrong = longest + 1 if wrong == "longest + 1" else wrong
    says = f"{argument}[1] is {wrong}, expected 0 to {longest} because "
    assert_refuses(name, argument, [2, wrong], ValueError, says)


@pytest.mark.parametrize("offset", (2**62, [0, -(2**62)]), ids=str)
def test_query_offsets_out_of_range(offset):
    assert_refuses("MultiheadAttention", "query_offset", offset, ValueError, "expected -")


NOT_FLAGS = [None, 1, 0, "yes", np.ones(3, bool), []]
WITH_ATTENTION = (
    "TransformerEncoder",
    "TransformerDecoder",
    "Transformer",
    "TransformerLM",
    "EncoderModel",
    "EncoderModel.encode",
)
WRONG_SCALARS = [
    *[("Linear", "activation", v, TypeError) for v in (1, True, np.tanh, ["relu"], {})],
    *[("Linear", "activation", v, ValueError) for v in ("", "ReLU", "tanh")],
    *[
        (name, argument, v, TypeError)
        for name, argument in (
            ("MultiheadAttention", "is_causal"),
            ("MultiheadAttention", "return_weights"),
            *((name, "return_attention") for name in WITH_ATTENTION),
            *((name, "return_hidden_states") for name in (*WITH_ATTENTION, "Transformer.encode")),
        )
        for v in NOT_FLAGS
    ],
    *[
        (name, "max_length", v, TypeError)
        for name in ("Transformer.generate", "TransformerLM.generate")
        for v in (4.0, "4", True, 1j, [4], np.array([4]))
    ],
    *[
        (name, "max_length", v, ValueError)
        for name in ("Transformer.generate", "TransformerLM.generate")
        for v in (-1, -(2**70))
    ],
]


@pytest.mark.parametrize(("name", "argument", "value", "error"), WRONG_SCALARS)
def test_wrong_scalars(name, argument, value, error):
    assert_refuses(name, argument, value, error, "expected")


@pytest.mark.parametrize("name", ("Transformer.generate", "TransformerLM.generate"))
@pytest.mark.parametrize("value", (np.int8(3), np.uint64(3), np.array(3)), ids=repr)
def test_any_integer_is_a_max_length(name, value):
    c = CALLS[name]
    assert_same(c(max_length=value), c(max_length=3))


# Constructors.

CONSTRUCTORS = {
    "Linear": (pt.Linear, {"in_features": 24, "out_features": 41}),
    "Embedding": (pt.Embedding, {"num_embeddings": 19, "d_model": 24}),
    "LayerNorm": (pt.LayerNorm, {"d_model": 24}),
    "RMSNorm": (pt.RMSNorm, {"d_model": 24}),
    "FeedForward": (pt.FeedForward, {"d_model": 24, "d_ff": 41}),
    "MultiheadAttention": (
        pt.MultiheadAttention,
        {"d_model": 24, "num_heads": 3, "kdim": 17, "vdim": 31},
    ),
    "TransformerEncoder": (
        pt.TransformerEncoder,
        {"num_layers": 0, "d_model": 24, "num_heads": 3, "d_ff": 41},
    ),
    "TransformerDecoder": (
        pt.TransformerDecoder,
        {"num_layers": 1, "d_model": 24, "num_heads": 3, "d_ff": 41},
    ),
}
OPTIONS = {"weight", "bias", "gated", "activation", "norm_first", "final_norm", "rng"}
OPTIONS |= {"eps", "layer_norm_eps", "softcap"}
BAD_OPTIONS = {
    "weight": (NOT_FLAGS, []),
    "bias": (NOT_FLAGS, []),
    "gated": (NOT_FLAGS, []),
    "norm_first": (NOT_FLAGS, []),
    "final_norm": (NOT_FLAGS, []),
    "activation": ([1, True, np.tanh, ["relu"]], ["", "ReLU", "tanh"]),
    "eps": ([None, "1", 1j, True, [1.0]], [-1e-9, np.nan, np.inf, 1e39, 10**400]),
    "layer_norm_eps": ([None, "1", 1j, True, [1.0]], [-1e-9, np.nan, np.inf, 1e39, 10**400]),
    "softcap": (["1", 1j, True, [1.0]], [0, -1.0, np.nan, np.inf, 1e39, 1e-40, 10**400]),
    "rng": (["0", 1.5, {}, object()], [-1, [-1]]),
}


def constructed(name, **changes):
    make, arguments = CONSTRUCTORS[name]
    return make(**(arguments | changes))


def assert_not_constructed(name, argument, value, error):
    with pytest.raises(error) as caught:
        constructed(name, **{argument: value})
    assert str(caught.value).startswith(f"{name}: {argument} is "), str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_every_argument_of_a_constructor_is_here(name):
    make, arguments = CONSTRUCTORS[name]
    assert set(inspect.signature(make).parameters) - OPTIONS == set(arguments)


@pytest.mark.parametrize(
    ("name", "argument"), [(name, a) for name, (_, sizes) in CONSTRUCTORS.items() for a in sizes]
)
def test_wrong_sizes_of_layers(name, argument):
    wrong = ["24", 24.0, np.float32(24), True, 24j, [24], np.array([24]), (24,)]
    if argument not in ("kdim", "vdim"):
        wrong.append(None)
    for value in wrong:
        assert_not_constructed(name, argument, value, TypeError)
    smallest = 0 if argument == "num_layers" else 1
    for value in (smallest - 1, -(2**70), np.int8(-1)):
        assert_not_constructed(name, argument, value, ValueError)
    for value in (2**31, 2**63, 2**70):
        assert_not_constructed(name, argument, value, ValueError)
    if argument == "num_heads":
        assert_not_constructed(name, argument, 5, ValueError)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_wrong_options_of_layers(name):
    for argument in OPTIONS & set(inspect.signature(CONSTRUCTORS[name][0]).parameters):
        wrong_types, wrong_values = BAD_OPTIONS[argument]
        for value in wrong_types:
            assert_not_constructed(name, argument, value, TypeError)
        for value in wrong_values:
            assert_not_constructed(name, argument, value, ValueError)


@pytest.mark.parametrize("model", [pt.Transformer, pt.TransformerLM], ids=lambda c: c.__name__)
@pytest.mark.parametrize("rng", ["0", 1.5, -1], ids=repr)
def test_wrong_generators_of_a_model(model, rng):
    with pytest.raises((TypeError, ValueError)) as error:
        model(MODEL.config, rng=rng)
    assert str(error.value).startswith(f"{model.__name__}: rng is {rng!r}, expected a numpy")


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_any_integer_is_a_size(name):
    make, arguments = CONSTRUCTORS[name]
    plain = make(**arguments)
    for kind in (np.int8, np.uint64, np.array):
        layer = make(**{argument: kind(size) for argument, size in arguments.items()})
        assert layer.num_parameters == plain.num_parameters
        assert type(layer.num_parameters) is int
        shapes = {key: array.shape for key, array in layer.state_dict().items()}
        assert shapes == {key: array.shape for key, array in plain.state_dict().items()}


def test_a_mask_of_padding_is_pointed_to_lengths():
    encoder = pt.TransformerEncoder(1, D, H, F, rng=0)
    with pytest.raises(ValueError, match=r"mask has shape \(2, 5\), .*; for padding, pass lengths"):
        encoder(np.zeros((B, T, D)), mask=np.ones((B, T), bool))
