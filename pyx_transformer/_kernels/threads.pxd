"""Sharing out work between threads, and hearing Ctrl-C during a long call."""

from cpython.exc cimport PyErr_CheckSignals

# Below this many floating-point operations a parallel region costs more than it saves:
# bench/results/kernels.json, rows "serial" (starting a second thread takes about 1 microsecond).
cdef enum:
    SERIAL_WORK = 200_000
    # Work between two looks at pending signals: a tenth of a second at 50 GFLOP/s.
    WORK_BETWEEN_SIGNALS = 5_000_000_000


cdef inline int threads_for(double work, int n_threads) noexcept nogil:
    """Threads worth starting for `work` floating-point operations."""
    return 1 if work < SERIAL_WORK else n_threads


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
