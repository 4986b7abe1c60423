"""What queries, keys, values and biases get back from attention's output, without a T x S matrix.

With P = softmax(S), S = scale Q K^T + bias, masked, and dO the gradient of O = P V (Dao et al.
2022, where the row sums of dP P are those of dO O):

    dV = P^T dO,  dP = dO V^T,  dS = P (dP - sum dO O),  dQ = scale dS K,  dK = scale dS^T Q

and the bias of a distance gets the sum of dS over the pairs that far apart.

P comes again from the scores, which are the same to the bit, and from each query's largest score
and sum, which the forward pass kept. A run of queries meets the keys in tiles of TILE_ROWS keys,
scores transposed: queries lie in the lanes. Each (sequence, key head) belongs to one thread, which
fixes the order of every sum; biases, which all sequences share, have a sum for each of them.
"""

from libc.float cimport FLT_MAX
from libc.math cimport INFINITY
from libc.string cimport memset

from pyx_transformer._kernels.activation cimport exponential, hyperbolic_tangent
from pyx_transformer._kernels.attention_job cimport (
    BIAS_PAD, Attention, biases_of, end_key, first_key, mask_place, may_attend, score_work,
)
from pyx_transformer._kernels.attention_step cimport BLOCK_KEYS
from pyx_transformer._kernels.packing cimport PANEL, pack, pack_rows, padded
from pyx_transformer._kernels.scratch cimport ensure, scratch
from pyx_transformer._kernels.simd cimport (
    TILE_ROWS, VF, fill, fused, load, load_part, maximum_lane, select_less, store, store_part, vf,
)
from pyx_transformer._kernels.threads cimport (
    WORK_BETWEEN_SIGNALS, hear_signals, in_parallel, share, threads_for,
)
from pyx_transformer._kernels.tile cimport (
    AHEAD, BLOCK_K, CHAIN, TILE_STRIDE, apart, copy_tile, tile,
)

cdef enum:
    WIDEST_HEAD = BLOCK_K   # keys and values lie in a tile's rows, whole
    RUN_QUERIES = 128       # queries that meet the keys together; a multiple of PANEL
    RUN_DISTANCES = RUN_QUERIES + BLOCK_KEYS    # and one more than those of a run from a block


cdef struct AttentionGradient:
    # Gradients lie as query, key, value and out do, and are added to.
    Attention forward
    float* grad_query
    float* grad_key
    float* grad_value
    double* bias_sums           # (batch, heads, 2 bias_reach + 1), or NULL
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
    # By distance from a block: query i and key s of it are at place i - s + BLOCK_KEYS - 1.
    float biases[RUN_DISTANCES]
    float bias_sums[RUN_DISTANCES]
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


cdef inline void set_run(
    Run* run, const Attention* job, Py_ssize_t b, float* workspace,
) noexcept nogil:
    """No queries of sequence b yet, and where in a thread's workspace they will be."""
    memset(run, 0, sizeof(Run))
    run.b = b
    run.query_panels = workspace
    run.query_rows = run.query_panels + RUN_QUERIES * padded(job.key_size)
    run.grad_panels = run.query_rows + RUN_QUERIES * padded(job.key_size)
    run.grad_rows = run.grad_panels + RUN_QUERIES * padded(job.value_size)
    run.grad_scores = run.grad_rows + RUN_QUERIES * padded(job.value_size)
    run.key_rows = run.grad_scores + RUN_QUERIES * TILE_STRIDE


cdef inline float dot(const float* x, const float* y, Py_ssize_t n) noexcept nogil:
    """sum x y in the order of the product: where a query sees one key, it is dP of that key."""
    cdef vf total = fill(0.0), chain
    cdef Py_ssize_t start = 0, i
    while start < n:
        chain = fill(0.0)
        for i in range(start, min(start + CHAIN, n)):
            chain = fused(fill(x[i]), fill(y[i]), chain)
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
    cdef const float* biases
    cdef Py_ssize_t i
    run.finite_keys = pack_rows(run.key_rows, BLOCK_KEYS, key + block * forward.key_row,
                                forward.key_row, keys, forward.key_size)
    for i in range(run.count):
        run.begins[i] = <float>(first_key(forward, run.b, run.t + i) - block)
        run.ends[i] = <float>(end_key(forward, run.b, run.t + i) - block)
    for i in range(run.count, run.width):
        run.begins[i] = 0.0
        run.ends[i] = 0.0
    if forward.bias != NULL:
        biases = biases_of(forward, run.h)
        for i in range(RUN_DISTANCES):
            run.biases[i] = biases[known_distance(forward, run, block, i)]
            run.bias_sums[i] = 0.0


cdef inline Py_ssize_t known_distance(
    const Attention* job, const Run* run, Py_ssize_t block, Py_ssize_t i,
) noexcept nogil:
    """The distance at place i of a run's biases from a block, or the nearest that has a bias."""
    cdef Py_ssize_t distance = block + BLOCK_KEYS - 1 - i - job.offsets[run.b] - run.t
    return min(max(distance, -job.bias_reach), job.bias_reach)


cdef inline void end_block(
    const AttentionGradient* job, const Run* run, Py_ssize_t block,
) noexcept nogil:
    """Add what the biases got from a block to their sums, the largest distance first."""
    cdef const Attention* forward = &job.forward
    cdef double* sums = (job.bias_sums + forward.bias_reach + (run.b * forward.heads + run.h)
                         * (2 * forward.bias_reach + 1))
    cdef Py_ssize_t i
    for i in range(RUN_DISTANCES):
        sums[known_distance(forward, run, block, i)] += run.bias_sums[i]


cdef inline void multiply_panels(
    float* out, const float* x, const float* panels, Py_ssize_t k, int rows, Py_ssize_t columns,
) noexcept nogil:
    """out (rows, columns), rows TILE_STRIDE apart like those of x, = x (rows, k) times panels."""
    cdef Py_ssize_t column = 0
    while column < columns:
        apart(tile)(out + column, TILE_STRIDE, x, panels + column * k, PANEL, 0, k, rows, 1,
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
                        chain = fused(fill(x[r * TILE_STRIDE + i]),
                                      load(panel + i * PANEL + half * VF), chain)
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
            apart(tile)(sums, PANEL, x, panel, PANEL, 0, k, rows, 1, panel + AHEAD, PANEL)
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


cdef inline vf where_seen(
    const Run* run, vf x, vf key, vf score, bint has_mask, Py_ssize_t i,
) noexcept nogil:
    """x for the queries i ... of a run that see the key, with that score; 0 for others, where x may
    be NaN."""
    if has_mask:
        x = select_less(score, fill(-FLT_MAX), fill(0.0), x)
    x = select_less(key, load(run.begins + i), fill(0.0), x)
    return select_less(key, load(run.ends + i), x, fill(0.0))


cdef inline void grad_scores_of_tile(
    const Attention* job, Run* run, float* scores, float* grad_scores, Py_ssize_t block,
    Py_ssize_t s, int rows,
) noexcept nogil:
    """scores become P^T and grad_scores, dP^T before, scale dS^T, for the keys of a block from its
    key number s on; run.bias_sums get dS."""
    cdef bint has_mask = job.bool_mask != NULL or job.float_mask != NULL
    cdef bint has_cap = job.softcap != 0.0, has_bias = job.bias != NULL
    cdef vf scale = fill(job.scale), softcap = fill(job.softcap)
    cdef vf key, score, capped, p, grad_score
    cdef Py_ssize_t i, place
    cdef int r
    for r in range(rows):
        key = fill(<float>(s + r))
        place = BLOCK_KEYS - 1 - s - r
        i = 0
        while i < run.width:
            score = load(scores + r * TILE_STRIDE + i)
            capped = fill(0.0)
            if has_cap:
                capped = hyperbolic_tangent(score / softcap)
                score = softcap * capped
            if has_bias:
                score = score + load(run.biases + place + i)
            if has_mask:
                score = masked_lanes(job, run, score, i, block + s + r)
            p = exponential(score - load(run.tops + i)) * load(run.inverses + i)
            grad_score = p * (load(grad_scores + r * TILE_STRIDE + i) - load(run.products + i))
            store(scores + r * TILE_STRIDE + i, where_seen(run, p, key, score, has_mask, i))
            if has_bias:
                store(run.bias_sums + place + i, load(run.bias_sums + place + i)
                      + where_seen(run, grad_score, key, score, has_mask, i))
            grad_score = scale * grad_score * (fill(1.0) - capped * capped)
            store(grad_scores + r * TILE_STRIDE + i,
                  where_seen(run, grad_score, key, score, has_mask, i))
            i += VF


cdef inline void gradient_of_run(
    const AttentionGradient* job, Run* run, float* grad_query, float* grad_key, float* grad_value,
    const float* key, const float* value,
) noexcept nogil:
    """Add what a run of queries gives to its keys and values, and what it gets from them."""
    cdef const Attention* forward = &job.forward
    cdef float* x = <float*>scratch(TILE_ROWS * TILE_STRIDE * sizeof(float))
    cdef float* scores = <float*>scratch(TILE_ROWS * TILE_STRIDE * sizeof(float))
    cdef float* grad_scores = <float*>scratch(TILE_ROWS * TILE_STRIDE * sizeof(float))
    cdef Py_ssize_t end = end_key(forward, run.b, run.t + run.count - 1)
    cdef Py_ssize_t block = first_key(forward, run.b, run.t) // BLOCK_KEYS * BLOCK_KEYS
    cdef Py_ssize_t keys, s, i
    cdef int rows, r
    ensure(<int>WIDEST_HEAD <= TILE_STRIDE)
    ensure(<int>RUN_QUERIES <= TILE_STRIDE)
    ensure(<int>BLOCK_KEYS <= TILE_STRIDE)
    ensure(RUN_QUERIES % PANEL == 0)
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
        if job.bias_sums != NULL:
            end_block(job, run, block)
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
    set_run(&run, forward, b, workspace)
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
