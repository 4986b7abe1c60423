"""Matrix product with packed weights: out = activation(x w^T + bias) factor + residual.

Weights w (n, k) are stored in panels (see packing.pxd). A tile multiplies up to TILE_ROWS rows of x
with one panel and keeps all its sums in registers.
"""

from pyx_transformer._kernels.activation cimport IDENTITY, SOFT_CAP, activate, soft_capped
from pyx_transformer._kernels.packing cimport PANEL
from pyx_transformer._kernels.scratch cimport ensure, scratch
from pyx_transformer._kernels.simd cimport TILE_ROWS, VF, load, load_part, store_part, vf
from pyx_transformer._kernels.threads cimport (
    WORK_BETWEEN_SIGNALS, hear_signals, in_parallel, share, threads_for,
)
from pyx_transformer._kernels.tile cimport (
    AHEAD, BLOCK_K, CHAIN, TILE_STRIDE, copy_tile, panels_at_once, tile,
)

# bench/results/tuning.md says what chose these numbers.
cdef enum:
    # Weights are not asked for by so few rows, which read faster than they compute: the processor's
    # own guess is the better one.
    UNGUIDED_ROWS = 8
    # Threads share out rows where each gets this many and there are not far more weights than
    # inputs: each then works on inputs and outputs of its own. Else they share out panels, and each
    # weight is read once.
    ROWS_EACH = 64
    # Tiles of inputs that stay in the second-level cache while the panels pass by: 291 KB with
    # AVX-512.
    BLOCK_TILES = 5
    # Weights that meet all rows before the next ones do: 4 MB, which stay in the last-level cache.
    CHUNK_FLOATS = 1 << 20
    MOST_JOBS = 3           # products that share a parallel region


cdef enum PanelKind:
    FLOAT32_PANELS = 0      # so far the only one


cdef struct Product:
    # out (m, n) = activation(x (m, k) w (n, k)^T + bias (n)) factor (m, n) + residual (m, n);
    # strides in floats between rows; bias, factor and residual may be NULL, the last two lie apart
    # from out; bias is padded to whole panels.
    float* out
    const float* x
    const float* panels
    const float* bias
    const float* factor
    const float* residual
    Py_ssize_t out_stride
    Py_ssize_t x_stride
    Py_ssize_t factor_stride
    Py_ssize_t residual_stride
    Py_ssize_t m
    Py_ssize_t n
    Py_ssize_t k
    PanelKind panel_kind
    int activation
    float softcap               # of SOFT_CAP


cdef inline Product plain_product(
    float* out, const float* x, const float* panels, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
) noexcept nogil:
    """out (m, n) = x (m, k) w (n, k)^T, with nothing else asked for."""
    cdef Product job
    job.out = out
    job.x = x
    job.panels = panels
    job.bias = NULL
    job.factor = NULL
    job.residual = NULL
    job.out_stride = n
    job.x_stride = k
    job.factor_stride = n
    job.residual_stride = n
    job.m = m
    job.n = n
    job.k = k
    job.panel_kind = FLOAT32_PANELS
    job.activation = IDENTITY
    job.softcap = 0.0
    return job


cdef inline void finish_row(
    const Product* job, const float* sums, Py_ssize_t row, Py_ssize_t column, const int columns,
    const bint first, const bint last,
) noexcept nogil:
    """Add one row of a block's sums to the output, and the epilogue with the last block."""
    cdef float* out = job.out + row * job.out_stride + column
    cdef const float* factor = job.factor
    cdef const float* residual = job.residual
    cdef vf total
    cdef int half, c, count
    for half in range((columns + VF - 1) // VF):
        c = half * VF
        count = min(columns - c, VF)
        total = load(sums + c)
        if not first:
            total = load_part(out + c, count, 0.0) + total
        if last:
            if job.bias != NULL:
                total = total + load(job.bias + column + c)
            if job.activation != IDENTITY:
                total = (soft_capped(total, job.softcap) if job.activation == SOFT_CAP
                         else activate(total, job.activation))
            # One question where neither is given: another one would cost 3 % at 8 rows.
            if factor != NULL or residual != NULL:
                if factor != NULL:
                    total = total * load_part(
                        factor + row * job.factor_stride + column + c, count, 0.0)
                if residual != NULL:
                    total = total + load_part(
                        residual + row * job.residual_stride + column + c, count, 0.0)
        store_part(out + c, count, total)


cdef inline void finish_tile(
    const Product* job, const float* sums, Py_ssize_t sums_stride, Py_ssize_t row,
    Py_ssize_t column, int rows, bint first, bint last,
) noexcept nogil:
    """`finish_row` for each row of a tile of one panel; the usual cases without its questions."""
    cdef int columns = <int>min(<Py_ssize_t>PANEL, job.n - column)
    cdef int r
    for r in range(rows):
        if columns < PANEL:
            finish_row(job, sums + r * sums_stride, row + r, column, columns, first, last)
        elif first and last:
            finish_row(job, sums + r * sums_stride, row + r, column, PANEL, True, True)
        else:
            finish_row(job, sums + r * sums_stride, row + r, column, PANEL, first, last)


cdef inline void product_chunk(
    const Product* job, Py_ssize_t row_begin, Py_ssize_t row_end, Py_ssize_t panel_begin,
    Py_ssize_t panel_end,
) noexcept nogil:
    """The outputs of some rows and some panels, which every block of rows reads anew."""
    cdef float* x_tiles = <float*>scratch(BLOCK_TILES * TILE_ROWS * TILE_STRIDE * sizeof(float))
    cdef vf sum_vectors[2 * TILE_ROWS]  # as vectors they are aligned
    cdef float* sums = <float*>sum_vectors
    cdef Py_ssize_t tile_rows[BLOCK_TILES + 1]  # where each tile of the block begins
    cdef Py_ssize_t m = row_end - row_begin
    cdef Py_ssize_t tiles = (m + TILE_ROWS - 1) // TILE_ROWS
    cdef Py_ssize_t blocks = (tiles + BLOCK_TILES - 1) // BLOCK_TILES
    cdef Py_ssize_t block, first_tile, start, depth, panel, ahead_step
    cdef const float* w
    cdef const float* ahead
    cdef int rows, group, t, p, count
    ensure(BLOCK_K <= TILE_STRIDE)
    ensure(BLOCK_K % CHAIN == 0)
    ensure(BLOCK_K % VF == 0)
    for block in range(blocks):
        first_tile = share(tiles, block, blocks)
        count = <int>(share(tiles, block + 1, blocks) - first_tile)
        for t in range(count + 1):
            tile_rows[t] = row_begin + share(m, first_tile + t, tiles)
        start = 0
        while True:  # once even where k is 0
            depth = min(job.k - start, <Py_ssize_t>BLOCK_K)
            for t in range(count):
                rows = <int>(tile_rows[t + 1] - tile_rows[t])
                copy_tile(x_tiles + t * TILE_ROWS * TILE_STRIDE,
                          job.x + tile_rows[t] * job.x_stride + start, job.x_stride, depth, rows,
                          1.0)
            panel = panel_begin
            while panel < panel_end:
                group = panels_at_once(<int>((m + tiles - 1) // tiles))
                if panel + group > panel_end:
                    group = 1
                w = job.panels + (panel * job.k + start) * PANEL
                ahead = w + AHEAD if m > UNGUIDED_ROWS else w
                ahead_step = PANEL
                if count > 1:  # each tile asks for its share of the next panel
                    ahead = w + job.k * PANEL
                    ahead_step = PANEL // count
                for t in range(count):
                    rows = <int>(tile_rows[t + 1] - tile_rows[t])
                    tile(sums, group * PANEL, x_tiles + t * TILE_ROWS * TILE_STRIDE, w, PANEL,
                         job.k * PANEL, depth, rows, group, ahead, ahead_step)
                    for p in range(group):
                        finish_tile(job, sums + p * PANEL, group * PANEL, tile_rows[t],
                                    (panel + p) * PANEL, rows, start == 0, start + depth == job.k)
                    if count > 1:
                        ahead += depth * ahead_step
                panel += group
            start += BLOCK_K
            if start >= job.k:
                break


cdef inline void product_part(
    const Product* job, Py_ssize_t row_begin, Py_ssize_t row_end, Py_ssize_t panel_begin,
    Py_ssize_t panel_end,
) noexcept nogil:
    """The outputs of some rows and some panels; weights come from memory once."""
    cdef Py_ssize_t chunk = max(CHUNK_FLOATS // max(job.k * PANEL, <Py_ssize_t>1), <Py_ssize_t>1)
    while panel_begin < panel_end:
        product_chunk(job, row_begin, row_end, panel_begin, min(panel_begin + chunk, panel_end))
        panel_begin += chunk


cdef inline void multiply(const Product* job, int part, int parts) noexcept nogil:
    """One thread's share: a range of rows where there are many, else of panels."""
    cdef Py_ssize_t panels = (job.n + PANEL - 1) // PANEL, panel = 0
    cdef Py_ssize_t row_begin = 0, row_end = job.m
    if (job.m >= ROWS_EACH * parts and 4 * job.m >= job.n) or panels < parts:
        row_begin = share(job.m, part, parts)
        row_end = share(job.m, part + 1, parts)
    else:
        panel = share(panels, part, parts)
        panels = share(panels, part + 1, parts)
    product_part(job, row_begin, row_end, panel, panels)


cdef struct Products:
    Product jobs[MOST_JOBS]
    int count


cdef inline void multiply_all(const void* work, int part, int parts) noexcept nogil:
    cdef const Products* all = <const Products*>work
    cdef int j
    for j in range(all.count):
        if all.jobs[j].n > 0:
            multiply(&all.jobs[j], part, parts)


cdef inline int products(
    const Product* jobs, const int count, int n_threads, double* unheard,
) except -1 nogil:
    """Up to MOST_JOBS products of one number of rows, together in runs of rows short enough to
    hear Ctrl-C between them."""
    cdef Products run
    cdef Py_ssize_t m = jobs[0].m, runs, i, row
    cdef double work = 1.0
    cdef int j
    run.count = count
    for j in range(count):
        work += 2.0 * jobs[j].n * jobs[j].k
        run.jobs[j] = jobs[j]
    runs = min(<Py_ssize_t>(m * (work / WORK_BETWEEN_SIGNALS)) + 1, m)
    for i in range(runs):
        row = share(m, i, runs)
        for j in range(count):
            run.jobs[j].m = share(m, i + 1, runs) - row
            run.jobs[j].out = jobs[j].out + row * jobs[j].out_stride
            run.jobs[j].x = jobs[j].x + row * jobs[j].x_stride
            if jobs[j].factor != NULL:
                run.jobs[j].factor = jobs[j].factor + row * jobs[j].factor_stride
            if jobs[j].residual != NULL:
                run.jobs[j].residual = jobs[j].residual + row * jobs[j].residual_stride
        in_parallel(multiply_all, &run, threads_for(work * run.jobs[0].m, n_threads))
        hear_signals(unheard, work * run.jobs[0].m)
    return 0


cdef inline int product(const Product* job, int n_threads, double* unheard) except -1 nogil:
    """The whole product."""
    return products(job, 1, n_threads, unheard)
