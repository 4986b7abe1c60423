"""The loops of limits.c, compiled at their first use into the folder `build`."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from pyx_transformer import _runtime

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "bench" / "limits.c"
KERNELS = REPOSITORY / "pyx_transformer" / "_kernels"
BUILD = REPOSITORY / "build"
FLAGS = ["-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-Wno-psabi"]
FMA_STEPS = 1 << 16


def fma_peak(seconds: float, n_threads: int) -> float:
    """Floating-point operations per second of fused multiply-adds on registers alone."""
    loops = compiled(_runtime.kernels.ISA_NAME)
    width, chains = (ctypes.c_int.in_dll(loops, n).value for n in ("vector_width", "fma_chains"))
    flop = 2.0 * width * chains * FMA_STEPS * n_threads
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = max(best, flop / loops.fma_seconds(FMA_STEPS, n_threads))
    return best


def read_seconds(array: np.ndarray, n_threads: int) -> float:
    """Seconds that one pass of reading a float32 array takes."""
    loops = compiled(_runtime.kernels.ISA_NAME)
    return loops.read_seconds(array.ctypes.data, array.size, n_threads)


@functools.cache
def compiled(isa: str) -> ctypes.CDLL:
    """The loops for an instruction set, built by CC, with OpenMP where the kernels have it.

    Raises RuntimeError with what the compiler says where it cannot.
    """
    flags = [*FLAGS, f"-I{KERNELS}"]
    if isa.startswith("x86"):
        flags.append(f"-march={isa}")
    if _runtime.cpu.openmp_version():
        flags.append("-fopenmp")
    command = [*shlex.split(os.environ.get("CC") or "cc"), *flags, str(SOURCE)]
    parts = (repr(command).encode(), SOURCE.read_bytes(), (KERNELS / "simd.h").read_bytes())
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    library = BUILD / f"limits-{digest[:16]}.so"
    if not library.exists():
        BUILD.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            path = Path(folder, library.name)
            run = subprocess.run([*command, "-o", str(path)], capture_output=True, text=True)
            if run.returncode:
                raise RuntimeError(f"bench: {shlex.join(command)} failed: {run.stderr}")
            os.replace(path, library)  # whole or not at all: others may be at it too
    loops = ctypes.CDLL(str(library))
    loops.fma_seconds.restype = loops.read_seconds.restype = ctypes.c_double
    loops.fma_seconds.argtypes = [ctypes.c_ssize_t, ctypes.c_int]
    loops.read_seconds.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]
    return loops
