"""A run of training that tests start under `mpiexec`: `mpi_run.py FOLDER JSON`, with the settings
of TrainingOptions and, under other names, what else is to happen."""

import json
import os
import signal
import sys

import numpy as np
from mpi4py import MPI

import pyx_transformer as pt
from pyx_transformer.training import Examples, TrainingOptions, ranks, train
from pyx_transformer.training.trainer import Trainer

RANK = MPI.COMM_WORLD.Get_rank()
ranks.PIECE = 4000  # so that the model has several


def main(folder, kills=None, differs=None, resume=False, **settings):
    rng = np.random.default_rng(0)
    sources = [rng.integers(3, 40, n) for n in rng.integers(2, 9, 200)]
    targets = [ids[::-1] for ids in sources]
    rank, what = differs or (None, None)
    if rank == RANK and what == "examples":
        targets[-1] = targets[-1][1:]
    if rank == RANK and what == "options":
        settings["seed"] = 5
    config = pt.TransformerConfig(
        40, 40, d_model=24, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, d_ff=40
    )
    model = pt.Transformer(config, rng=int(rank == RANK and what == "weights"))
    examples = Examples(sources, targets, start_id=1, end_id=2)
    if kills is not None:
        killed_at(*kills)
    options = TrainingOptions(batch_tokens=200, warmup=10, validate_every=5, **settings)
    train(model, examples, examples, options, folder, resume=resume, comm=MPI.COMM_WORLD)


def killed_at(rank, step, how):
    """Have a rank end in a step, by a signal or an error."""
    take_step = Trainer._step

    def ended(self, batches):
        if rank == RANK and self.progress.step + 1 == step:
            if how == "error":
                raise RuntimeError("no more")
            os.kill(os.getpid(), getattr(signal, how))
        return take_step(self, batches)

    Trainer._step = ended


main(sys.argv[1], **json.loads(sys.argv[2]))
