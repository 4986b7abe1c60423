"""What queries, keys and values get back from attention's output, without a T x S matrix.

With P = softmax(S), S = scale Q K^T masked, and dO the gradient of O = P V (Dao et al. 2022, where
the row sums of dP P are those of dO O):

    dV = P^T dO,  dP = dO V^T,  dS = P (dP - sum dO O),  dQ = scale dS K,  dK = scale dS^T Q

P comes again from the scores, which are the same to the bit, and from each query's largest score
and sum, which the forward pass kept. A run of queries meets the keys in tiles of TILE_ROWS keys,
scores transposed: queries lie in the lanes. Each (sequence, key head) belongs to one thread, which
fixes the order of every sum.
"""

from libc.float cimport FLT_MAX
from libc.math cimport INFINITY

from pyx_transformer._kernels.activation cimport exponential, hyperbolic_tangent
from pyx_transformer._kernels.attention_job cimport (
    Attention, end_key, first_key, mask_place, may_attend, score_work,
)
from pyx_transformer._kernels.attention_step cimport BLOCK_KEYS
from pyx_transformer._kernels.packing cimport PANEL, pack, pack_rows, padded
from pyx_transformer._kernels.product cimport AHEAD, CHAIN, TILE_STRIDE, copy_tile, tile
from pyx_transformer._kernels.simd cimport (
    TILE_ROWS, VF, fill, load, load_part, maximum_lane, pin, select_less, store,
    store_part, vf,
)
from pyx_transformer._kernels.threads cimport (
    WORK_BETWEEN_SIGNALS, hear_signals, in_parallel, share, threads_for,
)

cdef enum:
    RUN_QUERIES = 128       # queries that meet the keys together; a multiple of PANEL


cdef struct AttentionGradient:
    # Gradients lie as query, key, value and out do, and are added to.
    Attention forward
    float* grad_query
    float* grad_key
    float* grad_value
    const float* grad
    float* workspace
    Py_ssize_t size             # floats of the workspace that each thread has
    Py_ssize_t pair_begin       # the (sequence, key head) pairs and the queries that are in work
    Py_ssize_t pair_end
    Py_ssize_t t_begin
    Py_ssize_t t_end


cdef struct Run:
    # The queries t ... t + count - 1 of a head, padded to `width` with queries that see nothing.
    Py_ssize_t b
    Py_ssize_t h
    Py_ssize_t t
    Py_ssize_t count
    Py_ssize_t width
    float begins[RUN_QUERIES]       # the keys of a block that each sees, masks aside
    float ends[RUN_QUERIES]
    float tops[RUN_QUERIES]         # the largest score, and 1 / sum e^(score - it)
    float inverses[RUN_QUERIES]
    float products[RUN_QUERIES]     # sum dO O
    bint finite_queries             # none of the queries is infinite or NaN; and so on
    bint finite_grads
    bint finite_keys
    float* query_panels             # as weights, times scale: scores = keys times these
    float* grad_panels
    float* query_rows               # as values: sums over queries
    float* grad_rows
    float* key_rows                 # a block of keys, as values
    float* grad_scores                   # dS (RUN_QUERIES, BLOCK_KEYS), rows TILE_STRIDE apart


cdef inline Py_ssize_t gradient_workspace(const Attention* job) noexcept nogil:
    """Floats that one thread needs."""
    cdef Py_ssize_t keys = padded(job.key_size), values = padded(job.value_size)
    return RUN_QUERIES * (2 * keys + 2 * values + TILE_STRIDE) + BLOCK_KEYS * keys


cdef inline float dot(const float* x, const float* y, Py_ssize_t n) noexcept nogil:
    """sum x y in the order of the product: where a query sees one key, it is dP of that key. Every
    lane holds it, and a factor is pinned: else the compiler multiplies single floats, unfused."""
    cdef vf total = fill(0.0), chain, factor
    cdef Py_ssize_t start = 0, i
    while start < n:
        chain = fill(0.0)
        for i in range(start, min(start + CHAIN, n)):
            factor = fill(x[i])
            pin(factor)
            chain = chain + factor * fill(y[i])
        total = total + chain
        start += CHAIN
    return maximum_lane(total)


cdef inline void begin_run(
    const AttentionGradient* job, Run* run, const float* query, const float* out,
    const float* grad,
) noexcept nogil:
    """Pack the queries and their gradients, and what goes with each of them."""
    cdef const Attention* forward = &job.forward
    cdef const float* normalisers = forward.normalisers + 2 * (
        (run.b * forward.heads + run.h) * forward.normalisers_rows + run.t)
    cdef Py_ssize_t i
    pack(run.query_panels, query, forward.query_row, run.count, forward.key_size)
    for i in range(run.width * forward.key_size):
        run.query_panels[i] = run.query_panels[i] * forward.scale
    pack(run.grad_panels, grad, forward.out_row, run.count, forward.value_size)
    run.finite_queries = pack_rows(run.query_rows, RUN_QUERIES, query, forward.query_row,
                                   run.count, forward.key_size)
    run.finite_grads = pack_rows(run.grad_rows, RUN_QUERIES, grad, forward.out_row, run.count,
                                 forward.value_size)
    for i in range(run.count, run.width):
        run.tops[i] = 0.0
        run.inverses[i] = 0.0
        run.products[i] = 0.0
    for i in range(run.count):
        run.tops[i] = normalisers[2 * i]
        run.inverses[i] = normalisers[2 * i + 1]
        run.products[i] = dot(grad + i * forward.out_row, out + i * forward.out_row,
                              forward.value_size)


cdef inline void begin_block(
    const AttentionGradient* job, Run* run, const float* key, Py_ssize_t block, Py_ssize_t keys,
) noexcept nogil:
    """Pack a block of keys, and which of them each query sees."""
    cdef const Attention* forward = &job.forward
    cdef Py_ssize_t i
    run.finite_keys = pack_rows(run.key_rows, BLOCK_KEYS, key + block * forward.key_row,
                                forward.key_row, keys, forward.key_size)
    for i in range(run.count):
        run.begins[i] = <float>(first_key(forward, run.b, run.t + i) - block)
        run.ends[i] = <float>(end_key(forward, run.b, run.t + i) - block)
    for i in range(run.count, run.width):
        run.begins[i] = 0.0
        run.ends[i] = 0.0


cdef inline void multiply_panels(
    float* out, const float* x, const float* panels, Py_ssize_t k, int rows, Py_ssize_t columns,
) noexcept nogil:
    """out (rows, columns), rows TILE_STRIDE apart like those of x, = x (rows, k) times panels."""
    cdef Py_ssize_t column = 0
    while column < columns:
        tile(out + column, TILE_STRIDE, x, panels + column * k, PANEL, 0, k, rows, 1,
             panels + column * k + AHEAD, PANEL)
        column += PANEL


cdef inline void multiply_seen(
    float* sums, const float* x, const float* panel, Py_ssize_t k, int rows,
) noexcept nogil:
    """sums (rows, PANEL) = x times a panel, as a tile computes it, but that a weight of zero takes
    nothing from a value that is infinite or NaN: a pair that does not see each other has such."""
    cdef vf total, chain
    cdef Py_ssize_t start, i, half
    cdef int r
    for r in range(rows):
        for half in range(2):
            total = fill(0.0)
            start = 0
            while start < k:
                chain = fill(0.0)
                for i in range(start, min(start + CHAIN, k)):
                    if x[r * TILE_STRIDE + i] != 0.0:
                        chain = chain + fill(x[r * TILE_STRIDE + i]) * load(
                            panel + i * PANEL + half * VF)
                total = total + chain
                start += CHAIN
            store(sums + r * PANEL + half * VF, total)


cdef inline void add_product(
    float* out, Py_ssize_t out_row, const float* x, const float* values, Py_ssize_t room,
    bint finite, Py_ssize_t k, int rows, Py_ssize_t size,
) noexcept nogil:
    """out (rows, size) += x (rows, k), rows TILE_STRIDE apart, times values (k, size), packed with
    that room; finite: none of them is infinite or NaN."""
    cdef float sums[TILE_ROWS * PANEL]
    cdef Py_ssize_t column = 0, i, count
    cdef const float* panel = values
    cdef float* place
    cdef int r
    while column < size:
        if finite:
            tile(sums, PANEL, x, panel, PANEL, 0, k, rows, 1, panel + AHEAD, PANEL)
        else:
            multiply_seen(sums, x, panel, k, rows)
        for r in range(rows):
            i = 0
            while i < PANEL and column + i < size:
                count = min(size - column - i, <Py_ssize_t>VF)
                place = out + r * out_row + column + i
                store_part(place, count, load_part(place, count, 0.0) + load(sums + r * PANEL + i))
                i += VF
        panel += room * PANEL
        column += PANEL


cdef inline vf masked_lanes(
    const Attention* job, const Run* run, vf scores, Py_ssize_t i, Py_ssize_t s,
) noexcept nogil:
    """The mask on the scores of key s for queries i ... i + VF - 1 of a run: -inf where they may
    not attend."""
    cdef float lanes[VF]
    cdef Py_ssize_t place
    cdef int lane
    store(lanes, scores)
    for lane in range(VF):
        if i + lane < run.count:
            if not may_attend(job, run.b, run.h, run.t + i + lane, s):
                lanes[lane] = -INFINITY
            elif job.float_mask != NULL:
                place = mask_place(job, run.b, run.h, run.t + i + lane, s)
                lanes[lane] = lanes[lane] + job.float_mask[place]
    return load(lanes)


cdef inline void grad_scores_of_tile(
    const Attention* job, const Run* run, float* scores, float* grad_scores, Py_ssize_t block,
    Py_ssize_t s, int rows,
) noexcept nogil:
    """scores become P^T and grad_scores, dP^T before, scale dS^T, for the keys of a block from its
    key number s on."""
    cdef bint has_mask = job.bool_mask != NULL or job.float_mask != NULL
    cdef vf key, score, capped, p, grad_score
    cdef vf zero = fill(0.0)
    cdef Py_ssize_t i
    cdef int r
    for r in range(rows):
        key = fill(<float>(s + r))
        i = 0
        while i < run.width:
            score = load(scores + r * TILE_STRIDE + i)
            capped = zero
            if job.softcap != 0.0:
                capped = hyperbolic_tangent(score / fill(job.softcap))
                score = fill(job.softcap) * capped
            if has_mask:
                score = masked_lanes(job, run, score, i, block + s + r)
            p = exponential(score - load(run.tops + i)) * load(run.inverses + i)
            grad_score = fill(job.scale) * p * (
                load(grad_scores + r * TILE_STRIDE + i) - load(run.products + i))
            grad_score = grad_score * (fill(1.0) - capped * capped)
            # A key that a query may not see gives nothing, be it NaN.
            if has_mask:
                grad_score = select_less(score, fill(-FLT_MAX), zero, grad_score)
                p = select_less(score, fill(-FLT_MAX), zero, p)
            grad_score = select_less(key, load(run.begins + i), zero, grad_score)
            grad_score = select_less(key, load(run.ends + i), grad_score, zero)
            p = select_less(key, load(run.begins + i), zero, p)
            p = select_less(key, load(run.ends + i), p, zero)
            store(scores + r * TILE_STRIDE + i, p)
            store(grad_scores + r * TILE_STRIDE + i, grad_score)
            i += VF


cdef inline void gradient_of_run(
    const AttentionGradient* job, Run* run, float* grad_query, float* grad_key, float* grad_value,
    const float* key, const float* value,
) noexcept nogil:
    """Add what a run of queries gives to its keys and values, and what it gets from them."""
    cdef const Attention* forward = &job.forward
    cdef float x[TILE_ROWS * TILE_STRIDE]
    cdef float scores[TILE_ROWS * TILE_STRIDE]
    cdef float grad_scores[TILE_ROWS * TILE_STRIDE]
    cdef Py_ssize_t end = end_key(forward, run.b, run.t + run.count - 1)
    cdef Py_ssize_t block = first_key(forward, run.b, run.t) // BLOCK_KEYS * BLOCK_KEYS
    cdef Py_ssize_t keys, s, i
    cdef int rows, r
    while block < end:
        keys = min(end - block, <Py_ssize_t>BLOCK_KEYS)
        begin_block(job, run, key, block, keys)
        s = block
        while s < block + keys:
            rows = <int>min(block + keys - s, <Py_ssize_t>TILE_ROWS)
            copy_tile(x, key + s * forward.key_row, forward.key_row, forward.key_size, rows,
                      1.0)
            multiply_panels(scores, x, run.query_panels, forward.key_size, rows, run.width)
            copy_tile(x, value + s * forward.value_row, forward.value_row, forward.value_size,
                      rows, 1.0)
            multiply_panels(grad_scores, x, run.grad_panels, forward.value_size, rows, run.width)
            grad_scores_of_tile(forward, run, scores, grad_scores, block, s - block, rows)
            add_product(grad_value + s * forward.value_row, forward.value_row, scores,
                        run.grad_rows, RUN_QUERIES, run.finite_grads, run.count, rows,
                        forward.value_size)
            add_product(grad_key + s * forward.key_row, forward.key_row, grad_scores,
                        run.query_rows, RUN_QUERIES, run.finite_queries, run.count, rows,
                        forward.key_size)
            for i in range(run.count):
                for r in range(rows):
                    run.grad_scores[i * TILE_STRIDE + s - block + r] = (
                        grad_scores[r * TILE_STRIDE + i])
            s += TILE_ROWS
        i = 0
        while i < run.count:
            rows = <int>min(run.count - i, <Py_ssize_t>TILE_ROWS)
            add_product(grad_query + i * forward.query_row, forward.query_row,
                        run.grad_scores + i * TILE_STRIDE, run.key_rows, BLOCK_KEYS,
                        run.finite_keys, keys, rows, forward.key_size)
            i += TILE_ROWS
        block += BLOCK_KEYS


cdef inline void gradient_of_key_head(
    const AttentionGradient* job, Py_ssize_t b, Py_ssize_t key_head, float* workspace,
) noexcept nogil:
    """The queries of one sequence that share a key head, from t_begin to t_end."""
    cdef const Attention* forward = &job.forward
    cdef Py_ssize_t first = forward.key_starts[b]
    cdef Py_ssize_t key_place = first * forward.key_row + key_head * forward.key_head
    cdef Py_ssize_t value_place = first * forward.value_row + key_head * forward.value_head
    cdef Py_ssize_t queries = forward.query_counts[b]
    cdef Py_ssize_t query_place, out_place
    cdef Run run
    run.b = b
    run.query_panels = workspace
    run.query_rows = run.query_panels + RUN_QUERIES * padded(forward.key_size)
    run.grad_panels = run.query_rows + RUN_QUERIES * padded(forward.key_size)
    run.grad_rows = run.grad_panels + RUN_QUERIES * padded(forward.value_size)
    run.grad_scores = run.grad_rows + RUN_QUERIES * padded(forward.value_size)
    run.key_rows = run.grad_scores + RUN_QUERIES * TILE_STRIDE
    run.t = job.t_begin
    while run.t < min(job.t_end, queries):
        run.count = min(queries - run.t, <Py_ssize_t>RUN_QUERIES)
        run.width = padded(run.count)
        for run.h in range(key_head * forward.group, (key_head + 1) * forward.group):
            query_place = ((forward.query_starts[b] + run.t) * forward.query_row
                           + run.h * forward.query_head)
            out_place = ((forward.query_starts[b] + run.t) * forward.out_row
                         + run.h * forward.out_head)
            begin_run(job, &run, forward.query + query_place, forward.out + out_place,
                      job.grad + out_place)
            gradient_of_run(job, &run, job.grad_query + query_place, job.grad_key + key_place,
                            job.grad_value + value_place, forward.key + key_place,
                            forward.value + value_place)
        run.t += RUN_QUERIES


cdef inline void gradient_share(const void* work, int part, int parts) noexcept nogil:
    """One thread's share of the (sequence, key head) pairs."""
    cdef const AttentionGradient* job = <const AttentionGradient*>work
    cdef Py_ssize_t key_heads = job.forward.heads // job.forward.group
    cdef Py_ssize_t pairs = job.pair_end - job.pair_begin, pair
    for pair in range(job.pair_begin + share(pairs, part, parts),
                      job.pair_begin + share(pairs, part + 1, parts)):
        gradient_of_key_head(job, pair // key_heads, pair % key_heads,
                             job.workspace + part * job.size)


cdef inline int attention_gradient(
    AttentionGradient* job, int n_threads, double* unheard,
) except -1 nogil:
    """All heads of all sequences, some pairs and some queries of each at a time, so that Ctrl-C is
    heard. What keys and values get is added up in the order of the queries whatever these are."""
    cdef const Attention* forward = &job.forward
    cdef Py_ssize_t pairs = forward.batch * (forward.heads // forward.group)
    cdef Py_ssize_t queries = 0, keys = 1, window, run, b
    cdef double work
    for b in range(forward.batch):
        queries = max(queries, <Py_ssize_t>forward.query_counts[b])
        keys = max(keys, <Py_ssize_t>forward.key_counts[b])
    # Of one query of each head of a pair: five products in place of two.
    work = 2.5 * score_work(forward) * forward.group * keys
    window = <Py_ssize_t>min(WORK_BETWEEN_SIGNALS / (work * n_threads), <double>queries)
    window = max(window // RUN_QUERIES, <Py_ssize_t>1) * RUN_QUERIES
    work = work * min(window, queries)
    run = <Py_ssize_t>min(max(WORK_BETWEEN_SIGNALS / work, <double>n_threads), <double>pairs)
    job.t_begin = 0
    while job.t_begin < queries:
        job.t_end = job.t_begin + window
        job.pair_begin = 0
        while job.pair_begin < pairs:
            job.pair_end = min(job.pair_begin + run, pairs)
            in_parallel(gradient_share, job,
                        threads_for(work * (job.pair_end - job.pair_begin), n_threads))
            hear_signals(unheard, work * (job.pair_end - job.pair_begin))
            job.pair_begin = job.pair_end
        job.t_begin = job.t_end
    return 0
