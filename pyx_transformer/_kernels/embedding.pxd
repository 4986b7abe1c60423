"""Embedding lookup, out = table[ids] scale + positions[position_ids], and its table's gradient."""

from libc.stdint cimport int64_t

from pyx_transformer._kernels.shards cimport Pile, begin_pile, push, total
from pyx_transformer._kernels.simd cimport VF, fill, fused, load_part, store_part, vf
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for


cdef inline void embed_row(
    float* out, const float* token, const float* position, Py_ssize_t d, float scale,
) noexcept nogil:
    """out (d) = token scale + position; position may be NULL."""
    cdef Py_ssize_t i = 0, count
    cdef vf shift = fill(0.0)
    while i < d:
        count = min(d - i, <Py_ssize_t>VF)
        if position != NULL:
            shift = load_part(position + i, count, 0.0)
        store_part(out + i, count, fused(load_part(token + i, count, 0.0), fill(scale), shift))
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


cdef struct Scatter:
    # table (V, d) += scale grad (m, d) in the rows that are asked for: the ids (m), which are in
    # range and in order, are those of the rows `rows` (m) of grad, and these in turn of `shards`
    # (m); those of one id are in order.
    float* table
    const int64_t* ids
    const int64_t* rows
    const int64_t* shards
    const float* grad
    Py_ssize_t m
    Py_ssize_t d
    float scale


cdef inline vf sum_of_id(
    const Scatter* job, Py_ssize_t i, Py_ssize_t end, Py_ssize_t column, Py_ssize_t count,
) noexcept nogil:
    """The sum of the rows i to end - 1, in some columns."""
    cdef Py_ssize_t shard
    cdef vf sum
    cdef Pile pile
    begin_pile(&pile)
    while i < end:
        shard = job.shards[i]
        sum = fill(0.0)
        while i < end and job.shards[i] == shard:
            sum = fused(fill(job.scale),
                        load_part(job.grad + job.rows[i] * job.d + column, count, 0.0), sum)
            i += 1
        push(&pile, sum, shard)
    return total(&pile)


cdef inline void scatter_columns(const void* work, int part, int parts) noexcept nogil:
    """One thread's share: some columns of every row, so that each sum has one order."""
    cdef const Scatter* job = <const Scatter*>work
    cdef Py_ssize_t strips = (job.d + VF - 1) // VF
    cdef Py_ssize_t begin = share(strips, part, parts) * VF
    cdef Py_ssize_t columns_end = min(share(strips, part + 1, parts) * VF, job.d)
    cdef Py_ssize_t i = 0, end, column, count
    cdef float* place
    while i < job.m:
        end = i + 1
        while end < job.m and job.ids[end] == job.ids[i]:
            end += 1
        column = begin
        while column < columns_end:
            count = min(columns_end - column, <Py_ssize_t>VF)
            place = job.table + job.ids[i] * job.d + column
            store_part(place, count, load_part(place, count, 0.0)
                       + sum_of_id(job, i, end, column, count))
            column += VF
        i = end


cdef inline void scatter_add(const Scatter* job, int n_threads) noexcept nogil:
    """The whole sum: see `Scatter`."""
    in_parallel(scatter_columns, job, threads_for(2.0 * job.m * job.d, n_threads))
