"""The order of the source: imports point down, files are short, and every name says something."""

import ast
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "pyx_transformer"

# From the top down: a module or folder may import what stands on a lower line.
LEVELS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("__init__",),
    ("saving", "training", "batch", "pool", "explain"),
    ("_jobs",),
    ("pipelines", "metrics"),
    ("checkpoints",),
    ("transformer", "language_model", "encoder_model"),
    ("generation", "token_model"),
    ("heads", "embeddings"),
    ("config",),
    ("token_config", "config_values"),
    ("head_configs", "sizes"),
    ("stacks",),
    ("stack",),
    ("sub_layers",),
    ("attention", "feed_forward"),
    ("layers", "norms"),
    ("positions", "sequences", "parameters"),
    ("description",),
    ("_fields",),
    ("ops", "text"),
    ("tokenizers",),
    ("explain_layouts", "explain_text", "generated_text"),
    ("pages",),
    ("plots",),
    ("_parts", "_run_log", "_tables"),
    ("_files", "_kinds"),
    ("_checks", "_keys", "_reprs", "_runtime"),
    ("_kernels", "_ctrl_c", "_version", "_wanted"),
)
LEVEL_OF = {name: -i for i, names in enumerate(LEVELS) for name in names}
DEPENDENCIES = {"numpy", "safetensors"}
MOST_LINES = 450

SOURCE_SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".h"}
SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in SOURCE_SUFFIXES)
MODULES = [p for p in SOURCES if p.suffix == ".py"]


def named(path):
    return path.relative_to(REPOSITORY).as_posix()


def unit(module):
    """The module or folder of the package of a dotted name: a for pyx_transformer.a.b."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path):
    """Yield (statement, dotted name) for everything that a file imports, inside functions too.

    `from x import y` gives x.y where that is a module or folder of the package, else x.
    """
    package = path.relative_to(REPOSITORY).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                inner = REPOSITORY.joinpath(*source.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield node, f"{source}.{alias.name}" if is_module else source


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_imports_point_down(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in LEVEL_OF, f"{named(path)}: give {own} a place in LEVELS"
    for node, name in imported(path):
        if name.split(".")[0] != PACKAGE.name or unit(name) == own:
            continue
        place = f"{named(path)}:{node.lineno}"
        assert unit(name) in LEVEL_OF, f"{place}: give {unit(name)} a place in LEVELS"
        assert LEVEL_OF[unit(name)] < LEVEL_OF[own], f"{place}: {own} imports {unit(name)}"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_optional_packages_are_imported_where_they_are_used(path):
    """At the top of a file stand the standard library, the dependencies and the package itself."""
    allowed = {*sys.stdlib_module_names, *DEPENDENCIES, PACKAGE.name}
    for node, name in imported(path):
        if node.col_offset == 0:
            assert name.split(".")[0] in allowed, f"{named(path)}:{node.lineno} imports {name}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p not in MODULES], ids=named)
def test_kernels_know_only_kernels(path):
    statement = re.compile(rf"^\s*(?:from|import|cimport)\s+({PACKAGE.name}[.\w]*)", re.MULTILINE)
    for name in statement.findall(path.read_text(encoding="utf-8")):
        assert unit(name) == "_kernels", f"{named(path)} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{named(path)} has {lines} lines: split it by noun"


def test_no_file_is_named_after_nothing():
    empty = re.compile(r"_*(utils?|common|helpers?)")
    folders = [PACKAGE, REPOSITORY / "tests", REPOSITORY / "bench"]
    paths = [path for folder in folders for path in folder.rglob("*")]
    assert [named(path) for path in paths if empty.fullmatch(path.stem)] == []
