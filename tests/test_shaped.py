"""Directories of random weights in Hugging Face's layout, which recipes go on from: opened as they
are written, read by transformers, and trained further on a small task."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY
from runs import OPTIONS

import pyx_transformer as pt
from pyx_transformer.training import Examples, train
from pyx_transformer.training.validation import mean_loss

SHORT = replace(
    OPTIONS,
    steps=60,
    batch_tokens=1000,
    peak_rate=5e-3,
    warmup=10,
    dropout=0.0,
    label_smoothing=0.0,
    average_decay=0.0,
    validate_every=60,
)
ENGLISH = [
    "the cat sleeps on the mat .",
    "a dog eats .",
    "you know the dog .",
    "i sleep here .",
] * 5
GERMAN = ["die katze schläft .", "ein hund frisst .", "du kennst den hund .", "ich schlafe ."] * 5


@pytest.fixture(scope="module")
def script():
    path = REPOSITORY / "bench" / "recipes" / "shaped.py"
    spec = importlib.util.spec_from_file_location("shaped", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_as_theirs(kind, folder, model, *inputs):
    """transformers finds every weight, and nothing that it does not know; its logits are ours."""
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")
    transformers = pytest.importorskip("transformers", reason="needs transformers to compare with")
    theirs, found = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    names = ("input_ids", "decoder_input_ids")
    arguments = {name: torch.tensor(ids) for name, ids in zip(names, inputs, strict=False)}
    expected = theirs.eval()(**arguments).logits.detach().numpy()
    np.testing.assert_allclose(model(*inputs), expected, rtol=0, atol=1e-5)


def assert_learned(model, examples, folder):
    before = mean_loss(model, examples)
    train(model, examples, None, SHORT, folder)
    assert mean_loss(pt.load(folder / "model"), examples) < before / 3


def test_a_translator_of_marians_shape(script, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    folder = tmp_path / "marian"
    script.marian(folder, ENGLISH, GERMAN, 60)
    model, vocabulary = pt.load(folder), json.loads((folder / "vocab.json").read_text("utf-8"))
    assert sorted(vocabulary.values()) == list(range(model.config.src_vocab_size))
    assert vocabulary["<pad>"] == model.config.start_id == model.config.src_vocab_size - 1
    assert vocabulary["</s>"] == model.config.end_id == 0
    assert not model.src_embedding.weight[model.config.start_id].any()

    def ids_of(side, texts):
        processor = sentencepiece.SentencePieceProcessor(str(folder / f"{side}.spm"))
        return [[vocabulary[p] for p in processor.EncodeAsPieces(text)] for text in texts]

    sources = [[*ids, 0] for ids in ids_of("source", ENGLISH[:4])]
    targets = ids_of("target", GERMAN[:4])
    start = model.config.start_id
    assert_as_theirs("MarianMTModel", folder, model, [sources[0]], [[start, *targets[0]]])
    examples = Examples(sources, targets, start_id=start, end_id=0)
    assert_learned(model, examples, tmp_path / "run")
    for source, target in zip(sources, targets, strict=True):
        assert model.generate([source], max_length=20).sequences[0].tolist() == target


def test_a_language_model_of_llamas_shape(script, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    folder = tmp_path / "llama"
    script.llama(folder, ENGLISH, 300)
    model, tokenizer = (
        pt.load(folder),
        tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")),
    )
    assert tokenizer.get_vocab_size() == model.config.tgt_vocab_size
    texts = [tokenizer.encode(text).ids for text in ENGLISH[:4]]
    assert [ids[0] for ids in texts] == [tokenizer.token_to_id("<s>")] * 4
    assert tokenizer.token_to_id("</s>") == model.config.end_id
    assert tokenizer.decode(texts[0]) == ENGLISH[0]
    assert_as_theirs("LlamaForCausalLM", folder, model, [texts[0]])
    assert_learned(model, Examples(None, texts, start_id=None, end_id=2), tmp_path / "run")


def test_speeches_are_lines(script):
    play = "First:\nBefore we proceed\nany further.\n\nAll:\nSpeak.\n\n\nFirst:\n  You  are\n"
    assert script.speeches(play) == [
        "First: Before we proceed any further.",
        "All: Speak.",
        "First: You are",
    ]
