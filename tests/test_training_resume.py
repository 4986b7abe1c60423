"""Runs that are stopped, and go on to the same bits; checkpoints that cannot be written or used."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from models import small_config
from runs import OPTIONS, bits, new_model, some_examples

import pyx_transformer as pt
from pyx_transformer.training import train
from pyx_transformer.training.log import read as read_log


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


RUN = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from runs import OPTIONS, new_model, some_examples
from dataclasses import replace
import pyx_transformer as pt
from pyx_transformer.training import train
options = replace(OPTIONS, steps=400, validate_every=3)
model = new_model()
if (Path(sys.argv[1]) / "checkpoint.safetensors").exists():  # the weights come from there
    model = pt.Transformer(model.config, rng=99)
train(model, some_examples(), None, options, sys.argv[1], resume=True,
      report=lambda entry: print(entry["step"], flush=True))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_run_killed_at_random_resumes_to_the_same_bits(tmp_path):
    whole = new_model()
    options = replace(OPTIONS, steps=400, validate_every=3)
    train(whole, some_examples(), None, options, tmp_path / "whole")

    script = RUN.format(paths=[os.path.dirname(__file__)])
    command = [sys.executable, "-c", script, str(tmp_path / "killed")]
    rng = np.random.default_rng(0)
    for _ in range(3):
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert run.stdout.readline()  # a step is done
        time.sleep(rng.uniform(0, 0.3))
        run.send_signal(signal.SIGKILL)
        run.communicate()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed = pt.load(tmp_path / "killed" / "model")
    assert bits(killed) == bits(whole)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_unwritable_folder_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    from pyx_transformer.checkpoints import native

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
        monkeypatch.setattr(native.os, "fsync", full_from(os.path.basename(name)))
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
