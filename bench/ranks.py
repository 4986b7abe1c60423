"""Training with one and two ranks of one thread each, and the time that they exchange gradients."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import shutil
import time
from functools import partial

import numpy as np

import pyx_transformer as pt
from bench import train
from bench.rows import Bar, Figure, Missing, Row
from bench.timing import Contestant
from bench.worker import Worker
from pyx_transformer import _runtime
from pyx_transformer.parameters import Parameters
from pyx_transformer.training import TrainingOptions
from pyx_transformer.training.optimizer import AdamW
from pyx_transformer.training.ranks import Ranks
from pyx_transformer.training.shards import Step

GROUP = "training step, ranks of one thread"
SIZES = train.BASE
# Open MPI has to be told that it may be root's.
ALLOWED = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def row():
    """A step of the recipe of `bench train`, 3+3 layers of 512."""
    layers, d, _, d_ff, vocabulary, B, T, _ = SIZES
    return Row(
        GROUP,
        {"layers": layers, "d": d, "ff": d_ff, "V": vocabulary, "B": B, "T": T},
        contestants,
        made=(B * T, "target tokens"),
    )


def contestants(peers):
    """Two ranks, one rank, and one process of two threads."""
    for name, count, threads in (("ours", 2, 1), ("one rank", 1, 1), ("two threads", 1, 2)):
        yield Contestant(name, partial(loss, ranks(count, threads, "step")))


def loss(call):
    return np.array(call())


def ranks(count, threads, what):
    """So many ranks, of which the first takes steps when it is told to."""
    if importlib.util.find_spec("mpi4py") is None or shutil.which("mpiexec") is None:
        raise Missing("mpi4py or mpiexec is not installed")
    os.environ.update(ALLOWED)
    return Worker(
        "ranks",
        threads,
        what,
        before=["mpiexec", "--oversubscribe", "--bind-to", "none", "-n", str(count)],
    )


@contextlib.contextmanager
def work(threads, what):
    """What takes a step and returns its loss or, of "times", the seconds of its parts."""
    from mpi4py import MPI

    pt.set_num_threads(threads)
    comm = MPI.COMM_WORLD
    with _runtime.freed_memory_kept():
        step = stepping(Ranks(comm), what)
        others = range(1, comm.Get_size())

        def tell(goes_on):
            for rank in others:
                comm.send(goes_on, rank)

        if comm.Get_rank() > 0:
            while told(comm):
                step()
        else:
            yield lambda: (tell(True), step())[1]
            tell(False)
    MPI.Finalize()
    os._exit(0)  # what the first rank yields for is no business of the others


def told(comm):
    """What the first rank says; until then the processor is left to others, as MPI does not."""
    while not comm.iprobe(0):
        time.sleep(0.001)
    return comm.recv(source=0)


def stepping(ranks, what):
    model, examples = train.model_and_examples(SIZES)
    options = TrainingOptions(dropout=0.0, label_smoothing=train.SMOOTHING)
    parameters = Parameters(model)
    optimizer = AdamW(parameters, betas=train.BETAS, eps=train.EPS)
    batch = examples.batch(np.arange(len(examples)))

    def step():
        begun, ranks.seconds = time.perf_counter(), 0.0
        taken = Step([batch], options, 1)
        loss = ranks.add_gradients(taken, model, parameters)
        done = time.perf_counter()
        optimizer.step(train.RATE)
        if what == "step":
            return loss / taken.tokens
        ended = time.perf_counter()
        return {
            "compute": done - begun - ranks.seconds,
            "exchange": ranks.seconds,
            "update": ended - done,
            "bytes": 4 * parameters.values.size,
        }

    return step


def times(count):
    """The median seconds of the parts of a step on so many ranks, and the bytes of gradients."""
    call = ranks(count, 1, "times")
    rounds = [call() for _ in range(5)]
    return {name: float(np.median([one[name] for one in rounds])) for name in rounds[0]}


def share(quick):
    """The share of a step of two ranks in which they exchange gradients."""
    if quick:
        return math.nan
    try:
        found = times(2)
    except Missing:
        return math.nan
    return found["exchange"] / (found["compute"] + found["exchange"] + found["update"])


BAR = Bar(
    "training: two ranks beside one",
    "x",
    1.7,
    lambda row: row.group == GROUP,
    lambda result: result.ratio("one rank"),
)
SHARE = Figure("training: share of a step of two ranks to exchange gradients", "%", 0.15, share)
