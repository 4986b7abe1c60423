"""From two files of text to a trained model: what is chosen, told and returned."""

import re
from pathlib import Path

import numpy as np
import pytest
from runs import OPTIONS, bits, new_model, some_examples

import pyx_transformer as pt
from pyx_transformer import plots
from pyx_transformer.cli import main
from pyx_transformer.training import Trained, recipe_for, sized_recipe, train
from pyx_transformer.training.log import read as read_log

# Sentences whose translation is each word's twin, in reversed order.
WORDS = {"red": "rot", "green": "grün", "blue": "blau", "white": "weiß", "black": "schwarz"}
QUICK = {
    "text.kind": "words",
    "model.d_model": 32,
    "model.d_ff": 64,
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "training.steps": 400,
    "training.dropout": 0.0,
    "training.peak_rate": 5e-3,
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two files of 200 lines, in the folder that this runs in."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    sources = [rng.permutation([*WORDS])[: 1 + i % 5].tolist() for i in range(200)]
    targets = [[WORDS[word] for word in reversed(source)] for source in sources]
    for name, lines in (("train.en", sources), ("train.de", targets)):
        Path(name).write_text("".join(" ".join(line) + "\n" for line in lines), "utf-8")
    return "train.en", "train.de"


def test_three_calls_make_a_translator(files, capsys):
    recipe = recipe_for(*files, QUICK)
    run = recipe.run("run")
    translator = pt.Translator(run.model)
    assert translator.translate(["red green blue", "black white"]) == [
        "blau grün rot",
        "weiß schwarz",
    ]
    # What it is about, how far it is after the first and the last step that the log tells and at
    # most once a minute between them, each validation, and where it ends.
    told = capsys.readouterr()
    first, *entries, last = told.err.splitlines()
    parameters = f"{run.model.num_parameters:,}"
    assert first == (
        f"Transformer of {parameters} parameters, 13 tokens; 180 examples, 20 to validate "
        "with; steps 1 to 400"
    )
    assert len(run.entries) == 20 and len(entries) == 1 + 10 + 1
    assert re.fullmatch(
        r"step 40 of 400  loss \d\.\d{4}  [\d,]+ tokens/s  0:0\d:\d\d left", entries[0]
    )
    assert re.match(r"step 40 of 400  validation: loss [\d.]+, exact_match [\d.]+, ", entries[1])
    assert re.match(r"step 400 of 400  loss \d\.\d{4}  [\d,]+ tokens/s  0:00:00 left", entries[-2])
    assert last == f"400 steps; the best model is in {Path('run/model')}"
    assert told.out == ""
    # The best weights, and what the log has of them.
    losses = [entry["validation"]["loss"] for entry in run.entries if "validation" in entry]
    assert run.best == -min(losses)
    examples = recipe.examples(run.model, "train").split(0.1)[1]
    assert examples.references == Path("train.de").read_text("utf-8").splitlines()[-20:]
    plots.plot_curves(run.entries, "curve.png")
    assert Path("curve.png").stat().st_size > 1000


def test_the_command_takes_them(files, capsys):
    changes = {**QUICK, "training.steps": 4}
    recipe_for(*files, changes).run("run")
    sets = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    assert main(["train", *files, *sets]) == 0
    weights = "model/model.safetensors"
    assert Path("runs/train", weights).read_bytes() == Path("run", weights).read_bytes()
    capsys.readouterr()
    assert main(["train", *files, "train.fr"]) == 2
    said = "pyx-transformer train: 3 files were given, expected a recipe or two texts\n"
    assert capsys.readouterr().err == said


def test_what_a_run_returns(tmp_path, capsys):
    """The best weights, not the last, which are in the model that was given."""
    model, examples = new_model(), some_examples()
    run = train(model, examples, some_examples(3, 1), OPTIONS, tmp_path / "run", progress=False)
    assert capsys.readouterr() == ("", "")
    assert isinstance(run, Trained) and repr(run) == f"Trained('{tmp_path / 'run'}', 12 steps)"
    assert (run.folder, run.step) == (tmp_path / "run", 12)
    assert run.entries == read_log(tmp_path / "run" / "log.jsonl") != []
    assert bits(run.model) == bits(pt.load(tmp_path / "run" / "model"))
    assert run.model is run.model
    again = train(new_model(), examples, None, OPTIONS, tmp_path / "last", progress=False)
    assert bits(again.model) != bits(run.model)


def test_telling_ends_no_run(tmp_path, monkeypatch):
    """Where standard error is missing, or closed."""
    examples = some_examples()
    monkeypatch.setattr("sys.stderr", None)
    train(new_model(), examples, None, OPTIONS, tmp_path / "none")
    with open(tmp_path / "closed", "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
    run = train(new_model(), examples, None, OPTIONS, tmp_path / "run")
    assert run.step == OPTIONS.steps
    with pytest.raises(TypeError, match="train: progress is 'no', expected True or False"):
        train(new_model(), examples, None, OPTIONS, tmp_path / "other", progress="no")


def test_sizes_follow_the_texts(files):
    """Few pieces of few lines, which have more than as many characters; no more than a table has;
    and what follows the number of steps follows another one."""
    pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    small = recipe_for(*files)
    model = small.build()
    characters = {*"".join(Path(name).read_text("utf-8") for name in files)}
    assert len(characters) < small.text.size == model.tgt_tokenizer.vocab_size < 70
    assert model.src_tokenizer is model.tgt_tokenizer
    sizes = [sized_recipe.sized(pairs, 12 * pairs) for pairs in (200, 9_999, 50_000, 1_000_000)]
    for name in ("d_model", "num_encoder_layers"):
        assert sorted(size["model"][name] for size in sizes) == [
            size["model"][name] for size in sizes
        ]
    assert [size["training"]["steps"] for size in sizes] == [1000, 1000, 4394, 20_000]
    assert sizes[2]["text"]["size"] == 10_000 and sizes[0]["text"]["size"] < 200
    held = [round(size["data"]["dev_share"] * 9_999) for size in sizes[:2]]
    assert held == [1000, 500]
    few = recipe_for(*files, {"training.steps": 5}).training
    assert (few.steps, few.warmup, few.validate_every, few.average_decay) == (5, 1, 1, 0.0)


def test_the_first_lines_may_be_more_alike_than_all(monkeypatch, tmp_path):
    """As of files that are sorted: those after them have other characters."""
    pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sized_recipe, "TRIED", 20)
    lines = ["yes ."] * 20 + [chr(0x4E00 + i) + chr(0x4E80 + i) for i in range(100)]
    Path("a").write_text("\n".join(lines), "utf-8")
    recipe = recipe_for("a", "a")
    assert recipe.build().src_tokenizer.vocab_size == recipe.text.size > 200


def test_files_to_validate_with_may_be_given(files):
    Path("dev.en").write_text("red\n")
    Path("dev.de").write_text("rot\n")
    asked = {**QUICK, "data.dev_source": "dev.en", "data.dev_target": "dev.de"}
    recipe = recipe_for(*files, asked)
    assert list(map(len, recipe.split(recipe.build()))) == [200, 1]


def test_what_cannot_be_trained_on_is_told(files):
    Path("short.de").write_text("eins\n", "utf-8")
    with pytest.raises(ValueError, match=r"train\.en has 200 lines, expected 1 because short\.de"):
        recipe_for("train.en", "short.de")
    with pytest.raises(ValueError, match=r"short\.de has 1 line, expected at least 2"):
        recipe_for("short.de", "short.de")
    with pytest.raises(FileNotFoundError, match=r"none\.de is missing"):
        recipe_for("train.en", "none.de")
    with pytest.raises(ValueError, match=r"recipe_for: \[training\] has 'step', expected one of"):
        recipe_for(*files, {"training.step": 5})
    with pytest.raises(TypeError, match="recipe_for: changes is 3, expected"):
        recipe_for(*files, 3)
    with pytest.raises(TypeError, match=r"train: examples is 'train\.en', .* `recipe_for` and"):
        train(new_model(), "train.en", None, OPTIONS, "run")
