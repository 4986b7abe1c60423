"""README's scripts run as they are written, directories that they name being stand-ins."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from tokenizer_folders import Sources

import pyx_transformer as pt

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
# What scripts open, and what makes each in a folder.
STAND_INS = {}


def stand_in(name):
    return lambda make: STAND_INS.setdefault(name, make)


def shaped():
    """The script that makes directories of random weights."""
    path = REPOSITORY / "bench/recipes/shaped.py"
    spec = importlib.util.spec_from_file_location("shaped", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@stand_in("opus-mt-en-jap")
def translator(folder, data):
    pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    texts = (data / "tanaka-en-ja/test.en").read_text("utf-8").splitlines()
    shaped().marian(folder, texts, texts, 400)


@stand_in("TinyLlama-1.1B")
def language_model(folder, data):
    pytest.importorskip("tokenizers", reason="needs the extra `hf`")
    texts = (data / "tanaka-en-ja/test.en").read_text("utf-8").splitlines()
    shaped().llama(folder, texts, 400)


def encoder(folder, data, name, special):
    pytest.importorskip("tokenizers", reason="needs the extra `hf`")
    shutil.copytree(data / "hf-tiny" / name, folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    lines = Sources(data).words(special).splitlines()[:size]
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")


@stand_in("all-MiniLM-L6-v2")
def sentence_encoder(folder, data):
    encoder(folder, data, "bert", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))


@stand_in("ms-marco-MiniLM-L6-v2")
def reranker(folder, data):
    """A head for labels with one of them left."""
    encoder(folder, data, "bert_classifier", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "fits"}}))
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][:1].copy()
    save_file(tensors, folder / "model.safetensors")


@stand_in("acc_model.pt")
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


def test_there_are_scripts():
    assert len(SCRIPTS) >= 3
    assert all(any(name in script for script in SCRIPTS) for name in STAND_INS)


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_script_runs(number, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    for name, make in STAND_INS.items():
        if name in SCRIPTS[number]:
            make(tmp_path / name, request.getfixturevalue("shared_data"))
    exec(compile(SCRIPTS[number], f"README.md, script {number}", "exec"), {})
