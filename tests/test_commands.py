"""The commands that make, train and use models, as a user types them."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import small_task
from models import continue_texts, translate
from small_task import PAIRS, RECIPE, refused

import pyx_transformer as pt
from pyx_transformer.checkpoints import native
from pyx_transformer.cli import main, parser
from pyx_transformer.training import Recipe, evaluate

COMMAND = [sys.executable, "-m", "pyx_transformer"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the files of a small task, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    small_task.write(tmp_path)
    return tmp_path


@pytest.fixture
def trained(capsys):
    """A model that knows the task."""
    assert main(["train", "recipe.toml", "--output", "run"]) == 0
    capsys.readouterr()
    return "run/model"


def test_train_evaluate_translate(capsys):
    assert main(["train", "recipe.toml", "--output", "run"]) == 0
    out, err = capsys.readouterr()
    assert out == ""  # what is made is in files
    assert re.search(r"Transformer of 22,573 parameters, 11 and 13 tokens; 5 examples, 5 to v", err)
    assert re.search(r"step 120 of 120  loss [\d.]+  [\d,]+ tokens/s  0:00:00 left", err)
    assert "step 60 of 120  validation: loss" in err
    assert "120 steps; the best model is in run/model\n" in err
    tried = "pyx-transformer: try it: pyx-transformer translate --model run/model\n"
    assert err.endswith(tried)

    assert main(["evaluate", "--model", "run/model", "train.en", "train.de"]) == 0
    figures = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(figures["exact_match"]) == 1.0
    assert float(figures["bleu"]) == pytest.approx(100)

    assert main(["translate", "--model", "run/model", *(source for source, _ in PAIRS)]) == 0
    assert capsys.readouterr() == ("".join(target + "\n" for _, target in PAIRS), "")


def test_translate_from_stdin_with_scores(trained):
    run = subprocess.run(
        [*COMMAND, "translate", "--model", trained, "--n-best", "2", "--scores"],
        input="i know .\n\nyou sleep .\n",
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert run.returncode == 0, run.stderr
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    model = pt.load(trained)
    found = translate(model, ["i know .", "", "you sleep ."], beam_size=4, num_hypotheses=2)
    expected = [[[f"{t.score:.4f}", t.text] for t in best] for best in found]
    assert len(expected[1]) == 1
    expected[1].append(["-inf", ""])
    assert rows == [row for rows in expected for row in rows]
    assert rows[0][1] == "ich weiß ."


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfi know .\r\nyou sleep .", ["ich weiß .", "du schläfst ."]),
        (b"\n", [""]),
        (b"", []),
    ],
)
def test_lines_of_stdin(content, expected, trained, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "ascii"))
    assert main(["translate", "--model", trained]) == 0
    assert capsys.readouterr().out.splitlines() == expected


def test_a_dash_is_standard_input(trained, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"i know .\n")))
    assert main(["translate", "--model", trained, "-"]) == 0
    assert capsys.readouterr() == ("ich weiß .\n", "")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (
            ["train.en"],
            "train.en is taken as a text; to translate the lines of the file: --input train.en",
        ),
        (["i", "know", "."], 'one word each; to translate one sentence: "i know ."'),
        (["i know zzz .", "you sleep .", "xxx yyy"], "3 unknown words: texts 1, 3"),
        (["i know .", "--max-length", "2"], "cut off at the maximum length (--max-length): text 1"),
        ([" ".join(["zzz"] * 200)], "200 unknown words: text 1"),
    ],
)
def test_what_was_probably_not_meant_is_told(texts, says, trained, folder, capsys):
    assert main(["translate", "--model", trained, *texts]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == len([text for text in texts if text not in ("--max-length", "2")])
    assert f"pyx-transformer: {says}\n" in err or f" {says}\n" in err


def test_many_lines_are_counted(trained, monkeypatch, capsys):
    lines = b"i know .\n" * 2 + b"zzz .\n" * 13
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert main(["translate", "--model", trained, "--max-length", "9"]) == 0
    numbers = ", ".join(map(str, range(3, 13)))
    says = f"pyx-transformer: 13 unknown words: lines {numbers} and 3 more\n"
    assert capsys.readouterr().err.endswith(says)


def test_evaluating_tells_what_is_lost(trained, folder, capsys):
    (folder / "source").write_text("i know .\nyou zzz .\nxxx yyy .\n")
    (folder / "target").write_text("ich weiß .\nich weiß .\nich weiß .\n", "utf-8")
    assert main(["evaluate", "--model", trained, "source", "target", "--max-length", "3"]) == 0
    out, err = capsys.readouterr()
    assert err == "pyx-transformer: source has 3 unknown words: lines 2, 3\n"
    assert "cut_off 1.0000\n" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["translate", "--n-best", "8", "--beam-size", "4", "a"],
            "translate: --n-best is 8, expected at most --beam-size = 4",
        ),
        (["translate", "--beam-size", "0", "a"], "translate: --beam-size is 0"),
        (["translate", "a", "-"], "- is among other texts, expected it alone"),
        (["translate", "a", "--attention", "-"], "--attention: is -, expected a path"),
        (["generate", "--max-length", "3"], "expected a TransformerLM; Translator is for those"),
    ],
)
def test_errors_are_about_what_was_typed(arguments, says, trained, capsys):
    command, *rest = arguments
    refused([command, "--model", trained, *rest], capsys, says)


def test_models_that_are_not_there(trained, capsys):
    refused(["translate", "--model", "nosuch", "a"], capsys, "nosuch is missing", "en-ja")
    refused(["translate", "--model", "run", "a"], capsys, "but run/model is a model")


def test_stdin_that_is_not_utf_8_is_named(trained, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\xff\n")))
    refused(["translate", "--model", trained], capsys, "standard input, line 2 is not UTF-8")


def test_pictures(trained, folder, capsys):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    arguments = ["translate", "--model", trained, "i know .", "--attention", "heads.png"]
    assert main(arguments) == 0
    assert main(["train", "recipe.toml", "--output", "run", "--resume", "--plot", "c.png"]) == 0
    for name in ("heads.png", "c.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    refused([*arguments[:4], "a", *arguments[4:]], capsys, "--attention draws one TEXT")


def test_a_run_whose_texts_are_gone_at_its_end_has_succeeded(folder, monkeypatch, capsys):
    """Without the page of attention to one of them."""
    run = Recipe.run

    def and_removed(*arguments, **settings):
        found = run(*arguments, **settings)
        (folder / "train.en").unlink()
        return found

    monkeypatch.setattr(Recipe, "run", and_removed)
    arguments = ["train", "recipe.toml", "--output", "run", "--set", "training.steps=1"]
    assert main(arguments) == 0
    err = capsys.readouterr().err
    assert "pyx-transformer: no attention.html: train.en is missing\n" in err
    assert err.endswith("try it: pyx-transformer translate --model run/model\n")


def test_the_test_is_scored_at_the_end(folder, capsys):
    files = '[data]\ntest_source = "train.en"\ntest_target = "train.de"'
    (folder / "recipe.toml").write_text(RECIPE.replace("[data]", files))
    assert main(["train", "recipe.toml", "--output", "run"]) == 0
    assert re.search(
        r"step 120 of 120  test: .*exact_match 1, cut_off 0, bleu 100.00, bleu_sig",
        capsys.readouterr().err,
    )


def test_bleu_is_of_texts_as_the_tokenizer_has_them(folder, capsys):
    """References in ordinary writing, and characters."""
    (folder / "train.en").write_text("I don't know.\nYou know.\n")
    (folder / "train.de").write_text("You don't.\nI know it.\n")
    for change in ("text.target_language=en", "text.kind=characters"):
        arguments = ["--set", change, "--set", "training.max_length=20"]
        assert main(["train", "recipe.toml", "--output", f"run {change}", *arguments]) == 0
        capsys.readouterr()
        model = f"run {change}/model"
        assert main(["evaluate", "--model", model, "train.en", "train.de"]) == 0
        figures = dict(line.split() for line in capsys.readouterr().out.splitlines())
        assert float(figures["exact_match"]) == 1.0
        assert float(figures["bleu"]) == pytest.approx(100, abs=0.01)


def test_a_language_model(folder, capsys):
    (folder / "text.txt").write_text("abcabcabcabc\n" * 20)
    recipe = """
[data]
train_target = "text.txt"
dev_target = "text.txt"
[text]
kind = "characters"
[model]
d_model = 32
num_heads = 2
num_decoder_layers = 1
d_ff = 64
max_length = 27
[training]
steps = 100
batch_tokens = 128
peak_rate = 1e-2
warmup = 20
dropout = 0.0
validate_every = 100
"""
    (folder / "lm.toml").write_text(recipe)
    assert main(["train", "lm.toml", "--output", "lm"]) == 0
    capsys.readouterr()
    assert main(["generate", "--model", "lm/model", "--max-length", "6", "bca"]) == 0
    assert capsys.readouterr().out == "bcabcabca\n"
    arguments = ["--temperature", "0.9", "--num-samples", "3", "--seed", "1", "ab"]
    assert main(["generate", "--model", "lm/model", "--max-length", "6", *arguments]) == 0
    drawn = capsys.readouterr().out
    found = continue_texts(
        pt.load("lm/model"), ["ab"], max_length=6, temperature=0.9, num_samples=3, seed=1
    )
    assert drawn == "".join(one.text + "\n" for one in found[0])
    assert main(["evaluate", "--model", "lm/model", "text.txt"]) == 0
    assert capsys.readouterr().out.startswith("loss 0.")
    arguments = ["evaluate", "--model", "lm/model", "text.txt"]
    refused([*arguments, "text.txt"], capsys, "target was given")
    refused([*arguments, "--beam-size", "2"], capsys, "--beam-size was given")
    refused(["translate", "--model", "lm/model", "a"], capsys, "TransformerLM")


def test_vocab(folder, capsys):
    assert main(["vocab", "train.en", "--kind", "words", "--output", "v.txt"]) == 0
    lines = (folder / "v.txt").read_text().splitlines()
    assert lines[:4] == ["<unk>", "<s>", "</s>", "."]
    assert capsys.readouterr() == ("", f"pyx-transformer: v.txt: {len(lines)} tokens\n")
    extra = ["--set", "text.source_vocabulary=v.txt", "--set", "training.steps=1"]
    assert main(["train", "recipe.toml", "--output", "run", *extra]) == 0
    assert (folder / "run/model/source_vocabulary.txt").read_text() == "\n".join(lines) + "\n"


def test_sentencepiece(folder, capsys):
    pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    changes = ["text.kind=sentencepiece", "text.size=50", "text.shared=true"]
    arguments = [word for change in changes for word in ("--set", change)]
    assert main(["train", "recipe.toml", "--output", "run", *arguments]) == 0
    capsys.readouterr()
    assert main(["translate", "--model", "run/model", "the cat sleeps ."]) == 0
    assert capsys.readouterr().out == "die katze schläft .\n"
    # A zero-width space is no token.
    (folder / "train.en").write_text("a\nb\n\u200b\nd\ne\n", "utf-8")
    arguments = ["train", "recipe.toml", "--output", "run2", *arguments]
    refused(arguments, capsys, "train.en, line 3 has no token")


def test_everything_by_flags(capsys):
    values = {
        "data.train_source": "train.en",
        "data.train_target": "train.de",
        "text.kind": "words",
        "model.d_model": 8,
        "model.num_heads": 1,
        "model.num_encoder_layers": 1,
        "model.num_decoder_layers": 1,
        "model.d_ff": 8,
        "training.steps": 2,
    }
    flags = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    assert main(["train", "--output", "run", *flags]) == 0
    capsys.readouterr()
    refused(["train", *flags], capsys, "--output is missing, expected a folder because there is no")
    refused(["train"], capsys, "recipe is missing, expected a TOML file, or reverse, or --set")


def test_a_run_goes_where_its_recipe_says(folder, capsys):
    for words in ([], ["--resume"]):
        assert main(["train", "recipe.toml", *words, "--set", "training.steps=1"]) == 0
        assert "the best model is in runs/recipe/model\n" in capsys.readouterr().err
    again = ["train", "recipe.toml", "--set", "training.steps=1"]
    refused(again, capsys, "runs/recipe/checkpoint.safetensors exists: go on with --resume, or")


# Bad input: one line, status 2, and nothing lost.


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.de", "ein satz .\n", ["train.en has 5 lines", "expected 1"]),
        ("train.de", "a\nb\n\nd\ne\n", ["train.de, line 3 is empty"]),
        ("train.en", b"a\nb\n\xff\xfe\nd\ne\n", ["train.en, line 3 is not UTF-8"]),
        ("train.en", "", ["train.en is empty"]),
        ("recipe.toml", RECIPE.replace("steps", "stesp"), ["'stesp'", "expected one of", "steps"]),
        ("recipe.toml", RECIPE.replace("[text]", "[texts]"), ["'texts'"]),
        ("recipe.toml", RECIPE.replace("d_ff", "dff"), ["dff"]),
        ("recipe.toml", RECIPE.replace('"train.en"', '"train.fr"', 1), ["train.fr is missing"]),
        ("recipe.toml", RECIPE.replace('dev_target = "train.de"', ""), ["dev_source"]),
        ("recipe.toml", "[data", ["recipe.toml is not TOML"]),
        ("recipe.toml", RECIPE.replace("[model]", "[model]\nnum_heads = 5", 1), ["not TOML"]),
        (
            "recipe.toml",
            RECIPE.replace("[model]", '[model]\npositions = "learned"\nmax_length = 4'),
            ["train.de, line 3 has 5 tokens", "max_length = 4"],
        ),
        ("recipe.toml", RECIPE.replace("steps = 120", 'steps = "many"'), ["steps"]),
        ("recipe.toml", RECIPE.replace("[text]", "[text]\nmin_count = 2.5"), ["min_count is 2.5"]),
        ("recipe.toml", RECIPE.replace("[text]", '[text]\nshared = "no"'), ["shared is 'no'"]),
        (
            "recipe.toml",
            RECIPE.replace("[text]", '[text]\nshared = true\ntarget_language = "ja"'),
            ["target_language is 'ja'", "shared"],
        ),
        ("recipe.toml", RECIPE.replace("[data]", "[data]\ndev_share = 0.1"), ["dev_share"]),
        ("recipe.toml", RECIPE.replace("[model]", "[model]\nend_id = 7"), ["end_id = 7"]),
    ],
)
def test_what_train_refuses(name, content, says, folder, capsys):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(["train", "recipe.toml", "--output", "run"], capsys, *says)
    assert not (folder / "run" / "checkpoint.safetensors").exists()


def test_other_refusals(folder, capsys):
    refused(["train", "nowhere.toml", "--output", "run"], capsys, "nowhere.toml is missing")
    refused(["train", "recipe.toml", "--output", "run", "--set", "steps=3"], capsys, "--set")
    refused(["train", "recipe.toml", "--output", "train.en"], capsys, "train.en")
    refused(["translate", "--model", "nowhere", "a"], capsys, "nowhere")
    refused(["vocab", "train.en", "--output", "v", "--size", "9", "--kind", "bpe"], capsys, "bpe")
    refused(
        ["vocab", "train.en", "--output", "no/v", "--kind", "words"],
        capsys,
        "vocab: path: there is no folder no",
    )
    refused(["vocab", "train.fr", "--output", "v", "--kind", "words"], capsys, "train.fr")
    refused(["vocab", "train.en", "--output", ".", "--kind", "words"], capsys, "folder")
    rare = ["--min-count", "99", "--kind", "words"]
    refused(["vocab", "train.en", "--output", "v", *rare], capsys, "--min-count = 99")
    assert not (folder / "v").exists()
    pt.Transformer(pt.TransformerConfig(9, 9, d_model=8, num_heads=1), rng=0).save("bare")
    refused(["translate", "--model", "bare", "a"], capsys, "src_tokenizer")
    refused(["evaluate", "--model", "bare", "train.en", "train.de"], capsys, "tgt_tokenizer")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--size is missing"),
        (["--size", "50", "--min-count", "2"], "--min-count is 2, expected 1 with sentencepiece"),
        (["--size", "50", "--language", "en"], "language is 'en'"),
        (["--kind", "characters", "--language", "en"], "language is 'en'"),
        (["--kind", "words", "--min-count", "0"], "--min-count is 0, expected at least 1"),
    ],
)
def test_vocabularies_that_cannot_be_made(arguments, says, folder, capsys):
    refused(["vocab", "train.en", "--output", "v", *arguments], capsys, says)
    assert not (folder / "v").exists()


def test_evaluating_in_python(trained, capsys):
    assert main(["evaluate", "--model", trained, "train.en", "train.de", "--beam-size", "2"]) == 0
    printed = capsys.readouterr().out
    figures = evaluate(pt.load(trained), "train.en", "train.de", beam_size=2)
    signature = figures.pop("bleu_signature")
    rows = "".join(f"{name} {value:.4f}\n" for name, value in figures.items())
    assert printed == f"{rows}bleu_signature {signature}\n"
    arguments = ["evaluate", "--model", trained, "train.en", "train.de", "--beam-size", "2"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**figures, "bleu_signature": signature}
    assert list(figures) == ["loss", "exact_match", "cut_off", "bleu"]
    assert "tok:none" in signature
    asked = evaluate(pt.load(trained), "train.en", "train.de", bleu_tokenizer="char")
    assert "tok:char" in asked["bleu_signature"]
    with pytest.raises(ValueError, match="evaluate: bleu_tokenizer is 'mecab'"):
        evaluate(pt.load(trained), "train.en", "train.de", bleu_tokenizer="mecab")
    assert "bleu" not in evaluate(pt.load(trained), "train.en", "train.de", with_bleu=False)
    with pytest.raises(ValueError, match="evaluate: target is missing"):
        evaluate(pt.load(trained), "train.en")


@pytest.mark.parametrize("command", ["vocab", "train", "evaluate", "translate", "generate"])
def test_help_says_what_each_option_does(command, capsys):
    one = parser()._subparsers._group_actions[0].choices[command]
    for action in one._actions:
        assert action.help, action.dest
        may_be_left_out = action.option_strings and not action.required and action.nargs != 0
        if may_be_left_out and action.dest not in ("set", "plot", "attention", "size"):
            drawn = ("top_k", "top_p", "num_samples", "seed")
            assert "default" in action.help or action.dest in drawn, action.dest


@pytest.mark.parametrize("command", ["evaluate", "score", "inspect", "convert"])
def test_help_names_the_models_that_come_with_the_package(command):
    said = parser()._subparsers._group_actions[0].choices[command].format_help()
    assert all(re.search(rf"\b{name}\b", said) for name in native.SHIPPED_NAMES)


def test_interrupting_a_run_leaves_its_checkpoint(folder, capsys, monkeypatch):
    from pyx_transformer.training import trainer

    def interrupted(*arguments):
        raise KeyboardInterrupt

    assert main(["train", "recipe.toml", "--output", "run", "--set", "training.patience=1"]) == 0
    before = (folder / "run/checkpoint.safetensors").read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(trainer.Trainer, "run", interrupted)
    arguments = ["train", "recipe.toml", "--output", "run", "--resume"]
    assert main(arguments) == 130
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("; no step is left\npyx-transformer train: interrupted\n")
    assert (folder / "run/checkpoint.safetensors").read_bytes() == before


def test_a_second_run_into_the_same_folder_is_refused(trained, folder, capsys):
    before = (folder / "run/checkpoint.safetensors").read_bytes()
    refused(
        ["train", "recipe.toml", "--output", "run"],
        capsys,
        "checkpoint.safetensors exists: go on with --resume, or name a new folder",
    )
    wider = ["--set", "model.d_ff=24", "--set", "model.norm_first=true"]
    again = ["train", "recipe.toml", "--output", "run", "--resume", *wider]
    refused(again, capsys, "its config differ from these in ", "norm_first", "d_ff")
    assert (folder / "run/checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize("kept", ["model", "log.jsonl"])
def test_what_a_run_left_is_not_overwritten(kept, trained, folder, capsys):
    """A finished model, say, whose checkpoint was deleted to save space."""
    for path in [folder / "run/checkpoint.safetensors", folder / "run/log.jsonl"]:
        if path.name != kept:
            path.unlink()
    if kept != "model":
        shutil.rmtree(folder / trained)
    before = {path: path.read_bytes() for path in folder.rglob("run/**/*") if path.is_file()}
    assert before
    refused(
        ["train", "recipe.toml", "--output", "run"], capsys, f"run/{kept} exists: name a new folder"
    )
    after = {path: path.read_bytes() for path in folder.rglob("run/**/*") if path.is_file()}
    assert after == before


def test_a_vocabulary_that_does_not_match_the_weights(trained, folder, capsys):
    with open(folder / trained / "source_vocabulary.txt", "a") as file:
        file.write("one\ntwo\n")
    refused(["translate", "--model", trained, "a"], capsys, "source_vocabulary.txt", "tokens")
