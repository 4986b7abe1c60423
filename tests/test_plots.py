"""Pictures: what is written, and what is said where it cannot be or lacks a character."""

import numpy as np
import pytest

import pyx_transformer as pt
from pyx_transformer import plots, text
from pyx_transformer.cli import main

STRANGE = "\ue123"  # no font has it


@pytest.fixture(autouse=True)
def with_matplotlib():
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")


def test_a_missing_character_is_one_warning(tmp_path):
    weights = np.full((2, 2, 3, 2), 0.5, np.float32)
    with pytest.warns(UserWarning, match="no font here has all the characters") as caught:
        plots.plot_attention(weights, [STRANGE, "b"], ["c", STRANGE, "\ue124"], tmp_path / "a.png")
    assert len(caught) == 1
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_says_so_in_one_plain_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tokenizer = text.make("words", [f"a {STRANGE}"])
    model = pt.Transformer(pt.TransformerConfig(5, 5, d_model=8, num_heads=2), rng=0)
    model.src_tokenizer = model.tgt_tokenizer = tokenizer
    model.save("model")
    arguments = ["translate", "--model", "model", f"a {STRANGE}", "--max-length", "3"]
    assert main([*arguments, "--attention", "a.png"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert err.count("\n") == 1 and err.startswith("a.png: no font here has all the characters")


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("nowhere/a.png", FileNotFoundError, "nowhere/a.png cannot be written"),
        (".", IsADirectoryError, "is a folder, expected a file"),
    ],
)
def test_places_that_cannot_be_written_to(path, error, says, tmp_path):
    weights = np.full((1, 1, 1, 1), 1, np.float32)
    for call in (
        lambda: plots.require(tmp_path / path),
        lambda: plots.plot_curves([], tmp_path / path),
        lambda: plots.plot_attention(weights, ["a"], ["b"], tmp_path / path),
    ):
        with pytest.raises(error, match=says):
            call()


def test_curves(tmp_path):
    entries = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": None, "skipped": [1]},
        {"step": 2, "validation": {"loss": 2.0, "bleu": 1.0, "bleu_signature": "tok:char"}},
        {"step": 2, "test": {"loss": 2.0, "bleu": 1.0}},
    ]
    for count in (1, 2, 3, 4):
        plots.plot_curves(entries[:count], tmp_path / f"{count}.png")
        assert (tmp_path / f"{count}.png").read_bytes().startswith(b"\x89PNG")
