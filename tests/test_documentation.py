"""The blocks of README and of the documentation run as they are written, and show something;
directories that they name are stand-ins, and what installs is for CI alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import stand_ins
from safetensors.numpy import save_file

import pyx_transformer as pt
from pyx_transformer.training import load_recipe

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(REPOSITORY).as_posix(): page.read_text("utf-8") for page in PAGES}


def blocks(language, text):
    """The blocks of a page in a language; those of engines are run by test_engines.py."""
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    return [block for block in found if block not in stand_ins.ENGINES.values()]


SCRIPTS = {page: found for page, text in TEXTS.items() if (found := blocks("python", text))}
COMMANDS = [
    pytest.param(block, id=f"{page}-{number}")
    for page, text in TEXTS.items()
    for number, block in enumerate(blocks("sh", text))
]


def weights_alone(path, data):
    """Under the names of the script: safetensors, which a file's beginning tells."""
    layers = {"num_encoder_layers": 4, "num_decoder_layers": 4, "final_norm": True}
    config = pt.TransformerConfig(
        224,
        224,
        d_model=256,
        num_heads=8,
        d_ff=1024,
        share_embeddings=True,
        positions="learned",
        max_length=256,
        **layers,
    )
    state = pt.Transformer(config, rng=0).state_dict()
    names = {
        "src_embedding.weight": "embed.char_embed.weight",
        "src_positions.weight": "embed.pos_encoding",
        "tgt_positions.weight": None,
    }
    tensors = {}
    for key, array in state.items():
        name = key.replace("output_projection", "output_proj")
        if key.startswith(("encoder.", "decoder.")):
            name = f"transformer.{key}"
        name = names.get(key, name)
        if name is not None:
            tensors[name] = array
    save_file(tensors, path)


def lines(path, data):
    """Some lines of English."""
    texts = (data / "tanaka-en-ja/test.en").read_text("utf-8").splitlines()
    path.write_text("".join(f"{text}\n" for text in texts[:8]), "utf-8")


def recipe(path, data):
    """A run of a few steps."""
    lines(path.with_name("some.en"), data)
    path.write_text(
        '[data]\ntrain_target = "some.en"\n[text]\nkind = "characters"\n[model]\nd_model = 16\n'
        "num_heads = 2\nnum_decoder_layers = 1\nd_ff = 32\n[training]\nsteps = 3\n"
    )


def pair(count):
    """Makes so many lines of English, and their translations beside them."""

    def make(path, data):
        for side in ("en", "ja"):
            texts = (data / f"tanaka-en-ja/train.{side}").read_text("utf-8").splitlines()
            own = path.with_suffix(f".{side}")
            own.write_text("".join(f"{text}\n" for text in texts[:count]), "utf-8")

    return make


# What blocks name, and what makes each in a folder.
STAND_INS = {
    "in.txt": lines,
    "lines.txt": lines,
    "recipe.toml": recipe,
    "test.en": pair(20),
    "dev.en": pair(20),
    "train.en": pair(300),
    "opus-mt-en-jap": stand_ins.translator,
    "TinyLlama-1.1B": stand_ins.language_model,
    "all-MiniLM-L6-v2": stand_ins.encoder,
    "ms-marco-MiniLM-L6-v2": stand_ins.reranker,
    "acc_model.pt": weights_alone,
}


# What commands call: this package as it is imported here, and what only CI runs as written.
PROGRAMS = {
    "pyx-transformer": f'exec "{sys.executable}" -m pyx_transformer "$@"',
    "pip": 'echo pip "$@"',
    "pytest": 'echo pytest "$@"',
    "mkdocs": 'echo mkdocs "$@"',
}
# A test may have fewer CPUs than ranks, and be root's.
OF_MPI = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def make_what_is_named(block, folder, data):
    """Stand-ins for what a block names, in a folder."""
    for name, make in STAND_INS.items():
        is_named = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", block)
        if is_named and not (folder / name).exists():
            make(folder / name, data)


def test_recipes_run(tmp_path, monkeypatch, shared_data):
    """That of the documentation is the one of the translator that ships, on other files."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("toml", TEXTS["docs/how-to/train.md"])
    make_what_is_named(block, tmp_path, shared_data)
    Path("own.toml").write_text(block, "utf-8")
    quick = {"training.steps": 1, "training.validate_every": 1}
    recipe = load_recipe("own.toml", quick)
    shipped = load_recipe(REPOSITORY / "bench/recipes/en_ja.toml", quick)
    for table in ("text", "model", "training"):
        assert getattr(recipe, table) == getattr(shipped, table)
    assert recipe.run("run").best is not None


def test_there_are_blocks():
    assert len(SCRIPTS) >= 6 and len(COMMANDS) >= 8
    shown = TEXTS["docs/how-to/scale.md"]
    assert all(f"```python\n{script}```" in shown for script in stand_ins.ENGINES.values())


def test_every_public_name_is_in_the_reference():
    """Those of modules too; what is of use of `generation` is in the package itself."""
    text = "".join(text for page, text in TEXTS.items() if page.startswith("docs/reference/"))
    shown = {*re.findall(r"^::: pyx_transformer\.([\w.]+)", text, re.M), "generation"}
    for name in {*pt.__all__} - shown:
        one = getattr(pt, name)
        assert isinstance(one, ModuleType), name
        assert {f"{name}.{own}" for own in {*one.__all__} - {*pt.__all__}} <= shown


def test_what_extras_bring():
    project = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    extras = dict(re.findall(r'^(\w+) = \["(.*)"\]$', project, re.M))
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", TEXTS["docs/how-to/install.md"], re.M)
    assert len(rows) == 6
    for extra, brings in rows:
        for package in re.findall(r'(?:^|", ")([\w-]+)', extras[extra]):
            assert package in brings.lower(), (extra, package)


def test_readme_is_short():
    assert len(TEXTS["README.md"].split()) <= 1500


@pytest.mark.parametrize("page", SCRIPTS)
def test_scripts_run(page, tmp_path, monkeypatch, capsys, shared_data):
    """One after the other, as somebody types them in."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, script in enumerate(SCRIPTS[page]):
        make_what_is_named(script, tmp_path, shared_data)
        exec(compile(script, f"{page}, script {number}", "exec"), names)
        printed = capsys.readouterr()
        assert printed.out or printed.err, script


@pytest.mark.parametrize("block", COMMANDS)
def test_commands_run(block, tmp_path, shared_data):
    """As bash runs them in a clone; `pip` and `pytest` are what CI runs."""
    if "mpiexec" in block:
        pytest.importorskip("mpi4py")
        if shutil.which("mpiexec") is None:
            pytest.skip("needs mpiexec")
    make_what_is_named(block, tmp_path, shared_data)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, does in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    before = set(tmp_path.iterdir())
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env={**os.environ, **OF_MPI, "PATH": path, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or set(tmp_path.iterdir()) > before
