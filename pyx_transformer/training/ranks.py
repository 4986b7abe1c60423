"""The processes that train one model together: MPI's ranks, of which a process alone is the only.

Each has the same model and examples, computes the shards of its own range, and gets the sum of all.
Gradients are exchanged as in reduce-scatter and allgather, but the sums are the tree's (tree.py):
each rank gets one slice of the sums that all have found (Alltoallv), adds them up in order, and all
slices come to all (Allgatherv).
"""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer import _runtime
from pyx_transformer._checks import brief
from pyx_transformer.training.shards import Step, joined
from pyx_transformer.training.tree import nodes_of

if TYPE_CHECKING:
    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.parameters import Floats, Parameters
    from pyx_transformer.training.tree import Node

# What MPI's launchers tell each process: how many there are.
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")

# Gradients that are exchanged at a time.
PIECE = 1 << 22

# What is raised as what it is where it came in another rank.
TOLD = (
    FileExistsError,
    FileNotFoundError,
    ImportError,
    KeyboardInterrupt,
    MemoryError,
    OSError,
    TypeError,
    ValueError,
)


def launched(environ: Mapping[str, str] = os.environ) -> Any:
    """The communicator of all ranks where a launcher of MPI has started several, else None.

    Raises ImportError where mpi4py is missing then, ValueError where it sees one process only.
    """
    sizes = [environ.get(name, "") for name in SIZES]
    started = max((int(size) for size in sizes if size.isdecimal()), default=1)
    if started == 1:
        return None
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(
            "train: several processes were started by MPI, and the package mpi4py is missing: "
            "pip install 'pyx-transformer[mpi]'"
        ) from error
    if MPI.COMM_WORLD.Get_size() == 1:
        raise ValueError(
            f"train: {started} processes were started, and MPI sees 1, expected all: mpi4py has "
            "another MPI than the launcher, or none was asked for (srun --mpi)"
        )
    return MPI.COMM_WORLD


class Ranks:
    """The ranks of a communicator of mpi4py, or without one the one process that there is.

    Raises TypeError for what is no communicator.
    """

    def __init__(self, comm: Any = None):
        if comm is not None and not all(hasattr(comm, name) for name in ("Alltoallv", "allgather")):
            raise TypeError(f"train: comm is {brief(comm)}, expected a communicator of mpi4py")
        self.comm = comm
        self.rank = 0 if comm is None else comm.Get_rank()
        self.size = 1 if comm is None else comm.Get_size()
        self.seconds = 0.0  # of the exchanges of gradients
        self._received: Floats | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files, validates and reports."""
        return self.rank == 0

    def share_cpus(self) -> None:
        """Have one thread for each CPU that no other rank uses, unless the environment says how
        many."""
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        own = socket.gethostname(), cpus
        sharing = self.gathered(own).count(own)
        if not _runtime.threads_are_given():
            _runtime.set_num_threads(max(_runtime.get_num_threads() // sharing, 1))

    # What all have to agree on.

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails in one rank, within, fails in all, which say where it was."""
        failure: BaseException | None = None
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            failure = error
        message = str(failure) or type(failure).__name__
        said = self.gathered(None if failure is None else (type(failure), message))
        if failure is not None:
            raise failure
        for rank, other in enumerate(said):
            if other is not None:
                kind, message = other
                raise (kind if kind in TOLD else RuntimeError)(f"{message} (rank {rank})")

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Raise ValueError, in all ranks, where one has other facts than the first, naming them."""
        first, *others = self.gathered(dict(facts))
        for rank, other in enumerate(others, 1):
            for name in {**first, **other}:
                values = first.get(name), other.get(name)
                if values[0] != values[1]:
                    raise ValueError(
                        f"train: ranks differ in {name}: {brief(values[0])} in rank 0, "
                        f"{brief(values[1])} in rank {rank}, expected the same in all"
                    )

    def check_enough(self, shards: int) -> None:
        """Raise ValueError where there are more ranks than shards."""
        if self.size > shards:
            raise ValueError(
                f"train: {self.size} ranks were started, expected at most shards = {shards}: start "
                "fewer, or set shards (in [training] of a recipe) to as many or more"
            )

    def gathered(self, value: Any) -> list[Any]:
        """The values of all ranks."""
        return [value] if self.comm is None else self.comm.allgather(value)

    def of_first(self, value: Any) -> Any:
        """The first rank's value."""
        return value if self.comm is None else self.comm.bcast(value)

    def copy_of_first(self, array: Floats) -> None:
        """Have the first rank's array, in place."""
        if self.comm is not None:
            self.comm.Bcast(array)

    @contextmanager
    def until_one_ends(self) -> Iterator[None]:
        """Within, an exception in one rank ends all of them, as they would wait for it."""
        try:
            yield
        except BaseException as error:
            if self.size > 1 and not (isinstance(error, KeyboardInterrupt) and error.args):
                said = str(error) or type(error).__name__
                print(f"train: rank {self.rank} ends: {said}", file=sys.stderr, flush=True)
                self.comm.Abort(1)
            raise

    # Gradients.

    def add_gradients(self, step: Step, model: Model, parameters: Parameters) -> float:
        """`Step.add_gradients`, shared out."""
        if self.size == 1:
            return step.add_gradients(model, parameters)
        sums, losses = step.sums(model, parameters, *self._range(self.rank, step.shards))
        begun = time.perf_counter()
        parameters.add_up(self._summed(step, dict(sums), parameters.size_apart))
        of_ranks = self.gathered(losses)
        self.seconds += time.perf_counter() - begun
        return math.fsum(np.concatenate(of_ranks))

    def _range(self, rank: int, shards: int) -> Node:
        """The shards of a rank."""
        return shards * rank // self.size, shards * (rank + 1) // self.size

    def _nodes(self, rank: int, step: Step) -> list[Node]:
        """The nodes whose sums a rank finds."""
        nodes = nodes_of(*self._range(rank, step.shards), step.shards)
        return [(begin, end) for begin, end in nodes if step.ends[begin] < step.ends[end]]

    def _summed(self, step: Step, sums: dict[Node, Floats], size: int) -> Floats:
        """The sum of all ranks' sums (size,), a piece at a time."""
        nodes = [self._nodes(rank, step) for rank in range(self.size)]
        total = next(iter(sums.values())) if sums else np.empty(size, np.float32)
        for begin in range(0, size, PIECE):
            piece = slice(begin, min(begin + PIECE, size))
            self._sum(nodes, {node: one[piece] for node, one in sums.items()}, total[piece])
        return total

    def _sum(self, nodes: list[list[Node]], sums: dict[Node, Floats], total: Floats) -> None:
        """Have the sum of all ranks' sums, of the nodes that each has, in total, which may be one
        of the own sums."""
        bounds = np.array([total.size * rank // self.size for rank in range(self.size + 1)])
        counts, mine = np.diff(bounds), bounds[self.rank + 1] - bounds[self.rank]
        received: dict[Node, Floats] = {}
        rooms = self._rooms(sum(map(len, nodes)), mine)
        for i in range(max(map(len, nodes))):
            own = nodes[self.rank][i] if i < len(nodes[self.rank]) else None
            sent = np.empty(0, np.float32) if own is None else sums[own]
            senders = [rank for rank in range(self.size) if i < len(nodes[rank])]
            room, rooms = rooms[: len(senders)], rooms[len(senders) :]
            places = {rank: mine * place for place, rank in enumerate(senders)}
            self.comm.Alltoallv(
                [sent, (counts * (own is not None), bounds[:-1] * (own is not None))],
                [
                    room.reshape(-1),
                    (
                        [mine if rank in places else 0 for rank in range(self.size)],
                        [places.get(rank, 0) for rank in range(self.size)],
                    ),
                ],
            )
            received |= {nodes[rank][i]: row for rank, row in zip(senders, room, strict=True)}
        in_order = [(node, received[node]) for of_rank in nodes for node in of_rank]
        self.comm.Allgatherv(joined(in_order), [total, (counts, bounds[:-1])])

    def _rooms(self, count: int, width: int) -> Floats:
        """Memory (count, width) that is kept from piece to piece: fresh pages cost more than the
        exchange."""
        if self._received is None or self._received.size < count * width:
            self._received = np.empty(count * width, np.float32)
        return self._received[: count * width].reshape(count, width)
