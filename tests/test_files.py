"""Models on disk: what goes round, what is refused, and what a crash leaves behind."""

import json
import os
import re
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from models import assert_same_bits, small_config, small_model, token_ids

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.checkpoints import safetensors as container
from pyx_transformer.tokenizers import listed

FILES = ["config.json", "model.safetensors", "source_vocabulary.txt", "target_vocabulary.txt"]
CONFIG, WEIGHTS, SOURCES, TARGETS = FILES
GENERATION, TOKENIZERS = "generation.json", "tokenizers.json"
VARIANTS = {
    "default": {},
    "pre-norm": {"norm_first": True, "final_norm": True, "activation": None},
    "learned positions": {"positions": "learned", "output_bias": False},
    "all tied": {"share_embeddings": True, "tie_output": True, "src_vocab_size": 19},
    "no layers": {"num_encoder_layers": 0, "num_decoder_layers": 0},
}
SPECIAL = ["<blank>", "<s>", "</s>", "", " ", "\t", "\r", "é層", "\u2028", "\ufeff"]


def vocabulary(size):
    return [*SPECIAL, *(f"t{i}" for i in range(size))][:size]


@pytest.fixture
def model():
    """A model with vocabularies; that of the target leaves out the last id."""
    model = small_model()
    model.src_vocabulary, model.tgt_vocabulary = vocabulary(23), vocabulary(18)
    return model


@pytest.fixture
def saved(model, tmp_path):
    """The folder of a saved model."""
    model.save(tmp_path / "model")
    return tmp_path / "model"


def contents(folder):
    """The bytes of each file by name, None for a folder."""
    return {p.name: p.read_bytes() if p.is_file() else None for p in folder.iterdir()}


def called(model):
    rng = np.random.default_rng(0)
    return model(token_ids(rng, 19, 2, 5), token_ids(rng, 19, 2, 4), [3, 5])


# What goes round.


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_go_round(variant, tmp_path):
    model = small_model(**VARIANTS[variant])
    model.save(tmp_path)
    again = pt.load(tmp_path)
    assert isinstance(again, pt.Transformer)
    assert again.config == model.config
    assert again.src_vocabulary is None
    assert again.tgt_vocabulary is None
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    for key, array in again.state_dict().items():
        assert_same_bits(array, state[key])
    assert_same_bits(called(again), called(model))
    assert sorted(contents(tmp_path)) == FILES[:2]


def test_a_kind_of_model_opens_its_own(model, saved, tmp_path):
    class Own(pt.Transformer):
        """A kind of one's own."""

    assert_same_bits(called(pt.Transformer.load(saved)), called(model))
    for kind, found in [
        (pt.TransformerLM, "Transformer"),
        (pt.EncoderModel, "Transformer"),
        (Own, "Transformer"),
    ]:
        with pytest.raises(TypeError) as error:
            kind.load(saved)
        expected = f"{'a' if kind is pt.TransformerLM else 'an'} {kind.__name__}"
        assert str(error.value) == (
            f"{kind.__name__}.load: {saved} is a {found}, expected {expected}; "
            f"{found}.load opens it"
        )
    config = pt.TransformerLMConfig(9, num_decoder_layers=1, d_model=8, num_heads=2, d_ff=4)
    language_model = pt.TransformerLM(config, rng=0)
    language_model.save(tmp_path)
    assert_same_bits(pt.TransformerLM.load(tmp_path)([[1]]), language_model([[1]]))
    with pytest.raises(TypeError, match=r"^Transformer\.load: .* is a TransformerLM, expected"):
        pt.Transformer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="is missing"):
        pt.Transformer.load(tmp_path / "nothing")


def test_vocabularies_go_round(model, saved):
    again = pt.load(saved)
    assert again.src_vocabulary == model.src_vocabulary
    assert again.tgt_vocabulary == model.tgt_vocabulary
    assert sorted(contents(saved)) == FILES


@pytest.mark.parametrize("kind", [str, os.fspath, Path, os.fsencode], ids=lambda f: f.__name__)
def test_any_kind_of_path(kind, model, tmp_path):
    folder = kind(tmp_path / "a" / "new folder")
    if isinstance(folder, bytes):
        for function in (model.save, pt.load):
            with pytest.raises(TypeError, match=r": (directory|path) is b'.*', expected a path"):
                function(folder)
    else:
        model.save(folder)
        assert_same_bits(called(pt.load(folder)), called(model))


@pytest.mark.parametrize("folder", [None, 3, ["a"]])
def test_a_path_is_needed(folder, model):
    with pytest.raises(TypeError, match=r"^save: directory is .*, expected a path"):
        model.save(folder)
    with pytest.raises(TypeError, match=r"^load: path is .*, expected a path"):
        pt.load(folder)


def test_weights_are_plain_safetensors(model, saved):
    state = safetensors.numpy.load_file(saved / WEIGHTS)
    assert state.keys() == model.state_dict().keys()
    for key, array in model.state_dict().items():
        assert_same_bits(state[key], array)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8])
def test_other_dtypes_are_converted(dtype, model, saved):
    state = {key: (8 * array).astype(dtype) for key, array in model.state_dict().items()}
    safetensors.numpy.save_file(state, saved / WEIGHTS)
    again = pt.load(saved)
    model.load_state_dict(state)
    assert_same_bits(called(again), called(model))


def test_int8_files_are_small_and_close(model, saved, tmp_path):
    model.save(tmp_path / "small", dtype="int8")
    size = (tmp_path / "small" / WEIGHTS).stat().st_size
    assert size < 0.6 * (saved / WEIGHTS).stat().st_size  # rows here are 24 numbers long
    loaded, original = pt.load(tmp_path / "small").state_dict(), model.state_dict()
    for key, array in original.items():
        if array.ndim == 1:
            assert_same_bits(loaded[key], array)
        else:
            half_a_step = np.abs(array).max(axis=1, keepdims=True) / 254
            assert (np.abs(loaded[key] - array) <= half_a_step * 1.0001).all()
            assert not np.array_equal(loaded[key], array)
    again = pt.load(tmp_path / "small")
    again.save(tmp_path / "again", dtype="int8")
    for key, array in pt.load(tmp_path / "again").state_dict().items():
        np.testing.assert_allclose(array, loaded[key], rtol=1e-6)
    with pytest.raises(ValueError, match="dtype is 'int4'"):
        model.save(tmp_path / "small", dtype="int4")


def test_a_row_of_zeros_as_int8(model, tmp_path):
    state = model.state_dict()
    state["src_embedding.weight"][3] = 0
    model.load_state_dict(state)
    model.save(tmp_path, dtype="int8")
    assert not pt.load(tmp_path).src_embedding.weight[3].any()


@pytest.mark.parametrize("shape", [(23,), (22, 1), (23, 24), ()])
def test_scales_that_fit_no_matrix(shape, model, tmp_path):
    model.save(tmp_path, dtype="int8")
    arrays = safetensors.numpy.load_file(tmp_path / WEIGHTS)
    arrays["src_embedding.weight.scales"] = np.ones(shape, np.float32)
    safetensors.numpy.save_file(arrays, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"src_embedding\.weight\.scales has shape"):
        pt.load(tmp_path)
    del arrays["src_embedding.weight"]
    safetensors.numpy.save_file(arrays, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"src_embedding\.weight"):
        pt.load(tmp_path)


def test_saving_over_a_model_replaces_all_of_it(saved):
    other = small_model(seed=1, positions="none", src_vocab_size=31)
    other.save(saved)
    again = pt.load(saved)
    assert again.config == other.config
    assert again.src_vocabulary is None
    assert_same_bits(called(again), called(other))


def test_files_have_the_usual_permissions(saved):
    usual = saved.parent / "usual"
    usual.write_text("")
    for path in saved.iterdir():
        assert path.stat().st_mode == usual.stat().st_mode


def test_a_last_line_may_lack_its_end(saved, model):
    path = saved / SOURCES
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert pt.load(saved).src_vocabulary == model.src_vocabulary


def test_the_smallest_vocabularies(tmp_path):
    model = small_model(src_vocab_size=1, tgt_vocab_size=1, start_id=0, end_id=0)
    for tokens in [], [""], ["a"]:
        model.tgt_vocabulary = tokens
        model.save(tmp_path)
        assert pt.load(tmp_path).tgt_vocabulary == tokens


# What a crash leaves behind.


def failing(function, calls_before, error):
    """`function`, but raising `error` after so many calls."""
    calls = []

    def call(*arguments, **options):
        if len(calls) == calls_before:
            raise error
        calls.append(arguments)
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize("error", [OSError(28, "no space left"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize(
    ("name", "calls_before"), [*(("fsync", n) for n in range(4)), ("replace", 0)]
)
def test_a_failed_save_changes_nothing(name, calls_before, error, model, saved, monkeypatch):
    before = contents(saved)
    other = small_model(seed=1)
    other.src_vocabulary, other.tgt_vocabulary = vocabulary(22), vocabulary(19)
    monkeypatch.setattr(os, name, failing(getattr(os, name), calls_before, error))
    with pytest.raises(type(error)):
        other.save(saved)
    monkeypatch.undo()
    assert contents(saved) == before
    assert_same_bits(called(pt.load(saved)), called(model))


@pytest.mark.parametrize("error", [OSError(5, "failed"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("calls_before", range(5))
def test_a_save_that_fails_between_renames_changes_nothing(
    calls_before, has_links, error, model, saved, monkeypatch
):
    """All of the old files are there again, and none of the new ones."""
    model.generation_options = pt.GenerationOptions(beam_size=2)
    model.tgt_vocabulary = None
    model.save(saved)
    before = contents(saved)
    other = small_model(seed=1)
    other.src_vocabulary, other.tgt_vocabulary = vocabulary(22), vocabulary(19)
    if not has_links:
        monkeypatch.setattr(os, "link", failing(os.link, 0, OSError(1, "not permitted")))
    monkeypatch.setattr(os, "replace", failing(os.replace, calls_before, error))
    with pytest.raises(type(error)):
        other.save(saved)
    monkeypatch.undo()
    assert contents(saved) == before
    loaded = pt.load(saved)
    assert_same_bits(called(loaded), called(model))
    assert loaded.generation_options == model.generation_options
    other.save(saved)
    assert_same_bits(called(pt.load(saved)), called(other))


def test_a_process_that_dies_while_saving_loses_nothing(model, saved):
    before = contents(saved)
    code = """
import os, sys
import pyx_transformer as pt

model = pt.load(sys.argv[1])
state = {key: array + 1 for key, array in model.state_dict().items()}
model.load_state_dict(state)
os.replace = lambda *_: os._exit(3)
model.save(sys.argv[1])
"""
    assert subprocess.run([sys.executable, "-c", code, saved], timeout=60).returncode == 3
    after = contents(saved)
    assert {name: after[name] for name in FILES} == before
    assert_same_bits(called(pt.load(saved)), called(model))
    model.save(saved)  # what the dead process left does not stand in the way
    assert_same_bits(called(pt.load(saved)), called(model))


def test_folders_that_cannot_be_written_to(model, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    for folder in (blocked, blocked / "inside"):
        with pytest.raises(OSError, match="file"):
            model.save(folder)
    assert blocked.read_text() == "kept"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_a_read_only_folder(model, saved):
    before = contents(saved)
    saved.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            model.save(saved)
    finally:
        saved.chmod(0o700)
    assert contents(saved) == before


# Vocabularies that do not fit.


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ([], ValueError, "has 0 tokens, expected 23 (or 22, the last id then being that of"),
        (vocabulary(21), ValueError, "has 21 tokens, expected 23 (or 22,"),
        (vocabulary(24), ValueError, "has 24 tokens, expected 23 (or 22,"),
        ("x" * 23, TypeError, "is of type str, expected a list of tokens"),
        (7, TypeError, "is of type int, expected a list of tokens"),
        ([*vocabulary(22), 7], TypeError, "holds 7, expected strings"),
        ([*vocabulary(22), b"a"], TypeError, "holds b'a', expected strings"),
        ([*vocabulary(22), "a\nb"], ValueError, "holds 'a\\nb', expected no line breaks"),
        ([*vocabulary(22), "\ud800"], ValueError, "holds '\\ud800', which is no Unicode text"),
    ],
)
def test_vocabularies_that_are_not_saved(tokens, error, message, model, saved):
    before = contents(saved)
    model.src_vocabulary = tokens
    with pytest.raises(error) as caught:
        model.save(saved)
    assert str(caught.value).startswith(f"save: src_vocabulary {message}")
    assert contents(saved) == before


@pytest.mark.parametrize("name", [SOURCES, TARGETS])
@pytest.mark.parametrize("lines", (0, 1, 17, 24, 1000))
def test_a_vocabulary_that_does_not_fit_the_config(name, lines, saved):
    (saved / name).write_text("a\n" * lines)
    size = {SOURCES: "src_vocab_size is 23", TARGETS: "tgt_vocab_size is 19"}[name]
    with pytest.raises(ValueError) as error:
        pt.load(saved)
    assert str(error.value).startswith(f"load: {saved / name} has {lines} tokens, expected ")
    assert str(error.value).endswith(f"because {size}")


@pytest.mark.parametrize("name", [CONFIG, GENERATION, SOURCES, TARGETS])
def test_text_that_is_not_utf_8(name, saved):
    (saved / name).write_bytes(b"\xff\xfe" * 23)
    with pytest.raises(ValueError) as error:
        pt.load(saved)
    assert str(error.value).startswith(f"load: {saved / name}, line 1 is not UTF-8: ")


@pytest.mark.parametrize("name", [CONFIG, GENERATION, SOURCES, TARGETS, TOKENIZERS])
def test_a_byte_order_mark_is_no_text(name, model, saved):
    """Editors put it before a file; it is part of no key and no token."""
    model.generation_options = pt.GenerationOptions(beam_size=3)
    words = [*listed.SPECIAL, *(f"t{i}" for i in range(16))]
    model.tgt_tokenizer = text.Words(words)
    model.save(saved)
    (saved / name).write_bytes(b"\xef\xbb\xbf" + (saved / name).read_bytes())
    again = pt.load(saved)
    assert again.config == model.config
    assert again.generation_options == model.generation_options
    assert (again.src_vocabulary, again.tgt_tokenizer.vocabulary) == (vocabulary(23), words)


def test_a_mark_that_is_a_token_stays(model, saved):
    model.src_vocabulary = ["\ufeff", *vocabulary(9), *"abcdefghijkl"]
    model.save(saved)
    assert pt.load(saved).src_vocabulary == model.src_vocabulary


# Options of generation.


def test_options_go_round(model, saved):
    assert pt.load(saved).generation_options is None
    model.generation_options = pt.GenerationOptions(beam_size=3, end_tokens=[2, 5], patience=2.0)
    model.save(saved)
    assert sorted(contents(saved)) == sorted([*FILES, GENERATION])
    assert json.loads(contents(saved)[GENERATION]) == {
        "beam_size": 3,
        "end_tokens": [2, 5],
        "patience": 2.0,
    }
    again = pt.load(saved)
    assert again.generation_options == model.generation_options
    again.generation_options = None
    again.save(saved)
    assert sorted(contents(saved)) == FILES
    assert pt.load(saved).generation_options is None


def test_default_options_are_an_empty_object(model, saved):
    model.generation_options = pt.GenerationOptions()
    model.save(saved)
    assert contents(saved)[GENERATION] == b"{}\n"
    assert pt.load(saved).generation_options == pt.GenerationOptions()


@pytest.mark.parametrize(
    "settings",
    [
        {"prefix": [[3]]},
        {"prefix": [[3]], "prefix_bias": 0.5},
        {"constraint": lambda sentence, tokens: None},
        {"logits_processor": np.negative},
        {"on_token": print},
        {"stop_when": lambda sentence, tokens: False},
    ],
    ids=str,
)
def test_options_of_one_call_are_not_saved(settings, model, saved):
    before = contents(saved)
    model.generation_options = pt.GenerationOptions(**settings)
    with pytest.raises(ValueError) as error:
        model.save(saved)
    assert next(iter(settings)) in str(error.value)
    assert "expected none of them because they belong to one call" in str(error.value)
    assert contents(saved) == before


@pytest.mark.parametrize("options", [{"beam_size": 2}, '{"beam_size": 2}', 4], ids=repr)
def test_what_is_no_options(options, model, saved):
    """It is named where it is used, and not saved."""
    before = contents(saved)
    model.generation_options = options
    with pytest.raises(TypeError, match=r"generation_options is .*, expected GenerationOptions"):
        model.save(saved)
    assert contents(saved) == before
    with pytest.raises(TypeError, match=r"generation_options is .*, expected GenerationOptions"):
        model.generate([[3]], max_length=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "GenerationOptions.from_json: text is not JSON"),
        ("[" * 100_000, "GenerationOptions.from_json: text is not JSON"),
        ("[]", "GenerationOptions.from_json: text is a list, expected an object"),
        ('{"beams": 2}', "GenerationOptions.from_json: unknown keys ['beams']; known are ['beam_"),
        ('{"prefix": [[3]]}', "GenerationOptions.from_json: unknown keys ['prefix']; known are"),
        ('{"on_token": null}', "GenerationOptions.from_json: unknown keys ['on_token']; known are"),
        ('{"beam_size": "2"}', "GenerationOptions: beam_size is '2', expected an integer"),
        ('{"beam_size": 2.0}', "GenerationOptions: beam_size is 2.0, expected an integer"),
        ('{"beam_size": null}', "GenerationOptions: beam_size is None, expected an integer"),
        ('{"beam_size": 0}', "GenerationOptions: beam_size is 0, expected at least 1"),
        ('{"temperature": NaN}', "GenerationOptions: temperature is nan, expected a"),
        ('{"patience": Infinity}', "GenerationOptions: patience is inf, expected a"),
        ('{"suppress_tokens": [[1]]}', "GenerationOptions: suppress_tokens has shape (1, 1)"),
        ('{"num_hypotheses": 2}', "GenerationOptions: num_hypotheses is 2, expected at most beam"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_malformed_options(text, message, saved):
    (saved / GENERATION).write_text(text)
    with pytest.raises(ValueError) as error:
        pt.load(saved)
    assert str(error.value).startswith(f"load: {saved / GENERATION}: {message}")
    assert "\n" not in str(error.value)


# Files that are missing or malformed.


@pytest.mark.parametrize("name", FILES[:2])
def test_missing_files_are_named(name, saved):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        pt.load(saved)
    assert str(error.value) == f"load: {saved / name} is missing"
    (saved / name).mkdir()
    with pytest.raises(IsADirectoryError, match=f"load: .*{name} is a folder, expected a file"):
        pt.load(saved)


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"load: .*nowhere is missing, expected .*: en-ja"):
        pt.load(tmp_path / "nowhere")


CONFIG_VALUES = json.loads(small_config().to_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table: text is not JSON"),
        ("{", "table: text is not JSON"),
        ("[" * 100_000, "table: text is not JSON"),
        ("[]", "table: text is a list"),
        ("{}", "TransformerConfig.from_json: unknown keys [], missing keys ['src_vocab_size'"),
        (json.dumps(CONFIG_VALUES | {"x": 1}), "TransformerConfig.from_json: unknown keys ['x']"),
        (json.dumps(CONFIG_VALUES | {"d_ff": "41"}), "TransformerConfig: d_ff is '41', expected"),
        (json.dumps(CONFIG_VALUES | {"d_ff": 41.0}), "TransformerConfig: d_ff is 41.0, expected"),
        (json.dumps(CONFIG_VALUES | {"d_ff": None}), "TransformerConfig: d_ff is None, expected"),
        (
            json.dumps(CONFIG_VALUES | {"num_heads": 5}),
            "TransformerConfig: num_heads is 5, expected",
        ),
        (
            json.dumps(CONFIG_VALUES | {"layer_norm_eps": float("inf")}),
            "TransformerConfig: layer_norm_eps is inf, expected a finite number",
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_malformed_configs(text, message, saved):
    (saved / CONFIG).write_text(text)
    with pytest.raises(ValueError) as error:
        pt.load(saved)
    assert str(error.value).startswith(f"load: {saved / CONFIG}: {message}")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    "changes",
    [
        {"src_vocab_size": 10**9},
        {"tgt_vocab_size": 2**31 - 1},
        {"d_model": 24 * 10**6},
        {"d_ff": 10**9},
        {"num_encoder_layers": 10**4},
        {"num_decoder_layers": 10**4},
        {"positions": "learned", "max_length": 10**9},
    ],
    ids=str,
)
def test_a_config_cannot_ask_for_all_memory(changes, saved):
    (saved / CONFIG).write_text(json.dumps(CONFIG_VALUES | changes))
    with pytest.raises(ValueError) as error:
        pt.load(saved)
    assert str(error.value).startswith(f"load: {saved / WEIGHTS} holds ")
    assert str(error.value).endswith("because of config.json")


@pytest.mark.parametrize(
    ("name", "size", "most"),
    [
        ("src_vocab_size", 10**15, 2**31 - 1),
        ("tgt_vocab_size", 2**63, 2**31 - 1),
        ("d_model", 2**63, 2**31 - 1),
        ("d_ff", 10**12, 2**31 - 1),
        ("num_encoder_layers", 10**9, 10_000),
        ("num_decoder_layers", 10**18, 10_000),
        ("max_length", 10**10, 2**31 - 1),
    ],
)
def test_absurd_sizes_in_a_config_are_refused_by_name(name, size, most, saved):
    (saved / CONFIG).write_text(json.dumps(CONFIG_VALUES | {name: size}))
    with pytest.raises(ValueError) as error:
        pt.load(saved)
    assert str(error.value) == (
        f"load: {saved / CONFIG}: TransformerConfig: {name} is {size}, expected at most {most}"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_encoder_layers": 3}, "missing: encoder.layers.2.linear1.bias, encoder.layers.2."),
        ({"num_decoder_layers": 2}, "unexpected: decoder.layers.2.linear1.bias, decoder.layers.2."),
        ({"output_bias": False}, "unexpected: output_projection.bias"),
        (
            {"final_norm": True},
            "missing: decoder.norm.bias, decoder.norm.weight, encoder.norm.bias",
        ),
        ({"d_ff": 42}, "misshapen: decoder.layers.0.linear1.bias is (41,), expected (42,), "),
        ({"tie_output": True}, "output_projection.weight differs from tgt_embedding.weight"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_the_config(changes, message, saved):
    (saved / CONFIG).write_text(json.dumps(CONFIG_VALUES | changes))
    with pytest.raises(ValueError) as error:
        pt.load(saved)
    who = "Transformer.load_state_dict"
    assert str(error.value).startswith(f"load: {saved / WEIGHTS}: {who}: {message}")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_keys_with_a_prefix_too_much_or_too_few(prefix, model, saved):
    state = {prefix + key: array for key, array in model.state_dict().items()}
    safetensors.numpy.save_file(state, saved / WEIGHTS)
    with pytest.raises(ValueError, match=f"these begin with '{prefix}', expected the same with"):
        pt.load(saved)
    with pytest.raises(ValueError, match=r"; expected the same after 'encoder\.'$"):
        model.load_state_dict(model.encoder.state_dict())
    with pytest.raises(ValueError, match=r"unexpected: other\.weight$"):
        model.load_state_dict({**model.state_dict(), "other.weight": np.ones(3)})


def test_ten_keys_are_listed(model):
    state = {f"a.{i:03}": np.ones(1, np.float32) for i in range(500)}
    with pytest.raises(ValueError, match=r"unexpected: a\.000, .*, a\.009 and 490 more") as error:
        model.load_state_dict(state)
    assert "a.010" not in str(error.value)
    assert re.search("missing: .* and [0-9]+ more; unexpected", str(error.value))
    state = dict.fromkeys(model.state_dict(), np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match=r"misshapen: .* and [0-9]+ more$"):
        model.load_state_dict(state)
    for from_json in (pt.TransformerConfig.from_json, pt.GenerationOptions.from_json):
        with pytest.raises(ValueError, match=r"unknown keys \['a\.000', .* and 490 more\]"):
            from_json(json.dumps({f"a.{i:03}": 1 for i in range(500)}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_weights_that_are_not_finite(value, model, saved):
    state = {key: array.astype(np.float64) for key, array in model.state_dict().items()}
    for key in ("encoder.layers.1.norm1.bias", "encoder.layers.0.norm1.bias"):
        state[key][3] = value
    safetensors.numpy.save_file(state, saved / WEIGHTS)
    says = re.escape(f"{saved / WEIGHTS}: encoder.layers.0.norm1.bias holds values that are not f")
    with pytest.warns(UserWarning, match=says) as caught:
        loaded = pt.load(saved)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not np.isfinite(loaded.state_dict()["encoder.layers.0.norm1.bias"][3])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scales_that_are_not_finite(value, model, tmp_path):
    model.save(tmp_path, dtype="int8")
    arrays = safetensors.numpy.load_file(tmp_path / WEIGHTS)
    arrays["src_embedding.weight.scales"][2] = value
    safetensors.numpy.save_file(arrays, tmp_path / WEIGHTS)
    with pytest.warns(UserWarning, match=r": src_embedding\.weight holds values") as caught:
        pt.load(tmp_path)
    assert len(caught) == 1


def test_what_is_not_finite_is_not_saved_as_int8(model, tmp_path):
    state = model.state_dict()
    state["src_embedding.weight"][3, 2] = np.inf
    model.load_state_dict(state)
    with pytest.raises(ValueError, match=r"save: src_embedding\.weight is not finite"):
        model.save(tmp_path / "model", dtype="int8")
    assert not (tmp_path / "model").exists()


def test_complex_weights(model, saved):
    state = model.state_dict()
    key = "encoder.layers.0.norm1.bias"
    safetensors.numpy.save_file(state | {key: state[key].astype(np.complex64)}, saved / WEIGHTS)
    with pytest.raises(ValueError) as error:
        pt.load(saved)
    assert str(error.value).startswith(f"load: {saved / WEIGHTS} cannot be read as safetensors: ")
    assert f"{key} has dtype C64, expected one of F64, F32, " in str(error.value)


def safetensors_file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HOSTILE = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "only a length": struct.pack("<Q", 10),
    "a length past the end": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": safetensors_file(b"\xff\xfe"),
    "deep JSON": safetensors_file(b'{"a":' * 10_000),
    "a space before the header": safetensors_file(b" {}"),
    "a list as header": safetensors_file(b"[]"),
    "a long key of another type": safetensors_file({"t" * 100_000: 3}),
    "a pickle": b"\x80\x04cposix\nsystem\n\x94\x8c\x04true\x94\x85\x94R\x94.",
    "a zip": b"PK\x03\x04" + b"\0" * 60,
    "an unknown dtype": safetensors_file(
        {"t": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4
    ),
    "too many axes": safetensors_file(
        {"t": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}}, b"\0" * 4
    ),
    "sizes that overflow": safetensors_file(
        {"t": {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 0]}}
    ),
    "nothing of a huge size": safetensors_file(
        {"t": {"dtype": "F32", "shape": [0, 2**40, 2**22], "data_offsets": [0, 0]}}
    ),
    "negative offsets": safetensors_file(
        {"t": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}
    ),
}


def assert_refused(path, function, *arguments):
    """One ValueError on one line, which names the file."""
    with pytest.raises(ValueError) as error:
        function(*arguments)
    assert type(error.value) is ValueError
    assert str(error.value).startswith(f"load: {path}")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500


def test_a_header_that_begins_with_a_space(saved):
    content = (saved / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    (saved / WEIGHTS).write_bytes(struct.pack("<Q", size + 1) + b" " + content[8:])
    with pytest.raises(ValueError, match=r"cannot be read as safetensors: its header begins with"):
        pt.load(saved)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_weights(name, saved):
    path = saved / WEIGHTS
    path.write_bytes(HOSTILE[name])
    assert_refused(path, pt.load, saved)
    if name != "nothing of a huge size":  # which some versions of NumPy can express
        assert_refused(path, container.read_tensors, path)


def test_malformed_files_of_the_collection(shared_data, saved):
    paths = sorted((shared_data / "safetensors" / "malformed").iterdir())
    assert len(paths) >= 19
    for path in paths:
        assert_refused(path, container.read_tensors, path)
        (saved / WEIGHTS).write_bytes(path.read_bytes())
        assert_refused(saved / WEIGHTS, pt.load, saved)


def test_valid_files_of_the_collection(shared_data, saved):
    folder = shared_data / "safetensors" / "valid"
    expected = {
        "bf16": {"t": np.ones((2, 2), np.float32)},
        "empty_dict": {},
        "f16": {"t": np.ones((2, 2), np.float32)},
        "nan_inf_values": {"t": np.float32([[np.nan, np.inf], [-np.inf, -0.0]])},
        "odd_header_alignment": {"t": np.zeros((2, 2), np.float32)},
        "scalar": {"t": np.float32(1.0)},
        "trailing_space_header": {"t": np.zeros((2, 2), np.float32)},
        "unicode_name": {"é層/名": np.zeros(4, np.float32)},
        "zero_size": {"t": np.zeros((2, 0), np.float32)},
    }
    assert {path.stem for path in folder.iterdir()} == set(expected)
    for stem, arrays in expected.items():
        with warnings.catch_warnings(record=True) as caught:
            tensors = container.read_tensors(folder / f"{stem}.safetensors")
            state = {name: np.asarray(tensor) for name, tensor in tensors.items()}
            tensors.warn(1)
        assert [": t holds values that" in str(w.message) for w in caught] == [True] * (
            "nan" in stem
        )
        assert state.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(state[name], array, strict=True)
        # As a model's weights they have the wrong names.
        (saved / WEIGHTS).write_bytes((folder / f"{stem}.safetensors").read_bytes())
        with warnings.catch_warnings(record=True):
            assert_refused(saved / WEIGHTS, pt.load, saved)


def test_bfloat16_weights(model, saved):
    """Each is the upper half of a float32."""
    header, data = {}, b""
    for key, array in model.state_dict().items():
        halves = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        offsets = [len(data), len(data) + len(halves)]
        header[key] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": offsets}
        data += halves
    (saved / WEIGHTS).write_bytes(safetensors_file(header, data))
    again = pt.load(saved).state_dict()
    for key, array in model.state_dict().items():
        upper = (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        assert_same_bits(again[key], upper)


def test_damaged_weights_are_refused_or_fit(model, saved):
    """Any byte of the header changed, and the file cut anywhere: an error that names the file."""
    path, rng = saved / WEIGHTS, np.random.default_rng(0)
    whole = path.read_bytes()
    header_size = 8 + struct.unpack("<Q", whole[:8])[0]
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(header_size)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            pt.load(saved)
        except ValueError as error:
            assert str(error).startswith(f"load: {path}")
            refused += 1
    assert refused > 150
    for size in rng.integers(0, len(whole), 50):
        path.write_bytes(whole[:size])
        assert_refused(path, pt.load, saved)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_folder_is_not_named_as_a_file_of_weights(name, tmp_path):
    encoder = pt.TransformerEncoder(1, 8, 2, 8, rng=0)
    with pytest.raises(ValueError, match=r"save: directory is .*, expected the name of a folder"):
        encoder.save(tmp_path / name)
    assert not (tmp_path / name).exists()
    (tmp_path / name).mkdir()
    encoder.save(tmp_path / name)  # the caller's own choice
    assert (tmp_path / name / "config.json").is_file()
