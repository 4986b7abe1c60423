"""Contract 5 of descriptions and configs: what contradicts itself, or is of an absurd size, is
refused where it is made, with the field, what came and what was expected; so is it in a file.
"""

import json
import time
from dataclasses import fields

import pytest
from models import small_config

import pyx_transformer as pt
from pyx_transformer import (
    AttentionConfig,
    DistanceBiasConfig,
    EncoderConfig,
    FeedForwardConfig,
    LayerConfig,
    MaskedLMConfig,
    NormConfig,
    RotaryConfig,
    StackConfig,
    SubLayerConfig,
    TransformerConfig,
    TransformerLMConfig,
)

BIAS, ROTARY = DistanceBiasConfig(), RotaryConfig()
OWN, CROSS, WIDE = AttentionConfig(2), AttentionConfig(2, is_cross=True), FeedForwardConfig(3)
CAUSAL = AttentionConfig(2, is_causal=True)
MEMORY = "expected none because is_cross is True: a memory's keys have places of their own"
MOST = 2**31 - 1


def layer(*blocks, side_by_side=False, **norms):
    return LayerConfig(tuple(SubLayerConfig(block, **norms) for block in blocks), side_by_side)


def stack(*blocks, d_model=12, num_layers=1, **options):
    return StackConfig(d_model, num_layers, (layer(*blocks),), **options)


def in_turn(*blocks):
    return StackConfig(12, 2, tuple(layer(block) for block in blocks))


CONTRADICTIONS = [
    # Norms.
    (lambda: NormConfig("batch_norm"), "NormConfig: kind is 'batch_norm', expected one of"),
    (lambda: NormConfig("rms_norm", bias=True), "NormConfig: bias is True, expected False because"),
    (lambda: NormConfig(eps=-1e-9), "NormConfig: eps is -1e-09, expected a finite number, at le"),
    # Rotary positions.
    (lambda: RotaryConfig(0.0), "RotaryConfig: base is 0.0, expected a finite number, above 0"),
    (lambda: RotaryConfig(size=5), "RotaryConfig: size is 5, expected an even number because"),
    (lambda: RotaryConfig(size=0), "RotaryConfig: size is 0, expected at least 1"),
    (lambda: RotaryConfig(pairing="pairs"), "RotaryConfig: pairing is 'pairs', expected one of"),
    (lambda: RotaryConfig(scaling="yarn"), "RotaryConfig: scaling is 'yarn', expected one of"),
    (lambda: RotaryConfig(factor=0), "RotaryConfig: factor is 0.0, expected a finite number, abo"),
    (
        lambda: RotaryConfig(low_frequency_factor=5.0),
        "RotaryConfig: high_frequency_factor is 4.0, expected more than low_frequency_factor = 5.0",
    ),
    (lambda: stack(AttentionConfig(4, rotary=ROTARY)), "StackConfig: head_size is 3, expected an"),
    (
        lambda: stack(AttentionConfig(2, head_size=5, rotary=ROTARY)),
        "StackConfig: head_size is 5, expected an even number because rotary positions turn pairs",
    ),
    (
        lambda: stack(AttentionConfig(2, rotary=RotaryConfig(size=8))),
        "StackConfig: rotary.size is 8, expected at most head_size = 6",
    ),
    # Biases by distance.
    (
        lambda: DistanceBiasConfig(6),
        "DistanceBiasConfig: num_buckets is 6, expected a multiple of 4, at most 1048576, because",
    ),
    (
        lambda: DistanceBiasConfig(7, bidirectional=False),
        "DistanceBiasConfig: num_buckets is 7, expected a multiple of 2, at most 1048576, because",
    ),
    (
        lambda: DistanceBiasConfig(32, 8),
        "DistanceBiasConfig: max_distance is 8, expected more than the 8 buckets of one distance",
    ),
    (
        lambda: in_turn(
            AttentionConfig(2, distance_bias=BIAS),
            AttentionConfig(2, distance_bias=DistanceBiasConfig(64)),
        ),
        "StackConfig: layers have 2 different distance_bias, expected one because it is shared",
    ),
    # Attention.
    (
        lambda: AttentionConfig(6, 4),
        "AttentionConfig: num_kv_heads is 4, expected a divisor of num_heads = 6",
    ),
    (lambda: AttentionConfig(0), "AttentionConfig: num_heads is 0, expected at least 1"),
    (lambda: AttentionConfig(2, head_size=-3), "AttentionConfig: head_size is -3, expected at le"),
    (lambda: AttentionConfig(2, softcap=0), "AttentionConfig: softcap is 0, expected a finite nu"),
    (lambda: AttentionConfig(2, window=(-1, 2)), "AttentionConfig: window[0] is -1, expected at"),
    (
        lambda: AttentionConfig(2, is_cross=True, window=(3, None)),
        f"AttentionConfig: window is (3, None), {MEMORY}",
    ),
    (
        lambda: AttentionConfig(2, is_cross=True, is_causal=True),
        f"AttentionConfig: is_causal is True, {MEMORY}",
    ),
    (
        lambda: AttentionConfig(2, is_cross=True, rotary=ROTARY),
        f"AttentionConfig: rotary is {ROTARY}, {MEMORY}",
    ),
    (
        lambda: AttentionConfig(2, is_cross=True, distance_bias=BIAS),
        f"AttentionConfig: distance_bias is {BIAS}, {MEMORY}",
    ),
    (
        lambda: stack(AttentionConfig(5)),
        "StackConfig: num_heads is 5, expected a divisor of d_model = 12",
    ),
    (
        lambda: in_turn(OWN, AttentionConfig(3)),
        "StackConfig: layers have num_heads [2, 3], expected one number for all",
    ),
    # Feed-forward.
    (lambda: FeedForwardConfig(0), "FeedForwardConfig: d_ff is 0, expected at least 1"),
    (lambda: FeedForwardConfig(3, "tanh"), "FeedForwardConfig: activation is 'tanh', expected on"),
    # Layers.
    (lambda: LayerConfig(()), "LayerConfig: sub_layers has 0 entries, expected 1 to 4"),
    *(
        (
            lambda one=one: layer(one, one),
            "LayerConfig: sub_layers holds two blocks of one kind, expected at most one each of",
        )
        for one in (OWN, CROSS, WIDE)
    ),
    (
        lambda: layer(OWN, WIDE, side_by_side=True, norm_sum=NormConfig()),
        "LayerConfig: side_by_side is True, expected False because a sub-layer has a norm_sum",
    ),
    (
        lambda: layer(OWN, CROSS, WIDE, side_by_side=True),
        "LayerConfig: sub_layers has 3 entries, expected at most 2 because side_by_side is True",
    ),
    # Stacks.
    (lambda: StackConfig(12, 1, ()), "StackConfig: layers is empty, expected at least one"),
    (lambda: stack(OWN, num_layers=-1), "StackConfig: num_layers is -1, expected at least 0"),
    (lambda: stack(OWN, d_model=0), "StackConfig: d_model is 0, expected at least 1"),
    (
        lambda: in_turn(OWN, CROSS),
        "StackConfig: layers with cross-attention and without were given, expected all of one kind",
    ),
    (
        lambda: pt.TransformerEncoder.of(stack(OWN, CROSS)),
        "TransformerEncoder.of: config has a cross-attention, expected none",
    ),
    # Whole models.
    (
        lambda: TransformerLMConfig(9, stack(OWN)),
        "TransformerLMConfig: decoder.layers[0] has an attention whose is_causal is False",
    ),
    (
        lambda: TransformerLMConfig(9, stack(CAUSAL, CROSS)),
        "TransformerLMConfig: decoder.layers[0] has 1 cross-attentions, expected 0",
    ),
    (
        lambda: TransformerConfig(9, 9, stack(OWN), stack(CAUSAL)),
        "TransformerConfig: decoder.layers[0] has 0 cross-attentions, expected 1",
    ),
    (
        lambda: TransformerConfig(9, 9, stack(OWN), stack(OWN, CROSS)),
        "TransformerConfig: decoder.layers[0] has an attention whose is_causal is False",
    ),
    (
        lambda: TransformerConfig(9, 9, stack(OWN, CROSS), stack(CAUSAL, CROSS)),
        "TransformerConfig: encoder has a cross-attention, expected none",
    ),
    (
        lambda: TransformerConfig(9, 9, stack(OWN), stack(CAUSAL, CROSS, d_model=14)),
        "TransformerConfig: decoder.d_model is 14, expected encoder.d_model = 12",
    ),
    (
        lambda: EncoderConfig(9, stack(CROSS)),
        "EncoderConfig: encoder has a cross-attention, expected none",
    ),
    (
        lambda: EncoderConfig(9, stack(OWN), embedding_size=5),
        "EncoderConfig: embedding_size is 5, expected an even number because positions are sin",
    ),
    (
        lambda: EncoderConfig(9, stack(OWN), mask_id=9),
        "EncoderConfig: mask_id is 9, expected a token id below src_vocab_size = 9",
    ),
    (
        lambda: TransformerLMConfig(9, stack(CAUSAL), start_id=9),
        "TransformerLMConfig: start_id is 9, expected a token id below tgt_vocab_size = 9",
    ),
    (
        lambda: TransformerLMConfig(9, stack(CAUSAL), d_model=24),
        "TransformerLMConfig: decoder was given, and ['d_model'], expected one of both because",
    ),
    (lambda: MaskedLMConfig("tanh"), "MaskedLMConfig: activation is 'tanh', expected one of None"),
]


@pytest.mark.parametrize(("make", "says"), CONTRADICTIONS, ids=lambda value: str(value)[:60])
def test_contradictions_are_refused_where_they_are_made(make, says):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value).startswith(says), str(error.value)
    assert "\n" not in str(error.value)


# Every field of every part, by what it holds.

EXAMPLES = {
    NormConfig: {},
    RotaryConfig: {},
    DistanceBiasConfig: {},
    AttentionConfig: {"num_heads": 2},
    FeedForwardConfig: {"d_ff": 3},
    SubLayerConfig: {"block": OWN},
    LayerConfig: {"sub_layers": (SubLayerConfig(OWN),)},
    StackConfig: {"d_model": 12, "num_layers": 1, "layers": (layer(OWN),)},
    MaskedLMConfig: {},
    TransformerConfig: {"src_vocab_size": 9, "tgt_vocab_size": 9},
    TransformerLMConfig: {"tgt_vocab_size": 9},
    EncoderConfig: {"src_vocab_size": 9},
}
FIELDS = [(part, field.name) for part in EXAMPLES for field in fields(part)]
WRONG = {"str": "x", "float": 2.5, "number": 2, "list": [], "table": {}, "flag": True}
# What a field of each type takes, of these.
RIGHT = {"str": {"str"}, "int": {"number"}, "float": {"float", "number"}, "bool": {"flag"}}


def right_kinds(part, name):
    """The kinds among WRONG that are right for a field; its type is the first that stands there."""
    (field,) = (field for field in fields(part) if field.name == name)
    # An empty list is a tuple of parts, and refused, if at all, for being empty.
    kinds = {"list"} if field.type.startswith("tuple[") and "Config" in field.type else set()
    return kinds | RIGHT.get(field.type.split(" ")[0], set())


@pytest.mark.parametrize(("part", "name"), FIELDS)
def test_wrong_kinds_are_refused_by_name(part, name):
    for kind, value in WRONG.items():
        if kind in right_kinds(part, name):
            continue
        with pytest.raises(TypeError) as error:
            part(**{**EXAMPLES[part], name: value})
        says = f"{part.__name__}: {name} is {value!r}, expected "
        assert str(error.value).startswith(says), str(error.value)


SIZES = [
    (part, field.name)
    for part in EXAMPLES
    for field in fields(part)
    if field.type.split(" ")[0] == "int"
]


@pytest.mark.parametrize(("part", "name"), SIZES)
def test_absurd_sizes_are_refused_by_name(part, name):
    most = 10_000 if name == "num_layers" else MOST
    for value in (MOST + 1, 2**63, 10**30):
        with pytest.raises(ValueError) as error:
            part(**{**EXAMPLES[part], name: value})
        says = f"{part.__name__}: {name} is {value}, expected at most {most}"
        assert str(error.value) == says
    for value in (-1, -(2**63)):
        with pytest.raises(ValueError) as error:
            part(**{**EXAMPLES[part], name: value})
        says = f"{part.__name__}: {name} is {value}, expected at least "
        assert str(error.value).startswith(says)


def test_the_product_of_sizes_is_one_too():
    with pytest.raises(ValueError) as error:
        stack(AttentionConfig(2**16, head_size=2**16))
    says = f"StackConfig: num_heads * head_size is {2**32}, expected at most {MOST}"
    assert str(error.value) == says


def test_sizes_that_can_be_are_counted_at_once():
    config = TransformerLMConfig(
        MOST,
        stack(AttentionConfig(2, is_causal=True), WIDE, d_model=2**20, num_layers=10_000),
        positions="learned",
        max_length=MOST,
    )
    begin = time.perf_counter()
    attention = 4 * 2**20 * (2**20 + 1)
    feed_forward = 2 * 3 * 2**20 + 3 + 2**20
    others = 3 * MOST * 2**20 + MOST
    assert config.num_parameters == 10_000 * (attention + feed_forward) + others
    assert time.perf_counter() - begin < 1


# Configs of files.

DESCRIBED = TransformerLMConfig(
    9,
    stack(
        AttentionConfig(
            2, is_causal=True, window=(3, None), rotary=ROTARY, distance_bias=BIAS, softcap=2.0
        ),
        WIDE,
        num_layers=2,
        final_norm=NormConfig("rms_norm"),
    ),
    embedding_norm=NormConfig(bias=False),
)
BLOCK = ("decoder", "layers", 0, "sub_layers", 0, "block")
OF_BLOCK = "TransformerLMConfig.from_json: decoder.layers[0].sub_layers[0].block"


def test_descriptions_come_back_from_text():
    for config in DESCRIBED, small_config(), EncoderConfig(9, stack(OWN), head=MaskedLMConfig()):
        assert type(config).from_json(config.to_json()) == config
        assert hash(type(config).from_json(config.to_json())) == hash(config)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("decoder",), 3, "TransformerLMConfig: decoder is 3, expected StackConfig"),
        (("decoder",), {}, "TransformerLMConfig.from_json: decoder: unknown keys [], missing keys"),
        (
            ("decoder", "layers"),
            [3],
            "TransformerLMConfig.from_json: decoder.layers[0] is 3, expected the fields of LayerC",
        ),
        (
            ("decoder", "layers"),
            {},
            "TransformerLMConfig.from_json: decoder: StackConfig: layers is {}, expected a tuple",
        ),
        (
            ("decoder", "num_layers"),
            10**18,
            f"TransformerLMConfig.from_json: decoder: StackConfig: num_layers is {10**18}, expect",
        ),
        (
            ("embedding_norm",),
            {"kind": "x"},
            "TransformerLMConfig.from_json: embedding_norm: NormConfig: kind is 'x', expected one",
        ),
        (BLOCK, 5, "TransformerLMConfig.from_json: decoder.layers[0].sub_layers[0]: SubLayerConfi"),
        (BLOCK, {}, f"{OF_BLOCK}: unknown keys [], missing keys ['num_heads']"),
        ((*BLOCK, "d_ff"), 3, f"{OF_BLOCK}: unknown keys ['d_ff'], missing keys []"),
        ((*BLOCK, "window"), [1], f"{OF_BLOCK}: AttentionConfig: window is (1,), expected (left"),
        ((*BLOCK, "num_heads"), 2**63, f"{OF_BLOCK}: AttentionConfig: num_heads is {2**63}, exp"),
        ((*BLOCK, "num_heads"), [2], f"{OF_BLOCK}: AttentionConfig: num_heads is (2,), expected"),
        ((*BLOCK, "rotary"), True, f"{OF_BLOCK}: AttentionConfig: rotary is True, expected"),
        ((*BLOCK, "rotary"), {"x": 1}, f"{OF_BLOCK}.rotary: unknown keys ['x'], missing keys []"),
        ((*BLOCK, "scale"), float("nan"), f"{OF_BLOCK}: AttentionConfig: scale is nan, expected"),
        ((*BLOCK, "is_cross"), True, f"{OF_BLOCK}: AttentionConfig: window is (3, None), expected"),
    ],
    ids=str,
)
def test_descriptions_in_text_are_refused_by_place(place, value, says):
    values = json.loads(DESCRIBED.to_json())
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ValueError) as error:
        TransformerLMConfig.from_json(json.dumps(values))
    assert str(error.value).startswith(says), str(error.value)
    assert "\n" not in str(error.value)
