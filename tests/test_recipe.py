"""Recipes: how TOML files and flags are read, and what is said of wrong ones."""

import re
import sys

import pytest
import small_task
from conftest import REPOSITORY
from small_task import RECIPE, refused

from pyx_transformer.cli import main
from pyx_transformer.training.log import read
from pyx_transformer.training.recipe import load_recipe


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the files of a small task, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    small_task.write(tmp_path)
    return tmp_path


def train(*changes):
    """The arguments of a run of the recipe with these on top."""
    flags = [word for change in changes for word in ("--set", change)]
    return ["train", "recipe.toml", "--output", "run", *flags]


def test_deep_nesting(folder, capsys):
    deep = "[" * 100_000
    refused(train(f"model.d_ff={deep}"), capsys, "--set model.d_ff", "nested too deeply")
    (folder / "recipe.toml").write_text(RECIPE + f"\nseed = {deep}\n")
    refused(train(), capsys, "recipe.toml is not TOML", "nested too deeply")


LM = (
    RECIPE.replace('train_source = "train.en"\n', "")
    .replace('dev_source = "train.en"\n', "")
    .replace("num_encoder_layers = 1\n", "")
)
ENCODER = small_task.ENCODER


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["text.source_vocabulary=5"], ["source_vocabulary is 5", "expected the path of a file"]),
        (["text.source_vocabulary="], ["source_vocabulary is ''", "expected the path of a file"]),
        (["data.train_source="], ["[data]: train_source is ''", "expected the path of a file"]),
        (["data.train_source=[1]"], ["[data]: train_source is [1]"]),
        (["data.train_source=."], [". is a folder, expected a file"]),
        (["data=3"], ["--set is 'data=3', expected TABLE.KEY=VALUE"]),
        (["model.d_ff=0"], ["recipe.toml", "[model]: d_ff is 0, expected at least 1"]),
        (["model.d_ff=many"], ["recipe.toml", "[model]: d_ff is 'many'"]),
        (["model.num_heads=5"], ["recipe.toml", "[model]: num_heads is 5"]),
        (["model.activation=tanh"], ["recipe.toml", "[model]: activation is 'tanh'"]),
        (["training.steps=0"], ["recipe.toml", "steps is 0"]),
        (["training.shards=1025"], ["recipe.toml", "shards is 1025, expected at most 1024"]),
        (
            ["text.kind=sentencepiece", "text.size=50", "text.min_count=2"],
            ["min_count is 2, expected nothing with sentencepiece"],
        ),
        (["text.kind=characters", "text.source_language=en"], ["source_language is 'en'"]),
    ],
)
def test_wrong_values(changes, says, capsys, monkeypatch):
    """All are told before a tokenizer is made."""
    monkeypatch.setattr("pyx_transformer.text.make", None)
    refused(train(*changes), capsys, *says)


@pytest.mark.parametrize(
    ("content", "change", "says"),
    [
        ("data = 3", "data.train_source=x", "data is 3, expected a table"),
        ("model = 'big'", "model.d_ff=8", "model is 'big', expected a table"),
        (LM, "text.source_language=en", "source_language is 'en', expected nothing without"),
        (LM, "text.shared=true", "shared is True, expected nothing without sources"),
        (ENCODER, "text.shared=true", "shared is True, expected nothing without targets"),
        (ENCODER, "text.target_language=en", "target_language is 'en', expected nothing without"),
        (ENCODER, "data.dev_target=train.de", "has dev_source and dev_target, expected dev_source"),
        (ENCODER, "model.num_decoder_layers=1", "unknown keys ['num_decoder_layers']"),
        (ENCODER, "model.mask_id=3", "[model] has 'mask_id'"),
        (ENCODER, "training.mask_rate=0", "mask_rate is 0"),
        (ENCODER, "model.head.activation=tanh", "activation is 'tanh'"),
        (LM, "model.num_encoder_layers=1", "unknown keys ['num_encoder_layers']"),
        (RECIPE, "model.d_model.size=3", "d_model is 32, expected a table"),
        ("[data]", "data.dev_share=0.1", "neither train_source nor train_target"),
    ],
)
def test_wrong_tables(content, change, says, folder, capsys):
    (folder / "recipe.toml").write_text(content)
    refused(train(change), capsys, "recipe.toml", says)


def test_a_folder_is_no_recipe(folder, capsys):
    refused(["train", ".", "--output", "run"], capsys, ". is a folder, expected a file")
    refused(["train", "", "--output", "run"], capsys, "FILE: is empty, expected a path")
    refused(["train", "recipe.toml", "--output", ""], capsys, "--output: is empty")


def test_a_byte_order_mark_is_no_text(folder):
    for name in ("train.en", "recipe.toml"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(b"\xef\xbb\xbf" + content)
    recipe = load_recipe("recipe.toml")
    assert "i" in recipe.build().src_tokenizer.vocabulary
    (folder / "train.en").write_bytes(b"\xef\xbb\xbfa\n\nb")
    with pytest.raises(ValueError, match=r"train\.en, line 2 is empty"):
        recipe.build()
    (folder / "train.en").write_bytes(b"\xef\xbb\xbfa\nb\xff\n")
    with pytest.raises(ValueError, match=r"train\.en, line 2 is not UTF-8"):
        recipe.build()


def test_without_a_reader_of_toml(monkeypatch, capsys):
    """Python 3.10 has none of its own."""
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    refused(train(), capsys, "tomli is missing: pip install 'pyx-transformer[train]'")


@pytest.mark.parametrize(
    ("path", "says"), [("no/c.png", "there is no folder no"), (".", "is ., a folder")]
)
def test_a_picture_that_cannot_be_written_is_told_at_once(path, says, folder, capsys):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    refused([*train(), "--plot", path], capsys, says)
    assert not (folder / "run").exists()


def test_resuming_a_finished_run_logs_its_test_once(folder, capsys):
    files = ["data.test_source=train.en", "data.test_target=train.de", "training.steps=4"]
    assert main(train(*files)) == 0
    before = read(folder / "run/log.jsonl")
    assert [entry for entry in before if "test" in entry] == before[-1:]
    assert main([*train(*files), "--resume"]) == 0
    assert read(folder / "run/log.jsonl") == before


def assert_held(part, value, name=""):
    """A config, or a part of it, has the values of a table, those in tables of the table too."""
    if isinstance(value, dict):
        for inner, its_value in value.items():
            assert_held(getattr(part, inner), its_value, inner)
    elif isinstance(value, list):
        for one, its_value in zip(part, value, strict=True):
            assert_held(one, its_value, name)
    else:
        assert (name, part) == (name, value)


RECIPES = sorted((REPOSITORY / "bench" / "recipes").glob("*.toml"))
RECIPES += sorted((REPOSITORY / "pyx_transformer" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_in_the_repository_are_whole(path):
    recipe = load_recipe(path)
    if "start" not in recipe.model:
        assert_held(recipe.config(*(101 for _ in recipe.sides)), recipe.model)
    assert recipe.training.steps > recipe.training.warmup
    origin = " ".join(recipe.data["origin"].split())
    assert re.search(r"github\.com/\S+|bench/recipes/\S+\.py", origin)
    assert re.search(r"public domain|CC BY|BSD|No licence is stated|under its licence", origin)


def test_a_missing_file_is_told_with_its_origin(folder, capsys):
    """Of any part, before there is a tokenizer."""
    (folder / "train.de").unlink()
    said = refused(train(), capsys, f"recipe: [data] train_target: train.de is missing in {folder}")
    assert said.endswith(f"{folder}\n")
    origin = 'origin = """\nsentences of\n  a small task"""'
    content = RECIPE.replace(
        "[data]", f'[data]\ntest_source = "no.en"\ntest_target = "a"\n{origin}'
    )
    (folder / "recipe.toml").write_text(content.replace('"train.de"', '"train.en"'))
    says = (
        f"test_source: no.en is missing in {folder}; where it comes from: sentences of a small task"
    )
    refused(train(), capsys, says)
    refused(train("data.origin=3"), capsys, "[data] origin is 3, expected a text")
