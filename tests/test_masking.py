"""Masked tokens: what is drawn of a batch, what an encoder learns of it, and the files of a run."""

import math
from dataclasses import replace

import numpy as np
import pytest
import reference
import small_task
from models import num_threads, randomised, token_ids
from runs import OPTIONS, bits
from small_task import refused

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.cli import main
from pyx_transformer.parameters import Parameters
from pyx_transformer.training import Examples, Texts, evaluate, train
from pyx_transformer.training.gradients import Dropout, add_gradients
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.masking import masked
from pyx_transformer.training.recipe import load_recipe
from pyx_transformer.training.validation import mean_loss

MASK = 22


def encoder_config(src_vocab_size=MASK + 1, **changes):
    """A config of distinct small sizes, whose last token is the mask's."""
    sizes = {"d_model": 24, "num_heads": 3, "num_encoder_layers": 2, "d_ff": 41, "max_length": 97}
    norm = pt.NormConfig(eps=1e-12)
    kind = {"positions": "learned", "embedding_norm": norm, "head": pt.MaskedLMConfig()}
    return pt.EncoderConfig(src_vocab_size, **{**sizes, **kind, "mask_id": MASK, **changes})


def new_encoder(seed=0):
    return pt.EncoderModel(encoder_config(), rng=seed)


def some_texts(count=20, seed=0):
    rng = np.random.default_rng(seed)
    return Texts([token_ids(rng, MASK, 1 + i % 9) for i in range(count)])


def test_what_is_drawn_of_a_batch():
    texts = Texts([np.full(5000, 3), np.full(3000, 4)])
    plain = texts.batch(np.array([1, 0]))
    batch = masked(plain, encoder_config(), 0.15, (1, 2))
    np.testing.assert_array_equal(plain.inputs, np.repeat([4, 3], [3000, 5000]))
    assert len(batch.places) == len(np.unique(batch.places)) == 0.15 * 8000
    np.testing.assert_array_equal(batch.targets, plain.inputs[batch.places])
    elsewhere = np.delete(np.arange(8000), batch.places)
    np.testing.assert_array_equal(batch.inputs[elsewhere], plain.inputs[elsewhere])
    # Of 1200: four standard deviations either way. One of 23 random tokens is the mask itself, and
    # one the token that was there.
    found = batch.inputs[batch.places]
    hidden, stayed = (found == MASK).mean(), (found == batch.targets).mean()
    assert abs(hidden - (0.8 + 0.1 / 23)) < 4 * math.sqrt(0.8 * 0.2 / 1200)
    assert abs(stayed - (0.1 + 0.1 / 23)) < 4 * math.sqrt(0.1 * 0.9 / 1200)
    assert set(found) == set(range(23))
    again, other = (masked(plain, encoder_config(), 0.15, (1, n)) for n in (2, 3))
    np.testing.assert_array_equal(again.inputs, batch.inputs)
    assert not np.array_equal(other.places, batch.places)
    # A batch of one token has it chosen.
    one = masked(Texts([[5]]).batch(np.array([0])), encoder_config(), 0.15, (0,))
    assert (one.places.tolist(), one.targets.tolist()) == ([0], [5])


def test_the_loss_and_its_gradient_are_of_the_chosen_places():
    """The loss is the model's own, and falls along its gradient by the gradient's square."""
    model = randomised(new_encoder(), seed=3)
    texts = Texts([token_ids(np.random.default_rng(1), MASK, n) for n in (7, 2, 11)])
    batch = masked(texts.batch(np.arange(3)), model.config, 0.4, (0,))
    assert 1 < len(batch.places) < len(batch.inputs)

    def loss_of(state):
        moved = new_encoder()
        moved.load_state_dict(state)
        inputs = np.split(batch.inputs, batch.input_sequences.starts[1:])
        rows = np.concatenate([moved(ids[None])[0] for ids in inputs])[batch.places]
        chosen = reference.log_softmax(rows)[np.arange(len(rows)), batch.targets]
        return -chosen.mean()

    parameters, tokens = Parameters(model), len(batch.targets)
    loss = add_gradients(model, parameters, batch, tokens=tokens) / tokens
    state = model.state_dict()
    assert math.isclose(loss, loss_of(state), rel_tol=1e-6)
    gradients = parameters.state_dict(parameters.gradients)
    step = 1e-3 / sum((g.astype(float) ** 2).sum() for g in gradients.values())
    up, down = (
        loss_of({key: array + sign * step * gradients[key] for key, array in state.items()})
        for sign in (1, -1)
    )
    assert math.isclose(up - down, 2e-3, rel_tol=1e-2)


def test_without_dropout_rows_are_those_of_the_model_itself():
    model = randomised(new_encoder(), seed=3)
    batch = masked(some_texts(9).batch(np.arange(9)), model.config, 0.4, (0,))
    rows, _ = model.forward(batch, Parameters(model).whole(), Dropout(0.0))
    inputs = np.split(batch.inputs, batch.input_sequences.starts[1:])
    expected = np.concatenate([model.encode(ids[None])[0] for ids in inputs])[batch.places]
    np.testing.assert_array_equal(rows.view(np.uint32), model.head.apply(expected).view(np.uint32))


def test_the_validation_is_the_same_at_every_call_and_for_any_threads():
    model, texts = randomised(new_encoder(), seed=3), some_texts(150)
    losses = []
    for threads in (1, 2, 3, 3):
        with num_threads(threads):
            losses.append(mean_loss(model, texts))
    assert losses[1:] == losses[:1] * 3
    assert 0.5 * math.log(MASK) < losses[0] < 5 * math.log(MASK)


def test_an_encoder_learns_what_stands_beside_a_mask(tmp_path):
    """Each text has one token alone: one that is hidden is told by the others."""
    texts = Texts([np.full(9, token) for token in range(3, MASK)])
    options = replace(OPTIONS, steps=200, peak_rate=5e-3, warmup=20, dropout=0.0, label_smoothing=0)
    options = replace(options, validate_every=200, batch_tokens=171, schedule="cosine")
    model = new_encoder()
    train(model, texts, texts, options, tmp_path)
    loss = read_log(tmp_path / "log.jsonl")[-1]["validation"]["loss"]
    assert loss < 0.05
    for token in range(3, MASK):
        assert model([[token, token, MASK, token, 9, token]])[0, 2].argmax() == token


def test_a_resumed_run_ends_with_the_same_bits_for_any_number_of_threads(tmp_path):
    whole = new_encoder()
    train(whole, some_texts(), some_texts(5, 1), OPTIONS, tmp_path / "whole")
    for threads, steps in ((1, 4), (3, 8), (2, 12)):
        resumed = new_encoder(0 if steps == 4 else 99)
        with num_threads(threads):
            train(
                resumed,
                some_texts(),
                some_texts(5, 1),
                replace(OPTIONS, steps=steps),
                tmp_path / "parts",
                resume=True,
            )
    assert bits(resumed) == bits(whole)
    whole_log, log = (read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts"))
    validations = [entry for entry in log if "validation" in entry]
    assert len(validations) == 3
    assert validations == [entry for entry in whole_log if "validation" in entry]
    for name, changes in {"mask_rate": {"mask_rate": 0.3}, "seed": {"seed": 1}}.items():
        with pytest.raises(ValueError, match=name):
            options = replace(OPTIONS, **changes)
            train(resumed, some_texts(), None, options, tmp_path / "parts", resume=True)


def test_the_same_bits_for_any_number_of_threads(tmp_path):
    """Of a model and batches so large that several threads share the work."""
    config = encoder_config(d_model=72, d_ff=150)
    texts = some_texts(200)
    results = []
    for threads in (1, 2, 3):
        model = pt.EncoderModel(config, rng=0)
        with num_threads(threads):
            options = replace(OPTIONS, steps=8, batch_tokens=800)
            train(model, texts, None, options, tmp_path / str(threads))
        results.append(bits(model))
    assert results[1:] == results[:1] * 2


def test_a_split_keeps_the_order():
    parts = some_texts(20).split(0.124)
    assert [len(part) for part in parts] == [18, 2]
    together = parts[0].texts + parts[1].texts
    assert all(map(np.array_equal, together, some_texts(20).texts))


# Files and commands.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files and the recipe of a small task."""
    monkeypatch.chdir(tmp_path)
    small_task.write(tmp_path)
    (tmp_path / "recipe.toml").write_text(small_task.ENCODER)
    return tmp_path


def test_train_evaluate_and_load(folder, capsys):
    files = ["--set", "data.test_source=train.en"]
    assert main(["train", "recipe.toml", "--output", "run", *files]) == 0
    log = read_log(folder / "run" / "log.jsonl")
    best = min(entry["validation"]["loss"] for entry in log if "validation" in entry)
    assert log[-1]["test"] == {"loss": best}  # of the same file
    capsys.readouterr()
    model = pt.load("run/model")
    assert isinstance(model, pt.EncoderModel)
    assert model.config.mask_id == model.src_tokenizer.vocab_size == model.config.src_vocab_size - 1
    assert main(["evaluate", "--model", "run/model", "train.en"]) == 0
    loss = evaluate(model, "train.en")["loss"]
    assert capsys.readouterr().out == f"loss {loss:.4f}\n"
    assert loss == best
    assert evaluate(model, (folder / "train.en").read_text("utf-8").splitlines())["loss"] == loss
    model.save("again")
    again = pt.load("again")
    assert (again.config, bits(again)) == (model.config, bits(model))
    assert again.src_vocabulary == model.src_tokenizer.vocabulary
    ids = model.src_tokenizer.encode("you know .")[None]
    np.testing.assert_array_equal(again(ids), model(ids))


def test_characters_are_one_text(folder):
    (folder / "train.en").write_text("abcabcabc\n" * 20)
    changes = {"text.kind": "characters", "model.max_length": 27}
    recipe = load_recipe("recipe.toml", changes)
    texts = recipe.examples(recipe.build(), "train")
    assert texts.lengths.tolist() == [19] * 10


def test_what_is_refused(folder, capsys):
    examples = Examples(None, [[3]], start_id=1, end_id=2)
    pairs = Examples([[3]], [[3]], start_id=1, end_id=2)
    sizes = {"d_model": 8, "num_heads": 2, "d_ff": 8}
    language_model = pt.TransformerLM(pt.TransformerLMConfig(9, **sizes), rng=0)
    headless = pt.EncoderModel(encoder_config(head=None), rng=0)
    maskless = pt.EncoderModel(encoder_config(mask_id=None), rng=0)
    for model, corpus, says in [
        (new_encoder(), examples, "are Examples, expected Texts or Labelled for an EncoderModel"),
        (new_encoder(), pairs, "are Examples, expected Texts or Labelled for an EncoderModel"),
        (language_model, some_texts(), "are Texts, expected Examples for a TransformerLM"),
        (headless, some_texts(), "expected a model with a head"),
        (maskless, some_texts(), "expected a model with a mask_id"),
        (new_encoder(), Texts([]), "examples is empty"),
        (new_encoder(), Texts([[3], []]), r"texts\[1\] is empty"),
        (new_encoder(), Texts([[3, 23]]), "from 3 to 23, expected 0 to 22"),
        (new_encoder(), Texts([[3] * 98]), "max_length = 97"),
    ]:
        with pytest.raises(ValueError, match=says):
            train(model, corpus, None, OPTIONS, folder / "run")
    with pytest.raises(TypeError, match=r"Texts: texts\[0\] has dtype float64"):
        Texts([[3.5]])
    with pytest.raises(ValueError, match="expected 'loss' for a language model or an encoder"):
        options = replace(OPTIONS, metric="exact_match")
        train(new_encoder(), some_texts(), some_texts(), options, folder / "run")
    assert not (folder / "run").exists()

    new_encoder().save("bare")
    arguments = ["evaluate", "--model", "bare", "train.en"]
    refused(arguments, capsys, "src_tokenizer")
    refused([*arguments, "train.de"], capsys, "target was given")
    refused(["translate", "--model", "bare", "a"], capsys, "EncoderModel")


def test_a_tokenizer_fits_with_the_mask_or_without(tmp_path):
    """A vocabulary may name the mask itself; any other size is refused."""
    tokenizer = text.make("words", ["a b c d e"])
    size = tokenizer.vocab_size

    def encoder(src_vocab_size, mask_id):
        model = pt.EncoderModel(encoder_config(src_vocab_size, mask_id=mask_id), rng=0)
        model.src_tokenizer = tokenizer
        return model

    for sizes in ((size + 1, size), (size, size - 1), (size, 3), (size, None)):
        encoder(*sizes).save(tmp_path)
        assert pt.load(tmp_path).src_tokenizer.vocab_size == size
    for sizes in ((size + 1, size - 1), (size + 1, None), (size + 2, size + 1)):
        with pytest.raises(ValueError, match=f"has {size} tokens, expected {sizes[0]}"):
            encoder(*sizes).save(tmp_path)
