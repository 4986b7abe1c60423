"""Directories of CTranslate2: the real model in its forms, specs of every kind beside CTranslate2's
own answers, and files that are refused."""

import json
import shutil
import tracemalloc
import warnings

import numpy as np
import pytest
import random_specs
import safetensors.numpy
from models import assert_same_bits
from random_specs import SIZES, TOKENS, filled, save

import pyx_transformer as pt
from pyx_transformer.checkpoints.ctranslate2.container import read_file

VOCABULARIES = ("source_vocabulary.txt", "target_vocabulary.txt")


def arrays_of(folder):
    return {name: np.asarray(t) for name, t in read_file(folder / "model.bin").tensors.items()}


def refusal(folder):
    """What `load` says of a folder that it refuses."""
    with warnings.catch_warnings(), pytest.raises(ValueError) as refused:
        warnings.simplefilter("error")
        pt.load(folder)
    said = str(refused.value)
    assert said.startswith(f"load: {folder}") and "\n" not in said and len(said) < 1500
    return said


def copied(folder, to, *names):
    to.mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(folder / name, to / name)
    return to


# The real model.


@pytest.fixture
def aren(shared_data):
    return shared_data / "aren"


def state_of_aren(aren):
    return safetensors.numpy.load_file(aren / "model.safetensors")


def assert_same_state(model, expected):
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for key, array in state.items():
        assert_same_bits(array, expected[key])


def test_the_real_model(aren):
    model = pt.load(aren)
    assert_same_state(model, state_of_aren(aren))
    assert model.config == pt.TransformerConfig(
        src_vocab_size=51,
        tgt_vocab_size=43,
        d_model=32,
        num_heads=8,
        d_ff=128,
        norm_first=True,
        final_norm=True,
        position_layout="halves",
        position_frequencies="tensor2tensor",
        position_start=1,
        start_id=1,
        end_id=2,
    )
    assert model.generation_options is None
    for side, count in (("src", 50), ("tgt", 42)):
        path = aren / VOCABULARIES[side == "tgt"]
        tokens = getattr(model, f"{side}_vocabulary")
        assert tokens == path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        assert len(tokens) == count


def test_what_it_answers(aren):
    model = pt.load(aren)
    examples = json.loads((aren / "examples.json").read_text(encoding="utf-8"))
    src, tgt = (
        [[tokens.index(token) for token in case[side]] for case in examples["scoring"]]
        for side, tokens in (("src", model.src_vocabulary), ("tgt", model.tgt_vocabulary))
    )
    for case, row in zip(examples["scoring"], model.score(src, tgt), strict=True):
        expected = case["token_logprobs"]
        np.testing.assert_allclose(row, expected, rtol=0, atol=examples["scoring_abs_tol"])
    src = [[model.src_vocabulary.index(t) for t in case["src"]] for case in examples["translate"]]
    found = model.generate(src, max_length=50)
    words = ["".join(model.tgt_vocabulary[i] for i in row) for row in found]
    assert words == [case["out"] for case in examples["translate"]]


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_its_quantised_forms(kind, aren, tmp_path):
    *_, variables, _ = random_specs.read(aren / kind / "model.bin")
    state = state_of_aren(aren)
    folder = copied(aren, tmp_path, *VOCABULARIES)
    shutil.copyfile(aren / kind / "model.bin", folder / "model.bin")
    model, arrays = pt.load(folder), arrays_of(folder)
    assert not any(name.endswith("_scale") for name in arrays)
    scaled = [name for name in variables if f"{name}_scale" in variables]
    assert len(scaled) == 69
    for name in scaled:
        assert variables[name].dtype == kind
        scale = variables[f"{name}_scale"]
        factor = np.float32(1) / (scale[:, None] if scale.ndim else scale)
        expected = variables[name].astype(np.float32) * factor
        assert expected.dtype == np.float32
        assert_same_bits(arrays[name], expected)
    ours = model.state_dict()
    assert_same_bits(ours["tgt_embedding.weight"], arrays["decoder/embeddings/weight"])
    for key, array in ours.items():
        step = np.abs(state[key]).max() / 127 if kind == "int8" else 1 / 1000
        np.testing.assert_allclose(array, state[key], rtol=0, atol=step, err_msg=key)


@pytest.mark.parametrize("version", [3, 4, 5, 6])
def test_versions(version, aren, tmp_path):
    _, _, revision, variables, _ = random_specs.read(aren / "model.bin")
    folder = copied(aren, tmp_path, *VOCABULARIES)
    path = folder / "model.bin"
    random_specs.write(path, version, "TransformerBase", revision, variables)
    assert_same_state(pt.load(folder), state_of_aren(aren))
    # What was said with attributes then, and is said of each stack now.
    variables |= {"num_heads": np.array(4, "i1"), "pre_norm": np.array(0, "i1")}
    random_specs.write(path, version, "TransformerBase", revision, variables)
    config = pt.load(folder).config
    assert (config.num_heads, config.norm_first) == (4, False)


def test_without_vocabularies(aren, tmp_path):
    folder = copied(aren, tmp_path, "model.bin")
    with pytest.warns(UserWarning, match="no vocabulary beside it: start_id = 1 and end_id = 2"):
        model = pt.load(folder)
    assert_same_state(model, state_of_aren(aren))
    assert model.src_vocabulary is None


@pytest.mark.parametrize(
    ("attributes", "ids"),
    [
        ({"with_target_bos": np.array(0, "i1")}, (2, 2)),
        ({"bos_token": "a", "eos_token": "z"}, (3, 23)),
        ({"user_decoder_start_tokens": np.array(0, "i1")}, (1, 2)),
    ],
)
def test_special_tokens_of_old_files(attributes, ids, aren, tmp_path):
    _, spec, revision, variables, _ = random_specs.read(aren / "model.bin")
    for name, value in attributes.items():
        if isinstance(value, str):
            value = np.frombuffer(value.encode(), "i1")
        variables[name] = value
    folder = copied(aren, tmp_path, *VOCABULARIES)
    random_specs.write(folder / "model.bin", 5, spec, revision, variables)
    config = pt.load(folder).config
    assert (config.start_id, config.end_id) == ids


# Beside CTranslate2 itself.


@pytest.fixture
def ctranslate2():
    return pytest.importorskip("ctranslate2", reason="needs CTranslate2 as a peer")


def sequences(lengths=(7, 3, 10, 1)):
    rng = np.random.default_rng(1)
    return [rng.integers(3, SIZES["vocabulary"], length).tolist() for length in lengths]


def tokens_of(rows):
    return [[TOKENS[i] for i in row] for row in rows]


def assert_translates_alike(ctranslate2, folder, atol=2e-5):
    """Scores of given targets, and what is found greedily and with beams. -> our model"""
    model = pt.load(folder)
    peer = ctranslate2.Translator(str(folder), compute_type="float32")
    src, tgt = sequences(), sequences((4, 9, 1, 6))
    expected = peer.score_batch(tokens_of(src), tokens_of(tgt))
    for row, result in zip(model.score(src, tgt), expected, strict=True):
        np.testing.assert_allclose(row, result.log_probs, rtol=0, atol=atol)
    for beams in (1, 3):
        found = model.generate(
            src, beam_size=beams, max_length=12, min_length=1, return_scores=True
        )
        expected = peer.translate_batch(
            tokens_of(src), beam_size=beams, max_decoding_length=12, return_scores=True
        )
        for row, score, result in zip(found, found.scores, expected, strict=True):
            assert [TOKENS[i] for i in row] == result.hypotheses[0]
            assert score == pytest.approx(result.scores[0], abs=atol)
    return model


def transformer(specs, encoder=(), decoder=(), **both):
    return specs.TransformerSpec(
        specs.TransformerEncoderSpec(2, 4, **{**both, **dict(encoder)}),
        specs.TransformerDecoderSpec(3, 4, **{**both, **dict(decoder)}),
    )


@pytest.mark.parametrize("activation", range(5))
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_translators(ctranslate2, dtype, activation, tmp_path):
    if dtype == "bfloat16":
        pytest.importorskip("torch", exc_type=ImportError)
    spec = transformer(ctranslate2.specs.transformer_spec, activation=activation)
    spec = filled(spec, learned=activation % 2 == 0)
    model = assert_translates_alike(ctranslate2, save(spec, tmp_path, dtype))
    assert model.config.positions == ("sinusoidal" if activation % 2 else "learned")
    assert not model.config.share_embeddings and not model.config.tie_output
    assert model.src_vocabulary == model.tgt_vocabulary == TOKENS


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_start_from_zeros(ctranslate2, is_shared, bias, tmp_path):
    """As Marian's: post-norm, the decoder's start in no table."""
    specs = ctranslate2.specs.transformer_spec
    spec = filled(transformer(specs, pre_norm=False, activation=2), bias=bias)
    spec.decoder.start_from_zero_embedding = True
    if is_shared:
        table = spec.encoder.embeddings[0].weight
        spec.decoder.embeddings.weight = spec.decoder.projection.weight = table
    model = assert_translates_alike(ctranslate2, save(spec, tmp_path))
    config, size = model.config, SIZES["vocabulary"]
    assert (config.share_embeddings, config.tie_output) == (is_shared, is_shared)
    assert (config.start_id, config.tgt_vocab_size) == (size, size + 1)
    assert config.src_vocab_size == size + is_shared
    assert model.tgt_vocabulary == [*TOKENS, "<pad>"]
    assert not model.side("tgt").tokens.weight[size].any()
    assert model.generation_options.suppress_tokens == (size,)
    model.save(tmp_path / "again")
    again = pt.load(tmp_path / "again")
    assert_same_state(again, model.state_dict())
    assert again.generation_options == model.generation_options


@pytest.mark.parametrize("is_shared", [True, False])
def test_biases_by_distance(ctranslate2, is_shared, tmp_path):
    """As T5's, the same in each layer, or umT5's."""
    options = {"relative_attention_bias": True, "rms_norm": True, "ffn_glu": True, "activation": 1}
    spec = filled(transformer(ctranslate2.specs.transformer_spec, **options), bias=False)
    spec.decoder.scale_outputs = SIZES["width"] ** -0.5
    for stack in (spec.encoder, spec.decoder):
        stack.scale_embeddings = False
        for layer in stack.layer:
            layer.self_attention.queries_scale = 0.5
            if is_shared:
                first = stack.layer[0].self_attention.relative_attention_bias
                layer.self_attention.relative_attention_bias = first
    model = assert_translates_alike(ctranslate2, save(spec, tmp_path))
    assert model.config.encoder.attentions[0].distance_bias.shared is is_shared


DECODERS = {
    "gpt2": ({"activation": 1}, {}),
    "post norm, norm of embeddings": ({"pre_norm": False, "layernorm_embedding": True}, {}),
    "sinusoids": ({"activation": 3}, {"learned": False}),
    "llama": (
        {"rotary_dim": 0, "rotary_interleave": False, "rms_norm": True, "ffn_glu": True}
        | {"num_heads_kv": 2, "rotary_base": 500.0},
        {"kv_heads": 2, "bias": False},
    ),
    "qwen3": (
        {"rotary_dim": 10, "rotary_interleave": False, "rms_norm": True, "ffn_glu": True}
        | {"num_heads_kv": 1, "head_dim": 10, "qk_norm": True},
        {"kv_heads": 1, "head_size": 10, "bias": False},
    ),
    "a part turns, in pairs, slowly": (
        {"rotary_dim": 4, "rotary_scaling_type": 0, "rotary_scaling_factor": 3.0},
        {},
    ),
    "gptj": (
        {"rotary_dim": 4, "parallel_residual": True, "shared_layer_norm": True},
        {},
    ),
    "gpt_neox": ({"rotary_dim": 2, "rotary_interleave": False, "parallel_residual": True}, {}),
    "gemma": (
        {"rotary_dim": 0, "rotary_interleave": False, "rms_norm": True, "ffn_glu": True}
        | {"head_dim": 8, "pre_post_layer_norm": True},
        {"head_size": 8, "bias": False},
    ),
    "multi-query": ({"multi_query_attention": True}, {"kv_heads": 1}),
}


def decoder(ctranslate2, options):
    specs = ctranslate2.specs
    if "rotary_scaling_type" in options:
        kind = specs.attention_spec.RotaryScalingType(options["rotary_scaling_type"])
        options = options | {"rotary_scaling_type": kind}
    return specs.TransformerDecoderModelSpec.from_config(3, 4, **options)


def assert_continues_alike(ctranslate2, folder, rows, atol=2e-5):
    """Logits of texts, and how they go on. -> our model"""
    model = pt.load(folder)
    peer = ctranslate2.Generator(str(folder), compute_type="float32")
    logits = np.asarray(peer.forward_batch(tokens_of(rows)))
    for row, given, expected in zip(model(rows), rows, logits, strict=True):
        count = len(given)
        np.testing.assert_allclose(row[:count], expected[:count], rtol=0, atol=atol)
    for row, given in zip(model.generate(rows, max_length=9, min_length=1), rows, strict=True):
        # Its lengths count the prompt, but not the token that begins it.
        (expected,) = peer.generate_batch(
            tokens_of([given]), max_length=len(given) + 8, min_length=len(given)
        )
        assert row.tolist() == expected.sequences_ids[0]
    return model


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(ctranslate2, name, tmp_path):
    options, sizes = DECODERS[name]
    spec = filled(decoder(ctranslate2, options), **sizes)
    if name == "gemma":
        spec.decoder.embeddings.multiply_by_sqrt_depth = SIZES["width"] ** 0.5
        norms = [spec.decoder.layer_norm, spec.decoder.layer[1].post_attention_layer_norm]
        for norm in norms:
            norm.layer_norm_use_residual = True
    if name == "llama":
        spec.decoder.scale_embeddings = False
        spec.decoder.projection.weight = spec.decoder.embeddings.weight
    folder = save(spec, tmp_path, layer_norm_epsilon=None if name == "gpt2" else 0.25)
    model = assert_continues_alike(ctranslate2, folder, sequences())
    config = model.config
    assert (config.start_id, config.end_id) == (None, 2)
    assert config.tie_output is (name == "llama")
    assert model.tgt_vocabulary == TOKENS
    for norm in (one.norm_before for one in config.decoder.layers[0].sub_layers):
        assert norm is None or norm.eps == (1e-5 if name == "gpt2" else 0.25)


def test_a_window(ctranslate2, tmp_path):
    """As CTranslate2 has it a token at a time; a prompt longer than the window it reads in parts,
    and sees more."""
    spec = decoder(ctranslate2, {"rotary_dim": 0, "rms_norm": True, "sliding_window": 3})
    folder = save(filled(spec, bias=False), tmp_path)
    model = pt.load(folder)
    assert model.config.decoder.attentions[0].window == (2, None)
    assert_continues_alike(ctranslate2, folder, sequences((1, 1, 1)))


def test_capped_logits(ctranslate2, tmp_path):
    spec = filled(decoder(ctranslate2, {}))
    spec.decoder.final_logit_softcapping = 2.0
    model = assert_continues_alike(ctranslate2, save(spec, tmp_path), sequences())
    assert model.config.logits_softcap == 2.0


@pytest.mark.parametrize("has_types", [True, False])
@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_encoders(ctranslate2, dtype, pre_norm, has_types, tmp_path):
    """As BERT's, with types and a pooler, and without."""
    specs = ctranslate2.specs.transformer_spec
    merge = ctranslate2.specs.EmbeddingsMerge.ADD
    encoder = specs.TransformerEncoderSpec(
        2,
        4,
        pre_norm=pre_norm,
        activation=3,
        layernorm_embedding=True,
        num_source_embeddings=1 + has_types,
        embeddings_merge=merge,
    )
    spec = specs.TransformerEncoderModelSpec(encoder, pooling_layer=has_types)
    encoder.scale_embeddings = False
    types = SIZES["types"]
    folder = save(filled(spec, types=types), tmp_path, dtype, layer_norm_epsilon=1e-12)
    model = pt.load(folder)
    assert model.src_vocabulary == TOKENS
    rows = sequences()
    given = [[i % types for i in row] for row in rows] if has_types else None
    peer = ctranslate2.Encoder(str(folder), compute_type="float32")
    expected = peer.forward_batch(tokens_of(rows), token_type_ids=given)
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    token_types = np.zeros_like(padded) if has_types else None
    for b, row in enumerate(rows):
        padded[b, : len(row)] = row
        if has_types:
            token_types[b, : len(row)] = given[b]
    lengths = [len(row) for row in rows]
    hidden = np.asarray(expected.last_hidden_state)
    for row, one, other in zip(
        rows, model.encode(padded, lengths, token_types), hidden, strict=True
    ):
        np.testing.assert_allclose(one[: len(row)], other[: len(row)], rtol=0, atol=2e-5)
    if has_types:
        pooled = model.pooled(padded, lengths, token_types)
        np.testing.assert_allclose(pooled, expected.pooler_output, rtol=0, atol=2e-5)
    assert (model.pooler is not None) is has_types


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_it_makes_the_same_of_whole_numbers(ctranslate2, dtype, tmp_path):
    """Bit for bit: layers whose norms are zero give the embeddings as they are."""
    specs = ctranslate2.specs.transformer_spec
    encoder = specs.TransformerEncoderSpec(1, 4, no_final_norm=True)
    spec = filled(specs.TransformerEncoderModelSpec(encoder), bias=False)
    encoder.scale_embeddings = False
    encoder.position_encodings.encodings[:] = 0
    for norm in (encoder.layer[0].self_attention.layer_norm, encoder.layer[0].ffn.layer_norm):
        norm.gamma[:] = norm.beta[:] = 0
    folder = save(spec, tmp_path, dtype)
    every = [[token] for token in TOKENS]
    peer = ctranslate2.Encoder(str(folder), compute_type="float32")
    expected = np.asarray(peer.forward_batch(every).last_hidden_state)[:, 0]
    model = pt.load(folder)
    assert_same_bits(model.state_dict()["src_embedding.weight"], expected)


# What is refused.


@pytest.fixture
def changed(aren, tmp_path):
    """A function that writes the real model with changes, None for what is to go."""
    _, _, _, variables, _ = random_specs.read(aren / "model.bin")

    def write(changes=(), aliases=(), version=6, spec="TransformerSpec", revision=7, **settings):
        folder = copied(aren, tmp_path, *VOCABULARIES)
        merged = {**variables, **dict(changes)}
        kept = {name: array for name, array in merged.items() if array is not None}
        random_specs.write(folder / "model.bin", version, spec, revision, kept, aliases)
        if settings:
            (folder / "config.json").write_text(json.dumps(settings))
        return folder

    return write


def i1(value):
    return np.array(value, "i1")


LAYER = "decoder/layer_0/self_attention"
MATRIX = np.ones((9, 4), "f4")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({f"{LAYER}/relative_position_keys": MATRIX}, f"{LAYER}/relative_position_keys"),
        ({"encoder/embeddings_1/weight": MATRIX}, "stand for: encoder/embeddings_1/weight"),
        ({"decoder/project_in/weight": MATRIX}, "stand for: decoder/project_in/weight"),
        ({"decoder/layer_3/layer_scalar": i1(2)}, "stand for: decoder/layer_3/layer_scalar"),
        ({"decoder/alibi": i1(1)}, "decoder/alibi is 1, expected 0"),
        ({"encoder/activation": i1(5)}, r"encoder/activation is 5, expected one of [0, 1, 2"),
        ({"encoder/scale_embeddings": np.array(3, "f4")}, "encoder/scale_embeddings is 3.0"),
        ({"decoder/scale_embeddings": i1(0)}, "scale_embeddings are True in the encoder and False"),
        ({"decoder/position_encodings/encodings": np.ones((9, 32), "f4")}, "positions are sinus"),
        ({"encoder/num_heads": np.array(5, "i2")}, "num_heads is 5, expected a divisor of d_model"),
        ({"encoder/num_heads": np.frombuffer(b"8", "i1")}, "num_heads is a text, expected a num"),
        ({f"{LAYER}/rotary_dim": np.array(3, "i4")}, "RotaryConfig: size is 3"),
        ({"encoder/layer_0/self_attention/sliding_window": i1(4)}, "sliding_window is 4, expected"),
        ({"encoder/layer_2/ffn/linear_1/bias": None}, "missing: encoder/layer_2/ffn/linear_1/bias"),
        ({"encoder/layer_6/ffn/linear_1/bias": MATRIX}, "missing"),
        (
            {"encoder/layer_8/ffn/linear_1/bias": MATRIX},
            "layers of the encoder are",
        ),
        ({"decoder/layer_norm/gamma": np.ones(31, "f4")}, "misshapen: decoder/layer_norm/gamma"),
        ({"encoder/layer_1/ffn/linear_0/weight": np.ones((1 << 30, 0), "f4")}, "it holds 178635 n"),
        ({"decoder/projection/weight": None}, "decoder/projection/weight is missing"),
        ({"decoder/projection/weight": MATRIX[0]}, "has shape (4,), expected a matrix"),
        ({"decoder/projection/weight": np.ones((43, 32), "i4")}, "such as AWQ, cannot be read"),
        ({"decoder/projection/weight_zero": MATRIX}, "stand for: decoder/projection/weight_zero"),
        ({"decoder/projection/weight": np.ones((43, 32), "i1")}, "is int8 without its decoder/"),
        (
            {
                "decoder/projection/weight": np.ones((43, 32), "i1"),
                "decoder/projection/weight_scale": np.ones(42, "f4"),
            },
            "weight_scale has shape (42,), which fits no decoder/projection/weight",
        ),
    ],
)
def test_variables_that_are_refused(changes, says, changed):
    assert says in refusal(changed(changes))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ({"rotary_scaling_type": i1(1)}, "rotary_scaling_type is 1, expected 0 or 2"),
        (
            {
                "original_max_position_embeddings": np.array(8, "i4"),
                "max_position_embeddings": np.array(16, "i4"),
            },
            "max_position_embeddings is 16, expected 0",
        ),
    ],
)
def test_rotary_positions_that_are_refused(kind, says, changed):
    attributes = {"rotary_dim": np.array(0, "i4"), **kind}
    assert says in refusal(changed({f"{LAYER}/{n}": value for n, value in attributes.items()}))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"decoder_start_token": None}, "decoder_start_token is null or not in the vocabulary"),
        ({"decoder_start_token": "<x>"}, "decoder_start_token is null or not in the vocabulary"),
        ({"eos_token": "<x>"}, "eos_token is '<x>', which the vocabulary lacks"),
        ({"eos_token": 3}, "eos_token is 3, expected a token"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon is 'small', expected a real number"),
        ({"quantization_type": 1}, "quantization_type is 1, expected 0: quantisations such as AWQ"),
    ],
)
def test_settings_that_are_refused(settings, says, changed):
    assert says in refusal(changed(**settings))


def test_settings(changed):
    config = pt.load(changed(layer_norm_epsilon=0.5, eos_token="x", decoder_start_token="a")).config
    assert (config.layer_norm_eps, config.start_id, config.end_id) == (0.5, 3, 28)


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"spec": "WhisperSpec"}, "its spec is 'WhisperSpec', expected one of TransformerSpec,"),
        ({"revision": 8}, "TransformerSpec has revision 8, expected 2 to 7"),
        ({"revision": 1}, "TransformerSpec has revision 1, expected 2 to 7"),
        ({"version": 7}, "it begins with 7, expected a version from 2 to 6"),
        ({"version": 1}, "it begins with 1, expected a version from 2 to 6"),
        ({"aliases": {"more": "none"}}, "an alias more of none, expected a variable's"),
        ({"aliases": {"more": "decoder/projection/bias"}}, "what these variables stand for: more"),
        ({"aliases": {"decoder/projection/bias": "decoder/projection/bias"}}, "it has an alias"),
    ],
)
def test_files_of_other_kinds(about, says, changed):
    assert says in refusal(changed(**about))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("target_vocabulary.txt", "<s>\n</s>\n", "the tgt vocabulary has 2 tokens, expected 43"),
        ("target_vocabulary.json", "[1]", "target_vocabulary.json is [1], expected a list of"),
        ("target_vocabulary.json", "[", "target_vocabulary.json is not JSON"),
        ("shared_vocabulary.json", '["<s>", "</s>"]', "vocabulary has 2 tokens, expected"),
    ],
)
def test_vocabularies_that_are_refused(name, content, says, changed):
    folder = changed()
    (folder / name).write_text(content)
    assert says in refusal(folder)


def test_vocabularies_in_other_forms(changed):
    folder = changed()
    expected = pt.load(folder).tgt_vocabulary
    path = folder / "target_vocabulary.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert pt.load(folder).tgt_vocabulary == expected
    path.unlink()
    (folder / "target_vocabulary.json").write_text(json.dumps(expected))
    assert pt.load(folder).tgt_vocabulary == expected


def test_an_alias_is_one_tensor(changed):
    table, output = "decoder/embeddings/weight", "decoder/projection/weight"
    model = pt.load(changed({output: None}, {output: table}))
    assert model.config.tie_output
    assert not pt.load(changed()).config.tie_output


def test_which_file_is_opened(aren, changed, shared_data):
    """That of the library's own, or of transformers, goes before model.bin."""
    folder = changed()
    bert = shared_data / "hf-tiny" / "bert"
    copied(bert, folder, "config.json", "model.safetensors")
    assert isinstance(pt.load(folder), pt.EncoderModel)
    pt.load(aren).save(folder)
    (folder / "model.bin").write_bytes(b"")
    assert_same_state(pt.load(folder), state_of_aren(aren))
    (folder / "config.json").unlink()
    assert "it ends at byte 0, within what it holds" in refusal(folder)


MALFORMED = [
    (slice(4, 6), b"\0\0", "it holds b'', expected a text that ends in 0"),
    (slice(6, 7), b"\0", r"it holds b'\x00ransformerBase\x00', expected a text"),
    (slice(6, 7), b"\xff", "cannot be read as CTranslate2's: 'utf-8' codec"),
    (slice(26, 30), b"\xff\xff\xff\xff", "within what it holds"),
    (slice(26, 30), b"\0\0\0\0", "bytes behind its end"),
    (slice(58, 59), b"\xff", "has a type 190, which there is not"),
    (slice(59, 63), b"\xff\xff\xff\xff", "5504 bytes, expected 549755813760 for shape (4294967295"),
    (slice(67, 68), b"\3", "decoder/embeddings/weight has a type 3, which there is not"),
    (slice(68, 72), b"\xff\xff\xff\xff", "17179869180 bytes, expected 5504 for shape (43, 32)"),
    (slice(59, 72), b"\0\0\xff\xff\0\0\xff\xff\4\0\0\0\0", "0 bytes, expected 7378472"),
    (slice(59, 72), b"\0\0\0\1\x40\0\0\0\4\0\0\0\x40", "it ends within decoder/embeddings/weight"),
]


@pytest.mark.parametrize(("place", "content", "says"), MALFORMED)
def test_malformed_files(place, content, says, aren, tmp_path):
    folder = copied(aren, tmp_path, "model.bin", *VOCABULARIES)
    whole = bytearray((folder / "model.bin").read_bytes())
    whole[place] = content
    (folder / "model.bin").write_bytes(whole)
    assert says in refusal(folder)


def test_mutated_files(changed, aren):
    """No crash, no other error, and no memory beyond twice the file's size and a little."""
    *_, variables, _ = random_specs.read(aren / "model.bin")
    fewer = {name: None for name in variables if "/layer_" in name and "/layer_0/" not in name}
    output = "decoder/projection/weight"
    folder = changed(fewer | {output: None}, {output: "decoder/embeddings/weight"})
    path = folder / "model.bin"
    whole = path.read_bytes()
    pt.load(folder)
    # Behind the end of a name are shape, type and length.
    ends = [i for i in range(len(whole)) if whole.startswith((b"t\0", b"a\0", b"s\0"), i)]
    rng, refused = np.random.default_rng(0), 0
    tracemalloc.start()
    try:
        for i in range(300):
            content = bytearray(whole)
            places = rng.choice(ends, 2) + rng.integers(-20, 14, size=2)
            for place in (*places, *rng.integers(len(whole), size=2)):
                if 0 <= place < len(content):
                    content[place] ^= 1 << rng.integers(8)
            if i % 3 == 0:
                content = content[: rng.integers(len(content))]
            path.write_bytes(content)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    pt.load(folder)
            except ValueError as error:
                said = str(error)
                assert said.startswith(f"load: {path}") and "\n" not in said
                refused += 1
            assert tracemalloc.get_traced_memory()[1] - before < 2 * len(whole) + 5e5
    finally:
        tracemalloc.stop()
    assert 150 < refused < 300
