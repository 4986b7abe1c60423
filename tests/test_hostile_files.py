"""Contract 6: whatever stands in the place of a file of a model, of a run or of a recipe, there is
one error that names the file: no other exception, no waiting, and no end of memory."""

import json
import os
import re
import shutil
import threading

import pytest
import safetensors
import safetensors.numpy
import small_task
from models import small_model
from runs import OPTIONS, new_model, some_examples

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.generation import GenerationOptions
from pyx_transformer.tokenizers import listed
from pyx_transformer.training import evaluate, train
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.recipe import load_recipe

CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"
JSON_FILES = ("config.json", "generation.json", "tokenizers.json")
MODEL_FILES = (*JSON_FILES, "model.safetensors", "source_vocabulary.txt", "target_vocabulary.txt")
DEEP = {"deep lists": "[" * 100_000, "deep objects": '{"a":' * 100_000}
VALUES = {
    "null": "null",
    "a number": "3",
    "a text": '"a"',
    "a list": "[]",
    "a list of a list": "[[]]",
    "true": "true",
    "NaN": "NaN",
    "400 digits": "1" * 400,
    "5000 digits": "1" * 5000,
    "a long text": f'"{"a" * 100_000}"',
    "half a character": '"\\ud800"',
    "lists that can be read": "[" * 900 + "]" * 900,
    "objects that can be read": '{"a":' * 900 + "1" + "}" * 900,
    **DEEP,
}


@pytest.fixture
def model_folder(tmp_path):
    """A saved model with all files that one of words can have."""
    model = small_model()
    for name in ("src", "tgt"):
        size = getattr(model.config, f"{name}_vocab_size")
        tokens = [*listed.SPECIAL, *(f"t{i}" for i in range(size - 3))]
        setattr(model, f"{name}_tokenizer", text.Words(tokens))
    model.generation_options = GenerationOptions(beam_size=2)
    model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("run")
    train(new_model(), some_examples(), None, OPTIONS, folder)
    return folder


@pytest.fixture
def run_folder(whole_run, tmp_path):
    """A copy of it."""
    return shutil.copytree(whole_run, tmp_path / "run")


def resume(folder):
    train(new_model(), some_examples(), None, OPTIONS, folder, resume=True)


def assert_one_error(path, function, *arguments):
    """One short error, which names the file."""
    with pytest.raises((OSError, ValueError), match=re.escape(str(path))) as error:
        function(*arguments)
    assert len(str(error.value)) < 1500


def values_within(value):
    """Each way to a value in a JSON value."""
    yield ()
    if isinstance(value, dict):
        for name, one in value.items():
            yield from ((name, *way) for way in values_within(one))


def with_value(value, way, new):
    """The value with another one there."""
    if not way:
        return new
    return {**value, way[0]: with_value(value[way[0]], way[1:], new)}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", JSON_FILES)
def test_other_values_in_json(name, value, model_folder):
    path = model_folder / name
    before = json.loads(path.read_text())
    for way in values_within(before):
        path.write_text(json.dumps(with_value(before, way, "@")).replace('"@"', VALUES[value]))
        try:
            pt.load(model_folder)
        except (OSError, ValueError) as error:
            assert str(model_folder) in str(error)
            assert len(str(error)) < 1500


@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("name", JSON_FILES)
def test_deep_json(name, content, model_folder):
    (model_folder / name).write_text(content)
    assert_one_error(model_folder / name, pt.load, model_folder)


def test_tokenizers_of_no_side(model_folder):
    (model_folder / "tokenizers.json").write_text('{"kind": "words"}')
    with pytest.raises(ValueError, match=r"tokenizers\.json: unknown keys \['kind'\]"):
        pt.load(model_folder)


def test_a_tokenizers_file_is_named(model_folder):
    path = model_folder / "source_vocabulary.txt"
    path.write_text(path.read_text().replace("<unk>", "<unknown>"))
    with pytest.raises(ValueError, match=r"source with source_vocabulary\.txt: Words: vocabulary"):
        pt.load(model_folder)


# What is no file.


def folder_at(path):
    path.mkdir()


def pipe_at(path):
    os.mkfifo(path)


def endless_at(path):
    path.symlink_to("/dev/zero")


def empty_device_at(path):
    path.symlink_to("/dev/null")


NO_FILES = [
    folder_at,
    *([pipe_at] if hasattr(os, "mkfifo") else []),
    *([endless_at, empty_device_at] if os.path.exists("/dev/zero") else []),
]


def replaced(path, make):
    """What `make` makes in the place of a file."""
    path.unlink()
    make(path)
    return path


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("name", MODEL_FILES)
def test_no_file_of_a_model(name, make, model_folder):
    assert_one_error(replaced(model_folder / name, make), pt.load, model_folder)


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("name", [CHECKPOINT, LOG])
def test_no_file_of_a_run(name, make, run_folder):
    assert_one_error(replaced(run_folder / name, make), resume, run_folder)


@pytest.mark.parametrize("make", [make for make in NO_FILES if make is not pipe_at])
def test_no_recipe_and_no_text(make, tmp_path):
    make(tmp_path / "file")
    model = small_model()
    model.src_tokenizer = model.tgt_tokenizer = text.make("words", ["a"])
    assert_one_error(tmp_path / "file", load_recipe, tmp_path / "file")
    assert_one_error(tmp_path / "file", text.load, "words", tmp_path / "file")
    assert_one_error(tmp_path / "file", evaluate, model, tmp_path / "file", tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_texts_may_be_pipes(tmp_path):
    """As `pyx-transformer train <(...)` gives them."""

    def piped(content):
        path = tmp_path / "pipe"
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()
        return path

    recipe = load_recipe(piped(small_task.RECIPE.encode()))
    assert recipe.training.steps == 120
    words = text.make("words", ["a b"])
    assert text.load("words", piped(words.files()["vocabulary.txt"])).vocabulary == words.vocabulary
    model = pt.TransformerLM(pt.TransformerLMConfig(5, d_model=8, num_heads=2, d_ff=8), rng=0)
    model.tgt_tokenizer = words
    assert evaluate(model, piped(b"a b\nb\n"))


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs a device")
def test_a_vocabulary_takes_no_devices_place(tmp_path):
    device = tmp_path / "device"
    device.symlink_to("/dev/null")
    with pytest.raises(OSError, match="device is a pipe or a device, expected a file to write"):
        text.save(text.make("words", ["a"]), device)
    assert device.is_symlink()


# Runs.


def with_metadata(path, **changes):
    """The checkpoint with other texts in its metadata."""
    with safetensors.safe_open(path, "np") as file:
        about = file.metadata()
    arrays = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(arrays, path, {**about, **changes})


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ["options", "updates", "config", "vocabularies", "examples"])
def test_other_metadata(name, value, run_folder):
    if (name, value) == ("updates", "a number"):
        return  # it can be one of another run
    with_metadata(run_folder / CHECKPOINT, **{name: VALUES[value]})
    assert_one_error(run_folder / CHECKPOINT, resume, run_folder)


@pytest.mark.parametrize("value", [v for v in VALUES if v not in ("a number", "true")])
@pytest.mark.parametrize("name", ["step", "batch", "best"])
def test_other_progress(name, value, run_folder):
    if (name, value) == ("best", "null"):
        return  # there is none yet
    progress = {"step": 4, "epoch": 1, "batch": 1, "best": 0.5, "worse": 0, "skipped": 0}
    content = json.dumps(progress | {name: "@"}).replace('"@"', VALUES[value])
    with_metadata(run_folder / CHECKPOINT, progress=content)
    assert_one_error(run_folder / CHECKPOINT, resume, run_folder)


def test_other_arrays(run_folder):
    path = run_folder / CHECKPOINT
    with safetensors.safe_open(path, "np") as file:
        about = file.metadata()
    arrays = safetensors.numpy.load_file(path)
    means = arrays.pop("means")
    safetensors.numpy.save_file(arrays, path, about)
    with pytest.raises(ValueError, match=rf"{path} has no means"):
        resume(run_folder)
    safetensors.numpy.save_file({**arrays, "means": means.astype("f8")}, path, about)
    with pytest.raises(ValueError, match=r"means in .* is a float64 array of shape"):
        resume(run_folder)


@pytest.mark.parametrize("value", VALUES)
def test_a_line_of_a_log_that_is_no_entry(value, run_folder):
    path = run_folder / LOG
    first, *others = path.read_text().split("\n")
    path.write_text("\n".join([first, VALUES[value], *others]))
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2 is ")) as error:
        read_log(path)
    assert len(str(error.value)) < 500
    with pytest.raises(ValueError, match=re.escape(f"train: {path}, line 2 is ")):
        resume(run_folder)


def test_a_line_of_a_log_that_was_cut_off(run_folder):
    path = run_folder / LOG
    entries, content = read_log(path), path.read_text()
    path.write_text(content[:-10])
    assert read_log(path) == entries[:-1]
    path.write_text(content[:-1])  # an editor took the last line break away
    assert read_log(path) == entries
