"""The whole model against float64, and the config that it is built from."""

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import reference
from models import (
    assert_close,
    assert_same_bits,
    reference_options,
    small_config,
    small_model,
    token_ids,
)

import pyx_transformer as pt

# B 4, S 11, T 7.
SOURCE_LENGTHS = [0, 11, 5, 1]
TARGET_LENGTHS = [7, 3, 0, 1]
VARIANTS = {
    "default": {},
    "pre-norm": {"norm_first": True, "final_norm": True},
    "gelu": {"activation": "gelu", "final_norm": True},
    "eps": {"layer_norm_eps": 0.3},
    "no positions": {"positions": "none"},
    "learned positions": {"positions": "learned"},
    "halves": {"position_layout": "halves"},
    "tensor2tensor": {"position_frequencies": "tensor2tensor", "position_start": 2},
    "aren's positions": {
        "position_layout": "halves",
        "position_frequencies": "tensor2tensor",
        "position_start": 1,
    },
    "unscaled": {"scale_embeddings": False},
    "no output bias": {"output_bias": False},
    "shared embeddings": {"share_embeddings": True, "src_vocab_size": 19},
    "tied output": {"tie_output": True},
    "all tied": {"share_embeddings": True, "tie_output": True, "src_vocab_size": 19},
    "one layer": {"num_encoder_layers": 1, "num_decoder_layers": 1},
    "no layers": {"num_encoder_layers": 0, "num_decoder_layers": 0, "final_norm": True},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture
def src(rng):
    return token_ids(rng, 19, 4, 11)


@pytest.fixture
def tgt(rng):
    return token_ids(rng, 19, 4, 7)


def expected_of(model, src, tgt, **options):
    options |= reference_options(model)
    return reference.transformer(model.state_dict(), src, tgt, **options)


# Against the reference.


@each_variant
@pytest.mark.parametrize("lengths", ("full", "padded"))
def test_logits_and_attention(variant, lengths, src, tgt):
    model = small_model(**VARIANTS[variant])
    lengths = (SOURCE_LENGTHS, TARGET_LENGTHS) if lengths == "padded" else (None, None)
    expected, *expected_attention = expected_of(
        model, src, tgt, src_lengths=lengths[0], tgt_lengths=lengths[1], return_attention=True
    )
    logits, attention = model(src, tgt, *lengths, return_attention=True)
    assert_close(logits, expected)
    for b, length in enumerate(lengths[1] or []):
        assert not logits[b, length:].any()
    assert isinstance(attention, pt.AttentionWeights)
    assert attention._fields == ("encoder", "decoder", "cross")
    for kind, expected_kind in zip(attention, expected_attention, strict=True):
        for weights, expected_weights in zip(kind, expected_kind, strict=True):
            assert_close(weights, expected_weights)
    assert_same_bits(model(src, tgt, *lengths), logits)


@each_variant
@pytest.mark.parametrize("lengths", (None, SOURCE_LENGTHS), ids=("full", "padded"))
def test_encode(variant, lengths, src):
    model = small_model(**VARIANTS[variant])
    options = reference_options(model)
    state, positions = model.state_dict(), options.pop("src_positions")
    embedded = reference.embedding(
        src,
        state["src_embedding.weight"],
        np.sqrt(24) if options.pop("scale_embeddings") else 1.0,
        None if positions is None else positions[:11],
    )
    del options["tgt_positions"]
    expected = reference.encoder(
        reference.substate(state, "encoder."), embedded, lengths=lengths, **options
    )
    memory = model.encode(src, lengths)
    assert_close(memory, expected)
    for b, length in enumerate(lengths or []):
        assert not memory[b, length:].any()


def test_variants_differ(src, tgt):
    """Every option has an effect, so that a test of it can fail."""
    results = {}
    for name, changes in VARIANTS.items():
        if "layer" not in name and not changes.keys() & {"share_embeddings", "tie_output"}:
            results[name] = small_model(**changes)(src, tgt)
    names = list(results)
    for i, name in enumerate(names):
        for other in names[:i]:
            assert np.abs(results[name] - results[other]).max() > 1e-3, (name, other)


def test_positions_reach_as_far_as_the_tokens(rng):
    """The table of sinusoids grows with the longest sequence seen."""
    model = small_model(max_length=300)
    for length in (3, 64, 65, 70, 300, 5):
        src, tgt = token_ids(rng, 23, 1, length), token_ids(rng, 19, 1, 2)
        assert_close(model(src, tgt), expected_of(model, src, tgt))
    length = 200
    src, tgt = token_ids(rng, 23, 1, 2), token_ids(rng, 19, 1, length)
    assert_close(model(src, tgt), expected_of(model, src, tgt))


def test_sinusoids_know_no_maximum(rng):
    model = small_model(max_length=1)
    assert np.isfinite(model(token_ids(rng, 23, 1, 9), token_ids(rng, 19, 1, 9))).all()


@pytest.mark.parametrize("batch", (0, 1, 3))
@pytest.mark.parametrize("sources", (0, 1, 5))
@pytest.mark.parametrize("targets", (0, 1, 4))
def test_empty_axes(batch, sources, targets, rng):
    model = small_model()
    src, tgt = token_ids(rng, 23, batch, sources), token_ids(rng, 19, batch, targets)
    logits, attention = model(src, tgt, return_attention=True)
    assert_close(logits, expected_of(model, src, tgt))
    assert attention.encoder[0].shape == (batch, 3, sources, sources)
    assert attention.decoder[0].shape == (batch, 3, targets, targets)
    assert attention.cross[0].shape == (batch, 3, targets, sources)
    assert model.encode(src).shape == (batch, sources, 24)


@pytest.mark.parametrize("filler", (-1, 0, 23, 2**62, -(2**62)))
def test_ids_in_the_padding_may_be_anything(filler, src, tgt):
    model = small_model()
    expected = model(src, tgt, SOURCE_LENGTHS, TARGET_LENGTHS)
    memory = model.encode(src, SOURCE_LENGTHS)
    for ids, lengths in (src, SOURCE_LENGTHS), (tgt, TARGET_LENGTHS):
        for b, length in enumerate(lengths):
            ids[b, length:] = filler
    before = src.copy(), tgt.copy()
    assert_same_bits(model(src, tgt, SOURCE_LENGTHS, TARGET_LENGTHS), expected)
    assert_same_bits(model.encode(src, SOURCE_LENGTHS), memory)
    np.testing.assert_array_equal(src, before[0])
    np.testing.assert_array_equal(tgt, before[1])


# Learned positions.


def test_learned_positions_have_an_end(rng):
    model = small_model(positions="learned", max_length=6)
    src, tgt = token_ids(rng, 23, 1, 6), token_ids(rng, 19, 1, 6)
    assert_close(model(src, tgt), expected_of(model, src, tgt))
    longer = rng.integers(3, 19, (1, 7))
    reason = "7, expected at most the config's max_length = 6 because positions are learned"
    for name, call in {
        "Transformer: src": lambda: model(longer, tgt),
        "Transformer: tgt": lambda: model(src, longer),
        "Transformer.encode: src": lambda: model.encode(longer),
        "Transformer.score: src": lambda: model.score(longer, [[3]]),
        "Transformer.score: tgt with its start": lambda: model.score(src, tgt),
        "Transformer.generate: src": lambda: model.generate(longer, max_length=6),
    }.items():
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == f"{name} has length {reason}"
    with pytest.raises(ValueError) as error:
        model.generate(src, max_length=7)
    assert str(error.value) == f"Transformer.generate: max_length is {reason}"


def test_padding_may_reach_beyond_learned_positions(rng):
    model = small_model(positions="learned", max_length=6)
    src, tgt = token_ids(rng, 23, 2, 9), token_ids(rng, 19, 2, 8)
    lengths = {"src_lengths": [6, 2], "tgt_lengths": [3, 6]}
    logits = model(src, tgt, **lengths)
    shorter = model(src[:, :6], tgt[:, :6], **lengths)
    assert_same_bits(logits[:, :6], shorter)
    assert not logits[:, 6:].any()


def test_source_and_target_have_positions_of_their_own():
    state = small_model(positions="learned").state_dict()
    assert state["src_positions.weight"].shape == state["tgt_positions.weight"].shape == (97, 24)
    assert not np.array_equal(state["src_positions.weight"], state["tgt_positions.weight"])
    assert not any("positions" in key for key in small_model().state_dict())


# Names of parameters, and tied ones.

OWN_KEYS = {
    "src_embedding.weight": (23, 24),
    "tgt_embedding.weight": (19, 24),
    "output_projection.weight": (19, 24),
    "output_projection.bias": (19,),
}


def test_names_and_shapes_of_parameters():
    model = small_model()
    shapes = {key: array.shape for key, array in model.state_dict().items()}
    for name, stack in ("encoder", model.encoder), ("decoder", model.decoder):
        for key, array in stack.state_dict().items():
            assert shapes.pop(f"{name}.{key}") == array.shape
    assert shapes == OWN_KEYS
    assert "output_projection.bias" not in small_model(output_bias=False).state_dict()


TIED = {
    "shared embeddings": {"tgt_embedding.weight": "src_embedding.weight"},
    "tied output": {"output_projection.weight": "tgt_embedding.weight"},
    "all tied": {
        "tgt_embedding.weight": "src_embedding.weight",
        "output_projection.weight": "src_embedding.weight",
    },
}
each_tie = pytest.mark.parametrize("variant", TIED)


@each_tie
def test_tied_weights_are_stored_and_counted_once(variant):
    changes, ties = VARIANTS[variant], TIED[variant]
    model = small_model(**changes)
    state = model.state_dict()
    untied = small_model(**(changes | {"share_embeddings": False, "tie_output": False}))
    assert state.keys() == untied.state_dict().keys() - ties.keys()
    assert model.num_parameters == sum(array.size for array in state.values())
    assert model.num_parameters == untied.num_parameters - len(ties) * 19 * 24


@each_tie
def test_tied_weights_load_under_any_of_their_names(variant, src, tgt):
    changes, ties = VARIANTS[variant], TIED[variant]
    source = small_model(**changes)
    state, expected = source.state_dict(), source(src, tgt)
    for key, stored in ties.items():
        for loaded in (
            state | {key: state[stored]},
            {name: array for name, array in state.items() if name != stored}
            | {name: state[stored] for name in [key, *ties]},
        ):
            model = small_model(seed=1, **changes)
            model.load_state_dict(loaded)
            assert_same_bits(model(src, tgt), expected)
            assert model.state_dict().keys() == state.keys()
            assert_same_bits(model.output_projection.weight, source.output_projection.weight)


@each_tie
def test_tied_weights_load_under_one_name_that_is_not_stored(variant, src, tgt):
    changes, ties = VARIANTS[variant], TIED[variant]
    source = small_model(**changes)
    state, expected = source.state_dict(), source(src, tgt)
    for key, stored in ties.items():
        loaded = dict(state)
        loaded[key] = loaded.pop(stored)
        model = small_model(seed=1, **changes)
        model.load_state_dict(loaded)
        assert_same_bits(model(src, tgt), expected)


@each_tie
def test_tied_weights_that_differ_are_refused(variant, src, tgt):
    model = small_model(**VARIANTS[variant])
    state, expected = model.state_dict(), model(src, tgt)
    for key, stored in TIED[variant].items():
        with pytest.raises(ValueError) as error:
            model.load_state_dict(state | {key: state[stored] + 1})
        assert str(error.value) == (
            f"Transformer.load_state_dict: {key} differs from {stored}, expected the same values "
            "because the config ties them"
        )
        assert_same_bits(model(src, tgt), expected)


@each_tie
def test_tied_weights_may_hold_nan(variant):
    model = small_model(**VARIANTS[variant])
    state = model.state_dict()
    for key, stored in TIED[variant].items():
        spoilt = state[stored].copy()
        spoilt[3, 5] = np.nan
        model.load_state_dict(state | {key: spoilt, stored: spoilt.copy()})
        assert_same_bits(model.state_dict()[stored], spoilt)
        with pytest.raises(TypeError, match=f"^Transformer.load_state_dict: {key} has dtype <U1"):
            model.load_state_dict(state | {key: np.array(["a"])})


@each_tie
def test_fresh_models_are_tied(variant):
    model = pt.Transformer(small_config(**VARIANTS[variant]), rng=0)
    weights = {name: getattr(model, name).weight for name in ("src_embedding", "tgt_embedding")}
    weights["output_projection"] = model.output_projection.weight
    for key, stored in TIED[variant].items():
        assert_same_bits(weights[key.split(".")[0]], weights[stored.split(".")[0]])


# The config.


@each_variant
def test_a_config_knows_the_number_of_parameters(variant):
    model = small_model(**VARIANTS[variant])
    assert model.config.num_parameters == model.num_parameters
    assert type(model.config.num_parameters) is int


def test_the_longest_sequence_that_positions_reach():
    for positions, longest in (("learned", 30), ("sinusoidal", np.inf), ("none", np.inf)):
        assert small_model(positions=positions, max_length=30).config.longest == longest


@each_variant
def test_configs_go_through_json(variant):
    config = small_config(**VARIANTS[variant])
    again = pt.TransformerConfig.from_json(config.to_json())
    assert again == config
    assert json.loads(config.to_json()) == config.to_values()
    assert pt.TransformerConfig.from_json(config.to_json().encode()) == config


def test_the_default_is_the_base_model_of_the_paper():
    """Vaswani et al., 2017, table 3."""
    config = pt.TransformerConfig(37000, 37000)
    sizes = config.d_model, config.d_ff, config.num_heads
    assert sizes == (512, 2048, 8)
    assert config.num_encoder_layers == config.num_decoder_layers == 6
    assert (config.activation, config.norm_first, config.final_norm) == ("relu", False, False)
    assert (config.positions, config.position_layout) == ("sinusoidal", "interleaved")


def test_json_may_leave_out_what_has_a_default():
    text = '{"src_vocab_size": 7, "tgt_vocab_size": 9, "d_ff": 11}'
    assert pt.TransformerConfig.from_json(text) == pt.TransformerConfig(7, 9, d_ff=11)


def test_numbers_of_numpy_become_plain():
    config = small_config(
        d_model=np.int64(24),
        num_heads=np.array(3),
        norm_first=np.True_,
        layer_norm_eps=np.float32(1),
    )
    assert config == small_config(norm_first=True, layer_norm_eps=1.0)
    assert pt.TransformerConfig.from_json(config.to_json()) == config


def test_a_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        small_config().d_model = 5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"d_model": None}, TypeError, "d_model is None, expected an integer"),
        ({"d_model": 24.0}, TypeError, "d_model is 24.0, expected an integer"),
        ({"d_model": True}, TypeError, "d_model is True, expected an integer"),
        ({"d_model": "24"}, TypeError, "d_model is '24', expected an integer"),
        ({"d_model": 0}, ValueError, "d_model is 0, expected at least 1"),
        ({"d_ff": -3}, ValueError, "d_ff is -3, expected at least 1"),
        ({"src_vocab_size": 0}, ValueError, "src_vocab_size is 0, expected at least 1"),
        ({"num_heads": 0}, ValueError, "num_heads is 0, expected at least 1"),
        ({"num_heads": 5}, ValueError, "num_heads is 5, expected a divisor of d_model = 24"),
        ({"num_encoder_layers": -1}, ValueError, "num_encoder_layers is -1, expected at least 0"),
        ({"max_length": 0}, ValueError, "max_length is 0, expected at least 1"),
        ({"norm_first": 1}, TypeError, "norm_first is 1, expected True or False"),
        ({"scale_embeddings": None}, TypeError, "scale_embeddings is None, expected True or False"),
        ({"layer_norm_eps": "x"}, TypeError, "layer_norm_eps is 'x', expected a real number"),
        (
            {"layer_norm_eps": float("nan")},
            ValueError,
            "layer_norm_eps is nan, expected a finite number, at least 0",
        ),
        ({"layer_norm_eps": -1e-5}, ValueError, "layer_norm_eps is -1e-05, expected a finite"),
        ({"activation": "tanh"}, ValueError, "activation is 'tanh', expected one of None, 'relu'"),
        ({"activation": 3}, TypeError, "activation is 3, expected one of None, 'relu'"),
        (
            {"positions": "rotary"},
            ValueError,
            "positions is 'rotary', expected one of 'sinusoidal'",
        ),
        ({"positions": None}, ValueError, "positions is None, expected one of 'sinusoidal'"),
        ({"position_layout": "odd"}, ValueError, "position_layout is 'odd', expected one of"),
        ({"position_frequencies": ()}, TypeError, "position_frequencies is (), expected one of"),
        ({"position_start": -1}, ValueError, "position_start is -1, expected at least 0"),
        ({"position_start": 2**54}, ValueError, f"position_start is {2**54}, expected at most"),
        (
            {"d_model": 27},
            ValueError,
            "d_model is 27, expected an even number because positions are sinusoidal",
        ),
        (
            {"share_embeddings": True},
            ValueError,
            "tgt_vocab_size is 19, expected src_vocab_size = 23 because share_embeddings is True",
        ),
        ({"start_id": 19}, ValueError, "start_id is 19, expected a token id below tgt_vocab_size"),
        ({"end_id": -1}, ValueError, "end_id is -1, expected at least 0"),
        ({"end_id": 19}, ValueError, "end_id is 19, expected a token id below tgt_vocab_size = 19"),
    ],
    ids=str,
)
def test_config_errors(changes, error, message):
    with pytest.raises(error) as caught:
        small_config(**changes)
    assert str(caught.value).startswith(f"TransformerConfig: {message}")
    assert "\n" not in str(caught.value)
    text = json.dumps(small_config().to_values() | changes)
    with pytest.raises(ValueError, match=f"^TransformerConfig: {message.split()[0]} is "):
        pt.TransformerConfig.from_json(text)


def test_an_odd_width_needs_other_positions(rng):
    src, tgt = token_ids(rng, 23, 2, 5), token_ids(rng, 19, 2, 3)
    for positions in ("learned", "none"):
        model = small_model(d_model=27, positions=positions)
        assert_close(model(src, tgt), expected_of(model, src, tgt))


VALID = json.loads(small_config().to_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text is not JSON: "),
        ("{", "text is not JSON: "),
        ("{'d_model': 3}", "text is not JSON: "),
        ("[" * 100_000, "text is not JSON: "),
        (b"\xff\xfe\xfd", "text is not JSON: "),
        (json.dumps(VALID)[:-1] + ', "d_ff": ' + "9" * 5000 + "}", "text is not JSON: "),
        ("[1, 2]", "text is a list, expected an object"),
        ("null", "text is a NoneType, expected an object"),
        ("3", "text is a int, expected an object"),
        ("{}", "unknown keys [], missing keys ['src_vocab_size', 'tgt_vocab_size']"),
        (json.dumps(VALID | {"width": 3, "depth": 2}), "unknown keys ['depth', 'width'], missing"),
        (json.dumps({"src_vocab_size": 3}), "unknown keys [], missing keys ['tgt_vocab_size']"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_json_that_is_no_config(text, message):
    with pytest.raises(ValueError) as error:
        pt.TransformerConfig.from_json(text)
    assert str(error.value).startswith(f"TransformerConfig.from_json: {message}")


@pytest.mark.parametrize("text", [None, 3, {"src_vocab_size": 3}, ["{}"]], ids=repr)
def test_json_is_text(text):
    with pytest.raises(TypeError, match=r"^TransformerConfig.from_json: text is "):
        pt.TransformerConfig.from_json(text)


@pytest.mark.parametrize("config", [None, {}, small_config().to_values(), "base", 3], ids=type)
def test_a_model_is_built_from_a_config(config):
    with pytest.raises(
        TypeError, match=r"^Transformer: config is .*, expected a TransformerConfig"
    ):
        pt.Transformer(config)


def test_seeded_models_are_equal(src, tgt):
    config = small_config(positions="learned")
    first, again = pt.Transformer(config, rng=5), pt.Transformer(replace(config), rng=5)
    assert_same_bits(again(src, tgt), first(src, tgt))
    assert np.abs(pt.Transformer(config, rng=6)(src, tgt) - first(src, tgt)).max() > 1e-2
