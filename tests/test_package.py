"""What is installed: metadata, stubs, size, and what importing it loads."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from types import ModuleType

import pytest

import pyx_transformer as pt
from pyx_transformer import _runtime

INSTALLED = Path(pt.__file__).parent
SOURCE = Path(__file__).resolve().parents[1] / "pyx_transformer"


def new_modules(statement):
    """The modules that a new Python which has NumPy loads for this statement."""
    code = (
        "import sys, json, numpy; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def stub_names(path):
    """The public names that a stub declares, with the names of the arguments of each function."""
    names = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            arguments = node.args.args + node.args.kwonlyargs
            names[node.name] = [argument.arg for argument in arguments]
        elif isinstance(node, ast.ClassDef):
            names[node.name] = None
        elif isinstance(node, ast.AnnAssign):
            names[node.target.id] = None
    return names


def compiled_names(module):
    """The same of a compiled module."""
    names = {}
    for name, value in vars(module).items():
        if not name.startswith("_") and not isinstance(value, ModuleType):
            is_function = callable(value) and not isinstance(value, type)
            names[name] = list(signature(value).parameters) if is_function else None
    return names


def test_version():
    assert importlib.metadata.version("pyx-transformer") == pt.__version__


def test_dependencies():
    requirements = importlib.metadata.requires("pyx-transformer")
    needed = [line for line in requirements if "extra ==" not in line]
    assert sorted(line.partition(">")[0] for line in needed) == ["numpy", "safetensors"]


def test_command():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="pyx-transformer")
    assert command.value == "pyx_transformer.cli:main"


def test_importing_loads_numpy_and_one_set_of_kernels_only():
    loaded = new_modules("import pyx_transformer")
    own = [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names]
    # cython_runtime and _cython_<version> are made up by the compiled modules.
    foreign = [name for name in own if not re.match(r"pyx_transformer\b|_?cython_", name)]
    assert foreign == []
    compiled = [name for name in own if name.startswith("pyx_transformer._kernels.")]
    assert len(compiled) == 2, compiled  # cpu, and the chosen set
    assert "pyx_transformer._kernels.cpu" in compiled


def test_installed_size():
    files = [path for path in INSTALLED.rglob("*") if path.is_file()]
    sizes = {path.relative_to(INSTALLED): path.stat().st_size for path in files}
    model = sum(sizes[path] for path in sizes if path.parts[:2] == ("models", "shakespeare"))
    assert 0 < model < 3e6 and sum(sizes.values()) < 15e6


def test_typing_marker_and_stubs_are_installed():
    assert (INSTALLED / "py.typed").is_file()
    compiled = {path.name.partition(".")[0] for path in INSTALLED.glob("_kernels/*.so")}
    stubs = {path.stem for path in INSTALLED.glob("_kernels/*.pyi")}
    assert compiled <= stubs


def test_sources_of_the_kernels_are_not_installed():
    if INSTALLED == SOURCE:
        pytest.skip("an editable installation uses the source folder")
    files = [path.relative_to(INSTALLED) for path in INSTALLED.rglob("*") if path.is_file()]
    names = {path.suffix for path in files if path.parts[0] not in ("models", "pages", "recipes")}
    assert names <= {".py", ".pyc", ".pyi", ".so", ".typed"}


def test_what_readme_leads_to_is_in_the_source_distribution():
    repository = SOURCE.parent
    taken = set()
    for line in (repository / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        what, *names = line.split()
        if what == "recursive-include":
            folder, *patterns = names
            taken |= {path for one in patterns for path in (repository / folder).rglob(one)}
        elif what == "include":
            taken |= {repository / name for name in names}
    readme = (repository / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", readme)
    assert len(links) > 10
    assert [link for link in links if repository / link not in taken] == []


def test_styles_and_scripts_of_pages_are_installed():
    wanted = {path.name for path in (SOURCE / "pages").iterdir() if path.is_file()}
    assert {".css", ".js", ".py"} == {Path(name).suffix for name in wanted}
    assert wanted <= {path.name for path in (INSTALLED / "pages").iterdir()}


def test_stub_of_the_kernels_matches_them(kernels):
    names = [
        stub_names(INSTALLED / "_kernels" / f"{name}.pyi") for name in ("_entry", "_gradients")
    ]
    assert names[0] | names[1] == compiled_names(kernels)


def test_stub_of_cpu_matches_it():
    assert stub_names(INSTALLED / "_kernels" / "cpu.pyi") == compiled_names(_runtime.cpu)
