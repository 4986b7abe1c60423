"""`~` is the home directory wherever a path is given: in Python, in recipes and in commands."""

import os
from pathlib import Path

import pytest
import small_task
from runs import OPTIONS, new_model, some_examples

import pyx_transformer as pt
from pyx_transformer import plots, text
from pyx_transformer._files import as_path
from pyx_transformer.cli import main
from pyx_transformer.training import evaluate, train
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.recipe import load_recipe

WORDS = text.make("words", ["a b c"])


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory beside the folder that all runs in."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    yield home
    assert not os.listdir(tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", [str, Path])
def test_models(kind, home):
    new_model().save(kind("~/model"))
    assert (home / "model" / "config.json").exists()
    assert isinstance(pt.load(kind("~/model")), pt.Transformer)
    with pytest.raises(FileNotFoundError, match=f"^load: {home / 'other'}"):
        pt.load(kind("~/other"))


@pytest.mark.parametrize("kind", [str, Path])
def test_vocabularies(kind, home):
    text.save(WORDS, kind("~/words"))
    assert text.load("words", kind("~/words")).vocabulary == WORDS.vocabulary
    assert (home / "words").exists()


def test_runs_and_their_pictures(home):
    train(new_model(), some_examples(), None, OPTIONS, "~/run")
    train(new_model(), some_examples(), None, OPTIONS, Path("~/run"), resume=True)
    entries = read_log("~/run/log.jsonl")
    assert entries == read_log(home / "run" / "log.jsonl") != []
    pytest.importorskip("matplotlib")
    plots.plot_curves(entries, "~/curves.png")
    assert (home / "curves.png").exists()


def test_recipes_and_commands(home, capsys):
    small_task.write(home)
    content = small_task.RECIPE.replace('= "train.', '= "~/train.')
    vocabulary = 'source_vocabulary = "~/words.en"'
    content = content.replace('kind = "words"\n', f'kind = "words"\n{vocabulary}\n')
    (home / "recipe.toml").write_text(content)
    assert main(["vocab", "--kind", "words", "--output", "~/words.en", "~/train.en"]) == 0
    assert load_recipe("~/recipe.toml").text.source_vocabulary == "~/words.en"
    flags = ["--set", "training.steps=2", "--set", "training.validate_every=2"]
    assert main(["train", "~/recipe.toml", "--output", "~/run", *flags]) == 0
    assert f"the best model is in {home / 'run' / 'model'}\n" in capsys.readouterr().err
    for command in (
        ["evaluate", "--model", "~/run/model", "~/train.en", "~/train.de"],
        ["translate", "--model", "~/run/model", "i know ."],
    ):
        assert main(command) == 0
    assert evaluate(pt.load("~/run/model"), "~/train.en", Path("~/train.de"), with_bleu=False)


def test_only_a_tilde_at_the_beginning(home):
    for path in ("a/~", "./~", "a~"):
        assert os.path.abspath(as_path("f", "path", path)) == os.path.abspath(path)
        assert as_path("f", "path", as_path("f", "path", path)) == as_path("f", "path", path)


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_what_no_file_is_called(path, home):
    for function in (pt.load, new_model().save, lambda path: text.load("words", path)):
        with pytest.raises(ValueError, match=r": (directory|path) is '.*', expected a path"):
            function(path)
