"""`convert`: directories of any layout in our own, which opens with the same bits."""

import json
import shutil
import warnings

import directories
import numpy as np
import pytest
from directories import TINY
from models import assert_same_bits

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.pipelines.conversion import convert


def assert_same_models(one, other):
    assert one.config == other.config and type(one) is type(other)
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    for key, array in one.state_dict().items():
        assert_same_bits(array, state[key])


def outputs(model, expected):
    """The logits or rows of a model for the inputs of a fixture."""
    ids = expected["input_ids"]
    lengths = expected.get("attention_mask", np.ones_like(ids)).sum(axis=1)
    if model.has_encoder and model.has_decoder:
        return model(ids, expected["decoder_input_ids"], lengths)
    return model.encode(ids, lengths) if model.has_encoder else model(ids, lengths)


def files_of(folder):
    """What every file in a folder holds, by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", TINY)
def test_every_family(name, shared_data, tmp_path):
    folder = shared_data / "hf-tiny" / name
    returned = convert(folder, tmp_path / "ours")
    before, after = pt.load(folder), pt.load(tmp_path / "ours")
    assert_same_models(returned, before)
    assert_same_models(after, before)
    assert getattr(after, "generation_options", None) == getattr(before, "generation_options", None)
    expected = dict(np.load(folder / "expected.npz"))
    assert_same_bits(outputs(after, expected), outputs(before, expected))
    config = json.loads((tmp_path / "ours/config.json").read_text())
    assert "model_type" not in config


def test_the_shipped_one(tmp_path):
    convert("en-ja", tmp_path / "plain")
    convert("en-ja", tmp_path / "small", dtype="int8")
    convert(tmp_path / "small", tmp_path / "again")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("plain", "small")]
    assert sizes[0] > 3.5 * sizes[1]
    sentences = ["i love music .", "he is tall ."]
    expected = pt.Translator("en-ja").translate(sentences)
    for name in ("plain", "small", "again"):
        assert_same_models(pt.load(tmp_path / name), pt.load("en-ja"))
        assert pt.Translator(tmp_path / name).translate(sentences) == expected


def test_a_sentence_encoder(shared_data, tmp_path, rng):
    """With its folder, a dense map and prompts."""
    source = tmp_path / "source"
    (source / "0_Transformer").mkdir(parents=True)
    directories.bert(source / "0_Transformer", shared_data)
    length = {"max_seq_length": 12, "do_lower_case": True}
    directories.write_json(source / "0_Transformer/sentence_bert_config.json", length)
    dense = {"in_features": 36, "out_features": 9}
    tensors = {
        "linear.weight": rng.standard_normal((9, 36), np.float32),
        "linear.bias": rng.standard_normal(9, np.float32),
    }
    prompts = {"prompts": {"query": "query : ", "none": ""}, "default_prompt_name": "query"}
    values = {"pooling_mode": "weightedmean", "include_prompt": False}
    directories.sentence_transformer(
        source, values, [(dense, tensors)], True, "0_Transformer", prompts
    )
    texts = ["Many animals have been destroyed", "a", ""]
    convert(source, tmp_path / "ours")
    assert not (tmp_path / "ours/0_Transformer/tokenizer_config.json").exists()
    with pytest.warns(UserWarning, match="1 of 3 texts cut to 12 tokens: number 1"):
        expected = pt.SentenceEncoder(source).encode(texts)
    with pytest.warns(UserWarning, match="1 of 3 texts cut to 12 tokens: number 1"):
        found = pt.SentenceEncoder(tmp_path / "ours").encode(texts)
    assert_same_bits(found, expected)
    # A plain model in the same place leaves nothing of this one's vectors.
    convert(shared_data / "hf-tiny/bert", tmp_path / "ours")
    assert not (tmp_path / "ours/modules.json").exists()


def test_a_model_at_the_root_of_its_directory(shared_data, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    directories.roberta(source, shared_data)
    path = source / "tokenizer_config.json"
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, "model_max_length": 9}))
    directories.sentence_transformer(source, {"pooling_mode": ["cls", "lasttoken"]})
    convert(source, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "again")
    texts = ["many animals", "a", "many animals have been destroyed by men ."]
    with pytest.warns(UserWarning, match="cut to 9 tokens: number 3"):
        expected = pt.SentenceEncoder(source).encode(texts)
    for name in ("ours", "again"):
        with pytest.warns(UserWarning, match="cut to 9 tokens: number 3"):
            assert_same_bits(pt.SentenceEncoder(tmp_path / name).encode(texts), expected)


TRANSLATORS = {
    "marian": (None, "deu"),
    "m2m_100": ("en", "fr"),
    "nllb": ("eng_Latn", "fra_Latn"),
    "mbart_50": (None, None),
    "t5": ("en", "de"),
}


@pytest.mark.parametrize("name", TRANSLATORS)
def test_translators_keep_their_languages(name, shared_data, tmp_path):
    """And the tokenizers' files, truncation and tasks."""
    source = tmp_path / "source"
    source.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"codes": ("deu", "fra")} if name == "marian" else {}
        getattr(directories, name)(source, shared_data, **settings)
    convert(source, tmp_path / "ours")
    before, after = pt.Translator(source), pt.Translator(tmp_path / "ours")
    texts, languages = ["i know him well .", "", "zebra ☃ über"], TRANSLATORS[name]
    for beams in (1, 3):
        options = {"beam_size": beams, "max_length": 8}
        found = after.translate(texts, *languages, **options)
        assert found == before.translate(texts, *languages, **options)
        assert any(found)
    one, other = before.source.read(texts), after.source.read(texts)
    assert [ids.tolist() for ids in one.ids] == [ids.tolist() for ids in other.ids]
    assert before.source.settings == after.source.settings


@pytest.mark.parametrize("kind", ["files", "vocabularies"])
def test_tokenizers_of_every_kind(kind, shared_data, tmp_path):
    """Those of GPT-2 and of BERT, also where there are vocabularies only."""
    for name in ("gpt2", "bert"):
        source = tmp_path / name
        source.mkdir()
        getattr(directories, name)(source, shared_data)
        if kind == "vocabularies":
            model = json.loads((source / "tokenizer.json").read_text("utf-8"))["model"]
            (source / "tokenizer.json").unlink()
            tokens = sorted(model["vocab"], key=model["vocab"].get)
            if name == "bert":
                (source / "vocab.txt").write_text("".join(f"{one}\n" for one in tokens), "utf-8")
            else:
                (source / "vocab.json").write_text(json.dumps(model["vocab"]))
                merges = "".join(f"{a} {b}\n" for a, b in model["merges"])
                (source / "merges.txt").write_text(f"#version: 0.2\n{merges}", "utf-8")
        ours = tmp_path / f"ours of {name}"
        convert(source, ours)
        texts = ["i know him well .", "ünï ☃", ""]
        if name == "gpt2":
            expected = pt.TextGenerator(source).generate(texts, max_length=9)
            assert pt.TextGenerator(ours).generate(texts, max_length=9) == expected
        else:
            expected = pt.SentenceEncoder(source).encode(texts)
            assert_same_bits(pt.SentenceEncoder(ours).encode(texts), expected)


# What is refused, and what is left.


@pytest.fixture
def folders(tmp_path, shared_data):
    """A source, and a target in which a model lies."""
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(shared_data / "hf-tiny/gpt2", source)
    model = pt.TransformerLM(pt.TransformerLMConfig(7, d_model=8, num_heads=2), rng=0)
    model.tgt_tokenizer = text.make("words", ["a b c d"])
    model.save(target)
    (target / "notes.txt").write_text("mine")
    return source, target


def test_a_model_is_not_written_over_itself(folders, tmp_path, shared_data):
    source, _ = folders
    before = files_of(source)
    (tmp_path / "link").symlink_to(source)
    for target in (source, str(source), tmp_path / "link", source / ".." / "source"):
        with pytest.raises(
            ValueError, match=r"convert: target is .*, expected another folder than"
        ):
            convert(source, target)
    whole = tmp_path / "sentences"
    (whole / "0_Transformer").mkdir(parents=True)
    directories.bert(whole / "0_Transformer", shared_data)
    directories.sentence_transformer(whole, {}, inside="0_Transformer")
    with pytest.raises(ValueError, match="expected another folder than source"):
        convert(whole, whole / "0_Transformer")
    assert files_of(source) == before


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "mamba"}'),
        ("model.safetensors", b"garbage"),
        ("tokenizer_config.json", b"[]"),
        ("generation_config.json", b'{"num_beams": 0}'),
        ("modules.json", b"{}"),
    ],
)
def test_a_target_is_left_as_it_was(file, content, folders):
    source, target = folders
    (source / file).write_bytes(content)
    before = files_of(target)
    with pytest.raises((TypeError, ValueError), match=f"load: .*{file}"):
        convert(source, target)
    assert files_of(target) == before
    with pytest.raises((TypeError, ValueError), match=f"load: .*{file}"):
        convert(source, target.parent / "new")
    assert not (target.parent / "new").exists()


def test_a_target_that_cannot_hold_it_is_left_as_it_was(folders, shared_data, tmp_path):
    source = tmp_path / "sentences"
    source.mkdir()
    directories.bert(source, shared_data)
    directories.sentence_transformer(source, {})
    _, target = folders
    (target / "1_Pooling").write_text("a file")
    before = files_of(target)
    with pytest.raises(FileExistsError, match="1_Pooling"):
        convert(source, target)
    assert files_of(target) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        convert(source, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_another_model_in_the_target_is_replaced(folders):
    """With its tokenizer and its options; other files stay."""
    source, target = folders
    convert(source, target)
    assert_same_models(pt.load(target), pt.load(source))
    assert pt.load(target).tgt_tokenizer is None
    assert (target / "notes.txt").read_text() == "mine"


def test_arguments_are_checked(folders):
    source, target = folders
    with pytest.raises(TypeError, match="convert: source is 3, expected a path"):
        convert(3, target)
    with pytest.raises(TypeError, match=r"convert: target is None, expected a path"):
        convert(source, None)
    with pytest.raises(ValueError, match="dtype is 'float16', expected one of"):
        convert(source, target, dtype="float16")
    with pytest.raises(FileNotFoundError, match="nowhere is missing"):
        convert("nowhere", target)
