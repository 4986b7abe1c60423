"""A layer as its description compiles to, and the one function that runs it over rows.

A sub-layer is a block with norms and a residual: out = norm_sum(x + norm_after(block(norm_before(
x)))). A whole stack, a step of decoding and the steps of a search all come here; whether keys and
values go to a cache is a pointer that may be NULL. Training has its own way over the same
descriptions (see attention.py and feed_forward.py), to the same bits. Included by entry.pyx.
"""

from libc.string cimport memcpy, memset

from pyx_transformer._kernels.product cimport MOST_JOBS, products
from pyx_transformer._kernels.scratch cimport ensure
from pyx_transformer._kernels.simd cimport load_part, store_part
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for

cdef enum:
    # Hidden activations of one run of rows: 4 MB, which the last-level cache holds between the two
    # products. Chosen in bench/results/tuning.md.
    HIDDEN_FLOATS = 1 << 20
    SUB_LAYERS = 4      # of a layer, at most
    # Places of a page: a head's keys and values of so many tokens lie together.
    PAGE = 16
    LINE_FLOATS = 16    # of a cache line, where each part of the workspace begins


cdef struct Projection:
    # Packed weights (n, k), with their bias or NULL; panels NULL: there is none.
    const float* panels
    const float* bias
    Py_ssize_t n
    Py_ssize_t k


cdef struct Norm:
    # A layer norm or RMS norm; weight and bias may be NULL; kind -1: there is none.
    const float* weight
    const float* bias
    double eps
    int kind


cdef struct AttentionBlock:
    # A cross-attention's keys and values come from the memory, projected before. rotary: the number
    # of the run's table that queries and keys turn by; -1: none.
    Projection query
    Projection key
    Projection value
    Projection output
    Norm query_norm
    Norm key_norm
    int rotary
    bint is_cross
    Attention job       # all that is the same in every run


cdef struct FeedForwardBlock:
    # linear2(f(linear1(x))), or with linear3 linear2(f(linear1(x)) * linear3(x))
    Projection linear1
    Projection linear2
    Projection linear3
    int activation


cdef struct SubLayer:
    Norm before
    Norm after
    Norm sum
    bint is_attention
    AttentionBlock attention
    FeedForwardBlock feed_forward


cdef struct Layer:
    SubLayer sub_layers[SUB_LAYERS]
    int count
    bint side_by_side


cdef struct PageLayout:
    # In floats from a token's place: where its first head's keys and values are, and how far the
    # next head's.
    Py_ssize_t keys
    Py_ssize_t values
    Py_ssize_t head


cdef struct Arrays:
    # What a layer has of its own in one run, each NULL where there is none. Where sequences have
    # tables of their keys, keys and values lie in pages; else those of a memory are rows (N,
    # kv_heads size). Room for attention's weights.
    PageLayout own
    PageLayout memory
    const float* memory_keys
    const float* memory_values
    float* weights              # (batch, heads, rows, columns)
    Py_ssize_t weights_rows
    Py_ssize_t weights_columns
    float* memory_weights
    Py_ssize_t memory_weights_rows
    Py_ssize_t memory_weights_columns


cdef Arrays no_arrays() noexcept nogil:
    """No caches, and no room for weights."""
    cdef Arrays arrays
    memset(&arrays, 0, sizeof(Arrays))
    return arrays


cdef struct Run:
    # What layers read besides their weights. own and cross say which rows and keys belong to which
    # sequence, and what is masked; with caches their key_rows say where keys and values lie.
    Attention own
    Attention cross
    const Rotary* rotaries
    const int64_t* position_ids     # of each row, in its sequence
    int n_threads
    double* unheard


cdef float* lined_up(float* place, Py_ssize_t floats) noexcept nogil:
    """The first cache line after so many floats."""
    return place + (floats + LINE_FLOATS - 1) // LINE_FLOATS * LINE_FLOATS


cdef Product projected(
    float* out, const float* x, const Projection* weights, Py_ssize_t m,
) noexcept nogil:
    """out (m, n) = x (m, k) w^T + bias"""
    cdef Product job = plain_product(out, x, weights.panels, m, weights.n, weights.k)
    job.bias = weights.bias
    return job


cdef void apply_norm(
    float* out, const float* x, const Norm* norm, Py_ssize_t m, Py_ssize_t d, int n_threads,
) noexcept nogil:
    """out (m, d) = norm(x), where there is one"""
    if norm.kind >= 0:
        normalise(out, x, norm.weight, norm.bias, m, d, norm.eps, norm.kind, n_threads)


cdef struct Addition:
    # out (n) = x (n) + y (n)
    float* out
    const float* x
    const float* y
    Py_ssize_t n


cdef void add_share(const void* work, int part, int parts) noexcept nogil:
    cdef const Addition* job = <const Addition*>work
    cdef Py_ssize_t i = share(job.n, part, parts), end = share(job.n, part + 1, parts), count
    while i < end:
        count = min(end - i, <Py_ssize_t>VF)
        store_part(job.out + i, count,
                   load_part(job.x + i, count, 0.0) + load_part(job.y + i, count, 0.0))
        i += VF


cdef void add(
    float* out, const float* x, const float* y, Py_ssize_t n, int n_threads,
) noexcept nogil:
    """out (n) = x (n) + y (n)"""
    cdef Addition job = Addition(out, x, y, n)
    in_parallel(add_share, &job, threads_for(1.0 * n, n_threads))


cdef float* at(Py_ssize_t place) noexcept nogil:
    """The address of a place, which counts floats."""
    return <float*>(<uintptr_t>place * sizeof(float))


cdef void scatter_heads(
    const PageLayout* layout, const float* keys, const float* values, const int64_t* starts,
    const int64_t* counts, const int64_t** places, const int64_t* offsets, Py_ssize_t batch,
    const Attention* job,
) noexcept nogil:
    """Rows of keys and values (N, kv_heads size) into pages: row t of sequence b to the place
    places[b][offsets[b] + t]."""
    cdef Py_ssize_t heads = job.heads // job.group, b, h, t, row, place
    for b in range(batch):
        for t in range(counts[b]):
            row = (starts[b] + t) * heads
            place = places[b][offsets[b] + t]
            for h in range(heads):
                memcpy(at(place + layout.keys + h * layout.head), keys + (row + h) * job.key_size,
                       job.key_size * sizeof(float))
                memcpy(at(place + layout.values + h * layout.head),
                       values + (row + h) * job.value_size, job.value_size * sizeof(float))


cdef Attention attention_of(const Attention* block, const Attention* run) noexcept nogil:
    """A block's attention over the sequences of a run."""
    cdef Attention job = block[0]
    job.query_starts = run.query_starts
    job.query_counts = run.query_counts
    job.key_starts = run.key_starts
    job.key_counts = run.key_counts
    job.key_rows = run.key_rows
    job.offsets = run.offsets
    job.batch = run.batch
    job.is_causal = block.is_causal or run.is_causal
    job.bool_mask = run.bool_mask
    job.float_mask = run.float_mask
    memcpy(job.mask_strides, run.mask_strides, sizeof(job.mask_strides))
    return job


cdef void read_pages(Attention* job, const PageLayout* layout) noexcept nogil:
    """Have a job read keys and values where its tables say."""
    job.key = at(layout.keys)
    job.value = at(layout.values)
    job.key_row = job.value_row = 1
    job.key_head = job.value_head = layout.head


cdef void read_rows(Attention* job, const float* keys, const float* values) noexcept nogil:
    """Have a job read rows (N, kv_heads size)."""
    cdef Py_ssize_t kv_heads = job.heads // job.group
    job.key = keys
    job.value = values
    job.key_row = kv_heads * job.key_size
    job.value_row = kv_heads * job.value_size
    job.key_head = job.key_size
    job.value_head = job.value_size


cdef Py_ssize_t attention_floats(
    const AttentionBlock* block, Py_ssize_t m, const Run* run,
) noexcept nogil:
    """Floats of workspace for `attention_rows` of m rows."""
    cdef Attention job = attention_of(&block.job, &run.cross if block.is_cross else &run.own)
    cdef Py_ssize_t floats = m * (block.query.n + block.output.k) + 4 * LINE_FLOATS
    if not block.is_cross:
        floats += m * (block.key.n + block.value.n)
    return floats + run.n_threads * attention_workspace(&job)


cdef int attention_rows(
    float* out, const float* x, const float* residual, const AttentionBlock* block, Py_ssize_t m,
    const Run* run, const Arrays* arrays, float* workspace,
) except -1 nogil:
    """out (m, d) = residual + Attention(x), residual NULL for none."""
    cdef Attention job = attention_of(&block.job, &run.cross if block.is_cross else &run.own)
    cdef Py_ssize_t heads = block.job.heads, kv_heads = heads // block.job.group
    cdef float* queries = workspace
    cdef float* context = lined_up(queries, m * block.query.n)
    cdef float* keys = lined_up(context, m * block.output.k)
    cdef float* values = keys
    cdef const Rotary* rotary
    cdef Product jobs[3]
    ensure(3 <= MOST_JOBS)
    jobs[0] = projected(queries, x, &block.query, m)
    if block.is_cross:
        product(jobs, run.n_threads, run.unheard)
    else:
        values = lined_up(keys, m * block.key.n)
        jobs[1] = projected(keys, x, &block.key, m)
        jobs[2] = projected(values, x, &block.value, m)
        products(jobs, 3, run.n_threads, run.unheard)
        apply_norm(keys, keys, &block.key_norm, m * kv_heads, job.key_size, run.n_threads)
    apply_norm(queries, queries, &block.query_norm, m * heads, job.key_size, run.n_threads)
    if block.rotary >= 0:
        rotary = &run.rotaries[block.rotary]
        rotate_kernel(queries, block.query.n, m, heads, job.key_size, rotary, run.position_ids,
                      False, run.n_threads)
        rotate_kernel(keys, block.key.n, m, kv_heads, job.key_size, rotary, run.position_ids,
                      False, run.n_threads)
    job.query = queries
    job.query_row = block.query.n
    job.query_head = job.key_size
    job.out = context
    job.out_row = block.output.k
    job.out_head = job.value_size
    if block.is_cross:
        job.weights = arrays.memory_weights
        job.weights_rows = arrays.memory_weights_rows
        job.weights_columns = arrays.memory_weights_columns
        if job.key_rows != NULL:
            read_pages(&job, &arrays.memory)
        else:
            read_rows(&job, arrays.memory_keys, arrays.memory_values)
    else:
        job.weights = arrays.weights
        job.weights_rows = arrays.weights_rows
        job.weights_columns = arrays.weights_columns
        if job.key_rows != NULL:
            scatter_heads(&arrays.own, keys, values, job.query_starts, job.query_counts,
                          job.key_rows, job.offsets, job.batch, &job)
            read_pages(&job, &arrays.own)
        else:
            read_rows(&job, keys, values)
    workspace = lined_up(values, 0 if block.is_cross else m * block.value.n)
    attention_kernel(&job, workspace, run.n_threads, run.unheard)
    jobs[0] = projected(out, context, &block.output, m)
    jobs[0].residual = residual
    return product(jobs, run.n_threads, run.unheard)


cdef Py_ssize_t feed_forward_run(const FeedForwardBlock* block, Py_ssize_t m) noexcept nogil:
    """Rows that pass through the products together, so that what is between them stays cached."""
    cdef Py_ssize_t hidden = block.linear1.n * (1 if block.linear3.panels == NULL else 2)
    return min(m, max(HIDDEN_FLOATS // max(hidden, <Py_ssize_t>1), <Py_ssize_t>1))


cdef Py_ssize_t feed_forward_floats(
    const FeedForwardBlock* block, Py_ssize_t m,
) noexcept nogil:
    """Floats of workspace for `feed_forward_rows` of m rows."""
    return (1 if block.linear3.panels == NULL else 2) * (m * block.linear1.n + LINE_FLOATS)


cdef int feed_forward_rows(
    float* out, const float* x, const float* residual, const FeedForwardBlock* block, Py_ssize_t m,
    const Run* run, float* workspace,
) except -1 nogil:
    """out (m, d) = residual + W2 (f(W1 x) * W3 x), residual NULL for none, W3 x 1 without one."""
    cdef float* hidden = lined_up(workspace, 0)
    cdef float* factor = lined_up(hidden, m * block.linear1.n)
    cdef Product job
    if block.linear3.panels != NULL:
        job = projected(factor, x, &block.linear3, m)
        product(&job, run.n_threads, run.unheard)
    job = projected(hidden, x, &block.linear1, m)
    job.activation = block.activation
    if block.linear3.panels != NULL:
        job.factor = factor
        job.factor_stride = block.linear3.n
    product(&job, run.n_threads, run.unheard)
    job = projected(out, hidden, &block.linear2, m)
    job.residual = residual
    return product(&job, run.n_threads, run.unheard)


cdef Py_ssize_t sub_layer_floats(
    const SubLayer* sub_layer, Py_ssize_t m, Py_ssize_t d, const Run* run,
) noexcept nogil:
    """Floats of workspace for `run_sub_layer` on m rows of d."""
    cdef Py_ssize_t floats
    if sub_layer.is_attention:
        floats = attention_floats(&sub_layer.attention, m, run)
    else:
        m = feed_forward_run(&sub_layer.feed_forward, m)
        floats = feed_forward_floats(&sub_layer.feed_forward, m)
    return floats + (m * d + LINE_FLOATS if sub_layer.before.kind >= 0 else 0)


cdef int run_sub_layer(
    float* out, const float* x, const float* residual, const SubLayer* sub_layer, Py_ssize_t m,
    Py_ssize_t d, const Run* run, const Arrays* arrays, float* workspace,
) except -1 nogil:
    """out (m, d) = norm_sum(residual + norm_after(block(norm_before(x (m, d)))))"""
    cdef const float* normed = x
    cdef const float* added = residual
    if sub_layer.before.kind >= 0:
        apply_norm(workspace, x, &sub_layer.before, m, d, run.n_threads)
        normed = workspace
        workspace = lined_up(workspace, m * d)
    if sub_layer.after.kind >= 0:
        added = NULL
    if sub_layer.is_attention:
        attention_rows(out, normed, added, &sub_layer.attention, m, run, arrays, workspace)
    else:
        feed_forward_rows(out, normed, added, &sub_layer.feed_forward, m, run, workspace)
    if sub_layer.after.kind >= 0:
        apply_norm(out, out, &sub_layer.after, m, d, run.n_threads)
        if residual != NULL:
            add(out, out, residual, m * d, run.n_threads)
    apply_norm(out, out, &sub_layer.sum, m, d, run.n_threads)
    return 0


cdef int run_rows(
    float* out, const float* x, const float* residual, const SubLayer* sub_layer, Py_ssize_t m,
    Py_ssize_t d, const Run* run, const Arrays* arrays, float* workspace,
) except -1 nogil:
    """`run_sub_layer`, a feed-forward some rows at a time."""
    cdef Py_ssize_t each = m, row = 0, rows
    cdef const float* added = NULL
    if not sub_layer.is_attention:
        each = feed_forward_run(&sub_layer.feed_forward, m)
    while row < m:
        rows = min(each, m - row)
        if residual != NULL:
            added = residual + row * d
        run_sub_layer(out + row * d, x + row * d, added, sub_layer, rows, d, run, arrays,
                      workspace)
        row += rows
    return 0


cdef int run_layer(
    float** rows, float** room, const float* x, const Layer* layer, Py_ssize_t m, Py_ssize_t d,
    const Run* run, const Arrays* arrays, float* workspace,
) except -1 nogil:
    """One layer on x (m, d). rows takes the address of the result: that of `room` before, which in
    turn takes another place of m rows. x may be either of the two, and is then written over."""
    cdef const float* current = x
    cdef float* swap
    cdef int i
    for i in range(layer.count):
        run_rows(room[0], x if layer.side_by_side else current, current, &layer.sub_layers[i], m,
                 d, run, arrays, workspace)
        swap = rows[0]
        rows[0] = room[0]
        room[0] = swap
        current = rows[0]
    return 0
