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


@pytest.mark.parametrize(
    "token",
    [
        "$",
        "$\\frac$",
        "a$b$c$",
        "\\alpha",
        "^_{}%#&~",
        "a\nb",
        "\x00\x1b[31m",
        "\u202e",
        "",
        " ",
        "<b>&amp;",
        "_x",
        "x" * 5000,
    ],
    ids=ascii,
)
def test_any_token_is_a_label(token, tmp_path, recwarn):
    """As plain text, in a line of bounded length."""
    weights = np.full((1, 1, 2, 1), 0.5, np.float32)
    plots.plot_attention(weights, [token], ["$$", token], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not recwarn.list
    shown = plots.label(token)
    assert shown.isprintable() and 0 < len(shown) <= 30


def test_labels_are_what_the_tokens_are():
    plain = ["$x^2$", "\\n", "犬", "مرحبا", "می\u200cروم", "<b>", "a b"]
    assert [plots.label(token) for token in plain] == plain
    assert plots.label("a\nb\x1b\u2028") == "a\\nb\\x1b\\u2028"
    assert [plots.label(token) for token in ("", " ", "\t")] == ["''", "' '", "'\\t'"]


def test_settings_of_matplotlib_stay(tmp_path):
    import matplotlib

    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    with matplotlib.rc_context({"text.usetex": True}):
        plots.plot_attention(np.ones((1, 1, 1, 1)), ["$"], ["_"], tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend


@pytest.mark.parametrize("shape", [(2, 4, 250, 250), (1, 1, 1, 2000), (1, 1, 2000, 1)])
def test_a_sentence_too_long_for_a_picture(shape, tmp_path):
    source, target = ["a"] * shape[3], ["b"] * shape[2]
    with pytest.raises(ValueError, match=rf"{shape[3]} source tokens would have .* shorter"):
        plots.plot_attention(np.zeros(shape, np.float32), source, target, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "source", "error", "says"),
    [
        ((1, 1, 2, 3), ["a"], ValueError, r"expected \(layers, H, 2, 1\)"),
        ((2, 3), ["a"] * 3, ValueError, r"weights has shape \(2, 3\)"),
        ((1, 0, 2, 3), ["a"] * 3, ValueError, "expected something to draw"),
        ((1, 1, 2, 3), "abc", TypeError, "source is 'abc', expected a list of texts"),
        ((1, 1, 2, 2), ["a", 3], TypeError, r"source\[1\] is 3"),
    ],
)
def test_tokens_that_do_not_fit(shape, source, error, says, tmp_path):
    with pytest.raises(error, match=f"plot_attention: .*{says}"):
        plots.plot_attention(np.zeros(shape), source, ["a", "b"], tmp_path / "a.png")


@pytest.mark.parametrize(
    ("characters", "fonts"),
    [
        ("犬", "Noto Sans CJK JP"),
        ("ひ한\U00020bb7", "Noto Sans CJK JP"),
        ("م", "Noto Sans Arabic"),
        ("😀犬", "Noto Emoji and Noto Sans CJK JP"),
        (STRANGE, "Unifont"),
    ],
)
def test_a_missing_font_is_named(characters, fonts):
    said = plots.of_missing(set(characters))
    assert f"U+{ord(min(characters)):04X}" in said
    assert said.endswith(f"; install {fonts}")


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
    *_, line = err.splitlines()
    assert line.startswith("pyx-transformer: a.png: no font here has all the characters")


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
