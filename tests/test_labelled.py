"""Classifiers that are trained: gradients against transformers on PyTorch, what they learn, and
what is said of wrong labels."""

import math
from dataclasses import replace

import numpy as np
import pytest
from models import assert_same_bits, num_threads, randomised, token_ids
from runs import OPTIONS, bits
from test_families import GRADIENT_TOLERANCE, TIMES, Stored

import pyx_transformer as pt
from pyx_transformer.parameters import Parameters
from pyx_transformer.training import Examples, Labelled, Texts, train
from pyx_transformer.training.gradients import Dropout, add_gradients
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.validation import validate

VOCABULARY = 23


def classifier(labels=("no", "yes", "maybe"), *, pooler=False, **head):
    """A model with distinct small sizes, random parameters, token types and this head."""
    sizes = {"d_model": 24, "num_heads": 3, "num_encoder_layers": 2, "d_ff": 41, "max_length": 97}
    config = pt.EncoderConfig(
        VOCABULARY,
        **sizes,
        num_token_types=2,
        pooler=pooler,
        head=pt.ClassifierConfig(labels, **head),
    )
    return randomised(pt.EncoderModel(config, rng=0), seed=3)


def some_labelled(count=20, seed=0, kind=int):
    """Texts of 1 to 9 tokens with one of three labels each, a score, or a label of each token."""
    rng = np.random.default_rng(seed)
    texts = [token_ids(rng, VOCABULARY, 1 + i % 9) for i in range(count)]
    types = [np.arange(len(text)) % 2 for text in texts]
    if kind is list:
        labels = [(text % 4) - 1 for text in texts]  # some tokens have none
        for own in labels:
            own[0] = max(own[0], 0)
    else:
        labels = [kind(text[0] % 3) for text in texts]
    return Labelled(texts, labels, token_types=types)


HEADS = {
    "first": {},
    "pooler": {"pooler": True},
    "mean": {"pooling": "mean"},
    "tanh": {"dense": True, "activation": "tanh"},
    "gelu and norm": {
        "pooling": "mean",
        "dense": True,
        "activation": "gelu",
        "bias": False,
        "norm": pt.NormConfig(),
    },
    "tokens": {"of_tokens": True},
}


@pytest.mark.parametrize("kind", HEADS)
def test_without_dropout_logits_are_those_of_the_model_itself(kind):
    model = classifier(**HEADS[kind])
    texts = some_labelled(9, kind=list if kind == "tokens" else int)
    batch = texts.batch(np.arange(9))
    rows, _ = model.forward(batch, Parameters(model).whole(), Dropout(0.0))
    expected = [
        model(one[None], None, types[None])[0]
        for one, types in zip(texts.texts, texts.token_types, strict=True)
    ]
    if kind == "tokens":
        expected = np.concatenate(expected)[batch.places]
    assert_same_bits(model.projection.apply(rows), np.array(expected))


# Against PyTorch.


def with_labels(one):
    """The inputs of a stored model with labels of their own: ours, and theirs as its arguments."""
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")
    rng, head = np.random.default_rng(0), one.model.config.head
    types = one.expected.get("token_type_ids")
    mask = np.arange(one.ids.shape[1]) < one.lengths[:, None]
    theirs = {"input_ids": one.ids, "attention_mask": mask.astype(np.int64)}
    if types is not None:
        theirs["token_type_ids"] = types
        types = [row[:n] for row, n in zip(types, one.lengths, strict=True)]
    if head.of_tokens:
        labels = np.where(mask, rng.integers(-1, len(head.labels), one.ids.shape), -1)
        theirs["labels"] = np.where(labels < 0, -100, labels)
        labels = [row[:n] for row, n in zip(labels, one.lengths, strict=True)]
    elif len(head.labels) == 1:
        labels = theirs["labels"] = rng.normal(size=len(one.ids))
    else:
        labels = theirs["labels"] = rng.integers(0, len(head.labels), len(one.ids))
    texts = [row[:n] for row, n in zip(one.ids, one.lengths, strict=True)]
    ours = Labelled(texts, labels, token_types=types)
    return ours, {name: torch.tensor(array) for name, array in theirs.items()}


def assert_trained_as_theirs(folder):
    """The loss of a batch and the gradients of all parameters are those that transformers gives in
    float64, on weights in Hugging Face's layout."""
    transformers = pytest.importorskip("transformers", reason="needs transformers to compare with")
    one = Stored(folder)
    theirs = getattr(transformers, one.theirs["architectures"][0]).from_pretrained(folder)
    theirs = theirs.double().eval()
    theirs.get_input_embeddings().padding_idx = None  # whose gradient is kept back otherwise
    examples, arguments = with_labels(one)
    wanted = theirs(**arguments).loss
    wanted.backward()
    expected = one.by_our_names(
        {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    )
    examples.check("examples", one.model)
    batch, parameters = examples.batch(np.arange(len(examples))), Parameters(one.model)
    tokens = len(batch.targets)
    loss = add_gradients(one.model, parameters, batch, tokens=tokens) / tokens
    assert abs(loss - wanted.item()) < 1e-5
    actual = parameters.state_dict(parameters.gradients)
    assert actual.keys() == expected.keys()
    for key in expected:
        scale = max(np.abs(expected[key]).max(), 1e-3)
        error = np.abs(actual[key] - expected[key]).max()
        assert error <= max(GRADIENT_TOLERANCE, TIMES * one.relative_error) * scale, key


@pytest.mark.parametrize(
    "name", ["bert_classifier", "bert_tagger", "distilbert_classifier", "roberta_reranker"]
)
def test_gradients_are_those_of_transformers(name, shared_data):
    assert_trained_as_theirs(shared_data / "hf-tiny" / name)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_gradients_of_a_head_with_a_norm(pooling, tmp_path):
    """ModernBERT's, of the first row and of the mean."""
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")
    transformers = pytest.importorskip("transformers", reason="needs transformers to compare with")
    config = transformers.ModernBertConfig(
        vocab_size=41,
        hidden_size=36,
        intermediate_size=52,
        num_hidden_layers=2,
        num_attention_heads=3,
        local_attention=8,
        num_labels=4,
        classifier_pooling=pooling,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id"), 0),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
    )
    torch.manual_seed(0)
    theirs = transformers.ModernBertForSequenceClassification(config).eval()
    for parameter in theirs.parameters():  # biases and norms too
        parameter.data += torch.randn(parameter.shape) / 10
    theirs.save_pretrained(tmp_path)
    ids = np.random.default_rng(0).integers(3, 41, (3, 11))
    mask = (np.arange(11) < np.array([[11], [7], [2]])).astype(np.int64)
    arguments = torch.tensor(ids), torch.tensor(mask)
    expected = {
        "logits": theirs(*arguments).logits.detach().numpy(),
        "logits_fp64": theirs.double()(*arguments).logits.detach().numpy(),
    }
    np.savez(tmp_path / "expected.npz", input_ids=ids, attention_mask=mask, **expected)
    assert_trained_as_theirs(tmp_path)


# Runs.


@pytest.mark.parametrize("kind", HEADS)
def test_the_same_bits_for_any_number_of_threads(kind):
    """Loss and gradients, of a batch so large that several threads share the work."""
    texts = some_labelled(300, kind=list if kind == "tokens" else int)
    model = classifier(**HEADS[kind])
    results = []
    for threads in (1, 2, 3):
        parameters = Parameters(model)
        with num_threads(threads):
            loss = add_gradients(
                model, parameters, texts.batch(np.arange(300)), tokens=300, dropout=0.1
            )
        results.append((loss, parameters.gradients.tobytes()))
    assert results[1:] == results[:1] * 2


def learned(model, examples, folder, **changes):
    """The figures of a model before training, and those of each validation, with examples of its
    own."""
    options = replace(OPTIONS, average_decay=0.0, dropout=0.0, label_smoothing=0.0, steps=120)
    options = replace(options, peak_rate=5e-3, warmup=10, validate_every=40, schedule="cosine")
    before = validate(model, examples, with_bleu=False)
    train(model, examples, examples, replace(options, **changes), folder)
    log = read_log(folder / "log.jsonl")
    return before, [entry["validation"] for entry in log if "validation" in entry]


def test_a_classifier_learns_a_label_of_each_text(tmp_path):
    """The best accuracy decides which weights are kept."""
    model, examples = classifier(pooling="mean"), some_labelled()
    before, figures = learned(model, examples, tmp_path, metric="accuracy")
    assert before["accuracy"] < 0.7
    assert figures[-1]["accuracy"] == 1
    assert figures[-1]["loss"] < 0.1 < before["loss"]
    best = pt.load(tmp_path / "model")
    assert best.config == model.config
    types = [types[None] for types in examples.token_types]
    logits = [best(ids[None], None, own)[0] for ids, own in zip(examples.texts, types, strict=True)]
    assert np.argmax(logits, axis=1).tolist() == examples.labels.tolist()


def test_a_tagger_learns_a_label_of_each_token(tmp_path):
    model, examples = classifier(of_tokens=True), some_labelled(kind=list)
    before, figures = learned(model, examples, tmp_path)
    assert before["accuracy"] < 0.7
    assert figures[-1] == {"loss": pytest.approx(0, abs=0.1), "accuracy": 1}


def test_a_model_with_one_label_learns_scores(tmp_path):
    model, examples = classifier(("score",)), some_labelled(kind=float)
    before, figures = learned(model, examples, tmp_path)
    assert figures[-1].keys() == {"loss"}
    scores = [
        model(ids[None], None, types[None]).item()
        for ids, types in zip(examples.texts, examples.token_types, strict=True)
    ]
    squares = np.square(scores - examples.labels)
    assert squares.mean() == pytest.approx(figures[-1]["loss"], rel=1e-5)
    assert figures[-1]["loss"] < 0.05 < before["loss"]


@pytest.mark.parametrize("kind", [int, float, list])
def test_a_resumed_run_ends_with_the_same_bits(kind, tmp_path):
    arguments = {int: {}, float: {"labels": ("score",)}, list: {"of_tokens": True}}[kind]
    whole = classifier(**arguments)
    train(whole, some_labelled(kind=kind), None, OPTIONS, tmp_path / "whole")
    for threads, steps in ((1, 4), (3, 12)):
        resumed = classifier(**arguments)
        if steps == 12:
            randomised(resumed, 9)  # its weights come from the checkpoint
        options = replace(OPTIONS, steps=steps)
        with num_threads(threads):
            examples = some_labelled(kind=kind)
            train(resumed, examples, None, options, tmp_path / "parts", resume=True)
    assert bits(resumed) == bits(whole)
    other = some_labelled(kind=kind)
    other.labels[0] = other.labels[0] * 0 + 1 - (other.labels[0] == 1)
    with pytest.raises(ValueError, match="its examples differ"):
        train(resumed, other, None, OPTIONS, tmp_path / "parts", resume=True)


@pytest.mark.parametrize("kind", [int, float, list])
def test_the_log_says_what_its_loss_is_of(kind, tmp_path):
    """Labels are smoothed, scores are not: their loss is the same with any smoothing."""
    arguments = {int: {}, float: {"labels": ("score",)}, list: {"of_tokens": True}}[kind]
    told = []
    for smoothing in (0.0, 0.5):
        options = replace(OPTIONS, steps=1, dropout=0.25, label_smoothing=smoothing)
        folder = tmp_path / str(smoothing)
        train(classifier(**arguments), some_labelled(kind=kind), None, options, folder)
        (entry,) = read_log(folder / "log.jsonl")
        told.append((entry["dropout"], entry["label_smoothing"], entry["loss"]))
    assert [one[0] for one in told] == [0.25, 0.25]
    assert [one[1] for one in told] == [0, 0 if kind is float else 0.5]
    assert (told[0][2] == told[1][2]) == (kind is float)


@pytest.mark.parametrize("kind", [int, float, list])
def test_a_split_keeps_texts_with_their_labels(kind):
    whole = some_labelled(20, kind=kind)
    parts = whole.split(0.124)
    assert [len(part) for part in parts] == [18, 2]
    for name in ("texts", "labels", "token_types"):
        together = [*getattr(parts[0], name), *getattr(parts[1], name)]
        assert all(map(np.array_equal, together, getattr(whole, name)))


# Wrong ones.


@pytest.mark.parametrize(
    ("texts", "labels", "settings", "says"),
    [
        ([[3], [4]], [1], {}, "labels has 1 entries, expected 2 because texts has as many"),
        ([[3, 4]], [[1]], {}, r"labels\[0\] has 1 entries, expected 2 because texts\[0\]"),
        ([[3]], [[-2]], {}, r"labels\[0\]\[0\] is -2"),
        ([[3]], [-1], {}, r"labels\[0\] is -1"),
        ([[3]], [math.nan], {}, "labels has numbers that are not finite"),
        ([[3]], [1], {"token_types": [[0, 0]]}, r"token_types\[0\] has 2 entries, expected 1"),
        ([[-3]], [1], {}, r"texts\[0\]\[0\] is -3"),
    ],
)
def test_labels_that_are_none(texts, labels, settings, says):
    with pytest.raises(ValueError, match=says):
        Labelled(texts, labels, **settings)


def test_labels_of_another_type():
    for labels in ("no", ["no"], [None], 3, [[1.5]]):
        with pytest.raises(TypeError, match="Labelled: labels"):
            Labelled([[3]], labels)


def test_what_is_refused(tmp_path):
    plain, tagger, score = classifier(), classifier(of_tokens=True), classifier(("score",))
    headless = pt.EncoderModel(replace(plain.config, head=None), rng=0)
    language_model = pt.TransformerLM(
        pt.TransformerLMConfig(9, d_model=8, num_heads=2, d_ff=8), rng=0
    )
    texts = [[3], [4]]
    for model, corpus, says in [
        (plain, Labelled(texts, [0, 3]), r"labels\[1\] goes up to 3, expected 0 to 2"),
        (plain, Labelled(texts, [0.0, 1.0]), "labels has 0.0, expected whole numbers because"),
        (plain, Labelled(texts, [[0], [1]]), "labels are those of tokens, expected those of texts"),
        (plain, Labelled(texts, [0, 1], token_types=[[0], [2]]), "token_types go up to 2"),
        (plain, Labelled([[3], []], [0, 1]), r"texts\[1\] is empty"),
        (plain, Labelled([[3], [23]], [0, 1]), "from 3 to 23, expected 0 to 22"),
        (plain, Labelled([], []), "examples is empty"),
        (plain, Texts(texts), "are Texts, expected Labelled for a classifier"),
        (tagger, Labelled(texts, [0, 1]), "labels are those of texts, expected those of tokens"),
        (tagger, Labelled(texts, [[0], [-1]]), r"labels\[1\] goes up to -1, expected 0 to 2"),
        (score, Labelled(texts, [0, 1]), "expected real numbers, as 1.0 is, because the head has"),
        (headless, Labelled(texts, [0, 1]), "expected a model whose head is a classifier"),
        (language_model, Labelled(texts, [0, 1]), "are Labelled, expected Examples for"),
        (plain, Examples(None, [[3]], start_id=1, end_id=2), "expected Texts or Labelled"),
    ]:
        with pytest.raises(ValueError, match=says):
            train(model, corpus, None, OPTIONS, tmp_path / "run")
    for model, metric, labels in [(score, "accuracy", [0.5, 1.0]), (plain, "bleu", [0, 1])]:
        corpus, options = Labelled(texts, labels), replace(OPTIONS, metric=metric)
        with pytest.raises(ValueError, match=f"metric is '{metric}', expected one of"):
            train(model, corpus, corpus, options, tmp_path / "run")
    assert not (tmp_path / "run").exists()
