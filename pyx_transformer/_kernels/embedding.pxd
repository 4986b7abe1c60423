"""Embedding lookup: out = table[ids] scale + positions[position_ids]."""

from libc.stdint cimport int64_t

from pyx_transformer._kernels.simd cimport VF, fill, load_part, store_part, vf
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for


cdef inline void embed_row(
    float* out, const float* token, const float* position, Py_ssize_t d, float scale,
) noexcept nogil:
    """out (d) = token scale + position; position may be NULL."""
    cdef Py_ssize_t i = 0, count
    cdef vf value
    while i < d:
        count = min(d - i, <Py_ssize_t>VF)
        value = load_part(token + i, count, 0.0) * fill(scale)
        if position != NULL:
            value = value + load_part(position + i, count, 0.0)
        store_part(out + i, count, value)
        i += VF


cdef struct Lookup:
    # out (m, d) = table[ids (m)] scale + positions[position_ids (m)]; positions may be NULL; ids
    # are in range.
    float* out
    const int64_t* ids
    const float* table
    const float* positions
    const int64_t* position_ids
    Py_ssize_t m
    Py_ssize_t d
    float scale


cdef inline void embed_rows(const void* work, int part, int parts) noexcept nogil:
    cdef const Lookup* job = <const Lookup*>work
    cdef Py_ssize_t d = job.d, row
    cdef const float* position = NULL
    for row in range(share(job.m, part, parts), share(job.m, part + 1, parts)):
        if job.positions != NULL:
            position = job.positions + job.position_ids[row] * d
        embed_row(job.out + row * d, job.table + job.ids[row] * d, position, d, job.scale)


cdef inline void embed_all(const Lookup* job, int n_threads) noexcept nogil:
    """The whole lookup."""
    in_parallel(embed_rows, job, threads_for(2.0 * job.m * job.d, n_threads))
