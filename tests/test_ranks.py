"""Training on several ranks of MPI: the bits of one process, and runs in which a rank fails."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_task
from safetensors.numpy import load_file

from pyx_transformer.cli import main
from pyx_transformer.training import ranks
from pyx_transformer.training.log import read

pytest.importorskip("mpi4py", reason="needs the extra `mpi`")
if shutil.which("mpiexec") is None:
    pytest.skip("needs mpiexec, such as that of Debian's openmpi-bin", allow_module_level=True)

RUN = str(Path(__file__).with_name("mpi_run.py"))
STEPS = 30
SETTINGS = {
    "plain": {},
    "all": {"dropout": 0.1, "accumulate": 3, "average_decay": 0.9, "label_smoothing": 0.1},
    "shards": {"shards": 5, "accumulate": 2},
}


def mpiexec(count, *command, **settings):
    """What a command gives on so many ranks. Open MPI has to be told that it may be root's."""
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = {**os.environ, **allowed, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["mpiexec", "--oversubscribe", "-n", str(count), *command],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        **settings,
    )


def trained(count, folder, **settings):
    """A run of mpi_run.py, which has to succeed."""
    done = started(count, folder, **settings)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the best model is in") == 1  # the first tells how it goes
    return digests(folder)


def started(count, folder, steps=STEPS, **settings):
    values = json.dumps({"steps": steps, **settings})
    return mpiexec(count, sys.executable, RUN, str(folder), values)


def digests(folder):
    """SHA-256 of each array of a checkpoint: weights, moments, averages."""
    arrays = load_file(Path(folder) / "checkpoint.safetensors")
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The digests of a run of one process, by its settings."""
    found = {}

    def of(name):
        if name not in found:
            found[name] = trained(1, tmp_path_factory.mktemp(name), **SETTINGS[name])
        return found[name]

    return of


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", SETTINGS)
def test_any_number_of_ranks_gives_the_same_bits(name, count, alone, tmp_path):
    assert trained(count, tmp_path, **SETTINGS[name]) == alone(name)


@pytest.mark.parametrize(("rank", "how"), [(2, "SIGKILL"), (0, "SIGKILL"), (3, "error")])
def test_a_killed_run_goes_on_with_other_ranks(rank, how, alone, tmp_path):
    """The last checkpoint, of step 15, stands, and two ranks go on from it."""
    done = started(4, tmp_path, kills=[rank, 17, how], **SETTINGS["all"])
    assert done.returncode != 0
    if how == "error":
        assert "train: rank 3 ends: no more" in done.stderr
    else:
        assert "signal 9" in done.stderr
    assert load_file(tmp_path / "checkpoint.safetensors")
    assert read(tmp_path / "log.jsonl")[-1]["step"] == 15
    assert trained(2, tmp_path, resume=True, **SETTINGS["all"]) == alone("all")


@pytest.mark.parametrize(
    ("differs", "says"),
    [
        ([1, "examples"], "train: ranks differ in the examples: "),
        ([2, "options"], "train: ranks differ in the option seed: 0 in rank 0, 5 in rank 2"),
        ([1, "weights"], "train: ranks differ in the weights to start from: "),
    ],
)
def test_ranks_that_differ_do_not_start(differs, says, tmp_path):
    done = started(3, tmp_path / "run", differs=differs)
    assert done.returncode == 1 and says in done.stderr
    assert f"in rank {differs[0]}, expected the same in all" in done.stderr
    assert not (tmp_path / "run").exists()


def test_more_ranks_than_shards(tmp_path):
    done = started(4, tmp_path / "run", shards=3)
    assert done.returncode == 1
    assert "4 ranks were started, expected at most shards = 3: start fewer, or set" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_the_first_rank_cannot_have(tmp_path):
    (tmp_path / "run").write_text("")
    done = started(2, tmp_path / "run")
    assert done.returncode == 1 and "(rank 0)" in done.stderr


def test_the_command(tmp_path, monkeypatch):
    """Of four ranks one prints; the model is that of one process, and so is the log."""
    monkeypatch.chdir(tmp_path)
    small_task.write(tmp_path)
    command = ["train", "recipe.toml", "--set", "training.steps=12", "--output"]
    assert main([*command, "alone"]) == 0
    done = mpiexec(4, sys.executable, "-m", "pyx_transformer", *command, "four")
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr.count("12 steps; the best model is in")) == ("", 1)
    assert digests("four") == digests("alone")
    figures = [
        [entry["validation"] for entry in read(f"{name}/log.jsonl") if "validation" in entry]
        for name in ("alone", "four")
    ]
    assert figures[0] == figures[1]
    again = mpiexec(2, sys.executable, "-m", "pyx_transformer", *command, "four")
    assert again.returncode == 2
    assert again.stderr.count("four/checkpoint.safetensors exists: go on with --resume") == 1


# The command, whose second rank fails as argv[1] says: in the third step, or before the first one.
FAILING = """
import signal, sys
from mpi4py import MPI
from pyx_transformer.cli import main
from pyx_transformer.training import Recipe
from pyx_transformer.training.trainer import Trainer
signal.signal(signal.SIGINT, signal.default_int_handler)
take_step, build, how = Trainer._step, Recipe.build, sys.argv.pop(1)
is_second = MPI.COMM_WORLD.Get_rank() == 1
def failing_step(self, batches):
    if is_second and how == "Ctrl-C" and self.progress.step == 2:
        signal.raise_signal(signal.SIGINT)
    return take_step(self, batches)
def failing_build(self):
    if is_second and how == "Ctrl-C first":
        signal.raise_signal(signal.SIGINT)
    if is_second and how == "memory":
        raise MemoryError("no memory")
    return build(self)
Trainer._step, Recipe.build = failing_step, failing_build
try:
    status = main()
except SystemExit as error:
    status = error.code
print("status", status)
"""


@pytest.mark.parametrize(
    ("how", "status", "says"),
    [
        ("Ctrl-C", 130, "interrupted at step 3; --resume goes on"),
        ("Ctrl-C first", 130, "KeyboardInterrupt (rank 1); --resume goes on"),
        ("memory", 2, "no memory (rank 1)"),
    ],
)
def test_what_stops_one_rank_stops_all(how, status, says, tmp_path, monkeypatch):
    """The first one says what it was."""
    monkeypatch.chdir(tmp_path)
    small_task.write(tmp_path)
    command = ["train", "recipe.toml", "--output", "run"]
    done = mpiexec(2, sys.executable, "-c", FAILING, how, *command)
    assert done.stdout == f"status {status}\n" * 2, done.stderr
    assert done.stderr.count(f"pyx-transformer train: {says}\n") == 1
    assert (tmp_path / "run" / "checkpoint.safetensors").exists() == (how == "Ctrl-C")


def test_without_mpi4py(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert ranks.launched({"OMPI_COMM_WORLD_SIZE": "1"}) is None
    with pytest.raises(
        ImportError, match=r"mpi4py is missing: pip install 'pyx-transformer\[mpi\]'"
    ):
        ranks.launched({"OMPI_COMM_WORLD_SIZE": "4"})


def test_what_is_no_communicator():
    with pytest.raises(TypeError, match=r"train: comm is 3, expected a communicator of mpi4py"):
        ranks.Ranks(3)
