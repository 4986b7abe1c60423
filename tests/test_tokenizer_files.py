"""Tokenizers in the directories of models: saved and loaded again, without the packages that they
need, and with files that are malformed."""

import importlib.util
import json
import pickle
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tokenizer_folders
from tokenizer_folders import FAMILIES, language_of, opened, write

import pyx_transformer as pt
from pyx_transformer.tokenizers.fast import FastTokenizer
from pyx_transformer.tokenizers.pieces import Pieces

TEXTS = [
    "hello </s> w\u00f6rld 12 , the dog .",
    "",
    "\u8ab0 \U0001f600 >>ja<<",
    ">>ja<< hello <extra_id_1>",
]
# A model, and a tokenizer of its family.
MODELS = {
    "bert": "bert",
    "gpt2": "gpt2",
    "marian": "marian",
    "marian-of-two": "marian",
    "t5": "t5",
    "mt5": "mt5",
    "m2m": "m2m_100",
    "nllb": "m2m_100",
    "mbart": "mbart",
    "albert": "albert",
    "xlm-roberta": "xlm_roberta",
    "llama": "llama",
    "roberta": "roberta",
    "qwen2": "qwen2",
}
VOCABULARIES = ("bert", "gpt2", "roberta", "qwen2")  # the others are SentencePiece's models


@pytest.fixture(scope="module")
def sources(shared_data):
    return tokenizer_folders.Sources(shared_data)


@pytest.fixture
def directory(shared_data, sources, tmp_path):
    """A function that makes the directory of a model with its tokenizer."""

    def make(name):
        folder = tmp_path / name
        shutil.copytree(shared_data / "hf-tiny" / MODELS[name], folder)
        folder.chmod(0o755)
        (folder / "expected.npz").unlink()
        FAMILIES[name][2](folder, sources)
        return folder

    return make


def tokenizers_of(model):
    """Those of the sides that a model has."""
    both = (getattr(model, f"{side}_tokenizer", None) for side in ("src", "tgt"))
    return [tokenizer for tokenizer in both if tokenizer is not None]


def read(tokenizer):
    found = tokenizer.read(TEXTS, language=language_of(tokenizer))
    return [ids.tolist() for ids in found.ids]


# Saved and loaded again.


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded(name, directory, tmp_path):
    model = pt.load(directory(name))
    model.save(tmp_path / "saved")
    again = pt.load(tmp_path / "saved")
    before, after = tokenizers_of(model), tokenizers_of(again)
    assert len(before) == len(after) > 0
    for one, other in zip(before, after, strict=True):
        assert type(one) is type(other)
        assert read(other) == read(one)
        assert other.settings == one.settings
        assert other.vocabulary == one.vocabulary
        assert other.decode(read(one)[0]) == one.decode(read(one)[0])
        assert other.languages == one.languages
        assert (other.start_token, other.longest) == (one.start_token, one.longest)
    if len(before) == 2:
        assert (before[0] is before[1]) == (after[0] is after[1]) == (MODELS[name] != "marian")
    again.save(tmp_path / "again")
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for file in names:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "saved" / file).read_bytes()


def test_what_is_told_of_a_tokenizer(directory, tmp_path):
    folder = directory("t5")
    write(folder, tokenizer_config__json={"model_max_length": 77, "bos_token": {"content": "<s>"}})
    config = json.loads((folder / "config.json").read_text())
    tasks = {"a": {"prefix": "translate: "}, "b": {}, "c": 3}
    write(folder, config__json={**config, "task_specific_params": tasks})
    model = pt.load(folder)
    model.save(tmp_path / "saved")
    for one in (model, pt.load(tmp_path / "saved")):
        tokenizer = one.src_tokenizer
        assert (tokenizer.longest, tokenizer.start_token) == (77, "<s>")
        assert tokenizer.prompts == {"a": "translate: "}


def test_pieces_that_are_line_breaks(sources, tmp_path):
    """A model's own pieces need no list, other tokens have to be lines."""
    model = sources.spm(600, user_defined_symbols="\n,\n\n")
    tokenizer = Pieces(model, list, unknown="<unk>")
    ids = tokenizer.encode("a\n\nb")
    assert "\n\n" in tokenizer.tokens(ids)
    files = tokenizer.files()
    assert files["vocabulary.txt"] == b""
    for again in (Pieces(model, [], unknown="<unk>"), pickle.loads(pickle.dumps(tokenizer))):
        assert again.encode("a\n\nb").tolist() == ids.tolist()
    with pytest.raises(ValueError, match=r"^Pieces has the token '.n', expected no line breaks$"):
        Pieces(model, tokenizer.vocabulary, unknown="<unk>").files()


def test_saved_settings_that_are_malformed(directory, tmp_path):
    model = pt.load(directory("m2m"))
    model.save(tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizers.json"
    settings = json.loads(path.read_text())
    for name, value in {
        "frame": [3],
        "languages": {"tokens": 3},
        "longest": "a",
        "special": 3,
        "unknown": None,
        "sentinels": "yes",
        "normalize": "lower",
        "prompts": [],
        "start_token": 3,
        "more": 1,
    }.items():
        path.write_text(json.dumps({**settings, "source": {**settings["source"], name: value}}))
        with pytest.raises(ValueError, match=f"(?i){name}") as error:
            pt.load(tmp_path / "saved")
        assert str(error.value).startswith(f"load: {path}: source with source_sentencepiece.model")


# Nothing is read or imported before it is needed.


@pytest.mark.parametrize("name", ["bert", "t5", "m2m"])
def test_loading_imports_nothing(name, directory):
    folder = directory(name)
    write(folder, tokenizer__json="{")  # is not read
    code = """
import sys
import pyx_transformer as pt

model = pt.load(sys.argv[1])
assert not {"tokenizers", "sentencepiece", "google.protobuf", "transformers"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code, folder], check=True)


def test_a_tokenizer_json_is_read_when_it_is_used(directory):
    pytest.importorskip("tokenizers")
    folder = directory("bert")
    write(folder, tokenizer__json="{")
    model = pt.load(folder)
    with pytest.raises(ValueError, match=r"^load: .+tokenizer\.json: no tokenizer: .+ EOF while"):
        model.src_tokenizer.encode("a")


# Without the packages.


@pytest.fixture
def without(monkeypatch):
    """A function that makes packages missing."""

    def hide(*names):
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
            assert importlib.util.find_spec(name) is None

    return hide


MISSING = r"the package {} is missing: pip install 'pyx-transformer\[{}\]'$"


@pytest.mark.parametrize("name", MODELS)
def test_without_a_package(name, directory, without):
    """Ids work, and the first text says what to install."""
    folder = directory(name)
    without("tokenizers", "sentencepiece")
    model = pt.load(folder)
    package, extra = ("tokenizers", "hf") if name in VOCABULARIES else ("sentencepiece", "text")
    ids = [[5, 6, 7], [8, 9]]
    if isinstance(model, pt.EncoderModel):
        assert np.isfinite(model.encode(ids)).all()
    else:
        assert len(model.generate(ids, max_length=3)) == 2
    for tokenizer in tokenizers_of(model):
        for use in (
            lambda one: one.encode("a"),
            lambda one: one.decode([5]),
            lambda one: one.read(["a"]),
        ):
            with pytest.raises(ImportError, match=MISSING.format(package, extra)):
                use(tokenizer)


@pytest.mark.parametrize("name", ["t5", "mt5", "albert", "xlm-roberta", "mbart", "llama"])
def test_sentencepiece_does_where_tokenizers_is_missing(name, directory, without):
    """A directory that has the files of both."""
    folder = directory(name)
    alone = pt.load(folder)
    wanted = [read(tokenizer) for tokenizer in tokenizers_of(alone)]
    write(folder, tokenizer__json="{")
    assert isinstance(tokenizers_of(pt.load(folder))[0], FastTokenizer)
    without("tokenizers")
    assert [read(tokenizer) for tokenizer in tokenizers_of(pt.load(folder))] == wanted


def test_older_sentencepiece(sources):
    """Its offsets came by another name."""
    tokenizer = Pieces(sources.spm(600), [], unknown="<unk>")
    wanted = tokenizer.read(TEXTS, with_offsets=True)
    newer = tokenizer._processor

    class Older:
        EncodeAsPieces, IdToPiece = newer.EncodeAsPieces, newer.IdToPiece

        def Encode(self, text, out_type):
            assert out_type == "immutable_proto"
            found = newer.EncodeAsOffsetMapping(text)
            made = type("Proto", (), {})()
            made.pieces = [
                type("Piece", (), {"piece": piece, "begin": begin, "end": end})()
                for piece, (begin, end) in zip(found["pieces"], found["offsets"], strict=True)
            ]
            return made

    if not hasattr(newer, "EncodeAsOffsetMapping"):
        pytest.skip("this sentencepiece is an older one")
    tokenizer._processor = Older()
    found = tokenizer.read(TEXTS, with_offsets=True)
    for name in ("ids", "offsets", "words"):
        for one, other in zip(getattr(found, name), getattr(wanted, name), strict=True):
            assert one.tolist() == other.tolist()


# Files that are malformed.


def used(folder, kind):
    """Do all that can be done with the tokenizers of a folder."""
    for tokenizer in {id(one): one for one in opened(folder, kind) if one is not None}.values():
        language = language_of(tokenizer)
        found = tokenizer.read(TEXTS, language=language, with_offsets=True)
        tokenizer.read(TEXTS, TEXTS, language=language, longest=8)
        tokenizer.decode([*found.ids[0], 10**6])
        tokenizer.encode("a b")
        tokenizer.tokens([0, 1, 10**6])
        assert len(tokenizer.vocabulary) == tokenizer.vocab_size
        tokenizer.files()
        assert tokenizer.truncates in (False, True)


@pytest.fixture
def folder_of(sources, tmp_path):
    """A function that makes the folder of a tokenizer and gives it with its model_type."""

    def make(name):
        kind, _, fill = FAMILIES[name]
        folder = tmp_path / name
        folder.mkdir()
        fill(folder, sources)
        return folder, kind

    return make


@pytest.mark.parametrize(
    ("name", "file", "content", "says"),
    [
        ("bert", "vocab.txt", b"", "no token '[CLS]'"),
        ("bert", "vocab.txt", b"[CLS]\n[SEP]\n", "no token '[UNK]'"),
        ("bert", "vocab.txt", b"[UNK]\n\xff\n", "line 2 is not UTF-8"),
        ("bert", "tokenizer_config.json", b"[]", "table: text is"),
        ("bert", "tokenizer_config.json", b'{"do_lower_case": 3}', "do_lower_case is 3"),
        ("bert", "tokenizer_config.json", b'{"strip_accents": 3}', "strip_accents is 3"),
        ("gpt2", "vocab.json", b"[1, 2]", "table: text is"),
        ("gpt2", "vocab.json", b'{"a": [1]}', "ids that are no whole numbers"),
        ("gpt2", "vocab.json", b'{"a": -1}', "ids that are no whole numbers"),
        ("gpt2", "vocab.json", b'{"a": true}', "ids that are no whole numbers"),
        ("gpt2", "vocab.json", b'{"a": 1e3}', "ids that are no whole numbers"),
        ("gpt2", "vocab.json", b'{"a": 100000000}', "1 tokens and ids up to 100000000"),
        ("gpt2", "vocab.json", b'{"a": {"b": 1}}', "ids that are no whole numbers"),
        ("gpt2", "vocab.json", b"[" * 100_000, "table: text is"),
        ("gpt2", "vocab.json", b'{"a": 0}', "out of vocabulary"),
        ("gpt2", "merges.txt", b"#version: 0.2\na b\nabc\n", "line 3 is 'abc'"),
        ("gpt2", "merges.txt", b"a b c\n", "line 1 is 'a b c'"),
        ("gpt2", "merges.txt", b" a\n", "line 1 is ' a'"),
        ("gpt2", "merges.txt", b"a b\n\xff", "line 2 is not UTF-8"),
        ("qwen2", "tokenizer_config.json", b'{"added_tokens_decoder": []}', "is [], expected"),
        ("qwen2", "tokenizer_config.json", b'{"added_tokens_decoder": {"a": "b"}}', "'b' by 'a'"),
        ("qwen2", "tokenizer_config.json", b'{"added_tokens_decoder": {"1": 3}}', "3 by '1'"),
        ("gpt2", "added_tokens.json", b'{"a": "b"}', "adds 'a' by 'b'"),
        ("gpt2", "added_tokens.json", b'{"a": 9000}', "'a' has the id 64, expected 9000"),
        ("marian", "vocab.json", b'{"a": 0}', "has no token '<unk>'"),
        ("marian", "vocab.json", b'{"\\ud800": 0}', "which is no Unicode text"),
        ("marian", "source.spm", b"", "is no SentencePiece model"),
        ("marian", "target.spm", b"garbage" * 100, "is no SentencePiece model"),
        ("t5", "tokenizer_config.json", b'{"extra_ids": -1}', "extra_ids is -1"),
        ("albert", "tokenizer_config.json", b'{"keep_accents": true}', "keep_accents is True"),
        ("llama", "tokenizer_config.json", b'{"add_bos_token": "a"}', "add_bos_token is 'a'"),
        ("llama", "tokenizer_config.json", b'{"bos_token": "<b>"}', "has no token '<b>'"),
    ],
)
def test_malformed_files(name, file, content, says, folder_of):
    folder, kind = folder_of(name)
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"^load: ") as error:
        used(folder, kind)
    said = str(error.value)
    assert str(folder) in said and says in said
    assert said.count(str(folder)) == 1 and "\n" not in said and len(said) < 1000


@pytest.mark.parametrize("way", ["ids", "base64"])
def test_a_tokenizer_json_that_is_one_no_more(way, folder_of, sources, capfd):
    tokenizers = pytest.importorskip("tokenizers")
    folder, kind = folder_of("bert")
    made, _ = opened(folder, kind)
    values = json.loads(made.files()["tokenizer.json"])
    if way == "ids":
        values["model"]["vocab"]["more"] = 2**32 - 1
        says = "ids up to 4294967295, expected fewer"
    else:
        values["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAA_"}
        says = "no tokenizer: "
    write(folder, tokenizer__json=values)
    assert tokenizers is not None
    with pytest.raises(ValueError, match=f"^load: .+tokenizer.json.+{says}"):
        used(folder, kind)
    assert capfd.readouterr().err == ""


VALUES = [None, 3, -1, 2**31, 2**40, 1.5, "a", "", [], [[]], {}, {"a": 1}, True, "\ud800", "\n"]
MUTATED = [
    "bert",
    "gpt2",
    "qwen2",
    "marian",
    "marian-of-two",
    "mt5",
    "m2m",
    "albert",
    "llama",
    "mbart",
]


def places(value, way=()):
    """Each way to a value in a JSON value, to the first ones of what is long."""
    yield way
    if isinstance(value, (dict, list)):
        names = list(value) if isinstance(value, dict) else range(len(value))
        for name in names[:8]:
            yield from places(value[name], (*way, name))


def with_value(value, way, new):
    if not way:
        return new
    value = value.copy()
    value[way[0]] = with_value(value[way[0]], way[1:], new)
    return value


def mutated(content, is_json, rng):
    """Other bytes than these."""
    way = rng.choice(["flip", "cut", "zero", "more", *["value"] * 3 * is_json])
    content, at = bytearray(content), rng.randrange(len(content))
    if way == "flip":
        for _ in range(rng.choice([1, 3, 30])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif way == "cut":
        del content[at:]
    elif way == "zero":
        content[at : at + 20] = bytes(20)
    elif way == "more":
        content[at:at] = rng.randbytes(10)
    else:
        value = json.loads(content)
        ways = list(places(value))
        content = json.dumps(with_value(value, rng.choice(ways), rng.choice(VALUES))).encode()
    return bytes(content)


@pytest.mark.parametrize(
    "name", [*MUTATED, *(f"{name} saved" for name in ("bert", "gpt2", "mt5", "llama"))]
)
def test_mutated_files(name, folder_of, tmp_path):
    """Whatever a file holds, it is read, or there is one error that names the folder."""
    name, _, is_saved = name.partition(" ")
    folder, kind = folder_of(name)
    if is_saved:
        pytest.importorskip("tokenizers")
        made = library_of(name, folder, kind)
        shutil.rmtree(folder)
        folder.mkdir()
        write(folder, tokenizer__json=made)
    rng = random.Random(name)
    files = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    refused = 0
    for _ in range(20):
        path = rng.choice(list(files))
        path.write_bytes(mutated(files[path], path.suffix == ".json", rng))
        try:
            used(folder, kind)
        except ValueError as error:
            refused += 1
            said = str(error)
            assert said.startswith("load: ") and said.count(str(folder)) == 1
            assert "\n" not in said and len(said) < 1000
        path.write_bytes(files[path])
    used(folder, kind)
    assert refused >= 3


def library_of(name, folder, kind):
    """A tokenizer.json: ours of vocabularies, that of transformers of SentencePiece's models."""
    tokenizer, _ = opened(folder, kind)
    if isinstance(tokenizer, FastTokenizer):
        return tokenizer.files()["tokenizer.json"]
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("google.protobuf")
    theirs = getattr(transformers, FAMILIES[name][1]).from_pretrained(folder)
    return theirs.backend_tokenizer.to_str()
