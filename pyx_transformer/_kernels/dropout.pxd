"""Dropout (Srivastava et al. 2014) from a counter: value i of stream `seed` is kept or not whoever
computes it and in whatever order, and the backward pass asks again instead of storing a mask."""

from libc.stdint cimport uint64_t

from pyx_transformer._kernels.simd cimport VF, fill, load_part, select_less, store_part, uniform, vf
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for


cdef struct Dropout:
    # out (n) = residual (n) + x (n) / (1 - rate) where the stream's value is at least rate, else
    # residual, which may be NULL; out may be x
    float* out
    const float* x
    const float* residual
    Py_ssize_t n
    double rate
    uint64_t seed


cdef inline void drop_share(const void* work, int part, int parts) noexcept nogil:
    """One thread's share, in whole vectors."""
    cdef const Dropout* job = <const Dropout*>work
    cdef Py_ssize_t vectors = (job.n + VF - 1) // VF
    cdef Py_ssize_t i, v, count
    cdef vf scale = fill(<float>(1.0 / (1.0 - job.rate)))
    cdef vf kept
    for v in range(share(vectors, part, parts), share(vectors, part + 1, parts)):
        i = v * VF
        count = min(job.n - i, <Py_ssize_t>VF)
        kept = select_less(uniform(job.seed, <uint64_t>i), fill(<float>job.rate), fill(0.0),
                           load_part(job.x + i, count, 0.0) * scale)
        if job.residual != NULL:
            kept = kept + load_part(job.residual + i, count, 0.0)
        store_part(job.out + i, count, kept)


cdef inline void drop_all(const Dropout* job, int n_threads) noexcept nogil:
    """All values: see `Dropout`."""
    in_parallel(drop_share, job, threads_for(20.0 * job.n, n_threads))
