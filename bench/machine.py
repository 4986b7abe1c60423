"""The machine: what it is, and the fastest that it can compute and read, measured as it runs."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from bench import limits, timing
from pyx_transformer import _runtime

PEAK_SECONDS = 0.02
PEAKS = 10
# Far more than any cache: reads of it come from main memory.
READ_FLOATS = 1 << 26


def facts() -> dict[str, object]:
    """What a reader of the results has to know about where they come from."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu_model(),
        "usable_cpus": usable_cpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "isa": _runtime.kernels.ISA_NAME,
    }


def commit() -> str:
    """The commit of the repository, with a + where files differ from it; "" where there is none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return ""
    return answer.stdout.strip()


def cpu_model() -> str:
    """The CPU's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cpus() -> int | None:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


class Limits:
    """The machine's limits for a number of threads. Each call measures them again."""

    def __init__(self, threads: int):
        self.threads = threads
        # Ones: pages never written to are all one page of zeros, which stays in the cache.
        self._floats = np.ones(READ_FLOATS, np.float32)

    def fma_peak(self, threads: int | None = None) -> float:
        """Floating-point operations per second in fused multiply-adds on registers."""
        return limits.fma_peak(PEAK_SECONDS, threads or self.threads)

    def read_bandwidth(self, threads: int | None = None) -> float:
        """Bytes per second read from main memory, the best of three passes."""
        threads = threads or self.threads
        passes = [limits.read_seconds(self._floats, threads) for _ in range(3)]
        return self._floats.nbytes / min(passes)

    def seconds(self, flop: float, bytes: float) -> float:
        """The least time for work of so many operations and bytes, whichever takes longer."""
        compute = flop / self.fma_peak() if flop else 0.0
        memory = bytes / self.read_bandwidth() if bytes else 0.0
        return max(compute, memory)

    def summary(self) -> dict[str, list[float]]:
        """FMA peak and read bandwidth: [with one thread, with all]."""
        timing.wait_until_idle()
        return {
            "fma_peak_flop_per_s": [self._best_peak(threads) for threads in (1, self.threads)],
            "read_bytes_per_s": [self.read_bandwidth(threads) for threads in (1, self.threads)],
        }

    def _best_peak(self, threads):
        """The best of some: new threads may begin on one processor, and stay there for a while."""
        return max(self.fma_peak(threads) for _ in range(PEAKS))
