"""A real trained model, from Arabic letters to English ones, with the results of its origin."""

import json
import shutil

import numpy as np
import pytest
from models import assert_same_bits, num_threads

import pyx_transformer as pt
from pyx_transformer import _runtime

# What the weights and vocabularies do not say of the model.
CONFIG = {
    "src_vocab_size": 51,
    "tgt_vocab_size": 43,
    "d_model": 32,
    "num_heads": 8,
    "num_encoder_layers": 6,
    "num_decoder_layers": 6,
    "d_ff": 128,
    "activation": "relu",
    "norm_first": True,
    "final_norm": True,
    "layer_norm_eps": 1e-5,
    "positions": "sinusoidal",
    "position_layout": "halves",
    "position_frequencies": "tensor2tensor",
    "position_start": 1,
    "scale_embeddings": True,
    "start_id": 1,
    "end_id": 2,
}


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory):
    """The trained weights and vocabularies beside a config."""
    folder = tmp_path_factory.mktemp("aren")
    for name in ("model.safetensors", "source_vocabulary.txt", "target_vocabulary.txt"):
        shutil.copyfile(shared_data / "aren" / name, folder / name)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(params=_runtime.available_isas())
def model(request, folder, monkeypatch):
    """The model, on each instruction set."""
    monkeypatch.setattr(_runtime, "kernels", _runtime.load_kernels(request.param))
    return pt.load(folder)


@pytest.fixture(scope="module")
def examples(shared_data):
    return json.loads((shared_data / "aren" / "examples.json").read_text(encoding="utf-8"))


def ids_of(tokens, vocabulary):
    """The id of each token; unknown ones have the id after the last line."""
    return [vocabulary.index(t) if t in vocabulary else len(vocabulary) for t in tokens]


def batch(sequences, vocabulary):
    """Token ids (B, longest) and lengths (B,)."""
    lengths = [len(sequence) for sequence in sequences]
    ids = np.zeros((len(sequences), max(lengths)), np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = ids_of(sequence, vocabulary)
    return ids, lengths


def scoring_arguments(model, cases):
    src, src_lengths = batch([case["src"] for case in cases], model.src_vocabulary)
    tgt, tgt_lengths = batch([case["tgt"] for case in cases], model.tgt_vocabulary)
    return src, tgt, src_lengths, tgt_lengths


def test_the_model_is_whole(model):
    assert model.num_parameters == 182_731
    assert len(model.src_vocabulary) == CONFIG["src_vocab_size"] - 1
    assert len(model.tgt_vocabulary) == CONFIG["tgt_vocab_size"] - 1
    assert model.tgt_vocabulary[1:3] == ["<s>", "</s>"]


def test_scores(model, examples):
    cases = examples["scoring"]
    assert len(cases) == 5
    scores = model.score(*scoring_arguments(model, cases))
    for case, row in zip(cases, scores, strict=True):
        expected = case["token_logprobs"]
        assert row.shape == (len(case["tgt"]) + 1,) == (len(expected),)
        np.testing.assert_allclose(row, expected, rtol=0, atol=examples["scoring_abs_tol"])


def test_translations(model, examples):
    cases = examples["translate"]
    assert len(cases) == 2
    src, lengths = batch([case["src"] for case in cases], model.src_vocabulary)
    generation = model.generate(src, lengths, max_length=50)
    words = ["".join(model.tgt_vocabulary[i] for i in row) for row in generation]
    assert words == [case["out"] for case in cases]
    assert generation.is_finished.all()


@pytest.mark.parametrize("threads", (1, 2, 3, 4))
def test_the_same_bits_alone_and_as_one_batch(model, examples, threads):
    cases = examples["scoring"]
    src, _, src_lengths, _ = together = scoring_arguments(model, cases)
    with num_threads(1):
        scores = model.score(*together)
        words = model.generate(src, src_lengths, max_length=50)
    with num_threads(threads):
        for b, case in enumerate(cases):
            alone = scoring_arguments(model, [case])
            assert_same_bits(model.score(*alone)[0], scores[b])
            (word,) = model.generate(alone[0], max_length=50)
            np.testing.assert_array_equal(word, words[b])
        for row, expected in zip(model.score(*together), scores, strict=True):
            assert_same_bits(row, expected)


def test_the_unknown_token(model):
    """It is the last row of the table, after that of the last line; there is no id beyond."""
    (unknown,) = ids_of(["?"], model.src_vocabulary)
    known = ids_of(["ا"], model.src_vocabulary)
    assert unknown == 50
    ids = np.array([[*known, unknown, *known]])
    word = model.generate(ids, max_length=50)
    assert word.is_finished.all()
    assert len(word[0]) > 0
    embedded = model.src_embedding(ids)[0, 1]
    assert_same_bits(embedded, model.state_dict()["src_embedding.weight"][50])
    assert np.abs(embedded).max() > 0
    with pytest.raises(
        ValueError, match=r"^Transformer.generate: src\[0, 1\] is 51, expected 0 to 50"
    ):
        model.generate(np.where(ids == unknown, unknown + 1, ids))


@pytest.mark.parametrize(("beam_size", "least"), [(1, 200), (4, 196)])
def test_ctranslate2_finds_the_same(folder, shared_data, beam_size, least):
    """On random strings: the best text of at least so many, and there its score.

    CTranslate2 allows no end at the first step unless told to.
    """
    ctranslate2 = pytest.importorskip("ctranslate2", reason="needs CTranslate2 as a peer")
    model = pt.load(folder)
    rng = np.random.default_rng(0)
    letters = [token for token in model.src_vocabulary if len(token) == 1]
    assert len(letters) > 30
    sources = [rng.choice(letters, rng.integers(1, 13)).tolist() for _ in range(200)]
    theirs = ctranslate2.Translator(str(shared_data / "aren"), compute_type="float32")
    expected = theirs.translate_batch(sources, beam_size=beam_size, return_scores=True)
    src, lengths = batch(sources, model.src_vocabulary)
    found = model.generate(src, lengths, beam_size=beam_size, min_length=1, return_scores=True)
    agreed = 0
    for row, score, result in zip(found, found.scores, expected, strict=True):
        tokens = [*model.tgt_vocabulary, "<unk>"]
        if [tokens[i] for i in row] == result.hypotheses[0]:
            agreed += 1
            assert abs(score - result.scores[0]) < 1e-4
    assert agreed >= least


def test_it_goes_round(model, folder, examples, tmp_path):
    model.save(tmp_path)
    again = pt.load(tmp_path)
    arguments = scoring_arguments(model, examples["scoring"])
    for row, expected in zip(again.score(*arguments), model.score(*arguments), strict=True):
        assert_same_bits(row, expected)
    for name in ("source_vocabulary.txt", "target_vocabulary.txt"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
