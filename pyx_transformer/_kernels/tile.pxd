"""The matrix product's inner loop: a tile of inputs times a panel of weights, sums in registers.

Every output is the same sum whatever the rows around it: CHAIN products are added up one after the
other, the chains of a block one after the other, and so are the blocks. The number of rows, their
place in a tile and the number of threads change who computes an output, never how.
"""

from libc.string cimport memset

from pyx_transformer._kernels.packing cimport PANEL
from pyx_transformer._kernels.scratch cimport ensure
from pyx_transformer._kernels.simd cimport (
    TILE_ROWS, VF, fill, fused, load, load_part, pin, prefetch, store, vf,
)

# bench/results/tuning.md says what chose these numbers.
cdef enum:
    # Inputs of a block: its sums stay in the first-level cache.
    BLOCK_K = 1024
    # Short chains keep rounding errors small: half of PyTorch's in most shapes, and no shape where
    # they are far above.
    CHAIN = 32
    # Weights are asked for this many floats ahead.
    AHEAD = 512
    # Panels that tiles of 1 row, and of 2 or 3, take together: one row of one panel is two chains
    # of sums, and the adders want eight. There is room for TILE_ROWS such pairs.
    PANELS_OF_ONE = 4
    PANELS_OF_FEW = 2
    # Rows of a tile lie this far apart: not a power of two, so that they do not share cache sets.
    TILE_STRIDE = BLOCK_K + 16
    LINE = 16               # floats of a cache line, which is asked for once


cdef inline void fixed_tile(
    const int rows, const int panels, float* out, Py_ssize_t out_stride, const float* x,
    const float* w, Py_ssize_t w_stride, Py_ssize_t panel_stride, Py_ssize_t k, const float* ahead,
    Py_ssize_t ahead_step,
) noexcept nogil:
    """out (rows, panels PANEL) = x (rows, k) w (k, panels PANEL), for constant rows and panels."""
    cdef vf low[TILE_ROWS]
    cdef vf high[TILE_ROWS]
    cdef vf w_low, w_high, x_value
    cdef const float* panel
    cdef float* place
    cdef Py_ssize_t i, start = 0
    cdef int r, p
    ensure(PANELS_OF_ONE <= TILE_ROWS)
    ensure(3 * PANELS_OF_FEW <= TILE_ROWS)
    while start < k:
        # A chain begins with its first product: 4 % faster than with zeros, and the same but for
        # the sign of zero. Pinned: else attention over 16 to 32 keys is 3 to 7 % slower (AVX-512).
        for p in range(panels):
            panel = w + p * panel_stride + start * w_stride
            w_low = load(panel)
            w_high = load(panel + VF)
            for r in range(rows):
                x_value = fill(x[r * TILE_STRIDE + start])
                low[p * rows + r] = x_value * w_low
                high[p * rows + r] = x_value * w_high
                pin(low[p * rows + r])
                pin(high[p * rows + r])
        for i in range(start + 1, min(start + CHAIN, k)):
            for p in range(panels):
                panel = w + p * panel_stride + i * w_stride
                prefetch(ahead + p * panel_stride + i * ahead_step)
                if <int>PANEL > LINE:
                    prefetch(ahead + p * panel_stride + i * ahead_step + LINE)
                w_low = load(panel)
                w_high = load(panel + VF)
                pin(w_low)
                pin(w_high)
                for r in range(rows):
                    x_value = fill(x[r * TILE_STRIDE + i])
                    low[p * rows + r] = fused(x_value, w_low, low[p * rows + r])
                    high[p * rows + r] = fused(x_value, w_high, high[p * rows + r])
        for p in range(panels):
            for r in range(rows):
                place = out + r * out_stride + p * PANEL
                if start > 0:
                    low[p * rows + r] = load(place) + low[p * rows + r]
                    high[p * rows + r] = load(place + VF) + high[p * rows + r]
                store(place, low[p * rows + r])
                store(place + VF, high[p * rows + r])
        start += CHAIN


ctypedef void (*FixedTile)(
    const int rows, const int panels, float* out, Py_ssize_t out_stride, const float* x,
    const float* w, Py_ssize_t w_stride, Py_ssize_t panel_stride, Py_ssize_t k, const float* ahead,
    Py_ssize_t ahead_step,
) noexcept nogil

cdef extern from "simd.h" nogil:
    void with_constant_rows(FixedTile f, int rows, ...)


cdef inline int panels_at_once(int rows) noexcept nogil:
    """Panels that a tile of that many rows takes together."""
    return PANELS_OF_ONE if rows == 1 else PANELS_OF_FEW if rows <= 3 else 1


cdef inline void tile(
    float* out, Py_ssize_t out_stride, const float* x, const float* w, Py_ssize_t w_stride,
    Py_ssize_t panel_stride, Py_ssize_t k, int rows, int panels, const float* ahead,
    Py_ssize_t ahead_step,
) noexcept nogil:
    """out (rows, panels PANEL) = x (rows, k) w (k, panels PANEL); panels is 1 or panels_at_once.

    Rows of x lie TILE_STRIDE apart; the weights at `ahead` are asked for, ahead_step floats
    on with each input.
    """
    cdef int r
    if k == 0:
        for r in range(rows):
            memset(out + r * out_stride, 0, panels * PANEL * sizeof(float))
    elif panels == 1:
        with_constant_rows(fixed_tile, rows, 1, out, out_stride, x, w, w_stride, 0, k, ahead,
                           ahead_step)
    elif rows == 1:
        fixed_tile(1, PANELS_OF_ONE, out, out_stride, x, w, w_stride, panel_stride, k, ahead,
                   ahead_step)
    elif rows == 2:
        fixed_tile(2, PANELS_OF_FEW, out, out_stride, x, w, w_stride, panel_stride, k, ahead,
                   ahead_step)
    else:
        fixed_tile(3, PANELS_OF_FEW, out, out_stride, x, w, w_stride, panel_stride, k, ahead,
                   ahead_step)


ctypedef void (*Tile)(
    float* out, Py_ssize_t out_stride, const float* x, const float* w, Py_ssize_t w_stride,
    Py_ssize_t panel_stride, Py_ssize_t k, int rows, int panels, const float* ahead,
    Py_ssize_t ahead_step,
) noexcept nogil

cdef extern from "simd.h" nogil:
    Tile apart(Tile function)


cdef inline void copy_tile(
    float* out, const float* x, Py_ssize_t x_stride, Py_ssize_t k, int rows, float scale,
) noexcept nogil:
    """Rows of x, times scale, TILE_STRIDE apart."""
    cdef Py_ssize_t whole = k // VF * VF, i
    cdef int _r
    for _r in range(rows):
        i = 0
        while i < whole:
            store(out + i, load(x + i) * fill(scale))
            i += VF
        if whole < k:
            store(out + whole, load_part(x + whole, k - whole, 0.0) * fill(scale))
        out += TILE_STRIDE
        x += x_stride
