"""README's scripts run as they are written, directories that they name being stand-ins."""

import re
from pathlib import Path

import pytest
import stand_ins
from safetensors.numpy import save_file

import pyx_transformer as pt

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SCRIPTS = [
    script
    for script in re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    if script not in stand_ins.ENGINES.values()
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


# What scripts open, and what makes each in a folder.
STAND_INS = {
    "opus-mt-en-jap": stand_ins.translator,
    "TinyLlama-1.1B": stand_ins.language_model,
    "all-MiniLM-L6-v2": stand_ins.encoder,
    "ms-marco-MiniLM-L6-v2": stand_ins.reranker,
    "acc_model.pt": weights_alone,
}


def test_there_are_scripts():
    assert len(SCRIPTS) >= 3
    assert all(f"```python\n{script}```" in README for script in stand_ins.ENGINES.values())
    assert all(any(name in script for script in SCRIPTS) for name in STAND_INS)


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_script_runs(number, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    for name, make in STAND_INS.items():
        if name in SCRIPTS[number]:
            make(tmp_path / name, request.getfixturevalue("shared_data"))
    exec(compile(SCRIPTS[number], f"README.md, script {number}", "exec"), {})
