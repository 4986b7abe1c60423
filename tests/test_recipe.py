"""Recipes: how TOML files and flags are read, and what is said of wrong ones."""

import pytest
import small_task
from small_task import RECIPE, refused


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
