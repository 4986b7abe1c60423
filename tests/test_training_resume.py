"""Runs that are stopped, and go on to the same bits; checkpoints that cannot be written or used."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from models import small_config
from runs import OPTIONS, bits, new_model, some_examples

import pyx_transformer as pt
from pyx_transformer.training import train, trainer
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.shards import Step

CHECKPOINTED = ["average", "means", "squares", "values"]


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    whole = new_model()
    train(whole, some_examples(), some_examples(5, 1), OPTIONS, tmp_path / "whole")
    for steps in (4, 8, 12):
        resumed = pt.Transformer(small_config(), rng=99)  # its weights come from the checkpoint
        if steps == 4:
            resumed = new_model()
        train(
            resumed,
            some_examples(),
            some_examples(5, 1),
            replace(OPTIONS, steps=steps),
            tmp_path / "parts",
            resume=True,
        )
    assert bits(resumed) == bits(whole)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts")]
    for log in logs:
        for entry in log:
            entry.pop("tokens_per_second", None)
            entry.pop("seconds_left", None)
    assert logs[0] == logs[1]
    assert bits(pt.load(tmp_path / "whole" / "model")) == bits(
        pt.load(tmp_path / "parts" / "model")
    )


class Broken(Exception):
    """What ends a run in these tests."""


def broken_off(at, model, options, folder, monkeypatch):
    """Train until the gradients of step number `at` are asked for."""
    calls, original = [], Step.add_gradients

    def breaking(*arguments):
        calls.append(arguments)
        if len(calls) == at:
            raise Broken
        return original(*arguments)

    monkeypatch.setattr(Step, "add_gradients", breaking)
    with pytest.raises(Broken):
        train(model, some_examples(), None, options, folder)
    monkeypatch.setattr(Step, "add_gradients", original)


def step_of(checkpoint):
    """The step that a checkpoint was saved after."""
    with safetensors.safe_open(checkpoint, "np") as file:
        return json.loads(file.metadata()["progress"])["step"]


@pytest.mark.parametrize("changes", [{}, {"schedule": "cosine"}, {"accumulate": 2}], ids=str)
def test_checkpoints_by_time_between_validations(changes, tmp_path, monkeypatch):
    """A run that breaks off in step 8 goes on after step 7, or at all, only with them."""
    options = replace(OPTIONS, steps=10, validate_every=10, **changes)
    whole = new_model()
    train(whole, some_examples(), None, options, tmp_path / "whole")
    broken_off(8, new_model(), options, tmp_path / "rarely", monkeypatch)
    assert not (tmp_path / "rarely" / "checkpoint.safetensors").exists()

    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    broken_off(8, new_model(), options, tmp_path / "often", monkeypatch)
    assert step_of(tmp_path / "often" / "checkpoint.safetensors") == 7
    resumed = pt.Transformer(small_config(), rng=99)
    train(resumed, some_examples(), None, options, tmp_path / "often", resume=True)
    assert bits(resumed) == bits(whole)


RUN = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from runs import OPTIONS, new_model, some_examples
from dataclasses import replace
import pyx_transformer as pt
from pyx_transformer.training import train, trainer
options = replace(OPTIONS, steps=200, validate_every=3)
model = new_model()
if (Path(sys.argv[1]) / "checkpoint.safetensors").exists():  # the weights come from there
    model = pt.Transformer(model.config, rng=99)
train(model, some_examples(), None, options, sys.argv[1], resume=True,
      report=lambda entry: print(entry["step"], flush=True))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_run_killed_at_random_resumes_to_the_same_bits(tmp_path):
    whole = new_model()
    options = replace(OPTIONS, steps=200, validate_every=3)
    train(whole, some_examples(), None, options, tmp_path / "whole")

    script = RUN.format(paths=[os.path.dirname(__file__)])
    command = [sys.executable, "-c", script, str(tmp_path / "killed")]
    rng = np.random.default_rng(0)
    for _ in range(3):
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert run.stdout.readline()  # a step is done
        time.sleep(rng.uniform(0, 0.15))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        assert run.returncode == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert bits(pt.load(tmp_path / "killed" / "model")) == bits(whole)
    paths = [tmp_path / name / "checkpoint.safetensors" for name in ("killed", "whole")]
    killed, expected = (safetensors.safe_open(path, "np") for path in paths)
    assert killed.metadata() == expected.metadata()
    assert sorted(killed.keys()) == sorted(expected.keys()) == CHECKPOINTED
    for key in CHECKPOINTED:
        assert killed.get_tensor(key).tobytes() == expected.get_tensor(key).tobytes()


@pytest.fixture
def locked():
    """A function that takes a folder's write permission until the test is over."""
    folders = []

    def lock(folder):
        folders.append(folder)
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("this user, root perhaps, may write into any folder")

    yield lock
    for folder in folders:
        folder.chmod(0o700)


@pytest.mark.parametrize("begun", [False, True])
def test_an_unwritable_folder(begun, tmp_path, locked):
    folder = tmp_path / "run"
    folder.mkdir()
    if begun:
        train(new_model(), some_examples(), None, replace(OPTIONS, steps=4), folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    locked(folder)
    with pytest.raises(PermissionError, match=re.escape(str(folder))):
        train(new_model(), some_examples(), None, OPTIONS, folder, resume=begun)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        train(new_model(), some_examples(), None, OPTIONS, tmp_path / "file" / "run")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    train(new_model(), some_examples(), None, replace(OPTIONS, steps=4), tmp_path)
    files = ("checkpoint.safetensors", "log.jsonl", "model/model.safetensors")

    def full_from(name):
        """Writing fails from the first file of that name on."""

        def fsync(descriptor):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if os.path.basename(path) == name:
                raise OSError(28, "No space left on device")

        return fsync

    for name in files:
        before = (tmp_path / name).read_bytes()
        monkeypatch.setattr(os, "fsync", full_from(os.path.basename(name)))
        with pytest.raises(OSError, match="No space left"):
            train(new_model(), some_examples(), None, OPTIONS, tmp_path, resume=True)
        monkeypatch.undo()
        assert (tmp_path / name).read_bytes() == before
        assert not list(tmp_path.rglob(".saving.*"))
    resumed, whole = new_model(), new_model()
    train(resumed, some_examples(), None, OPTIONS, tmp_path, resume=True)
    train(whole, some_examples(), None, OPTIONS, tmp_path / "whole")
    assert bits(resumed) == bits(whole)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    train(new_model(), some_examples(), None, replace(OPTIONS, steps=4), tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def attempt(model=None, options=OPTIONS, resume=True):
        train(model or new_model(), some_examples(), None, options, tmp_path, resume=resume)

    with pytest.raises(FileExistsError, match="checkpoint"):
        attempt(resume=False)
    for changes in ({"d_ff": 43}, {"num_heads": 2}, {"norm_first": True}):
        with pytest.raises(ValueError, match="its config differ"):
            attempt(pt.Transformer(small_config(**changes), rng=0))
    with pytest.raises(ValueError, match="its examples differ"):
        train(new_model(), some_examples(seed=1), None, OPTIONS, tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"dropout is 0\.3, expected 0\.2"):
        attempt(options=replace(OPTIONS, dropout=0.3))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    (tmp_path / "checkpoint.safetensors").write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match="is no checkpoint"):
        attempt()


def other(name, value):
    """Another value of an option."""
    if isinstance(value, str):
        return {"schedule": "cosine", "metric": "exact_match", "bleu_tokenizer": "char"}[name]
    return value / 2 if isinstance(value, float) and value else value + 1


def test_options_of_another_run_are_refused(tmp_path):
    """All but those that change nothing which is done already."""
    begun = replace(OPTIONS, steps=4, patience=3)
    train(new_model(), some_examples(), None, begun, tmp_path / "run")
    kept = {"steps", "patience", "test_beam_size"}
    for name, value in asdict(begun).items():
        changed = other(name, value)
        assert changed != value
        shutil.copytree(tmp_path / "run", tmp_path / name)
        arguments = new_model(), some_examples(), None, replace(begun, **{name: changed})
        if name in kept:
            train(*arguments, tmp_path / name, resume=True)
        else:
            with pytest.raises(
                ValueError, match=f"train: {name} is {changed!r}, expected {value!r}"
            ):
                train(*arguments, tmp_path / name, resume=True)


def test_a_checkpoint_without_newer_options_has_their_defaults(tmp_path):
    """It goes on as what it was before there were others."""
    newer = {"shards": 8, "bleu_tokenizer": "auto"}
    train(new_model(), some_examples(), None, replace(OPTIONS, steps=4), tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    with safetensors.safe_open(path, "np") as file:
        about = file.metadata()
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    options = json.loads(about["options"])
    assert newer.items() <= options.items()
    older = {name: value for name, value in options.items() if name not in newer}
    about["options"] = json.dumps(older)
    safetensors.numpy.save_file(arrays, path, about)
    with pytest.raises(ValueError, match="train: shards is 4, expected 8"):
        other = replace(OPTIONS, shards=4)
        train(new_model(), some_examples(), None, other, tmp_path, resume=True)
    resumed, whole = new_model(), new_model()
    train(resumed, some_examples(), None, OPTIONS, tmp_path, resume=True)
    train(whole, some_examples(), None, OPTIONS, tmp_path / "whole")
    assert bits(resumed) == bits(whole)


def test_a_cosine_ends_where_it_was_to_end(tmp_path):
    options = replace(OPTIONS, steps=4, schedule="cosine")
    train(new_model(), some_examples(), None, options, tmp_path)
    with pytest.raises(ValueError, match="train: steps is 12, expected 4"):
        train(new_model(), some_examples(), None, replace(options, steps=12), tmp_path, resume=True)
