"""Sharing out work between threads, and hearing Ctrl-C during a long call.

Threads follow the machine. Where other processes hold its cores, a parallel region waits for a
thread that cannot run: milliseconds, where its work takes microseconds. So each region counts what
it won or lost beside one thread; once the losses prevail, one thread works alone for a while.
"""

from cpython.exc cimport PyErr_CheckSignals, PyErr_WarnEx
from cython.parallel cimport prange

ctypedef void (*Part)(const void* job, int part, int parts) noexcept nogil
ctypedef void (*Region)(Part work, const void* job, int parts) noexcept nogil

cdef extern from "simd.h" nogil:
    Region apart(Region function)

cdef extern from "team.h" nogil:
    cdef struct Team:
        int size
        double credit
        double alone
    Team* own_team()
    double seconds_now()
    void work_alone(Team* team, double seconds)
    bint works_alone(Team* team)
    bint can_start(int count)
    bint is_first_refusal()
    void end_team()

cdef enum:
    # Below this many floating-point operations, a microsecond or two of work, starting another
    # thread costs more than it saves.
    SERIAL_WORK = 200_000
    # Work between two looks at pending signals: a sixth of a second of one thread at 30 GFLOP/s,
    # twice that where there is no AVX.
    WORK_BETWEEN_SIGNALS = 5_000_000_000
    MOST_THREADS = 1024
    # In nanoseconds: what regions may lose on a machine that was quiet until then; what they may
    # when threads are tried again, since those have to wake; the longest part without any work.
    MOST_CREDIT = 20_000_000
    TRIAL_CREDIT = 5_000_000
    EMPTY_PART = 500
    # One thread works alone for so many times what was lost.
    PATIENCE = 10


cdef inline int threads_for(double work, int n_threads) noexcept nogil:
    """Threads worth starting for `work` floating-point operations."""
    return 1 if work < SERIAL_WORK or works_alone(own_team()) else n_threads


cdef inline void in_parallel(Part work, const void* job, int parts) noexcept nogil:
    """work(job, part, parts) for each part, all at once."""
    apart(region)(work, job, parts)


cdef inline void region(Part work, const void* job, int parts) noexcept nogil:
    """`in_parallel`, once for all kernels.

    One part makes no region: one of a single thread still wakes whoever waits for it, which takes a
    microsecond.
    """
    cdef Team* team = own_team()
    cdef double seconds[MOST_THREADS]
    cdef double begin
    cdef int part
    if parts == 1 or not has_threads(team, parts):
        begin = seconds_now() if team.alone > 0.0 else 0.0
        for part in range(parts):
            work(job, part, parts)
        if team.alone > 0.0:
            team.alone -= seconds_now() - begin
        return
    begin = seconds_now()
    for part in prange(parts, num_threads=parts, schedule="static", chunksize=1):
        run_part(work, job, part, parts, seconds)
    settle(team, seconds, parts, seconds_now() - begin)


cdef inline void run_part(
    Part work, const void* job, int part, int parts, double* seconds,
) noexcept nogil:
    """work(job, part, parts); seconds[part]: what it took."""
    cdef double begin = seconds_now()
    work(job, part, parts)
    seconds[part] = seconds_now() - begin


cdef inline void settle(Team* team, const double* seconds, int parts, double took) noexcept nogil:
    """Count what a region won beside one thread, which would have had to do all parts.

    Parts with work are nearly equal: the shortest of them is what each takes on a core of its own.
    """
    cdef double shortest = took
    cdef int part
    for part in range(parts):
        if 1e-9 * EMPTY_PART < seconds[part] < shortest:
            shortest = seconds[part]
    team.credit = min(team.credit + parts * shortest - took, 1e-9 * MOST_CREDIT)
    if team.credit < 0.0:
        work_alone(team, PATIENCE * (1e-9 * TRIAL_CREDIT - team.credit))
        team.credit = 1e-9 * TRIAL_CREDIT


cdef inline bint has_threads(Team* team, int parts) noexcept nogil:
    """Whether so many threads, this one included, are to be had. Where not, it works alone."""
    if parts > team.size and not can_start(parts - 1):
        work_alone(team, 1.0)
        if is_first_refusal():
            warn_of_refusal()
        return False
    if team.size == 0:
        team.credit = 1e-9 * TRIAL_CREDIT
    team.size = parts
    return True


cdef inline void warn_of_refusal() noexcept with gil:
    PyErr_WarnEx(
        RuntimeWarning,
        b"pyx_transformer: the system starts no more threads (its limits of processes or of memory "
        b"are reached), so that one thread does the work", 1)


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
