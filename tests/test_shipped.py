"""The translator that comes with the package."""

import importlib.resources
import re

import numpy as np
import pytest
from models import translate

import pyx_transformer as pt
from pyx_transformer.cli import main
from pyx_transformer.metrics import bleu


@pytest.fixture(scope="module")
def model():
    return pt.load("en-ja")


def test_it_translates_ordinary_english(model):
    found = translate(
        model, ["I love music.", "i love music .", "I don't know.", ""], beam_size=4, max_length=40
    )
    texts = [best[0].text for best in found]
    assert texts[0] == texts[1]
    assert texts[3] == ""
    for text in texts[:3]:
        assert re.fullmatch(r"[\u3040-\u30ff\u4e00-\u9fff、。]+", text)
    assert "音楽" in texts[0]


def test_unknown_words_are_no_obstacle(model):
    ((best,),) = translate(model, ["My zzyzx is qwertyuiop."], beam_size=4, max_length=40)
    assert best.text and "<unk>" not in best.text


def test_the_first_command(capsys):
    assert main(["translate", "i love music ."]) == 0
    out, err = capsys.readouterr()
    assert "音楽" in out and out.count("\n") == 1
    assert (
        err
        == "pyx-transformer: en-ja is a small model, trained on short sentences: expect mistakes\n"
    )


@pytest.mark.parametrize(("word", "expected"), [("music", "音楽"), ("dog", "犬"), ("wait", "待")])
def test_a_bare_word_is_not_repeated(word, expected, model, capsys):
    """It was trained on whole sentences: the limit is 4 times the source's tokens, less 3."""
    ((best,),) = translate(model, [word])
    assert (best.text, best.finished) == (expected, False)
    assert main(["translate", word]) == 0
    said = "(the model's own of so short a text; --max-length sets another): text 1\n"
    assert f"cut off at the maximum length {said}" in capsys.readouterr().err
    assert main(["translate", word, "--max-length", "9"]) == 0
    assert capsys.readouterr().out.strip() != expected  # as long as was asked for


def test_a_folder_of_that_name_goes_before_it(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "en-ja").mkdir()
    with pytest.raises(FileNotFoundError, match="en-ja"):
        pt.load("en-ja")
    model.save(tmp_path / "en-ja")
    np.testing.assert_array_equal(pt.load("en-ja").src_embedding.weight, model.src_embedding.weight)


def test_it_is_small_and_says_where_it_comes_from():
    folder = importlib.resources.files("pyx_transformer") / "models" / "en-ja"
    assert sum(len(path.read_bytes()) for path in folder.iterdir()) < 12e6
    attribution = (folder / "ATTRIBUTION").read_text(encoding="utf-8")
    assert "Tanaka Corpus" in attribution and "CC BY 2.0 FR" in attribution


def test_it_is_as_good_as_the_readme_says(model, shared_data):
    """BLEU on the 500 sentences of the test, with beam 5, to half a point."""
    texts, references = (
        (shared_data / "tanaka-en-ja" / f"test.{side}").read_text(encoding="utf-8").splitlines()
        for side in ("en", "ja")
    )
    found = translate(model, texts, beam_size=5, max_length=40, spaced=True)
    assert bleu([best[0].text for best in found], references) > BLEU - 0.5


BLEU = 38.69
