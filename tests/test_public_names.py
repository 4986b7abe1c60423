"""The names of the package: all there, listed, and known to type checkers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyx_transformer as pt


def test_every_public_name_is_listed():
    """By a new Python too, in which nothing has been loaded by its first use."""
    assert set(pt.__all__) <= set(dir(pt))
    code = "import pyx_transformer as pt; print(*dir(pt))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert set(pt.__all__) <= set(listed.stdout.split())
    for name in pt.__all__:
        assert getattr(pt, name) is not None


def test_names_loaded_later_are_imported_for_type_checkers():
    tree = ast.parse(Path(pt.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    imported = {
        alias.name: node.module.removeprefix("pyx_transformer.")
        for node in block.body
        for alias in node.names
    }
    assert imported == pt._LATER


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match="module 'pyx_transformer' has no attribute 'Model'"):
        _ = pt.Model
