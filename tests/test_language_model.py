"""The decoder-only model against float64, its files, and what it makes of prompts."""

import dataclasses
import json

import numpy as np
import pytest
import reference
from models import (
    assert_close,
    assert_same_bits,
    lively,
    randomised,
    small_config,
    small_model,
    token_ids,
)

import pyx_transformer as pt
from pyx_transformer.generation import KeyValueCache
from pyx_transformer.training import Examples

# B 4, T 7.
LENGTHS = [7, 3, 0, 1]
VARIANTS = {
    "default": {},
    "pre-norm": {"norm_first": True, "final_norm": True, "activation": "gelu"},
    "eps": {"layer_norm_eps": 0.3},
    "no positions": {"positions": "none"},
    "learned positions": {"positions": "learned", "norm_first": True},
    "aren's positions": {
        "position_layout": "halves",
        "position_frequencies": "tensor2tensor",
        "position_start": 1,
    },
    "unscaled": {"scale_embeddings": False},
    "no output bias": {"output_bias": False},
    "tied output": {"tie_output": True},
    "no layers": {"num_decoder_layers": 0, "final_norm": True},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture
def tgt(rng):
    return token_ids(rng, 19, 4, 7)


def language_model(seed=0, **changes):
    return randomised(pt.TransformerLM(small_config(**changes), rng=0), seed)


def lively_model(**changes):
    """Continuations depend on the prompt, and change from step to step."""
    return lively(language_model(**{"norm_first": True, "num_decoder_layers": 2, **changes}))


def expected_of(model, tgt, lengths=None):
    """Logits (B, T, V), and each layer's weights: an encoder that does not look ahead."""
    config, state = model.config, model.state_dict()
    table = state["tgt_embedding.weight"]
    places = None
    if config.positions == "learned":
        places = state["tgt_positions.weight"][: tgt.shape[1]]
    elif config.positions == "sinusoidal":
        places = reference.sinusoidal_positions(
            tgt.shape[1],
            config.d_model,
            start=config.position_start,
            layout=config.position_layout,
            frequencies=config.position_frequencies,
        )
    scale = np.sqrt(config.d_model) if config.scale_embeddings else 1.0
    rows, weights = reference.encoder(
        reference.substate(state, "decoder."),
        reference.embedding(tgt, table, scale, places),
        config.num_heads,
        lengths=lengths,
        mask=np.tri(tgt.shape[1], dtype=bool),
        activation=config.activation,
        norm_first=config.norm_first,
        layer_norm_eps=config.layer_norm_eps,
        return_attention=True,
    )
    output = state.get("output_projection.weight", table)
    logits = reference.linear(rows, output, state.get("output_projection.bias"))
    return reference.zero_padding(logits, lengths), weights


# Against the reference.


@each_variant
@pytest.mark.parametrize("lengths", (None, LENGTHS), ids=("full", "padded"))
def test_logits_and_attention(variant, lengths, tgt):
    model = language_model(**VARIANTS[variant])
    expected, expected_weights = expected_of(model, tgt, lengths)
    logits, weights = model(tgt, lengths, return_attention=True)
    assert_close(logits, expected)
    assert len(weights) == model.config.num_decoder_layers
    for layer, expected_layer in zip(weights, expected_weights, strict=True):
        assert_close(layer, expected_layer)
    assert_same_bits(model(tgt, lengths), logits)
    for b, length in enumerate(lengths or []):
        assert not logits[b, length:].any()


def test_variants_differ(tgt):
    """Every option has an effect, so that a test of it can fail."""
    results = [language_model(**changes)(tgt) for changes in VARIANTS.values()]
    for i, result in enumerate(results):
        for other in results[:i]:
            assert np.abs(result - other).max() > 1e-3


def test_nothing_looks_ahead(tgt):
    model = language_model()
    logits = model(tgt)
    for length in range(8):
        assert_same_bits(model(tgt[:, :length]), logits[:, :length])
    tgt[:, 4:] = 3
    assert_same_bits(model(tgt)[:, :4], logits[:, :4])


def test_the_source_s_part_of_the_config_does_not_matter(tgt):
    expected = language_model()(tgt)
    changes = {"src_vocab_size": 5, "num_encoder_layers": 7, "share_embeddings": False}
    assert_same_bits(language_model(**changes)(tgt), expected)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (1, 1)], ids=str)
def test_empty_axes(shape, rng):
    model = language_model()
    tgt = token_ids(rng, 19, *shape)
    logits, weights = model(tgt, return_attention=True)
    assert_close(logits, expected_of(model, tgt)[0])
    assert [layer.shape for layer in weights] == [(shape[0], 3, shape[1], shape[1])] * 3


@pytest.mark.parametrize("filler", (-1, 0, 19, 2**62))
def test_ids_in_the_padding_may_be_anything(filler, tgt):
    model = lively_model()
    expected = model(tgt, LENGTHS)
    scores = model.score(tgt, LENGTHS)
    found = model.generate(tgt, LENGTHS, max_length=3)
    for b, length in enumerate(LENGTHS):
        tgt[b, length:] = filler
    assert_same_bits(model(tgt, LENGTHS), expected)
    for row, wanted in zip(model.score(tgt, LENGTHS), scores, strict=True):
        assert_same_bits(row, wanted)
    again = model.generate(tgt, LENGTHS, max_length=3)
    assert [row.tolist() for row in again] == [row.tolist() for row in found]


# Parameters.


def test_state_dict_keys():
    """The stack has the keys of an encoder of the same sizes: torch.nn.TransformerEncoder's."""
    stack = pt.TransformerEncoder(3, 24, 3, 41, final_norm=True)
    expected = {f"decoder.{key}": array.shape for key, array in stack.state_dict().items()}
    expected |= {
        "tgt_embedding.weight": (19, 24),
        "output_projection.weight": (19, 24),
        "output_projection.bias": (19,),
    }
    model = language_model(final_norm=True)
    shapes = {key: array.shape for key, array in model.state_dict().items()}
    assert shapes == expected
    assert "decoder.layers.2.self_attn.in_proj_weight" in shapes
    assert not any("multihead_attn" in key or "norm3" in key for key in shapes)
    assert model.num_parameters == sum(int(np.prod(shape)) for shape in shapes.values())

    learned = language_model(positions="learned", output_bias=False, tie_output=True)
    shapes = {key: array.shape for key, array in learned.state_dict().items()}
    assert shapes["tgt_positions.weight"] == (97, 24)
    assert not any("output_projection" in key or "src" in key for key in shapes)
    assert learned.num_parameters == sum(int(np.prod(shape)) for shape in shapes.values())


def test_a_tied_output(tgt):
    """One weight, stored as the embedding's; either key is taken, and both if they agree."""
    model = language_model(tie_output=True)
    state, logits = model.state_dict(), model(tgt)
    weight = state["tgt_embedding.weight"]
    rest = {key: array for key, array in state.items() if key != "tgt_embedding.weight"}
    for given in (
        {"output_projection.weight": weight},
        {"output_projection.weight": weight, "tgt_embedding.weight": weight},
    ):
        other = pt.TransformerLM(model.config)
        other.load_state_dict(rest | given)
        assert_same_bits(other(tgt), logits)
    with pytest.raises(ValueError) as error:
        model.load_state_dict(state | {"output_projection.weight": weight + 1})
    assert str(error.value).startswith(
        "TransformerLM.load_state_dict: output_projection.weight differs from tgt_embedding.weight"
    )
    assert_same_bits(model(tgt), logits)
    fresh = pt.TransformerLM(model.config, rng=1)
    untied = pt.TransformerLM(small_config(), rng=1)
    untied.load_state_dict(
        fresh.state_dict()
        | {"output_projection.weight": fresh.state_dict()["tgt_embedding.weight"]}
    )
    assert_same_bits(fresh(tgt), untied(tgt))


def test_problems_of_a_state_come_in_one_error():
    model = language_model()
    state = model.state_dict()
    del state["decoder.layers.1.norm2.bias"]
    state["decoder.layers.0.norm3.bias"] = np.zeros(24)
    state["tgt_embedding.weight"] = np.zeros((24, 19))
    with pytest.raises(ValueError) as error:
        model.load_state_dict(state)
    assert str(error.value) == (
        "TransformerLM.load_state_dict: missing: decoder.layers.1.norm2.bias; "
        "unexpected: decoder.layers.0.norm3.bias; "
        "misshapen: tgt_embedding.weight is (24, 19), expected (19, 24)"
    )


def test_seeds():
    config = small_config()
    states = [pt.TransformerLM(config, rng=seed).state_dict() for seed in (3, 3, 4)]
    for key, array in states[0].items():
        assert_same_bits(states[1][key], array)
    assert (states[0]["tgt_embedding.weight"] != states[2]["tgt_embedding.weight"]).any()


@pytest.mark.parametrize("config", [None, {}, "{}", 3], ids=repr)
def test_a_config_is_needed(config):
    with pytest.raises(TypeError) as error:
        pt.TransformerLM(config)
    expected = f"TransformerLM: config is {config!r}, expected a TransformerLMConfig"
    assert str(error.value) == expected


# Files.

OPTIONS = {"beam_size": 3, "length_penalty": 0.6, "suppress_tokens": [4], "max_length": 6}


@each_variant
def test_models_go_round(variant, tgt, tmp_path):
    model = language_model(**VARIANTS[variant])
    model.tgt_vocabulary = [f"t{i}" for i in range(19)]
    model.generation_options = pt.GenerationOptions(**OPTIONS)
    model.save(tmp_path)
    again = pt.load(tmp_path)
    assert type(again) is pt.TransformerLM
    assert again.config == model.config
    assert again.tgt_vocabulary == model.tgt_vocabulary
    assert again.generation_options == model.generation_options
    assert_same_bits(again(tgt), model(tgt))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "generation.json",
        "model.safetensors",
        "target_vocabulary.txt",
    ]
    # What a model brings along is what it generates by.
    found, expected = again.generate(tgt), model.generate(tgt, **OPTIONS)
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]


def test_the_config_names_the_architecture(tmp_path):
    model = language_model()
    model.save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values.pop("architecture") == "TransformerLM"
    assert values == json.loads(model.config.to_json())
    assert not any("src" in name or "encoder" in name for name in values)
    small_model().save(tmp_path)
    assert "architecture" not in json.loads((tmp_path / "config.json").read_text())
    assert type(pt.load(tmp_path)) is pt.Transformer


def test_one_architecture_saved_over_another(tgt, tmp_path):
    other = small_model()
    other.src_vocabulary = [f"t{i}" for i in range(23)]
    other.save(tmp_path)
    model = language_model()
    model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert_same_bits(pt.load(tmp_path)(tgt), model(tgt))


@pytest.mark.parametrize(
    "name", ["transformerlm", "", None, 3, ["TransformerLM"], {}, "Encoder"], ids=repr
)
def test_unknown_architectures(name, tmp_path):
    language_model().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architecture": name}))
    with pytest.raises(ValueError) as error:
        pt.load(tmp_path)
    assert str(error.value) == (
        f"load: {path}: architecture is {name!r}, expected one of Transformer, TransformerLM, "
        "EncoderModel, TransformerEncoder, TransformerDecoder"
    )


def test_weights_of_another_architecture(tmp_path):
    small_model().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architecture": "TransformerLM"}))
    with pytest.raises(ValueError) as error:
        pt.load(tmp_path)
    weights = tmp_path / "model.safetensors"
    assert str(error.value).startswith(
        f"load: {weights}: TransformerLM.load_state_dict: unexpected"
    )


@pytest.mark.parametrize(
    "changes",
    [{"tgt_vocab_size": 10**9}, {"num_decoder_layers": 10**4}, {"d_model": 24 * 10**6}],
    ids=str,
)
def test_a_config_cannot_ask_for_all_memory(changes, tmp_path):
    language_model().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=r"model\.safetensors holds .* because of config\.json$"):
        pt.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({"tgt_vocab_size": 2**63}, 2**31 - 1),
        ({"num_decoder_layers": 10**18}, 10_000),
        ({"d_ff": 10**12}, 2**31 - 1),
    ],
    ids=str,
)
def test_absurd_sizes_are_refused_by_name(changes, most, tmp_path):
    language_model().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    ((name, size),) = changes.items()
    with pytest.raises(ValueError) as error:
        pt.load(tmp_path)
    assert str(error.value) == (
        f"load: {path}: TransformerLMConfig: {name} is {size}, expected at most {most}"
    )


def test_files_whose_config_has_a_source_s_part(tgt, tmp_path):
    """As they all had before language models had a config of their own; it asks for nothing."""
    config = small_config(src_vocab_size=10**9, num_encoder_layers=10**4)
    model = randomised(pt.TransformerLM(config))
    model.save(tmp_path)
    path = tmp_path / "config.json"
    values = {"architecture": "TransformerLM", **json.loads(config.to_json())}
    assert values["num_encoder_layers"] == 10**4
    path.write_text(json.dumps(values))
    assert pt.load(tmp_path).config == model.config
    assert_same_bits(pt.load(tmp_path)(tgt), model(tgt))


# Prompts.

SETTINGS = {
    "greedy": {},
    "beams": {"beam_size": 4, "num_hypotheses": 3, "early_stopping": False},
    "samples": {"num_samples": 3, "seed": 5, "temperature": 0.8},
    "alternatives": {"num_hypotheses": 3, "return_alternatives": True, "beam_size": 2},
}
ASKED_FOR = {"return_scores": True, "return_token_scores": True}
each_setting = pytest.mark.parametrize("setting", SETTINGS)


def assert_same_hypotheses(actual, expected):
    assert len(actual) == len(expected)
    for one, wanted in zip(actual, expected, strict=True):
        assert one.sequence.tolist() == wanted.sequence.tolist()
        assert one.is_finished == wanted.is_finished
        assert one.score == wanted.score
        assert_same_bits(one.token_scores, wanted.token_scores)


@each_setting
@pytest.mark.parametrize("most", (None, 1, 8))
def test_each_prompt_alone_gives_the_same(setting, most, tgt):
    """To the bit, whatever the lengths of the others, in any order, in parts or not."""
    model, options = lively_model(), {**SETTINGS[setting], **ASKED_FOR, "max_length": 9}
    together = model.generate(tgt, LENGTHS, **options, max_batch_tokens=most).hypotheses
    order = [2, 3, 1, 0]
    again = model.generate(tgt[order], np.take(LENGTHS, order), **options).hypotheses
    for i, b in enumerate(order):
        assert_same_hypotheses(again[i], together[b])
    for b, length in enumerate(LENGTHS):
        (alone,) = model.generate(tgt[b : b + 1, :length], **options).hypotheses
        assert_same_hypotheses(alone, together[b])
    rests = [own[0].sequence[n:].tolist() for own, n in zip(together, LENGTHS, strict=True)]
    assert any(rest != rests[0] for rest in rests)


@pytest.mark.parametrize("variant", ["default", "pre-norm", "learned positions", "tied output"])
def test_greedy_is_the_reference_s(variant, tgt):
    """The prompt is returned, and the best token again and again behind it."""
    model = lively_model(**VARIANTS[variant])
    found = model.generate(tgt, LENGTHS, max_length=6)
    for b, length in enumerate(LENGTHS):
        tokens = [model.config.start_id, *tgt[b, :length]]
        while len(tokens) <= length + 6:
            logits, _ = expected_of(model, np.array([tokens]))
            token = int(logits[0, -1].argmax())
            if token == model.config.end_id:
                break
            tokens.append(token)
        assert found[b].tolist() == tokens[1:]
        assert found.is_finished[b] == (len(tokens) <= length + 6)


def test_a_prompt_in_one_pass_is_as_step_by_step(rng):
    """What a model said itself, given as a prompt, goes on as it did."""
    model = lively_model()
    end = [model.config.end_id]
    whole = model.generate(np.zeros((1, 0), int), max_length=12, suppress_tokens=end, **ASKED_FOR)
    (whole,) = whole.hypotheses[0]
    assert len(set(whole.sequence.tolist())) > 2
    for length in range(13):
        prompt = whole.sequence[None, :length]
        rest = model.generate(
            prompt, max_length=12 - length, suppress_tokens=end, **ASKED_FOR
        ).hypotheses[0][0]
        assert rest.sequence.tolist() == whole.sequence.tolist()
        assert not rest.token_scores[:length].any()
        assert_same_bits(rest.token_scores[length:], whole.token_scores[length:])


@pytest.mark.parametrize("first", (1, 3, 7))
def test_the_cache_in_chunks_as_all_at_once(first, tgt):
    model = language_model()
    expected = model(tgt)
    cache = KeyValueCache(model, 4)
    slots, rows = np.arange(4), []
    for begin in [0, *range(first, 7)]:
        size = first if begin == 0 else 1
        ids = tgt[:, begin : begin + size].reshape(-1)
        part = cache.extend(ids, slots, np.full(4, size))
        rows.append(model.output_projection.apply(part).reshape(4, size, 19))
    assert_same_bits(np.concatenate(rows, axis=1), expected)


@each_setting
def test_an_empty_prompt(setting):
    """The start alone; as many sequences as there are prompts, all alike."""
    model = lively_model()
    options = SETTINGS[setting] | ASKED_FOR | {"max_length": 5}
    found = model.generate(np.zeros((3, 0), int), **options).hypotheses
    padded = model.generate(np.full((3, 4), 3), [0, 0, 0], **options).hypotheses
    assert len(found) == 3
    for own, wanted in zip(found, padded, strict=True):
        assert_same_hypotheses(own, found[0])
        assert_same_hypotheses(own, wanted)
        assert all(len(one.sequence) <= 5 for one in own)


@each_setting
@pytest.mark.parametrize("max_length", (0, 3))
def test_no_prompts(setting, max_length):
    generation = lively_model().generate(
        np.zeros((0, 4), int), max_length=max_length, **SETTINGS[setting], **ASKED_FOR
    )
    assert len(generation) == 0
    assert generation.hypotheses == []
    assert generation.scores.shape == (0,)
    assert generation.is_finished.shape == (0,)


@each_setting
def test_max_length_0_gives_the_prompt(setting, tgt):
    options = SETTINGS[setting] | ASKED_FOR | {"max_length": 0}
    for b, own in enumerate(lively_model().generate(tgt, LENGTHS, **options).hypotheses):
        for one in own:
            assert one.sequence.tolist() == tgt[b, : LENGTHS[b]].tolist()
            assert (one.score, one.is_finished) == (0.0, False)
            assert one.token_scores.tolist() == [0.0] * LENGTHS[b]


def test_max_length_is_256_unless_given():
    model = lively_model()
    assert len(model.generate([[3]], suppress_tokens=[model.config.end_id])[0]) == 257


def test_what_is_said_of_a_prompt_s_tokens_counts(tgt):
    """A penalty on what is there already sees the prompt, and so does a ban on repetition."""
    model = lively_model()
    found = model.generate(tgt, max_length=5, no_repeat_ngram_size=1)
    for row in found:
        new = row[7:].tolist()
        assert len(set(new)) == len(new)
        assert not set(new) & set(row[:7].tolist())
    seen = []
    model.generate(tgt, LENGTHS, max_length=1, stop_when=lambda b, ids: seen.append((b, ids)))
    assert sorted(b for b, _ in seen) == [0, 1, 2, 3]
    for b, ids in seen:
        assert ids[: LENGTHS[b]].tolist() == tgt[b, : LENGTHS[b]].tolist()


# What a prompt cannot be.


@pytest.mark.parametrize(
    "settings",
    [
        {"max_length_factor": 1.5},
        {"prefix": [[3]] * 4},
        {"prefix": [[3]] * 4, "prefix_bias": 0.5},
        {"coverage_penalty": 0.1},
        {"return_attention": True},
    ],
    ids=str,
)
def test_options_that_need_a_source(settings, tgt):
    with pytest.raises(ValueError) as error:
        lively_model().generate(tgt, **settings)
    assert str(error.value).startswith(f"TransformerLM.generate: {next(iter(settings))} is ")
    assert "expected none because a language model has a prompt and no source" in str(error.value)


def test_a_prompt_holds_no_end(tgt):
    """The error names what was passed."""
    model = lively_model()
    tgt[1, 2] = model.config.end_id
    with pytest.raises(ValueError) as error:
        model.generate(tgt)
    assert str(error.value) == "TransformerLM.generate: prompt[1] holds 2, expected no end token"
    model.generate(tgt, [7, 2, 7, 7], max_length=1)  # behind the prompt it may be anything
    with pytest.raises(ValueError) as error:
        model.generate([[3, 11, 5]], end_tokens=[5, 11])
    assert str(error.value).startswith("TransformerLM.generate: prompt[0] holds ")


def test_learned_positions_have_an_end(tgt):
    """What is decoded last stands at place prompt + max_length, the start being at 0."""
    model = lively_model(positions="learned", max_length=9)
    reason = "expected at most the config's max_length = 9 because positions are learned"
    end = [model.config.end_id]
    assert [len(row) for row in model.generate(tgt, max_length=2, suppress_tokens=end)] == [9] * 4
    # As far as it goes, unless told.
    assert [len(row) for row in model.generate(tgt, suppress_tokens=end)] == [9] * 4
    assert [len(row) for row in model.generate(tgt, LENGTHS, suppress_tokens=end)] == [9] * 4
    for call, message in {
        lambda: model.generate(tgt, max_length=3): "prompt and max_length together are 10",
        lambda: model.generate(np.full((1, 10), 3)): "prompt has length 10",
        lambda: model(np.full((1, 10), 3)): "tgt has length 10",
        lambda: model.score(np.full((1, 9), 3)): "tgt with its start has length 10",
    }.items():
        with pytest.raises(ValueError) as error:
            call()
        who, what = str(error.value).split(": ", 1)
        assert who.startswith("TransformerLM")
        assert what == f"{message}, {reason}"
    assert len(model.generate(np.full((1, 9), 3))[0]) == 9


@pytest.mark.parametrize("max_length", (10**9, 2**70))
def test_a_length_that_is_not_reached_costs_nothing(max_length, tgt):
    model = lively_model()
    wanted = model.generate(tgt, max_length=40).sequences
    for got, whole in zip(
        model.generate(tgt, max_length=max_length, stop_when=lambda _, ids: len(ids) == 20),
        wanted,
        strict=True,
    ):
        assert got.tolist() == whole[:20].tolist()


# Scoring.


@each_variant
def test_score(variant, tgt):
    model = language_model(**VARIANTS[variant])
    for lengths in (LENGTHS, None):
        for row, ids, length in zip(
            model.score(tgt, lengths), tgt, lengths or [7] * 4, strict=True
        ):
            tokens = [*ids[:length].tolist(), model.config.end_id]
            logits, _ = expected_of(model, np.array([[model.config.start_id, *tokens[:-1]]]))
            wanted = reference.log_softmax(logits[0])[np.arange(length + 1), tokens]
            assert_close(row, wanted)


def test_each_sequence_alone_has_the_same_score(tgt):
    model = lively_model()
    scores = model.score(tgt, LENGTHS)
    for b, length in enumerate(LENGTHS):
        (alone,) = model.score(tgt[b : b + 1, :length])
        assert_same_bits(alone, scores[b])
    assert model.score(np.zeros((0, 4), int)) == []


def test_what_is_generated_scores_as_it_did(tgt):
    """To the bit, the end included."""
    model = lively_model()
    for options in ({}, {"beam_size": 3, "num_hypotheses": 3}):
        found = model.generate(tgt, LENGTHS, max_length=8, **options, **ASKED_FOR)
        for own, length in zip(found.hypotheses, LENGTHS, strict=True):
            for one in own:
                (row,) = model.score(one.sequence[None])
                assert not one.token_scores[:length].any()
                counted = one.token_scores[length:]
                assert_same_bits(counted, row[length : length + len(counted)])
                mean = counted.sum(dtype=np.float64) / len(counted)
                assert one.score == pytest.approx(mean, rel=1e-12)


def test_perplexity(tgt):
    scores = language_model().score(tgt, LENGTHS)
    mean = np.mean(np.concatenate(scores), dtype=np.float64)
    assert pt.perplexity(scores) == pytest.approx(np.exp(-mean), rel=1e-12)


# A text's first token may be given: nothing comes before it.


def begun(model):
    """The same model, to which each text brings its own start."""
    other = pt.TransformerLM(dataclasses.replace(model.config, start_id=None), rng=0)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("setting", [{}, {"beam_size": 3, "num_hypotheses": 2}])
def test_a_start_that_is_given_is_as_one_of_the_model(setting, tgt):
    model = lively_model()
    own = model.generate(tgt, LENGTHS, max_length=9, return_scores=True, **setting)
    starts = np.full((4, 1), model.config.start_id)
    given = begun(model).generate(
        np.hstack([starts, tgt]),
        np.array(LENGTHS) + 1,
        max_length=9,
        return_scores=True,
        **setting,
    )
    for one, other in zip(own.hypotheses, given.hypotheses, strict=True):
        for a, b in zip(one, other, strict=True):
            assert [model.config.start_id, *a.sequence] == b.sequence.tolist()
            assert a.score == b.score
    for one, other in zip(
        model.score(tgt, LENGTHS),
        begun(model).score(np.hstack([starts, tgt]), np.array(LENGTHS) + 1),
        strict=True,
    ):
        assert_same_bits(one, other)


def test_a_start_that_is_given_may_be_an_end_token():
    """GPT-2 has one token for both."""
    model = begun(lively_model())
    end = model.config.end_id
    (text,) = model.generate([[end, 5]], max_length=4).sequences
    assert text.tolist()[:2] == [end, 5]
    with pytest.raises(ValueError, match=r"prompt\[0\] holds 2, expected no end token"):
        model.generate([[5, end]])


def test_a_start_has_to_be_given():
    model = begun(language_model())
    says = r"is empty, expected at least one token because the config's start_id is None"
    with pytest.raises(ValueError, match=rf"^TransformerLM\.generate: prompt\[1\] {says}"):
        model.generate([[3, 4], [5, 6]], [2, 0])
    with pytest.raises(ValueError, match=rf"tgt\[0\] {says}"):
        model.score(np.zeros((1, 0), int))
    with pytest.raises(
        ValueError, match=r"^Examples: targets\[1\] is empty, expected at least one"
    ):
        Examples(None, [[3], []], start_id=None, end_id=2)


def test_examples_that_bring_their_start():
    own = Examples(None, [[5, 6], [7]], start_id=1, end_id=2).batch(np.arange(2))
    given = Examples(None, [[1, 5, 6], [1, 7]], start_id=None, end_id=2).batch(np.arange(2))
    assert own.inputs.tolist() == given.inputs.tolist()
    assert own.targets.tolist() == given.targets.tolist()
    assert own.input_sequences.counts.tolist() == given.input_sequences.counts.tolist()


# Capped logits.


def test_capped_logits(tgt):
    model = lively_model()
    config = dataclasses.replace(model.config, logits_softcap=2.5)
    capped = pt.TransformerLM(config, rng=0)
    capped.load_state_dict(model.state_dict())
    logits = capped(tgt, LENGTHS)
    exact = 2.5 * np.tanh(model(tgt, LENGTHS).astype(float) / 2.5)
    np.testing.assert_allclose(logits, exact, rtol=0, atol=4e-7)
    assert np.abs(logits).max() > 2
    (text,) = capped.generate(tgt[:1, :3], max_length=1).sequences
    row = capped(np.array([[config.start_id, *tgt[0, :3]]]))[0, -1]
    row[config.end_id] = -np.inf
    assert text[-1] == row.argmax() or len(text) == 3
    scores = capped.score(tgt[:1])[0]
    whole = capped(np.array([[config.start_id, *tgt[0]]]))[0]
    expected = pt.ops.log_softmax(whole)[np.arange(8), [*tgt[0], config.end_id]]
    assert_same_bits(scores, expected)


def test_where_positions_end_does_not_depend_on_the_batch():
    """Each text grows until its own positions end, however long the prompts beside it are."""
    config = small_config(positions="learned", max_length=9)
    model = pt.TransformerLM(pt.TransformerLMConfig.of_decoder(config), rng=0)
    prompts = [[5, 6], [7, 8, 9, 5, 6, 7, 8], [6]]
    settings = {"suppress_tokens": [config.end_id], "beam_size": 2, **ASKED_FOR}
    together = model.generate(prompts, **settings)
    for prompt, found in zip(prompts, together.hypotheses, strict=True):
        (alone,) = model.generate([prompt], **settings).hypotheses
        assert_same_hypotheses(found, alone)
        assert len(found[0].sequence) == 9
