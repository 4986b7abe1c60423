"""Tokenizers: texts to ids and back, and the files that hold them."""

import os
import pickle

import numpy as np
import pytest
from models import small_config

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.tokenizers import trained
from pyx_transformer.tokenizers.protocol import Vocabulary

SENTENCES = ["i don 't know .", "the cat sat .", "the cat knows the dog .", "i know ."]
KINDS = {
    "words": {"min_count": 1},
    "characters": {},
    "sentencepiece": {"size": 40},
}


@pytest.fixture(params=KINDS)
def tokenizer(request):
    if request.param == "sentencepiece":
        pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    return text.make(request.param, SENTENCES, **KINDS[request.param])


def test_what_is_encoded_is_decoded(tokenizer):
    assert (tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id) == (0, 1, 2)
    for sentence in SENTENCES:
        ids = tokenizer.encode(sentence)
        assert ids.dtype == np.int64
        assert ((ids > 2) & (ids < tokenizer.vocab_size)).all()
        assert tokenizer.decode(ids) == sentence
        assert tokenizer.decode([1, *ids, 2]) == sentence
        assert len(tokenizer.tokens(ids)) == len(ids)
    assert tokenizer.encode("").size == 0
    assert tokenizer.decode([]) == ""


def test_what_the_vocabulary_lacks_is_unknown(tokenizer):
    ids = tokenizer.encode("the cat ☃ sat .")
    assert 0 in ids


def test_files_hold_all_of_it(tokenizer, tmp_path):
    text.save(tokenizer, tmp_path / "vocabulary")
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary"]
    loaded = text.load(tokenizer.kind, tmp_path / "vocabulary")
    for sentence in SENTENCES:
        np.testing.assert_array_equal(loaded.encode(sentence), tokenizer.encode(sentence))
    copied = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copied.encode(SENTENCES[0]), tokenizer.encode(SENTENCES[0]))


def test_a_failed_save_leaves_the_vocabulary_before(tokenizer, tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "vocabulary"
    path.write_text("before")
    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, failing)
        with pytest.raises(OSError, match="No space left"):
            text.save(tokenizer, path)
        monkeypatch.undo()
        assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"vocabulary": "before"}
    with pytest.raises(FileNotFoundError, match=r"text\.save: path: there is no folder .*nowhere"):
        text.save(tokenizer, tmp_path / "nowhere" / "vocabulary")
    with pytest.raises(IsADirectoryError, match=r"path is .*, a folder"):
        text.save(tokenizer, tmp_path)


def test_a_byte_order_mark_is_no_token(tmp_path):
    words = text.make("words", SENTENCES)
    (tmp_path / "vocabulary").write_bytes(b"\xef\xbb\xbf" + words.files()["vocabulary.txt"])
    assert text.load("words", tmp_path / "vocabulary").vocabulary == words.vocabulary


def test_a_model_keeps_its_tokenizers(tokenizer, tmp_path):
    size = tokenizer.vocab_size
    model = pt.Transformer(small_config(src_vocab_size=size, tgt_vocab_size=size), rng=0)
    model.src_tokenizer = model.tgt_tokenizer = tokenizer
    model.save(tmp_path)
    loaded = pt.load(tmp_path)
    for side in (loaded.src_tokenizer, loaded.tgt_tokenizer):
        assert side.settings == tokenizer.settings
        np.testing.assert_array_equal(side.encode(SENTENCES[2]), tokenizer.encode(SENTENCES[2]))
    # A model without them takes the files away.
    pt.Transformer(model.config, rng=0).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


class Sided:
    """What has a tokenizer or a list of tokens, as a side of a model does."""

    src_vocabulary = Vocabulary()
    src_tokenizer = None


def test_a_side_has_one_vocabulary(tokenizer):
    side = Sided()
    assert side.src_vocabulary is None
    side.src_vocabulary = ["a", "b"]
    assert (side.src_vocabulary, side.src_tokenizer) == (["a", "b"], None)
    side.src_tokenizer = tokenizer
    assert side.src_vocabulary == tokenizer.tokens(range(tokenizer.vocab_size))
    assert pickle.loads(pickle.dumps(side)).src_vocabulary == side.src_vocabulary
    side.src_vocabulary = ["c"]  # in the tokenizer's place
    assert (side.src_vocabulary, side.src_tokenizer) == (["c"], None)
    side.src_vocabulary = None
    assert side.src_vocabulary is None


def test_vocabularies_are_the_most_frequent_tokens():
    words = text.make("words", SENTENCES)
    assert words.vocabulary[:6] == ["<unk>", "<s>", "</s>", ".", "the", "cat"]
    assert text.make("words", SENTENCES, min_count=3).vocabulary[3:] == [".", "the"]
    assert text.make("words", SENTENCES, size=5).vocabulary[3:] == [".", "the"]
    characters = text.make("characters", ["ab\nb"])
    assert characters.vocabulary[3:] == ["b", "\\n", "a"]
    assert characters.decode(characters.encode("a\nb")) == "a\nb"


def test_a_text_cannot_spell_out_special_tokens():
    words = text.make("words", SENTENCES)
    np.testing.assert_array_equal(words.encode("<s> . </s> <unk>"), [0, 3, 0, 0])


def test_languages():
    japanese = text.make("words", ["私 は 猫 。"], language="ja")
    ids = japanese.encode("猫 は 私 。")
    assert japanese.decode(ids) == "猫は私。"
    assert japanese.decode(ids, spaced=True) == "猫 は 私 。"
    english = text.make("words", SENTENCES, language="en")
    np.testing.assert_array_equal(english.encode("I don’t know."), english.encode(SENTENCES[0]))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: text.make("bytes", SENTENCES), ValueError, "kind is 'bytes'"),
        (lambda: text.make("words", SENTENCES, size=3), ValueError, "size is 3"),
        (lambda: text.make("words", SENTENCES, min_count=99), ValueError, "min_count = 99"),
        (lambda: text.make("words", []), ValueError, "no token"),
        (lambda: text.make("sentencepiece", SENTENCES), ValueError, "size is None"),
        (lambda: text.Words(["a", "b"]), ValueError, "vocabulary begins with"),
        (
            lambda: text.Words(["<unk>", "<s>", "</s>", "a", "a"]),
            ValueError,
            "holds 'a' more than once",
        ),
        (lambda: text.make("words", SENTENCES, language="fr"), ValueError, "language is 'fr'"),
        (lambda: text.load("words", "nowhere.txt"), FileNotFoundError, "nowhere.txt is missing"),
    ],
)
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("line", ["wv " * 1_000 + "wv" * 2_000, "wv \u2585 wv"])
def test_sentencepiece_leaves_no_line_out(line):
    """It would: lines of more than 4,192 bytes, and those with its own mark."""
    pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    assert "wv" in text.make("sentencepiece", [*SENTENCES, line], size=40).vocabulary
    assert "wv" in text.make("sentencepiece", [line], size=7).vocabulary


@pytest.mark.parametrize(
    ("texts", "size", "says"),
    [
        (["a b c d e"], 50, "size is 50, expected at most 14 because of the texts$"),
        (["abcdefgh"], 5, "size is 5, expected at least 12, the characters of"),
        (["", " "], 20, "texts have no token, expected some text$"),
        (["\u200b"], 20, "texts have no token, expected some text$"),
        ([], 20, "texts have no token, expected some text$"),
        (["a\udcff"], 20, r"texts\[0\] is 'a\\udcff', which is no Unicode text"),
    ],
)
def test_what_sentencepiece_refuses_is_told_in_our_words(texts, size, says):
    pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    with pytest.raises(ValueError, match=rf"^text\.make: {says}"):
        text.make("sentencepiece", texts, size=size)


def test_a_text_too_long_for_sentencepiece_is_refused(monkeypatch):
    pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    monkeypatch.setattr(trained, "LONGEST_TEXT", 20)
    with pytest.raises(ValueError, match=r"texts\[1\] has 21 bytes, expected at most 20"):
        text.make("sentencepiece", ["a b", "ä" * 10 + "b"], size=20)


def test_bad_files(tmp_path, tokenizer):
    (tmp_path / "vocabulary").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"line 1 is not UTF-8|no SentencePiece model"):
        text.load(tokenizer.kind, tmp_path / "vocabulary")

    size = tokenizer.vocab_size
    model = pt.Transformer(small_config(src_vocab_size=size, tgt_vocab_size=size), rng=0)
    model.src_tokenizer = model.tgt_tokenizer = tokenizer
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "tokenizers.json"
    for content, says in [
        ("[]", "expected an object"),
        ('{"source": {"kind": "syllables"}}', "syllables"),
        ('{"source": {"kind": "words", "colour": 1}}', "colour|source is words, but"),
        ('{"source": 3}', "tokenizers.json"),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=says):
            pt.load(tmp_path / "model")


def test_a_tokenizer_of_another_size_is_not_saved(tmp_path):
    model = pt.Transformer(small_config(), rng=0)
    model.src_tokenizer = text.make("words", SENTENCES)
    with pytest.raises(ValueError, match="expected 23, the config's src_vocab_size"):
        model.save(tmp_path)
    assert not list(tmp_path.iterdir())
