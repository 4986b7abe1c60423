"""What the machine can do at most, for the benchmarks. Included by entry.pxi."""

import time

from cython.parallel cimport prange

from pyx_transformer._kernels.limits cimport FMA_CHAINS, fma_run, read_run
from pyx_transformer._kernels.threads cimport share


def fma_peak(double seconds, int n_threads):
    """Floating-point operations per second of fused multiply-adds on registers alone."""
    cdef Py_ssize_t steps = 1 << 16
    cdef float sink = 0.0
    cdef int part
    best = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for part in prange(n_threads, num_threads=n_threads, schedule="static", chunksize=1,
                           nogil=True):
            sink += fma_run(steps)
        elapsed = time.perf_counter() - start
        best = max(best, 2.0 * VF * FMA_CHAINS * steps * n_threads / elapsed)
    if sink != sink:  # never; without a use of it the compiler leaves out the work
        raise ArithmeticError("a sum of finite numbers is NaN")
    return best


def read_seconds(const float[::1] array, int n_threads):
    """Seconds that one pass of reading the array takes."""
    cdef float sink = 0.0
    cdef Py_ssize_t n = array.shape[0]
    cdef int part
    start = time.perf_counter()
    for part in prange(n_threads, num_threads=n_threads, schedule="static", chunksize=1,
                       nogil=True):
        sink += read_run(&array[0] + share(n, part, n_threads),
                         share(n, part + 1, n_threads) - share(n, part, n_threads))
    elapsed = time.perf_counter() - start
    if sink != sink:
        raise ValueError("read_seconds: array holds NaN, expected finite numbers")
    return elapsed
