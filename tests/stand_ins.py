"""Small directories that need neither torch nor transformers to be made: models of the test data
with a vocabulary, and random weights with a tokenizer of real texts."""

import importlib.util
import json
import re
import shutil
import textwrap
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from tokenizer_folders import Sources

from pyx_transformer import batch

REPOSITORY = Path(__file__).resolve().parents[1]
# What the documentation shows of each engine; test_engines.py runs it.
ENGINES = {
    name: textwrap.dedent(script).strip() + "\n"
    for name, script in re.findall(r"^(\w+)[^\n]*:\n\n((?:    .*\n|\n)+)", batch.__doc__, re.M)
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def shaped():
    """The script that makes directories of random weights."""
    path = REPOSITORY / "bench/recipes/shaped.py"
    spec = importlib.util.spec_from_file_location("shaped", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def translator(folder, data):
    """A translator between English and English."""
    pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    texts = (data / "tanaka-en-ja/test.en").read_text("utf-8").splitlines()
    shaped().marian(folder, texts, texts, 400)


def language_model(folder, data):
    """A language model of English."""
    pytest.importorskip("tokenizers", reason="needs the extra `hf`")
    texts = (data / "tanaka-en-ja/test.en").read_text("utf-8").splitlines()
    shaped().llama(folder, texts, 400)


def encoder(folder, data, name="bert"):
    """An encoder with any head."""
    pytest.importorskip("tokenizers", reason="needs the extra `hf`")
    shutil.copytree(data / "hf-tiny" / name, folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    lines = Sources(data).words(SPECIAL).splitlines()[:size]
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")


def reranker(folder, data):
    """A head for labels with one of them left."""
    encoder(folder, data, "bert_classifier")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "fits"}}))
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][:1].copy()
    save_file(tensors, folder / "model.safetensors")
