"""What a product's weight and bias get back: sums over rows, in the order of shards.pxd.

weight (n, k) gets grad (m, n)^T x (m, k). The rows of a shard, counted from its first one, are cut
into pieces of BLOCK_K; a tile multiplies one piece, and its sums go onto a pile in the first-level
cache. A stretch is a run of pieces whose sum is one of the tree, and that is no longer than
BLOCK_K: its part of grad stays in the second-level cache while the panels of x pass by, and its
sums go onto a pile of the block of weights.
"""

from pyx_transformer._kernels.packing cimport PANEL, padded, transpose
from pyx_transformer._kernels.product cimport BLOCK_TILES, CHUNK_FLOATS, ROWS_EACH, UNGUIDED_ROWS
from pyx_transformer._kernels.scratch cimport scratch
from pyx_transformer._kernels.shards cimport (
    MOST_HELD, Held, Pile, Shards, begin_pile, folds_before, hold, push, total,
)
from pyx_transformer._kernels.simd cimport (
    TILE_ROWS, VF, fill_double, load, load_doubles, load_doubles_part, load_part, store,
    store_doubles, store_part, vd, vf,
)
from pyx_transformer._kernels.threads cimport (
    WORK_BETWEEN_SIGNALS, hear_signals, in_parallel, share, threads_for,
)
from pyx_transformer._kernels.tile cimport AHEAD, BLOCK_K, TILE_STRIDE, panels_at_once, tile

cdef enum:
    HALF = VF // 2
    BLOCK_ROWS = BLOCK_TILES * TILE_ROWS
    STRIPS = 4      # vectors of a bias that are added up together: lines of memory side by side


cdef struct Piece:
    # The rows begin to end - 1, all of one shard; after them the two last sums become one so often.
    Py_ssize_t begin
    Py_ssize_t end
    int folds


cdef struct Stretch:
    # The pieces first to end - 1; `folds` of those after the last one are left to the outer pile.
    Py_ssize_t first
    Py_ssize_t end
    int folds


cdef struct WeightGradient:
    # out (n, k) += grad (m, n)^T x (m, k); panels: those of x^T.
    float* out
    const float* grad
    const float* panels
    Py_ssize_t m
    Py_ssize_t n
    Py_ssize_t k
    Py_ssize_t begin            # the rows of out that are in work
    Py_ssize_t end
    const Piece* pieces
    const Stretch* stretches
    Py_ssize_t num_stretches
    float* workspace
    Py_ssize_t size             # floats of a sum on the outer pile
    int held                    # that each thread has room for


cdef inline Py_ssize_t most_pieces(const Shards* shards, Py_ssize_t m) noexcept nogil:
    """No less than there are pieces of m rows."""
    return shards.count + m // BLOCK_K


cdef inline Py_ssize_t pieces_of(Piece* pieces, const Shards* shards) noexcept nogil:
    """Fill in the pieces, and count them."""
    cdef Py_ssize_t count = 0, shard, begin, end
    cdef Held held
    cdef int folds
    held.count = 0
    for shard in range(shards.count):
        begin, end = shards.bounds[shard], shards.bounds[shard + 1]
        if begin == end:
            continue
        folds = folds_before(&held, shard)
        hold(&held, folds, shard)
        if count > 0:
            pieces[count - 1].folds += folds
        while begin < end:  # the pieces of a shard come together one after the other
            pieces[count] = Piece(begin, min(begin + BLOCK_K, end),
                                  1 if begin > shards.bounds[shard] else 0)
            count += 1
            begin += BLOCK_K
    if count > 0:
        pieces[count - 1].folds += held.count - 1
    return count


cdef inline Py_ssize_t stretches_of(
    Stretch* stretches, const Piece* pieces, Py_ssize_t num_pieces,
) noexcept nogil:
    """Fill in the longest stretches, and count them."""
    cdef Py_ssize_t count = 0, first = 0, piece
    cdef int held, inner
    while first < num_pieces:
        held = 0
        piece = first
        while piece < num_pieces and (
                piece == first or pieces[piece].end - pieces[first].begin <= BLOCK_K):
            held += 1
            inner = min(pieces[piece].folds, held - 1)
            held -= inner
            piece += 1
            if held == 1:
                stretches[count] = Stretch(first, piece, pieces[piece - 1].folds - inner)
                if stretches[count].folds > 0:
                    break
        first = stretches[count].end
        count += 1
    return count


cdef inline int most_held(const Stretch* stretches, Py_ssize_t count) noexcept nogil:
    """The sums that the outer pile has to keep at once; the last one needs no room."""
    cdef Py_ssize_t i
    cdef int held = 0, most = 0
    for i in range(count - 1):
        held += 1 - stretches[i].folds
        most = max(most, held)
    return most


cdef inline Py_ssize_t chunk_panels(const WeightGradient* job) noexcept nogil:
    """Panels that meet all rows before the next ones do."""
    return max(CHUNK_FLOATS // (job.m * PANEL), <Py_ssize_t>1)


cdef inline Py_ssize_t pile_floats(const WeightGradient* job) noexcept nogil:
    """Of one sum on the outer pile: a block of rows, and the panels that meet it."""
    return BLOCK_ROWS * min(chunk_panels(job) * PANEL, padded(job.k))


cdef inline float* stretch_tile(
    const WeightGradient* job, const Stretch* stretch, const float* x, const float* w, int rows,
    int panels, const float* ahead, Py_ssize_t ahead_step,
) noexcept nogil:
    """The sums (rows, panels PANEL) of a stretch, for a tile of `rows` and some panels."""
    cdef float* sums = <float*>scratch(MOST_HELD * TILE_ROWS * PANEL * sizeof(float))
    cdef float* top = sums
    cdef Py_ssize_t size = rows * panels * PANEL, start = job.pieces[stretch.first].begin
    cdef Py_ssize_t p, place, i
    cdef int folds, f
    cdef vf sum
    for p in range(stretch.first, stretch.end):
        place = job.pieces[p].begin - start
        tile(top, panels * PANEL, x + place, w + place * PANEL, PANEL, job.m * PANEL,
             job.pieces[p].end - job.pieces[p].begin, rows, panels,
             ahead + place * ahead_step, ahead_step)
        folds = job.pieces[p].folds
        if p == stretch.end - 1:
            folds -= stretch.folds
        if folds > 0:
            i = 0
            while i < size:
                sum = load(top + i)
                for f in range(1, folds + 1):
                    sum = load(top + i - f * size) + sum
                store(top + i - folds * size, sum)
                i += VF
        top += (1 - folds) * size
    return sums


cdef inline void finish_row(
    const WeightGradient* job, float* out, float* pile, const float* sums, int folds, bint is_last,
    const int columns,
) noexcept nogil:
    """`finish_tile` for one row of one panel."""
    cdef vf sum
    cdef int half, i, f, count
    for half in range((columns + VF - 1) // VF):
        i = half * VF
        sum = load(sums + i)
        for f in range(1, folds + 1):
            sum = load(pile - f * job.size + i) + sum
        if is_last:
            count = min(columns - i, VF)
            store_part(out + i, count, load_part(out + i, count, 0.0) + sum)
        else:
            store(pile - folds * job.size + i, sum)


cdef inline void finish_tile(
    const WeightGradient* job, float* out, float* pile, Py_ssize_t stride, const float* sums,
    Py_ssize_t sums_stride, int folds, bint is_last, int rows, int columns,
) noexcept nogil:
    """Add a stretch's sums of one panel to the weights if it is the last one, else to the pile,
    whose next free sum is there, with rows `stride` apart; the usual cases without questions."""
    cdef int _r
    for _r in range(rows):
        if columns < PANEL:
            finish_row(job, out, pile, sums, folds, is_last, columns)
        elif folds == 0 and is_last:
            finish_row(job, out, pile, sums, 0, True, PANEL)
        else:
            finish_row(job, out, pile, sums, folds, is_last, PANEL)
        out += job.k
        pile += stride
        sums += sums_stride


cdef inline void weight_chunk(
    const WeightGradient* job, float* workspace, Py_ssize_t row_begin, Py_ssize_t row_end,
    Py_ssize_t panel_begin, Py_ssize_t panel_end,
) noexcept nogil:
    """The weights of some rows and some panels, which every block of rows reads anew: as
    `product_chunk`, a stretch in place of a block of inputs."""
    cdef float* x_tiles = <float*>scratch(BLOCK_ROWS * TILE_STRIDE * sizeof(float))
    cdef Py_ssize_t tile_rows[BLOCK_TILES + 1]  # where each tile of the block begins
    cdef Py_ssize_t m = row_end - row_begin
    cdef Py_ssize_t tiles = (m + TILE_ROWS - 1) // TILE_ROWS
    cdef Py_ssize_t blocks = (tiles + BLOCK_TILES - 1) // BLOCK_TILES
    cdef Py_ssize_t stride = (panel_end - panel_begin) * PANEL
    cdef Py_ssize_t block, first_tile, s, start, depth, i, panel, column, ahead_step, place
    cdef const Stretch* stretch
    cdef const float* w
    cdef const float* ahead
    cdef const float* sums
    cdef float* pile
    cdef int rows, group, t, p, count
    for block in range(blocks):
        first_tile = share(tiles, block, blocks)
        count = <int>(share(tiles, block + 1, blocks) - first_tile)
        for t in range(count + 1):
            tile_rows[t] = row_begin + share(m, first_tile + t, tiles)
        pile = workspace
        for s in range(job.num_stretches):
            stretch = &job.stretches[s]
            start = job.pieces[stretch.first].begin
            depth = job.pieces[stretch.end - 1].end - start
            # Some rows of all tiles, which share their lines of memory, before the next ones: else
            # it takes a tenth longer where n is 10,000.
            i = 0
            while i < depth:
                for t in range(count):
                    transpose(x_tiles + t * TILE_ROWS * TILE_STRIDE + i, TILE_STRIDE,
                              job.grad + (start + i) * job.n + tile_rows[t], job.n,
                              min(depth - i, <Py_ssize_t>VF), tile_rows[t + 1] - tile_rows[t])
                i += VF
            panel = panel_begin
            while panel < panel_end:
                group = panels_at_once(<int>((m + tiles - 1) // tiles))
                if panel + group > panel_end:
                    group = 1
                w = job.panels + (panel * job.m + start) * PANEL
                ahead = w + AHEAD if m > UNGUIDED_ROWS else w
                ahead_step = PANEL
                if count > 1:  # each tile asks for its share of the next panel
                    ahead = w + job.m * PANEL
                    ahead_step = PANEL // count
                for t in range(count):
                    rows = <int>(tile_rows[t + 1] - tile_rows[t])
                    sums = stretch_tile(job, stretch, x_tiles + t * TILE_ROWS * TILE_STRIDE, w,
                                        rows, group, ahead, ahead_step)
                    place = (tile_rows[t] - tile_rows[0]) * stride
                    for p in range(group):
                        column = (panel + p) * PANEL
                        finish_tile(job, job.out + tile_rows[t] * job.k + column,
                                    pile + place + column - panel_begin * PANEL, stride,
                                    sums + p * PANEL, group * PANEL, stretch.folds,
                                    s == job.num_stretches - 1, rows,
                                    <int>min(job.k - column, <Py_ssize_t>PANEL))
                    if count > 1:
                        ahead += depth * ahead_step
                panel += group
            pile += (1 - stretch.folds) * job.size


cdef inline void weight_part(const void* work, int part, int parts) noexcept nogil:
    """One thread's share: a range of rows where there are many, else of panels."""
    cdef const WeightGradient* job = <const WeightGradient*>work
    cdef float* workspace = job.workspace + part * job.held * job.size
    cdef Py_ssize_t panels = (job.k + PANEL - 1) // PANEL, chunk = chunk_panels(job)
    cdef Py_ssize_t n = job.end - job.begin, row_begin = job.begin, row_end = job.end
    cdef Py_ssize_t panel = 0
    if (n >= ROWS_EACH * parts and 4 * n >= job.k) or panels < parts:
        row_begin = job.begin + share(n, part, parts)
        row_end = job.begin + share(n, part + 1, parts)
    else:
        panel = share(panels, part, parts)
        panels = share(panels, part + 1, parts)
    while panel < panels:
        weight_chunk(job, workspace, row_begin, row_end, panel, min(panel + chunk, panels))
        panel += chunk


cdef inline int weight_gradient(
    WeightGradient* job, int n_threads, double* unheard,
) except -1 nogil:
    """The whole sum, some rows of weights at a time, so that Ctrl-C is heard."""
    cdef double work = 2.0 * job.m * job.k + 1.0
    cdef Py_ssize_t runs = min(<Py_ssize_t>(job.n * (work / WORK_BETWEEN_SIGNALS)) + 1, job.n), i
    for i in range(runs):
        job.begin = share(job.n, i, runs)
        job.end = share(job.n, i + 1, runs)
        in_parallel(weight_part, job, threads_for(work * (job.end - job.begin), n_threads))
        hear_signals(unheard, work * (job.end - job.begin))
    return 0


cdef struct BiasGradient:
    # out (d) += the sums of the columns of x (m, d)
    float* out
    const float* x
    Shards shards
    Py_ssize_t d


cdef inline void add_columns(
    vd* sums, const float* x, int count, const bint is_whole,
) noexcept nogil:
    """sums += `count` columns of a row, all of STRIPS VF if it is whole."""
    cdef int i, place
    for i in range(2 * STRIPS):
        place = i * HALF
        if is_whole:
            sums[i] = sums[i] + load_doubles(x + place)
        elif place < count:
            sums[i] = sums[i] + load_doubles_part(x + place, min(count - place, HALF), 0.0)


cdef inline void bias_strips(const void* work, int part, int parts) noexcept nogil:
    """One thread's share: whole columns, those of a shard row after row in double."""
    cdef const BiasGradient* job = <const BiasGradient*>work
    cdef Py_ssize_t width = STRIPS * VF, groups = (job.d + width - 1) // width
    cdef Py_ssize_t group, column, shard, row
    cdef float terms[STRIPS * VF]
    cdef vd sums[2 * STRIPS]
    cdef Pile piles[STRIPS]
    cdef float* out
    cdef int columns, count, s
    for group in range(share(groups, part, parts), share(groups, part + 1, parts)):
        column = group * width
        columns = <int>min(job.d - column, width)
        for s in range(STRIPS):
            begin_pile(&piles[s])
        for shard in range(job.shards.count):
            if job.shards.bounds[shard] == job.shards.bounds[shard + 1]:
                continue
            for s in range(2 * STRIPS):
                sums[s] = fill_double(0.0)
            for row in range(job.shards.bounds[shard], job.shards.bounds[shard + 1]):
                if columns == width:
                    add_columns(sums, job.x + row * job.d + column, columns, True)
                else:
                    add_columns(sums, job.x + row * job.d + column, columns, False)
            for s in range(2 * STRIPS):
                store_doubles(terms + s * HALF, sums[s])
            for s in range(STRIPS):
                push(&piles[s], load(terms + s * VF), shard)
        for s in range(STRIPS):
            if s * VF < columns:
                count = min(columns - s * VF, VF)
                out = job.out + column + s * VF
                store_part(out, count, load_part(out, count, 0.0) + total(&piles[s]))


cdef inline void bias_gradient(
    float* out, const float* x, const Shards* shards, Py_ssize_t m, Py_ssize_t d, int n_threads,
) noexcept nogil:
    """out (d) += the sums of the columns of x (m, d)."""
    cdef BiasGradient job = BiasGradient(out, x, shards[0], d)
    in_parallel(bias_strips, &job, threads_for(1.0 * m * d, n_threads))
