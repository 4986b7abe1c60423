"""Weights in the order in which the product reads them, and back.

Panels of w (n, k) are blocks (ceil(n / PANEL), k, PANEL): panel p holds, for each of the k inputs
in turn, its weights for the PANEL = 2 VF outputs from p PANEL on, zeros past n.
"""

from pyx_transformer._kernels.simd cimport (
    VF, fill, fused, load, load_part, store, store_part, sum_lanes, transpose_lanes, vf,
)
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for

cdef enum:
    PANEL = 2 * VF
    PACKED_ROWS = 8


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    """n rounded up to whole panels."""
    return (n + PANEL - 1) // PANEL * PANEL


cdef inline void pack(
    float* panels, const float* weight, Py_ssize_t weight_stride, Py_ssize_t n, Py_ssize_t k,
) noexcept nogil:
    """Rows of weight (n, k) into panels."""
    cdef vf block[VF]
    cdef Py_ssize_t row = 0, column, count
    cdef const float* corner
    cdef float* panel
    cdef int r
    while row < padded(n):
        panel = panels + row // PANEL * PANEL * k + row % PANEL
        column = 0
        while column < k:
            count = min(k - column, <Py_ssize_t>VF)
            corner = weight + row * weight_stride + column
            if count == VF and row + VF <= n:
                for r in range(VF):
                    block[r] = load(corner + r * weight_stride)
            else:
                for r in range(VF):
                    block[r] = fill(0.0)
                    if row + r < n:
                        block[r] = load_part(corner + r * weight_stride, count, 0.0)
            transpose_lanes(block)
            for r in range(<int>count):
                store(panel + (column + r) * PANEL, block[r])
            column += VF
        row += VF


cdef inline void unpack(
    float* weight, const float* panels, Py_ssize_t n, Py_ssize_t k,
) noexcept nogil:
    """The weight (n, k) that was packed."""
    cdef Py_ssize_t row, column
    for row in range(n):
        for column in range(k):
            weight[row * k + column] = panels[(row // PANEL * k + column) * PANEL + row % PANEL]


cdef inline bint pack_rows(
    float* panels, Py_ssize_t room, const float* x, Py_ssize_t x_stride, Py_ssize_t m,
    Py_ssize_t n,
) noexcept nogil:
    """The panels of x^T, for x (m, n), with room for that many rows in each. True where no value is
    infinite or NaN."""
    cdef vf zero = fill(0.0), part
    cdef Py_ssize_t row = 0, column, count, r, rows
    cdef float* place
    while row < m:
        # Some rows of one panel after the other: panels lie a power of two apart in many shapes,
        # where one row of each would find no room in the caches.
        rows = min(m - row, <Py_ssize_t>PACKED_ROWS)
        column = 0
        while column < padded(n):
            count = min(max(n - column, <Py_ssize_t>0), <Py_ssize_t>VF)
            place = panels + column // PANEL * (room * PANEL) + row * PANEL + column % PANEL
            for r in range(rows):
                part = load_part(x + r * x_stride + column, count, 0.0)
                zero = fused(part, fill(0.0), zero)
                store(place + r * PANEL, part)
            column += VF
        x += rows * x_stride
        row += rows
    return sum_lanes(zero) == 0.0


cdef inline void transpose(
    float* out, Py_ssize_t out_stride, const float* x, Py_ssize_t x_stride, Py_ssize_t m,
    Py_ssize_t n,
) noexcept nogil:
    """out (n, m) = x (m, n)^T; rows lie out_stride and x_stride apart"""
    cdef vf block[VF]
    cdef Py_ssize_t row = 0, column, rows, columns
    cdef int r
    while row < m:
        rows = min(m - row, <Py_ssize_t>VF)
        column = 0
        while column < n:
            columns = min(n - column, <Py_ssize_t>VF)
            for r in range(VF):
                block[r] = fill(0.0)
                if r < rows:
                    block[r] = load_part(x + (row + r) * x_stride + column, columns, 0.0)
            transpose_lanes(block)
            for r in range(<int>columns):
                store_part(out + (column + r) * out_stride + row, rows, block[r])
            column += VF
        row += VF


cdef struct Move:
    # x (m, n), its rows x_stride apart, goes to out in another order.
    float* out
    const float* x
    Py_ssize_t x_stride
    Py_ssize_t m
    Py_ssize_t n


cdef inline void pack_part(const void* work, int part, int parts) noexcept nogil:
    cdef const Move* job = <const Move*>work
    cdef Py_ssize_t panels = padded(job.m) // PANEL
    cdef Py_ssize_t begin = share(panels, part, parts) * PANEL
    cdef Py_ssize_t end = min(share(panels, part + 1, parts) * PANEL, job.m)
    pack(job.out + begin * job.n, job.x + begin * job.x_stride, job.x_stride, end - begin, job.n)


cdef inline void pack_rows_part(const void* work, int part, int parts) noexcept nogil:
    cdef const Move* job = <const Move*>work
    cdef Py_ssize_t begin = share(job.m, part, parts)
    pack_rows(job.out + begin * PANEL, job.m, job.x + begin * job.x_stride, job.x_stride,
              share(job.m, part + 1, parts) - begin, job.n)


cdef inline void pack_in_parallel(const Move* job, int n_threads) noexcept nogil:
    """out = the panels of x; see `pack`."""
    in_parallel(pack_part, job, threads_for(4.0 * job.m * job.n, n_threads))


cdef inline void pack_rows_in_parallel(const Move* job, int n_threads) noexcept nogil:
    """out = the panels of x^T; see `pack_rows`."""
    in_parallel(pack_rows_part, job, threads_for(4.0 * job.m * job.n, n_threads))
