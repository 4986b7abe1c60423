"""The training loop: what it learns, and what it refuses."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import reference_training
from cases import normal
from models import num_threads, small_config, token_ids
from runs import OPTIONS, bits, new_model, some_examples

import pyx_transformer as pt
from pyx_transformer.parameters import Parameters
from pyx_transformer.training import Examples, TrainingOptions, train
from pyx_transformer.training.batches import Batch, as_rows
from pyx_transformer.training.gradients import add_gradients
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.optimizer import AdamW, cosine, inverse_square_root
from pyx_transformer.training.shards import Step

SERIAL_WORK = 200_000  # as in _kernels/threads.pxd: less is not shared between threads


# What is learned.


BY_HEART = TrainingOptions(
    steps=150,
    peak_rate=5e-3,
    warmup=10,
    schedule="cosine",
    dropout=0.0,
    label_smoothing=0.0,
    validate_every=150,
)


def test_an_encoder_and_decoder_learn_one_batch_by_heart(tmp_path):
    examples, model = some_examples(6), new_model()
    train(model, examples, examples, BY_HEART, tmp_path)
    validation = read_log(tmp_path / "log.jsonl")[-1]["validation"]
    assert validation["loss"] < 0.01
    assert validation["exact_match"] == 1.0
    src = np.array([examples.sources[5]])
    np.testing.assert_array_equal(model.generate(src).sequences[0], examples.targets[5])


def test_a_decoder_alone_learns_one_batch_by_heart(tmp_path):
    """All but the first token of each of five texts, which nothing tells: a guess among five."""
    rng = np.random.default_rng(0)
    texts = [[first, *token_ids(rng, 19, first)] for first in range(3, 8)]
    examples = Examples(None, texts, start_id=1, end_id=2)
    model = pt.TransformerLM(small_config(), rng=0)
    train(model, examples, examples, BY_HEART, tmp_path)
    guesses = 5 * math.log(5) / sum(len(text) + 1 for text in texts)
    validation = read_log(tmp_path / "log.jsonl")[-1]["validation"]
    assert guesses < validation["loss"] < guesses + 0.01
    for text in texts:
        generated = model.generate(np.array([text[:1]])).sequences[0]
        np.testing.assert_array_equal(generated, text)


def test_an_encoder_alone_learns_one_batch_by_heart():
    """Labels that only the tokens on both sides tell."""
    rng = np.random.default_rng(0)
    sizes = {"d_model": 24, "num_heads": 3, "num_encoder_layers": 2, "d_ff": 41}
    config = pt.EncoderConfig(19, **sizes, norm_first=True, head=pt.MaskedLMConfig())
    model = pt.EncoderModel(config, rng=0)
    texts = [token_ids(rng, 19, n) for n in (3, 8, 5)]
    ids, sequences = as_rows(texts)
    labels = rng.integers(0, 19, len(ids))
    batch = Batch(np.arange(3), ids, labels, sequences, None, None)
    parameters = Parameters(model)
    optimizer = AdamW(parameters)
    for _ in range(150):
        loss = add_gradients(model, parameters, batch, tokens=len(ids))
        optimizer.step(3e-3)
    assert loss / len(ids) < 0.01

    model.load_state_dict(parameters.state_dict())
    for text, expected in zip(texts, np.split(labels, sequences.starts[1:]), strict=True):
        np.testing.assert_array_equal(model(text[None])[0].argmax(axis=1), expected)


def test_an_empty_source_is_learned_from(tmp_path):
    """Its target is told from its own tokens alone."""
    examples = Examples([[], []], [[5, 7], [5, 7]], start_id=1, end_id=2)
    entries = []
    options = replace(BY_HEART, validate_every=10)
    progress = train(new_model(), examples, None, options, tmp_path, report=entries.append)
    assert progress.skipped == 0
    assert entries[-1]["loss"] < 0.01 < entries[0]["loss"]


def test_the_loss_curve_is_the_same_to_the_bit_for_any_number_of_threads(tmp_path, monkeypatch):
    """Of a model and batches so large that several threads share every kind of work."""
    config = small_config(
        d_model=72, d_ff=150, num_encoder_layers=1, num_decoder_layers=1, tgt_vocab_size=101
    )
    examples = some_examples(200)
    options = replace(OPTIONS, steps=20, validate_every=20, batch_tokens=800)
    monkeypatch.setattr("pyx_transformer.training.log.SECONDS_BETWEEN_ENTRIES", -1.0)
    results = []
    for threads in (1, 2, 3):
        model, entries = pt.Transformer(config, rng=0), []
        with num_threads(threads):
            train(model, examples, None, options, tmp_path / str(threads), report=entries.append)
        results.append(([entry["loss"] for entry in entries], bits(model)))
    # The sum of squares of the gradients, 2 operations each, is the least of it all.
    assert 2 * model.num_parameters > SERIAL_WORK
    assert np.median([entry["tokens"] for entry in entries]) > 300
    assert len(results[0][0]) == 20
    assert results[1:] == results[:1] * 2


def test_a_target_is_trained_with_its_start_and_end():
    examples = some_examples(3)
    batch = examples.batch(np.array([2, 0]))
    first, second = examples.targets[2], examples.targets[0]
    np.testing.assert_array_equal(batch.inputs, [1, *first, 1, *second])
    np.testing.assert_array_equal(batch.targets, [*first, 2, *second, 2])
    np.testing.assert_array_equal(batch.sources, [*examples.sources[2], *examples.sources[0]])


def test_an_epoch_is_every_example_once_within_the_budget():
    examples = some_examples(100)
    order = examples.epoch(3, 0, 40)
    assert sorted(np.concatenate(order)) == list(range(100))
    for numbers in order:
        longest = max(examples.lengths[numbers])
        assert len(numbers) * longest <= 40
    # Full but for what the next example would break, and of like length.
    assert len(order) < 2 * sum(examples.lengths) / 40
    again, other = examples.epoch(3, 0, 40), examples.epoch(3, 1, 40)
    assert all(map(np.array_equal, again, order))
    assert not all(map(np.array_equal, other, order))
    # One that is longer than the budget comes alone.
    assert [len(numbers) for numbers in examples.epoch(0, 0, 1)] == [1] * 100


# The optimizer.


@pytest.mark.parametrize("max_norm", [math.inf, 3.0])
def test_adamw(max_norm):
    """Steps of AdamW on clipped gradients, and the average of the weights after each."""
    parameters = Parameters(new_model())
    values = average = parameters.values.astype(np.float64)
    mean = square = np.zeros_like(values)
    settings = {"betas": (0.8, 0.95), "eps": 1e-9}
    optimizer = AdamW(
        parameters, weight_decay=0.1, max_norm=max_norm, average_decay=0.5, **settings
    )
    rng = np.random.default_rng(0)
    for t in range(1, 8):
        rate = 1e-3 * t
        gradient = normal(rng, values.size)
        parameters.gradients[:] = gradient
        norm = optimizer.step(rate)
        assert math.isclose(norm, np.linalg.norm(gradient.astype(float)), rel_tol=1e-6)
        assert not parameters.gradients.any()
        clipped = gradient.astype(np.float64) * min(1, max_norm / norm)
        values, mean, square = reference_training.adamw(
            values, clipped, mean, square, t, rate=rate, decay=0.1, **settings
        )
        kept = min(0.5, (1 + t) / (10 + t))
        average = kept * average + (1 - kept) * values
    np.testing.assert_allclose(parameters.values, values, rtol=0, atol=2e-6)
    np.testing.assert_allclose(optimizer.average, average, rtol=0, atol=2e-6)


def test_schedules():
    paper = [inverse_square_root(t, peak=2.0, warmup=4, steps=99) for t in (1, 2, 4, 16, 64)]
    assert paper == [0.5, 1.0, 2.0, 1.0, 0.5]
    half_cosine = [cosine(t, peak=2.0, warmup=4, steps=12) for t in (1, 4, 8, 12, 13)]
    np.testing.assert_allclose(half_cosine, [0.5, 2.0, 1.0, 0.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_reported_and_skipped(what, tmp_path, monkeypatch):
    def poisoned(step, model, parameters):
        loss = original(step, model, parameters)
        calls.append(step.batch.numbers)
        if len(calls) == 3:
            if what == "loss":
                return math.inf
            parameters.gradients[7] = np.nan
        return loss

    calls, original = [], Step.add_gradients
    monkeypatch.setattr(Step, "add_gradients", poisoned)
    entries, model = [], new_model()
    options = replace(OPTIONS, steps=3, validate_every=1)
    progress = train(
        model, some_examples(), None, options, tmp_path / "poisoned", report=entries.append
    )
    assert progress.skipped == 1
    (skipped,) = [entry for entry in entries if "skipped" in entry]
    assert skipped["step"] == 3
    assert skipped["skipped"] == calls[2].tolist()

    monkeypatch.undo()
    before = new_model()
    train(before, some_examples(), None, replace(options, steps=2), tmp_path / "before")
    assert bits(model) == bits(before)


def test_training_stops_where_validation_no_longer_betters(tmp_path):
    # What is validated is not what is learned: the loss there soon rises.
    options = replace(OPTIONS, steps=400, patience=2, peak_rate=1e-2, average_decay=0.0)
    model = new_model()
    progress = train(model, some_examples(), some_examples(9, 5), options, tmp_path)
    losses = [
        e["validation"]["loss"] for e in read_log(tmp_path / "log.jsonl") if "validation" in e
    ]
    assert progress.step < 400 and progress.worse == 2
    assert min(losses) == losses[-3] == -progress.best
    best = pt.load(tmp_path / "model")
    assert bits(best) != bits(model)


# Bad input.


def test_options_are_checked():
    for name, value in [
        ("steps", 0),
        ("dropout", 1.0),
        ("label_smoothing", 1.5),
        ("schedule", "linear"),
        ("metric", "f1"),
        ("beta2", 1.0),
        ("peak_rate", -1.0),
        ("eps", 0.0),
        ("beta1", 1 - 1e-9),
        ("shards", 0),
        ("shards", 1025),
    ]:
        with pytest.raises(ValueError, match=name):
            replace(OPTIONS, **{name: value})
    with pytest.raises(TypeError, match="steps"):
        replace(OPTIONS, steps="many")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sources": [[3], [3, 4]], "targets": [[3]]}, "sources has 2 entries, expected 1"),
        ({"sources": [[3.5]], "targets": [[3]]}, r"sources\[0\] has dtype float64"),
        (
            {"sources": [[3]], "targets": [[[3]]]},
            r"targets\[0\] has shape \(1, 1\), expected \(T,\)",
        ),
        ({"sources": [[10**9]], "targets": [[3]]}, "from 1000000000 .*, expected 0 to 22"),
        ({"sources": [[3]], "targets": [[3, 19]]}, "targets has token ids from 3 to 19"),
        ({"sources": [[3]], "targets": [[-1]]}, r"targets\[0\]\[0\] is -1, expected 0 to"),
        ({"sources": None, "targets": [[3]]}, "sources is None"),
        ({"sources": [], "targets": []}, "examples is empty"),
        ({"sources": [[3] * 98], "targets": [[3]]}, "max_length = 97"),
        ({"sources": [[3]], "targets": [[3] * 97]}, "max_length = 97"),
    ],
)
def test_examples_that_the_model_cannot_read(changes, says, tmp_path):
    model = pt.Transformer(small_config(positions="learned"), rng=0)
    with pytest.raises((TypeError, ValueError), match=says):
        examples = Examples(**changes, start_id=1, end_id=2)
        train(model, examples, None, OPTIONS, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_validation_that_cannot_be(tmp_path):
    good = some_examples()
    empty = some_examples(0)
    silent = Examples([[4], []], [[5], [7, 8]], start_id=1, end_id=2)
    language_model = pt.TransformerLM(small_config(), rng=0)
    texts = some_examples(with_sources=False)
    for model, examples, validation, metric, says in [
        (new_model(), good, empty, "loss", "validation is empty"),
        (new_model(), good, silent, "loss", r"validation: sources\[1\] is empty and targets\[1\]"),
        (new_model(), good, good, "bleu", "tgt_tokenizer"),
        (language_model, texts, texts, "exact_match", "expected 'loss' for a language model"),
        (language_model, good, None, "loss", "expected None for a language model"),
    ]:
        with pytest.raises(ValueError, match=says):
            train(model, examples, validation, replace(OPTIONS, metric=metric), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("asked", "reached"), [(128, 9), (9, 9), (5, 5)])
def test_learned_positions_bound_the_translations(asked, reached, tmp_path, monkeypatch):
    """Ten of them, the first one of which is the start's."""
    generate, bounds = pt.Transformer.generate, []

    def watched(model, *arguments, options):
        bounds.append(options.max_length)
        return generate(model, *arguments, options=options)

    monkeypatch.setattr(pt.Transformer, "generate", watched)
    model = pt.Transformer(small_config(positions="learned", max_length=10), rng=0)
    options = replace(OPTIONS, steps=4, max_length=asked)
    train(model, some_examples(), some_examples(3, 1), options, tmp_path)
    assert bounds == [reached]


def test_heads_too_wide_to_train(tmp_path):
    config = pt.TransformerConfig(
        9, 9, d_model=1026, num_heads=1, num_encoder_layers=1, num_decoder_layers=0, d_ff=1
    )
    examples = Examples([[3]], [[3]], start_id=1, end_id=2)
    with pytest.raises(ValueError, match="head_size is 1026, expected at most 1024"):
        train(pt.Transformer(config, rng=0), examples, None, OPTIONS, tmp_path)


def test_accumulated_batches_make_one_step(tmp_path):
    """The update of two batches is that of one with both, where nothing is dropped."""
    options = replace(OPTIONS, steps=3, dropout=0.0, validate_every=3)
    examples = some_examples(8)
    whole, halves = new_model(), new_model()
    train(whole, examples, None, replace(options, batch_tokens=10**6), tmp_path / "whole")
    half = max(examples.lengths) * 4
    train(
        halves, examples, None, replace(options, accumulate=2, batch_tokens=half), tmp_path / "two"
    )
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "two")]
    for name in ("tokens", "loss", "gradient_norm"):
        assert math.isclose(logs[0][-1][name], logs[1][-1][name], rel_tol=1e-4)
    assert [entry["step"] for entry in logs[1]] == [3]


def test_memory_is_given_back_as_before(tmp_path):
    """After a run arrays of a few megabytes are as cheap as they were."""
    import timeit

    array = np.zeros(1 << 19, np.float32)

    def fastest():
        return min(timeit.repeat(lambda: np.add(array, array), number=20, repeat=20))

    fastest()
    before = fastest()
    train(new_model(), some_examples(), None, replace(OPTIONS, steps=4), tmp_path)
    assert fastest() < 5 * before  # 15 times before the thresholds were set back


def test_the_log_is_json_lines(tmp_path):
    train(new_model(), some_examples(), some_examples(3, 1), OPTIONS, tmp_path)
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "validation" in entry] == [4, 8, 12]
    for entry in entries:
        assert {"validation"} <= entry.keys() or {
            "loss",
            "tokens_per_second",
            "seconds_left",
            "learning_rate",
            "gradient_norm",
        } <= entry.keys()
