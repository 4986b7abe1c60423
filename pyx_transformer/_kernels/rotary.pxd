"""Rotary positions: pairs of a head's values turned by an angle that grows with the position (Su et
al. 2021), so that the product of a query and a key depends on the distance between them.

For a pair (x, y) at position p with the angle a = p times the pair's frequency:

    x' = x cos a - y sin a,  y' = y cos a + x sin a

The first product of each is rounded, the second fused with the sum.
"""

from libc.stdint cimport int64_t

from pyx_transformer._kernels.simd cimport (
    VF, even_lanes, fill, fused, interleave_high, interleave_low, load_part, odd_lanes, store_part,
    vf,
)
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for


cdef struct Rotary:
    # cosines and sines (positions, pairs) of a head's first 2 pairs values; what is behind them
    # stays. A pair is (2 i, 2 i + 1) if interleaved, else (i, i + pairs).
    const float* cosines
    const float* sines
    Py_ssize_t pairs
    bint interleaved


cdef struct Turn:
    # rows (m, heads head_size), row_stride apart, turned in place, or back by the same angles.
    float* rows
    Py_ssize_t row_stride
    Py_ssize_t m
    Py_ssize_t heads
    Py_ssize_t head_size
    const Rotary* rotary
    const int64_t* position_ids
    bint inverse


cdef inline void turn_pairs(vf* x, vf* y, vf cosines, vf sines) noexcept nogil:
    """Pairs (x, y) turned by their angles."""
    cdef vf turned_x = fused(fill(0.0) - y[0], sines, x[0] * cosines)
    cdef vf turned_y = fused(x[0], sines, y[0] * cosines)
    x[0] = turned_x
    y[0] = turned_y


cdef inline void turn_head(
    float* head, const float* cosines, const float* sines, const Rotary* rotary, float direction,
) noexcept nogil:
    """One head of one row, VF pairs at a time; direction -1 turns back."""
    cdef Py_ssize_t i = 0, count, first, second
    cdef vf x, y, low, high
    while i < rotary.pairs:
        count = min(rotary.pairs - i, <Py_ssize_t>VF)
        first = min(2 * count, <Py_ssize_t>VF)
        second = 2 * count - first
        if rotary.interleaved:
            low = load_part(head + 2 * i, first, 0.0)
            high = load_part(head + 2 * i + first, second, 0.0)
            x = even_lanes(low, high)
            y = odd_lanes(low, high)
        else:
            x = load_part(head + i, count, 0.0)
            y = load_part(head + rotary.pairs + i, count, 0.0)
        turn_pairs(&x, &y, load_part(cosines + i, count, 0.0),
                   fill(direction) * load_part(sines + i, count, 0.0))
        if rotary.interleaved:
            store_part(head + 2 * i, first, interleave_low(x, y))
            store_part(head + 2 * i + first, second, interleave_high(x, y))
        else:
            store_part(head + i, count, x)
            store_part(head + rotary.pairs + i, count, y)
        i += VF


cdef inline void turn_share(const void* work, int part, int parts) noexcept nogil:
    cdef const Turn* job = <const Turn*>work
    cdef float direction = -1.0 if job.inverse else 1.0
    cdef Py_ssize_t row, h, place
    for row in range(share(job.m, part, parts), share(job.m, part + 1, parts)):
        place = job.position_ids[row] * job.rotary.pairs
        for h in range(job.heads):
            turn_head(job.rows + row * job.row_stride + h * job.head_size,
                      job.rotary.cosines + place, job.rotary.sines + place, job.rotary, direction)


cdef inline void rotate(
    float* rows, Py_ssize_t row_stride, Py_ssize_t m, Py_ssize_t heads, Py_ssize_t head_size,
    const Rotary* rotary, const int64_t* position_ids, bint inverse, int n_threads,
) noexcept nogil:
    """rows (m, heads head_size), row_stride apart, turned in place by the angles of their positions
    position_ids (m); inverse turns them back, which is the gradient too."""
    cdef Turn job = Turn(rows, row_stride, m, heads, head_size, rotary, position_ids, inverse)
    in_parallel(turn_share, &job, threads_for(12.0 * m * heads * rotary.pairs, n_threads))
