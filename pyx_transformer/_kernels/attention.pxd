"""Scaled dot-product attention: out = softmax(scale Q K^T, masked) V, a block of keys at a time.

The scores of TILE_ROWS queries and BLOCK_KEYS keys are scratch of their thread; no T x S matrix
exists unless its weights are asked for. A block of keys is packed once (keys as the panels of the
matrix product, values as panels of their columns) and then meets every query of the item. Each
query carries its running maximum m and sum l from block to block (online softmax: Milakov and
Gimelshein 2018):

    m' = max(m, max s),  l' = l e^(m - m') + sum e^(s - m'),  out' = out e^(m - m') + e^(s - m') V

Blocks begin at multiples of BLOCK_KEYS whatever the batch, and a key that may not be seen adds an
exact zero, so a query's result depends on itself and on the keys it sees, and on nothing else.
"""

from libc.float cimport FLT_MAX
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from pyx_transformer._kernels.activation cimport exponential
from pyx_transformer._kernels.attention_job cimport (
    Attention, capped_and_biased, end_key, first_key, mask_place, masked, may_attend, score_work,
)
from pyx_transformer._kernels.attention_step cimport (
    BLOCK_KEYS, Coming, attend_one, divided, exponentials, is_one_plain_query, what_comes,
)
from pyx_transformer._kernels.packing cimport PANEL, pack, pack_rows, padded
from pyx_transformer._kernels.scratch cimport ensure, scratch
from pyx_transformer._kernels.simd cimport (
    TILE_ROWS, VF, fill, fused, lanes_from, load, load_part, maximum, maximum_lane, select_less,
    store, store_part, sum_lanes, vf,
)
from pyx_transformer._kernels.threads cimport (
    WORK_BETWEEN_SIGNALS, hear_signals, in_parallel, share, threads_for,
)
from pyx_transformer._kernels.tile cimport (
    AHEAD, BLOCK_K, CHAIN, TILE_STRIDE, apart, copy_tile, panels_at_once, tile,
)

cdef enum:
    ITEM_QUERIES = 512      # queries that share a packed block, so that packing costs them little


cdef inline Py_ssize_t attention_workspace(const Attention* job) noexcept nogil:
    """Floats that one thread needs: a packed block of keys and of values, m and l, and a block of
    scattered keys or values side by side."""
    cdef Py_ssize_t scattered = 0
    if job.key_rows != NULL:
        scattered = max(job.key_size, job.value_size)
    return BLOCK_KEYS * (job.key_size + padded(job.value_size) + scattered) + 2 * ITEM_QUERIES


cdef inline float prepare_scores(
    const Attention* job, float* scores, Py_ssize_t b, Py_ssize_t h, Py_ssize_t t,
    Py_ssize_t block, Py_ssize_t width, bint plain,
) noexcept nogil:
    """Soft cap, bias, mask and bounds on a query's scores of one block, in place; their maximum.
    plain: bounds are all that there is."""
    cdef Py_ssize_t begin = first_key(job, b, t) - block
    cdef Py_ssize_t end = end_key(job, b, t) - block
    cdef Py_ssize_t i = 0
    cdef vf top = fill(-INFINITY)
    cdef vf s, lanes
    while i < width:
        s = load(scores + i)
        if not plain:
            s = capped_and_biased(job, s, h, block + i - job.offsets[b] - t)
            if (job.bool_mask != NULL or job.float_mask != NULL) and i < end:
                s = masked(job, s, mask_place(job, b, h, t, block + i),
                           min(end - i, <Py_ssize_t>VF))
        if i < begin or i + VF > end:
            lanes = lanes_from(<float>i)
            s = select_less(lanes, fill(<float>max(begin, <Py_ssize_t>0)), fill(-INFINITY), s)
            s = select_less(lanes, fill(<float>min(max(end, <Py_ssize_t>0), width)), s,
                            fill(-INFINITY))
        if not plain or i < begin or i + VF > end:
            store(scores + i, s)
        top = maximum(s, top)
        i += VF
    return maximum_lane(top)


cdef inline bint all_finite(const float* sums, Py_ssize_t count) noexcept nogil:
    """Whether none of the values, a multiple of VF, is infinite or NaN."""
    cdef vf zero = fill(0.0)
    cdef Py_ssize_t i = 0
    while i < count:
        zero = fused(load(sums + i), fill(0.0), zero)
        i += VF
    return sum_lanes(zero) == 0.0


cdef inline void sum_attended(
    const Attention* job, float* sums, Py_ssize_t sums_stride, const float* p, const float* values,
    Py_ssize_t values_stride, Py_ssize_t b, Py_ssize_t h, Py_ssize_t t, Py_ssize_t block,
    int rows, Py_ssize_t keys, Py_ssize_t columns,
) noexcept nogil:
    """p V once more, over the keys that each query may attend to only: a masked value may be
    infinite or NaN, and 0 times that is NaN. Same sums in the same order as the tile."""
    cdef vf total, chain
    cdef Py_ssize_t start, s, c
    cdef int r
    for r in range(rows):
        c = 0
        while c < columns:
            total = fill(0.0)
            start = 0
            while start < keys:
                chain = fill(0.0)
                for s in range(start, min(start + CHAIN, keys)):
                    if may_attend(job, b, h, t + r, block + s):
                        chain = fused(fill(p[r * TILE_STRIDE + s]),
                                      load(values + s * values_stride + c), chain)
                total = total + chain
                start += CHAIN
            store(sums + r * sums_stride + c, total)
            c += VF


cdef inline const float* block_rows(
    float* room, const float* base, const int64_t* rows, Py_ssize_t* stride, Py_ssize_t block,
    Py_ssize_t keys, Py_ssize_t size,
) noexcept nogil:
    """The rows of `size` floats from `block` on; those that lie scattered, side by side in room."""
    cdef Py_ssize_t s
    if rows == NULL:
        return base + block * stride[0]
    for s in range(keys):
        memcpy(room + s * size, base + rows[block + s] * stride[0], size * sizeof(float))
    stride[0] = size
    return room


cdef inline void score_tile(
    float* scores, const float* query, Py_ssize_t query_row, float scale, const float* key_panels,
    Py_ssize_t key_size, int rows, int panels,
) noexcept nogil:
    """scores (rows, panels PANEL), rows TILE_STRIDE apart, = scale query key^T."""
    cdef float* query_tile = <float*>scratch(TILE_ROWS * TILE_STRIDE * sizeof(float))
    cdef float more[TILE_ROWS * PANEL]
    cdef Py_ssize_t start = 0, depth
    cdef float* score
    cdef int panel, group, r, c
    while True:  # once even where key_size is 0
        depth = min(key_size - start, <Py_ssize_t>BLOCK_K)
        copy_tile(query_tile, query + start, query_row, depth, rows, scale)
        panel = 0
        while panel < panels:
            group = 1
            if start == 0:
                if panel + panels_at_once(rows) <= panels:
                    group = panels_at_once(rows)
                apart(tile)(
                    scores + panel * PANEL, TILE_STRIDE, query_tile,
                    key_panels + panel * key_size * PANEL, PANEL, key_size * PANEL, depth, rows,
                    group, key_panels + panel * key_size * PANEL + AHEAD, PANEL)
            else:
                apart(tile)(
                    more, PANEL, query_tile, key_panels + (panel * key_size + start) * PANEL,
                    PANEL, 0, depth, rows, 1,
                    key_panels + (panel * key_size + start) * PANEL + AHEAD, PANEL)
                for r in range(rows):
                    for c in range(2):
                        score = scores + r * TILE_STRIDE + panel * PANEL + c * VF
                        store(score, load(score) + load(more + r * PANEL + c * VF))
            panel += group
        start += BLOCK_K
        if start >= key_size:
            break


cdef inline void add_values(
    const Attention* job, float* out, const float* p, const float* decay, const float* totals,
    const float* values, Py_ssize_t values_stride, Py_ssize_t panel_stride, bint finite,
    bint first, bint last, Py_ssize_t b, Py_ssize_t h, Py_ssize_t t, Py_ssize_t block, int rows,
    Py_ssize_t keys,
) noexcept nogil:
    """out (rows, value_size) = out decay + p (rows, keys) V (keys, value_size); without out decay
    in the first block, and divided by totals after the last.

    finite: none of V is infinite or NaN; False where that is not known.
    """
    cdef float sums[TILE_ROWS * PANEL]
    cdef Py_ssize_t panels = (job.value_size + PANEL - 1) // PANEL
    cdef Py_ssize_t panel = 0, column, count
    cdef float* place
    cdef vf total
    cdef int group, r, q
    while panel < panels:
        group = 1
        if panel + panels_at_once(rows) <= panels:
            group = panels_at_once(rows)
        apart(tile)(
            sums, group * PANEL, p, values + panel * panel_stride, values_stride, panel_stride,
            keys, rows, group, values + panel * panel_stride + AHEAD, values_stride)
        if not finite and not all_finite(sums, rows * group * PANEL):
            for q in range(group):
                sum_attended(job, sums + q * PANEL, group * PANEL, p,
                             values + (panel + q) * panel_stride, values_stride, b, h, t, block,
                             rows, keys, PANEL)
        for r in range(rows):
            column = panel * PANEL
            while column < min((panel + group) * PANEL, job.value_size):
                place = out + r * job.out_row + column
                count = min(job.value_size - column, <Py_ssize_t>VF)
                total = load(sums + r * group * PANEL + column - panel * PANEL)
                if not first:
                    total = fused(load_part(place, count, 0.0), fill(decay[r]), total)
                if last:
                    total = divided(total, totals[r])
                store_part(place, count, total)
                column += VF
        panel += group


cdef inline void keep_scores(
    const Attention* job, const float* scores, Py_ssize_t b, Py_ssize_t h, Py_ssize_t t,
    Py_ssize_t block, Py_ssize_t width,
) noexcept nogil:
    """Prepared scores of one query into its row of weights, to be normalised at the end."""
    cdef float* row = (
        job.weights + ((b * job.heads + h) * job.weights_rows + t) * job.weights_columns)
    cdef Py_ssize_t s
    for s in range(max(first_key(job, b, t) - block, <Py_ssize_t>0),
                   min(end_key(job, b, t) - block, width)):
        row[block + s] = scores[s]


cdef inline void normalise_weights(
    const Attention* job, Py_ssize_t b, Py_ssize_t h, Py_ssize_t t, float top, float total,
) noexcept nogil:
    """One query's kept scores become weights: e^(score - top) / total, zeros where nothing was
    seen."""
    cdef float* row = (
        job.weights + ((b * job.heads + h) * job.weights_rows + t) * job.weights_columns)
    cdef Py_ssize_t i = min(first_key(job, b, t), job.weights_columns)
    cdef Py_ssize_t end = max(i, min(end_key(job, b, t), job.weights_columns))
    cdef Py_ssize_t count
    cdef float reference = 0.0 if top == -INFINITY else top
    cdef vf score
    memset(row, 0, i * sizeof(float))
    memset(row + end, 0, (job.weights_columns - end) * sizeof(float))
    while i < end:
        count = min(end - i, <Py_ssize_t>VF)
        score = load_part(row + i, count, 0.0)
        # A masked key weighs nothing, in a row of NaN too.
        store_part(row + i, count, select_less(
            score, fill(-FLT_MAX), fill(0.0),
            divided(exponential(score - fill(reference)), total)))
        i += VF


cdef inline void attend(
    const Attention* job, Py_ssize_t b, Py_ssize_t h, Py_ssize_t t_begin, Py_ssize_t t_end,
    float* workspace, Coming* coming,
) noexcept nogil:
    """The outputs of queries t_begin ... t_end - 1 of one head of one sequence."""
    cdef float* scores = <float*>scratch(TILE_ROWS * TILE_STRIDE * sizeof(float))
    cdef float references[TILE_ROWS + VF]
    cdef float decay[TILE_ROWS + VF]
    cdef float* key_panels = workspace
    cdef float* value_panels = key_panels + BLOCK_KEYS * job.key_size
    cdef float* tops = value_panels + BLOCK_KEYS * padded(job.value_size)
    cdef float* totals = tops + ITEM_QUERIES
    cdef float* gathered = totals + ITEM_QUERIES
    cdef const int64_t* key_rows = NULL
    cdef float* out = job.out + job.query_starts[b] * job.out_row + h * job.out_head
    cdef const float* query = (job.query + job.query_starts[b] * job.query_row
                               + h * job.query_head)
    cdef const float* key = job.key + h // job.group * job.key_head
    cdef const float* value = job.value + h // job.group * job.value_head
    cdef Py_ssize_t queries = t_end - t_begin
    cdef Py_ssize_t tiles = (queries + TILE_ROWS - 1) // TILE_ROWS
    cdef Py_ssize_t item_end = end_key(job, b, t_end - 1)
    cdef Py_ssize_t block = first_key(job, b, t_begin) // BLOCK_KEYS * BLOCK_KEYS
    cdef Py_ssize_t t, i, keys, tile_begin, tile_end, tile_keys, width
    cdef const float* block_key
    cdef const float* values
    cdef Py_ssize_t key_stride, values_stride, panel_stride
    cdef float* normalisers
    cdef float top
    cdef int rows, r
    cdef bint plain = (job.softcap == 0.0 and job.bias == NULL and job.bool_mask == NULL
                       and job.float_mask == NULL)
    cdef bint finite
    if job.key_rows == NULL:
        key = key + job.key_starts[b] * job.key_row
        value = value + job.key_starts[b] * job.value_row
    else:
        key_rows = job.key_rows[b]
    ensure(<int>BLOCK_KEYS <= TILE_STRIDE)
    ensure(BLOCK_KEYS % PANEL == 0)
    ensure(BLOCK_K <= TILE_STRIDE)
    ensure(BLOCK_K % CHAIN == 0)
    ensure(BLOCK_KEYS % CHAIN == 0)
    if is_one_plain_query(job, queries):
        attend_one(job, out + t_begin * job.out_row, query + t_begin * job.query_row, key, value,
                   key_rows, h, job.offsets[b] + t_begin, first_key(job, b, t_begin), item_end,
                   coming)
        return
    for t in range(queries):
        tops[t] = -INFINITY
        totals[t] = 0.0
    while block < item_end:
        keys = min(item_end - block, <Py_ssize_t>BLOCK_KEYS)
        key_stride = job.key_row
        block_key = block_rows(gathered, key, key_rows, &key_stride, block, keys, job.key_size)
        pack(key_panels, block_key, key_stride, keys, job.key_size)
        values_stride = job.value_row
        values = block_rows(gathered, value, key_rows, &values_stride, block, keys, job.value_size)
        if tiles == 1 and job.value_size % PANEL == 0:
            panel_stride = PANEL
            finite = False
        else:
            finite = pack_rows(value_panels, BLOCK_KEYS, values, values_stride, keys,
                               job.value_size)
            values = value_panels
            values_stride = PANEL
            panel_stride = BLOCK_KEYS * PANEL
        for i in range(tiles):
            t = t_begin + share(queries, i, tiles)
            rows = <int>(t_begin + share(queries, i + 1, tiles) - t)
            tile_begin = first_key(job, b, t)
            tile_end = end_key(job, b, t + rows - 1)
            if tile_end <= max(block, tile_begin) or tile_begin >= block + keys:
                continue
            tile_keys = min(tile_end - block, keys)
            width = padded(tile_keys)
            score_tile(scores, query + t * job.query_row, job.query_row, job.scale, key_panels,
                       job.key_size, rows, <int>(width // PANEL))
            for r in range(rows):
                top = prepare_scores(job, scores + r * TILE_STRIDE, b, h, t + r, block, width,
                                     plain)
                if job.weights != NULL:
                    keep_scores(job, scores + r * TILE_STRIDE, b, h, t + r, block, width)
                decay[r] = tops[t + r - t_begin]
                top = max(top, decay[r])
                tops[t + r - t_begin] = top
                references[r] = 0.0 if top == -INFINITY else top
            r = 0
            while r < rows:
                store(decay + r, exponential(load(decay + r) - load(references + r)))
                r += VF
            for r in range(rows):
                totals[t + r - t_begin] = totals[t + r - t_begin] * decay[r] + exponentials(
                    scores + r * TILE_STRIDE, references[r], width)
            add_values(job, out + t * job.out_row, scores, decay, totals + t - t_begin, values,
                       values_stride, panel_stride, finite, tile_begin >= block,
                       tile_end <= block + keys, b, h, t, block, rows, tile_keys)
        block += BLOCK_KEYS
    for t in range(t_begin, t_end):
        if totals[t - t_begin] == 0.0:  # no block may have come by
            memset(out + t * job.out_row, 0, job.value_size * sizeof(float))
        if job.normalisers != NULL:
            normalisers = job.normalisers + 2 * ((b * job.heads + h) * job.normalisers_rows + t)
            normalisers[0] = 0.0 if tops[t - t_begin] == -INFINITY else tops[t - t_begin]
            normalisers[1] = 0.0 if totals[t - t_begin] == 0.0 else 1.0 / totals[t - t_begin]
        if job.weights != NULL:
            normalise_weights(job, b, h, t, tops[t - t_begin], totals[t - t_begin])


cdef inline double item_work(
    const Attention* job, Py_ssize_t b, Py_ssize_t t_begin, Py_ssize_t t_end,
) noexcept nogil:
    """Floating-point operations of an item, near enough to share them out: what it costs whatever
    it sees is that of eight keys."""
    cdef Py_ssize_t seen = end_key(job, b, (t_begin + t_end) // 2) - first_key(job, b, t_begin)
    return score_work(job) * (t_end - t_begin) * (max(seen, <Py_ssize_t>0) + 8)


cdef struct Item:
    Py_ssize_t b
    Py_ssize_t h
    Py_ssize_t t


cdef inline bint next_item(const Attention* job, Item* item, Py_ssize_t queries) noexcept nogil:
    """Step to the next run of queries of a head of a sequence; False past the last."""
    item.t += queries
    while item.b < job.batch and item.t >= job.query_counts[item.b]:
        item.t = 0
        item.h += 1
        if item.h == job.heads or job.query_counts[item.b] == 0:
            item.h = 0
            item.b += 1
    return item.b < job.batch


cdef struct Items:
    # The next `work` operations from `item` on; an item is a run of `queries`, and a thread has
    # `size` floats of the workspace.
    const Attention* attention
    Item item
    Py_ssize_t queries
    double work
    float* workspace
    Py_ssize_t size


cdef inline void attend_share(const void* work, int part, int parts) noexcept nogil:
    """One thread's share."""
    cdef const Items* job = <const Items*>work
    cdef const Attention* attention = job.attention
    cdef Item item, next = job.item
    cdef Coming coming
    cdef double done = 0.0
    cdef Py_ssize_t t_end
    cdef bint more = next.b < attention.batch
    while more and done < job.work:
        item = next
        more = next_item(attention, &next, job.queries)
        t_end = min(item.t + job.queries, <Py_ssize_t>attention.query_counts[item.b])
        if <int>(done * parts / job.work) == part:
            coming = what_comes(attention, next.b if more else -1, next.h, next.t)
            attend(attention, item.b, item.h, item.t, t_end, job.workspace + part * job.size,
                   &coming)
        done += item_work(attention, item.b, item.t, t_end)


cdef inline int attention(
    const Attention* job, float* workspace, int n_threads, double* unheard,
) except -1 nogil:
    """All heads of all sequences. workspace: n_threads * attention_workspace(job) floats."""
    cdef Py_ssize_t total_queries = 0, longest = 1, queries, b
    cdef double work
    cdef Item item, start
    cdef Items items
    cdef bint more
    for b in range(job.batch):
        total_queries += job.query_counts[b] * job.heads
        longest = max(longest, <Py_ssize_t>job.key_counts[b])
    if total_queries == 0:
        return 0
    queries = min(max(total_queries // (4 * n_threads), <Py_ssize_t>64), <Py_ssize_t>ITEM_QUERIES)
    # An item of a million keys is cut short, so that Ctrl-C is heard.
    queries = max(min(queries, <Py_ssize_t>(WORK_BETWEEN_SIGNALS / (longest * score_work(job)))),
                  <Py_ssize_t>TILE_ROWS)
    item = Item(0, 0, -queries)
    more = next_item(job, &item, queries)
    while more:
        start = item
        work = 0.0
        while more and work < WORK_BETWEEN_SIGNALS:
            work += item_work(job, item.b, item.t,
                              min(item.t + queries, <Py_ssize_t>job.query_counts[item.b]))
            more = next_item(job, &item, queries)
        items = Items(job, start, queries, work, workspace, attention_workspace(job))
        in_parallel(attend_share, &items, threads_for(work, n_threads))
        hear_signals(unheard, work)
    return 0
