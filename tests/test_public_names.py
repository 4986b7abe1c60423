"""The names of the package: all there, listed, and known to type checkers."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pyx_transformer as pt

MODULES = [name for name in pt.__all__ if isinstance(getattr(pt, name), ModuleType)]


def test_public_names_are_listed_and_nothing_else():
    """By a new Python too, in which nothing has been loaded by its first use."""
    code = "import pyx_transformer as pt; print(*dir(pt))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert sorted(pt.__all__) == dir(pt) == listed.stdout.split()
    assert {"batch", "explain", "metrics", "ops", "plots", "text", "training"} < {*MODULES}
    for name in pt.__all__:
        assert getattr(pt, name) is not None


def test_modules_are_loaded_by_their_first_use():
    code = """
import sys
import pyx_transformer as pt
for name in sys.argv[1:]:
    assert f"pyx_transformer.{name}" not in sys.modules or name == "ops", name
print(pt.training.TrainingOptions(steps=3).steps, pt.text.english("Yes!"))
"""
    found = subprocess.run(
        [sys.executable, "-c", code, *MODULES], capture_output=True, text=True, check=True
    )
    assert found.stdout == "3 yes !\n"


@pytest.mark.parametrize("name", MODULES)
def test_modules_list_their_public_names(name):
    module = getattr(pt, name)
    assert sorted(module.__all__) == dir(module)
    for one in module.__all__:
        assert getattr(module, one) is not None


def test_names_loaded_later_are_imported_for_type_checkers():
    tree = ast.parse(Path(pt.__file__).read_text(encoding="utf-8"))
    block, other = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    assert ast.unparse(other.test) == "not TYPE_CHECKING"
    imported = {
        alias.name: node.module.removeprefix("pyx_transformer").removeprefix(".")
        for node in block.body
        for alias in node.names
    }
    assert imported == pt._LATER | dict.fromkeys(pt._MODULES, "")


def test_help_begins_with_calls_that_there_are():
    """A line for each of the five things."""
    lines = [line.split() for line in pt.__doc__.splitlines() if line.startswith("    ")]
    kinds = [words[0] for words in lines if not words[0].startswith("(")]
    assert kinds == ["translate", "generate", "embed", "train", "study"]
    for names in re.findall(r"pt((?:\.\w+)+)", pt.__doc__):
        found = pt
        for name in names[1:].split("."):
            found = getattr(found, name)
    calls = [" ".join(words[1:]) for words in lines if words[0] in ("translate", "study")]
    for call, expected in zip(calls, ("音楽", "AttentionView"), strict=True):
        assert expected in repr(eval(call.removesuffix('.save("attention.html")'), {"pt": pt}))


@pytest.mark.parametrize("texts", ["a", ["a", "b"], ("a",)])
def test_texts_in_place_of_ids_are_sent_to_what_takes_them(texts):
    small = {"d_model": 8, "num_heads": 2}
    translator = pt.Transformer(pt.TransformerConfig(9, 9, **small))
    generator = pt.TransformerLM(pt.TransformerLMConfig(9, **small))
    encoder = pt.EncoderModel(pt.EncoderConfig(9, **small))
    for call, name in (
        (translator.generate, "pt.Translator"),
        (translator.encode, "pt.Translator"),
        (generator.generate, "pt.TextGenerator"),
        (generator, "pt.TextGenerator"),
        (encoder.encode, "pt.SentenceEncoder"),
    ):
        with pytest.raises(TypeError, match=f"expected token ids; {name} takes texts"):
            call(texts)


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match="module 'pyx_transformer' has no attribute 'Model'"):
        _ = pt.Model
