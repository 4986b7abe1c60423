"""The recipe that comes with the package, with its data: words backwards."""

import importlib.resources
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from small_task import refused

import pyx_transformer as pt
from pyx_transformer.cli import main
from pyx_transformer.training.log import read
from pyx_transformer.training.pictures import draw
from pyx_transformer.training.recipe import load_recipe

FOLDER = importlib.resources.files("pyx_transformer") / "recipes"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder in which the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(name):
    return (FOLDER / "reverse" / name).read_text(encoding="utf-8").splitlines()


def test_its_data(folder):
    """Words backwards, none of those to validate on among the others; as the script writes them."""
    words, dev = lines("train.words"), lines("dev.words")
    assert [word[::-1] for word in words] == lines("train.backwards")
    assert [word[::-1] for word in dev] == lines("dev.backwards")
    assert len({*words, *dev}) == len(words) + len(dev) == 6000
    script = (REPOSITORY / "bench/recipes/reverse.py").read_text(encoding="utf-8")
    namespace = {"__name__": "reverse"}
    exec(script, namespace)
    files = {path.name: path.read_text(encoding="utf-8") for path in (FOLDER / "reverse").iterdir()}
    assert files == namespace["files"]()
    assert sum(map(len, files.values())) < 300_000


def test_it_is_found_by_its_name(folder, capsys):
    recipe = load_recipe("reverse")
    assert {name for name in recipe.data if name != "origin"} == {
        "train_source",
        "train_target",
        "dev_source",
        "dev_target",
    }
    changed = load_recipe("reverse", {"data.train_source": "mine.txt", "training.steps": 3})
    assert changed.data == {**recipe.data, "train_source": "mine.txt"}
    says = "recipe: reversed is missing, expected a file or the name of a recipe that comes with"
    refused(["train", "reversed", "--output", "run"], capsys, says, "reverse")
    (folder / "reverse").mkdir()
    assert load_recipe("reverse") == recipe
    (folder / "reverse").rmdir()
    (folder / "reverse").write_text("[data]\n")
    with pytest.raises(ValueError, match=r"reverse: .*neither train_source nor train_target"):
        load_recipe("reverse")  # a file of that name goes before it


FEW = {"training.steps": 40, "training.warmup": 10, "training.validate_every": 20}


def test_it_trains(folder, capsys):
    """From its name to a model that has learned something, in a few of its steps."""
    flags = [word for name, value in FEW.items() for word in ("--set", f"{name}={value}")]
    assert main(["train", "reverse", "--output", "run", *flags]) == 0
    figures = [one["validation"] for one in read("run/log.jsonl") if "validation" in one]
    assert len(figures) == 2
    assert figures[1]["loss"] < figures[0]["loss"] < 4
    capsys.readouterr()
    assert main(["translate", "--model", "run/model", "sofamu"]) == 0
    model = pt.load("run/model")
    assert set(capsys.readouterr().out.strip()) <= set(model.tgt_vocabulary[3:])


def test_its_pictures(folder, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    recipe = load_recipe("reverse", FEW)
    run = recipe.run("run", progress=False)
    curves, page = draw(recipe, run)
    assert (curves, page) == (Path("run/curves.png"), Path("run/attention.html"))
    assert curves.read_bytes().startswith(b"\x89PNG")
    text = sorted(lines("dev.words"), key=len)[100]
    expected = pt.Translator(run.model).attention(text, max_length=recipe.training.max_length)
    assert page.read_text(encoding="utf-8") == expected.html()
    assert expected["cross"].columns == list(text)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(UserWarning, match=r"no curves.png: .*matplotlib is missing: pip install"):
        assert draw(recipe, run) == [page]
