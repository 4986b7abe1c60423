"""Embedding lookup: out = table[ids] scale + positions[position_ids]."""

from libc.stdint cimport int64_t
from cython.parallel cimport prange

from pyx_transformer._kernels.simd cimport VF, fill, load_part, store_part, vf
from pyx_transformer._kernels.threads cimport share, threads_for


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


cdef inline void embed_rows(
    float* out, const int64_t* ids, const float* table, const float* positions,
    const int64_t* position_ids, Py_ssize_t d, float scale, Py_ssize_t begin, Py_ssize_t end,
) noexcept nogil:
    cdef Py_ssize_t row
    cdef const float* position = NULL
    for row in range(begin, end):
        if positions != NULL:
            position = positions + position_ids[row] * d
        embed_row(out + row * d, table + ids[row] * d, position, d, scale)


cdef inline void embedding(
    float* out, const int64_t* ids, const float* table, const float* positions,
    const int64_t* position_ids, Py_ssize_t m, Py_ssize_t d, float scale, int n_threads,
) noexcept nogil:
    """out (m, d) = table[ids] scale + positions[position_ids]; ids are in range."""
    cdef int parts = threads_for(2.0 * m * d, n_threads)
    cdef int part
    for part in prange(parts, num_threads=parts, schedule="static", chunksize=1):
        embed_rows(out, ids, table, positions, position_ids, d, scale, share(m, part, parts),
                   share(m, part + 1, parts))
