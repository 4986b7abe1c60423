"""Runs that are stopped, or that nobody listens to any more."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import small_task
from safetensors.numpy import load_file

import pyx_transformer as pt
from pyx_transformer.cli import main
from pyx_transformer.training.interrupts import ANSWER, Interrupts
from pyx_transformer.training.log import read

COMMAND = [sys.executable, "-m", "pyx_transformer"]
TRAIN = [*COMMAND, "train", "recipe.toml", "--output"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the files of a small task, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    small_task.write(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Here and in the processes that are started: a job in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def without_times(path):
    """The entries of a log but those of steps without validation, which come by the clock."""
    entries = [entry for entry in read(path) if "loss" not in entry]
    assert entries
    return entries


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_a_run_stopped_by_ctrl_c_goes_on_to_the_same_bits(folder, capsys):
    changes = ["--set", "training.steps=400", "--set", "training.dropout=0.1"]
    assert main([*TRAIN[3:], "whole", *changes]) == 0
    run = subprocess.Popen(
        [*TRAIN, "run", *changes], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    told = [run.stderr.readline() for _ in range(2)]
    assert told[1].startswith(b"step 60 of 400  loss ")
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    says = rb"pyx-transformer train: interrupted at step (\d+); --resume goes on\n"
    assert err.count(ANSWER) == 1  # behind which a validation may end
    step = int(re.search(says + rb"\Z", err)[1])
    assert step < 400

    assert main([*TRAIN[3:], "run", *changes, "--resume"]) == 0
    for name in ("model/model.safetensors", "checkpoint.safetensors"):
        run, whole = (load_file(folder / run / name) for run in ("run", "whole"))
        assert run.keys() == whole.keys()
        assert all(run[key].tobytes() == whole[key].tobytes() for key in run)
    assert without_times(folder / "run/log.jsonl") == without_times(folder / "whole/log.jsonl")


def test_a_run_stopped_before_its_first_step_can_go_on(folder, capsys, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    changes = ["--set", "training.steps=3"]
    monkeypatch.setattr("pyx_transformer.training.trainer.Trainer._step", stopped)
    assert main([*TRAIN[3:], "run", *changes]) == 130
    assert capsys.readouterr().err.endswith("; steps 1 to 3\npyx-transformer train: interrupted\n")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main([*TRAIN[3:], "run", *changes, "--resume"]) == 0
    assert main([*TRAIN[3:], "whole", *changes]) == 0
    run, whole = (load_file(folder / run / "model/model.safetensors") for run in ("run", "whole"))
    assert all(run[key].tobytes() == whole[key].tobytes() for key in whole)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_ctrl_c_ends_vocab_while_sentencepiece_works(folder):
    """Which hears no signal until it is done, as what is in its place here."""
    (folder / "sentencepiece.py").write_text("""class SentencePieceTrainer:
    def Train(**_):
        print("begun", flush=True)
        sum(range(10**11))
""")
    run = subprocess.Popen(
        [*COMMAND, "vocab", "train.en", "--size", "20", "--output", "v"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert run.stdout.readline() == b"begun\n"
    begin = time.monotonic()
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=60) == (b"", b"")
    assert time.monotonic() - begin < 0.5
    assert run.returncode == -signal.SIGINT and not (folder / "v").exists()


def test_ctrl_c_is_kept_once(capfd):
    with Interrupts() as interrupts:
        assert not interrupts.came
        signal.raise_signal(signal.SIGINT)
        assert interrupts.came
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == ANSWER.decode()


def test_ctrl_c_is_kept_where_nothing_can_be_said(monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed, io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert interrupts.came


def test_other_handlers_stay(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
        assert heard == [1] and not interrupts.came
    finally:
        signal.signal(signal.SIGINT, before)


def test_threads_hear_no_signals():
    def use():
        with Interrupts() as interrupts:
            used.append(interrupts.came)

    used = []
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert used == [False]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("kind", ["closed pipe", "full device"])
def test_a_run_goes_on_when_nothing_can_be_printed(kind, folder):
    if kind == "closed pipe":
        read_end, out = os.pipe()
        os.close(read_end)
    else:
        if not os.path.exists("/dev/full"):
            pytest.skip("needs /dev/full")
        out = os.open("/dev/full", os.O_WRONLY)
    try:
        run = subprocess.run([*TRAIN, "run"], stdout=subprocess.PIPE, stderr=out)
    finally:
        os.close(out)
    assert (run.returncode, run.stdout) == (0, b"")
    assert read(folder / "run/log.jsonl")[-1]["step"] == 120
    assert pt.load("run/model").tgt_tokenizer is not None
