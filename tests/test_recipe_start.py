"""Recipes that start from a model that there is, and recipes of texts with labels."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import small_task
from runs import bits
from small_task import ENCODER, PAIRS, RECIPE, refused

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.cli import main
from pyx_transformer.generation import GenerationOptions
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.recipe import load_recipe
from pyx_transformer.training.validation import evaluate

LANGUAGE_MODEL = (
    RECIPE.replace('train_source = "train.en"\n', "")
    .replace('dev_source = "train.en"\n', "")
    .replace('metric = "exact_match"\n', "")
)
LABELS = ("known", "asleep")  # of each of PAIRS: what it is about
ABOUT = [0, 0, 1, 1, 1]
LABELLED = ENCODER.replace(
    'dev_source = "train.en"',
    'dev_source = "train.en"\ntrain_labels = "labels"\ndev_labels = "labels"',
)
HEAD = '\n[model.head]\nlabels = ["known", "asleep"]\npooling = "mean"\n'


def started(recipe):
    """The recipe with a start in place of [text] and of what [model] says."""
    before, rest = recipe.split("[text]")
    return f'{before}[model]\nstart = "begun"\n\n[training]{rest.split("[training]")[1]}'


START = started(RECIPE)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the files of a small task, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    small_task.write(tmp_path)
    (tmp_path / "labels").write_text("".join(f"{LABELS[i]}\n" for i in ABOUT))
    return tmp_path


def losses(log):
    return [entry["validation"]["loss"] for entry in read_log(log) if "validation" in entry]


def written(recipe):
    """The arguments of a run of it."""
    with open("recipe.toml", "w") as file:
        file.write(recipe)
    return ["train", "recipe.toml", "--output", "run"]


def shaped(shared_data, name):
    """A model of that family's shape, with the words of the task, saved as "begun"."""
    words = text.make("words", [one for pair in PAIRS for one in pair])
    config = pt.load(shared_data / "hf-tiny" / name).config
    sizes = {f"{side}_vocab_size": words.vocab_size for side in ("src", "tgt")}
    sizes = {name: size for name, size in sizes.items() if name in config.names()}
    config = replace(config, **sizes, start_id=words.start_id, end_id=words.end_id)
    model = (pt.Transformer if "src_vocab_size" in sizes else pt.TransformerLM)(config, rng=0)
    for side in ("src", "tgt"):
        if f"{side}_vocab_size" in sizes:
            setattr(model, f"{side}_tokenizer", words)
    model.generation_options = GenerationOptions(beam_size=3)
    model.save("begun")
    return model


@pytest.mark.parametrize("name, recipe", [("marian", RECIPE), ("llama", LANGUAGE_MODEL)])
def test_a_recipe_goes_on_from_a_model(name, recipe, folder, shared_data, capsys):
    """It learns from where the model stands, and keeps its shape, texts and options."""
    begun, whole = shaped(shared_data, name), started(recipe)
    assert main(written(whole)) == 0
    trained = pt.load("run/model")

    def loss_of(model):
        files = ["train.en", "train.de"] if name == "marian" else ["train.de"]
        return evaluate(model, *files, with_bleu=False)["loss"]

    assert loss_of(trained) < 0.5 < 1 < loss_of(begun)
    assert trained.config == begun.config
    assert trained.generation_options == begun.generation_options
    assert trained.tgt_vocabulary == begun.tgt_vocabulary
    assert bits(trained) != bits(begun)
    # What is trained may be the start of another run, here of no steps to speak of.
    flags = ["--set", "model.start=run/model", "--set", "training.steps=1"]
    flags += ["--set", "training.peak_rate=1e-9", "--output", "again"]
    assert main([*written(whole), *flags]) == 0
    assert losses("again/log.jsonl") == [pytest.approx(loss_of(trained), abs=1e-4)]


def test_a_run_from_a_model_is_resumed(folder, shared_data, monkeypatch):
    """To the bits of a run that was never stopped, whatever became of the model since."""
    shaped(shared_data, "marian").save("begun")
    changes = {"training.schedule": "inverse_square_root", "training.validate_every": 10}
    written(started(RECIPE))
    load_recipe("recipe.toml", {**changes, "training.steps": 20}).run("whole")
    load_recipe("recipe.toml", {**changes, "training.steps": 10}).run("parts")
    shutil.rmtree("begun")
    shutil.copytree("parts/model", "begun")
    load_recipe("recipe.toml", {**changes, "training.steps": 20}).run("parts", resume=True)
    assert bits(pt.load("parts/model")) == bits(pt.load("whole/model"))
    # Another model is another run.
    config = replace(pt.load("begun").config, output_bias=False)
    other = pt.Transformer(config, rng=0)
    for side in ("src", "tgt"):
        setattr(other, f"{side}_tokenizer", pt.load("begun").tgt_tokenizer)
    other.save("begun")
    recipe = load_recipe("recipe.toml", {**changes, "training.steps": 30})
    with pytest.raises(ValueError, match="its config differ from these in output_bias"):
        recipe.run("parts", resume=True)


def test_the_model_that_ships_is_a_start():
    recipe = load_recipe(written(START)[1], {"model.start": "en-ja"})
    assert bits(recipe.build()) == bits(pt.load("en-ja"))


def test_translations_begin_with_a_token_that_is_forced(shared_data):
    """Whether a tokenizer gives it or not: BART's, mBART's and M2M-100's do."""
    model = shaped(shared_data, "marian")
    recipe = load_recipe(written(RECIPE)[1])
    plain = recipe.examples(model, "train").targets
    for first in (plain[0][0], 0):
        model.generation_options = GenerationOptions(first_token=int(first))
        for ids, before in zip(recipe.examples(model, "train").targets, plain, strict=True):
            expected = before.tolist()
            assert ids.tolist() == (expected if expected[0] == first else [first, *expected])


@pytest.mark.parametrize(
    ("recipe", "changes", "says"),
    [
        (START, ["model.d_model=32"], "[model] has 'd_model', expected one of mask_id, start"),
        (
            START,
            ["text.kind=words"],
            "[text] kind is 'words', expected nothing because [model] sta",
        ),
        (START, ["model.start="], "[model]: start is '', expected the path of a file"),
        (START, ["model.start=none"], "load: none is missing, expected a folder or the name"),
        (started(LANGUAGE_MODEL), [], "begun is of kind Transformer, expected TransformerLM beca"),
        (started(ENCODER), [], "expected EncoderModel because [data] has train_source"),
        (started(LABELLED), [], "expected EncoderModel with a classifier because [data] has"),
        (START, ["model.mask_id=3"], "mask_id was given, expected none because begun has no head"),
        (LABELLED, [], "[data] has train_labels, expected labels in [model.head] too"),
        (ENCODER, ['model.head={"labels":["a"]}'], "labels, expected train_labels in [data] too"),
        (RECIPE, ["data.train_labels=labels"], "expected train_source alone with train_labels"),
        (LABELLED + HEAD, ["data.dev_target=x"], "expected dev_source and dev_labels because"),
        (ENCODER, ["data.test_labels=x"], "[data] has test_labels, expected test_source because"),
    ],
)
def test_what_does_not_go_together(recipe, changes, says, shared_data, capsys):
    shaped(shared_data, "marian")
    flags = [word for change in changes for word in ("--set", change)]
    refused([*written(recipe), *flags], capsys, says)


def test_a_model_without_tokenizers(shared_data, capsys):
    """As those of ids alone are: what is missing is named, with what it is for."""
    arguments = written(started(RECIPE))
    flags = ["--set", f"model.start={shared_data / 'hf-tiny' / 'marian'}"]
    says = "has no tokenizer of its sources, expected one to read train.en with"
    refused([*arguments, *flags], capsys, "[model] start", says)
    model = shaped(shared_data, "marian")
    model.tgt_tokenizer = None
    model.save("begun")
    says = "begun has no tokenizer of its targets, expected one to read train.de with"
    refused(arguments, capsys, says)


def test_masks_of_a_model_that_does_not_know_them(folder, capsys):
    recipe = load_recipe(written(ENCODER)[1])
    model = recipe.build()
    mask = model.config.mask_id
    model.src_vocabulary = None
    model.config = replace(model.config, mask_id=None)
    words = text.Words([*recipe.build().src_vocabulary, "<mask>"])
    model.src_tokenizer = words
    model.save("begun")
    arguments = written(started(ENCODER))
    refused(arguments, capsys, "expected a model with a mask_id")
    refused([*arguments, "--set", "model.mask_id=some"], capsys, "mask_id is 'some', expected")
    refused([*arguments, "--set", "model.mask_id=99"], capsys, "mask_id is 99, expected a token id")
    assert main([*arguments, "--set", f"model.mask_id={mask}"]) == 0
    assert pt.load("run/model").config.mask_id == mask


# Labels.


def test_a_recipe_of_labels(folder, capsys):
    """A new model, and another run from it."""
    test = ["--set", "data.test_source=train.en", "--set", "data.test_labels=labels"]
    arguments = [
        *written((LABELLED + HEAD).replace("dropout", 'metric = "accuracy"\ndropout')),
        *test,
    ]
    assert main(arguments) == 0
    model = pt.load("run/model")
    assert model.config.head.labels == LABELS
    assert (model.config.mask_id, model.config.src_vocab_size) == (
        None,
        model.src_tokenizer.vocab_size,
    )
    figures = read_log("run/log.jsonl")[-1]["test"]
    assert figures.keys() == {"loss", "accuracy"}
    assert figures["accuracy"] == 1
    capsys.readouterr()
    assert main(["evaluate", "--model", "run/model", "train.en", "labels"]) == 0
    assert capsys.readouterr().out == f"loss {figures['loss']:.4f}\naccuracy 1.0000\n"
    texts = [one for one, _ in PAIRS]
    found = [model(model.src_tokenizer.encode(one)[None])[0].argmax() for one in texts]
    assert found == ABOUT
    flags = ["--set", "model.start=run/model", "--output", "again"]
    assert main([*written(started(LABELLED)), *flags]) == 0
    assert losses("again/log.jsonl")[0] < losses("run/log.jsonl")[0]


def test_scores_of_a_file(folder):
    (folder / "labels").write_text(
        "".join(f"{value}\n" for value in ("1", "-2.5", "0", "1e-1", "3"))
    )
    head = HEAD.replace('["known", "asleep"]', '["score"]')
    recipe = load_recipe(written(LABELLED + head)[1])
    examples = recipe.examples(recipe.build(), "train")
    np.testing.assert_array_equal(examples.labels, np.float32([1, -2.5, 0, 0.1, 3]))


@pytest.mark.parametrize(
    ("lines", "head", "says"),
    [
        (["known", "asleep", "known", "awake", "known"], HEAD, "labels, line 4 is 'awake', expect"),
        (["known"], HEAD, "has 5 lines, expected 1 because labels has as many"),
        (
            ["1", "x", "1", "1", "1"],
            HEAD.replace(', "asleep"', ""),
            "labels, line 2 is 'x', expect",
        ),
        (
            ["known"] * 5,
            HEAD.replace("pooling", "of_tokens = true\npooling"),
            "gives each token a la",
        ),
    ],
)
def test_wrong_labels(lines, head, says, folder, capsys):
    (folder / "labels").write_text("".join(f"{line}\n" for line in lines))
    refused(written(LABELLED + head), capsys, says)


def test_evaluating_labels(folder, capsys):
    recipe = load_recipe(written(LABELLED + HEAD)[1])
    recipe.build().save("begun")
    arguments = ["evaluate", "--model", "begun", "train.en"]
    refused(arguments, capsys, "target is missing, expected the labels")
    flags = ["--bleu-tokenizer", "char"]
    refused(
        [*arguments, "labels", *flags], capsys, "expected none because the model is a classifier"
    )
