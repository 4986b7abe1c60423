"""Sharing out work between threads, and hearing Ctrl-C during a long call."""

from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange

ctypedef void (*Part)(const void* job, int part, int parts) noexcept nogil

cdef enum:
    # Below this many floating-point operations, a microsecond or two of work, starting another
    # thread costs more than it saves.
    SERIAL_WORK = 200_000
    # Work between two looks at pending signals: a sixth of a second of one thread at 30 GFLOP/s,
    # twice that where there is no AVX.
    WORK_BETWEEN_SIGNALS = 5_000_000_000


cdef inline int threads_for(double work, int n_threads) noexcept nogil:
    """Threads worth starting for `work` floating-point operations."""
    return 1 if work < SERIAL_WORK else n_threads


cdef inline void in_parallel(Part work, const void* job, int parts) noexcept nogil:
    """work(job, part, parts) for each part, all at once.

    One part is a plain call: a parallel region of one thread still wakes whoever waits for it,
    which takes a microsecond.
    """
    cdef int part
    if parts == 1:
        work(job, 0, 1)
        return
    for part in prange(parts, num_threads=parts, schedule="static", chunksize=1):
        work(job, part, parts)


cdef inline Py_ssize_t share(Py_ssize_t total, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Where part number `part` of `parts` nearly equal parts of `total` begins."""
    return total * part // parts


cdef inline int hear_signals(double* unheard, double work) except -1 nogil:
    """Count `work` operations, and now and then raise KeyboardInterrupt if Ctrl-C came.

    unheard counts those since the last look; outside the main thread nothing is ever raised.
    """
    unheard[0] += work
    if unheard[0] >= WORK_BETWEEN_SIGNALS:
        unheard[0] = 0.0
        with gil:
            PyErr_CheckSignals()
    return 0
