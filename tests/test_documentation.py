"""The blocks of README and of the documentation run as they are written, and show something;
directories that they name are stand-ins, and what installs is for CI alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stand_ins
from safetensors.numpy import save_file

import pyx_transformer as pt

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(REPOSITORY).as_posix(): page.read_text("utf-8") for page in PAGES}


def blocks(language):
    """The blocks of all pages in a language, with names."""
    return [
        pytest.param(block, id=f"{page}-{number}")
        for page, text in TEXTS.items()
        for number, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S))
        if block not in stand_ins.ENGINES.values()
    ]


SCRIPTS, COMMANDS = blocks("python"), blocks("sh")


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


# What scripts open, and what makes each in a folder.
STAND_INS = {
    "opus-mt-en-jap": stand_ins.translator,
    "TinyLlama-1.1B": stand_ins.language_model,
    "all-MiniLM-L6-v2": stand_ins.encoder,
    "ms-marco-MiniLM-L6-v2": stand_ins.reranker,
    "acc_model.pt": weights_alone,
}


def make_what_is_named(block, folder, data):
    """Stand-ins for what a block names, in a folder, and the repository's own beside it."""
    for name, make in STAND_INS.items():
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", block):
            make(folder / name, data)


def test_there_are_blocks():
    assert len(SCRIPTS) >= 12 and len(COMMANDS) >= 8
    shown = TEXTS["docs/how-to/scale.md"]
    assert all(f"```python\n{script}```" in shown for script in stand_ins.ENGINES.values())


def test_readme_is_short():
    assert len(TEXTS["README.md"].split()) <= 1500


@pytest.mark.parametrize("block", SCRIPTS)
def test_script_runs(block, tmp_path, monkeypatch, capsys, shared_data):
    monkeypatch.chdir(tmp_path)
    make_what_is_named(block, tmp_path, shared_data)
    exec(compile(block, "a block of the documentation", "exec"), {})
    printed = capsys.readouterr()
    assert printed.out or printed.err


@pytest.mark.parametrize("block", COMMANDS)
def test_commands_run(block, tmp_path, shared_data):
    """As bash runs them in a clone; `pip` and `pytest` are what CI runs."""
    if "mpiexec" in block and shutil.which("mpiexec") is None:
        pytest.skip("needs mpiexec")
    make_what_is_named(block, tmp_path, shared_data)
    script = f'pip() {{ echo "pip $*"; }}\npytest() {{ echo "pytest $*"; }}\n{block}'
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or done.stderr or any(tmp_path.iterdir())
