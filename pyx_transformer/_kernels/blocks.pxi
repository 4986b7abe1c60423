"""Whole sub-layers, each one call without the GIL. Included by entry.pxi."""

cdef enum:
    # Hidden activations of one run of rows: 4 MB, which the last-level cache holds between the two
    # products. Chosen in bench/results/tuning.md.
    HIDDEN_FLOATS = 1 << 20


cdef void scatter_heads(
    float* heads_out, const float* rows, const int64_t* starts, const int64_t* counts,
    const int64_t* cache_starts, const int64_t* offsets, Py_ssize_t batch, Py_ssize_t heads,
    Py_ssize_t capacity, Py_ssize_t size,
) noexcept nogil:
    """Rows (N, heads size) into a cache (slots, heads, capacity, size), from place offsets[b] on.

    cache_starts[b] is the row of the cache, seen as (slots heads capacity, size), where b begins.
    """
    cdef Py_ssize_t b, h, t
    for b in range(batch):
        for h in range(heads):
            for t in range(counts[b]):
                memcpy(heads_out + (cache_starts[b] + h * capacity + offsets[b] + t) * size,
                       rows + ((starts[b] + t) * heads + h) * size, size * sizeof(float))


def project_keys_values(
    float[:, :, :, ::1] keys, float[:, :, :, ::1] values, const float[:, ::1] key_rows,
    const float[:, ::1] value_rows, PackedLinear key_projection not None,
    PackedLinear value_projection not None, const int64_t[::1] starts, const int64_t[::1] counts,
    const int64_t[::1] cache_starts, const int64_t[::1] offsets, int n_threads,
):
    """Keys and values of the rows (N, d) of a batch, into caches (slots, heads, capacity, size)."""
    cdef Py_ssize_t m = key_rows.shape[0]
    cdef Workspace workspace = Workspace(
        m * (key_projection.out_features + value_projection.out_features))
    cdef double unheard = 0.0
    cdef Product job
    with nogil:
        job = key_projection.job(workspace.floats, &key_rows[0, 0], m)
        product(&job, n_threads, &unheard)
        scatter_heads(&keys[0, 0, 0, 0], job.out, &starts[0], &counts[0], &cache_starts[0],
                      &offsets[0], counts.shape[0], keys.shape[1], keys.shape[2], keys.shape[3])
        job = value_projection.job(workspace.floats + m * key_projection.out_features,
                                   &value_rows[0, 0], m)
        product(&job, n_threads, &unheard)
        scatter_heads(&values[0, 0, 0, 0], job.out, &starts[0], &counts[0], &cache_starts[0],
                      &offsets[0], counts.shape[0], values.shape[1], values.shape[2],
                      values.shape[3])


def attention_block(
    float[:, ::1] out, const float[:, ::1] x, NormParameters norm, bint norm_first, bint residual,
    Py_ssize_t num_heads, PackedLinear query_projection not None, PackedLinear key_projection,
    PackedLinear value_projection, PackedLinear output_projection not None,
    float[:, :, :, ::1] keys, float[:, :, :, ::1] values, const int64_t[::1] query_starts,
    const int64_t[::1] query_counts, const int64_t[::1] key_starts, const int64_t[::1] key_counts,
    const int64_t[::1] offsets, bint is_causal, mask, float[:, :, :, ::1] weights, int n_threads,
):
    """out (N, d) = x + Attention(Norm(x)) for norm_first, else Norm(x + Attention(x)).

    The N rows of x are the sequences of a batch one after another. Keys and values are those of
    the same rows, added to the caches keys and values (slots, heads, capacity, size) from place
    offsets[b] on where caches are given; or, without key_projection, what the caches hold.
    """
    cdef Py_ssize_t m = x.shape[0], d = x.shape[1]
    cdef Py_ssize_t inner = query_projection.out_features
    cdef Py_ssize_t key_width = 0 if key_projection is None else key_projection.out_features
    cdef Py_ssize_t value_width = output_projection.in_features
    cdef bint cached = keys is not None
    cdef Py_ssize_t batch = query_counts.shape[0]
    cdef Attention job
    cdef Product projection
    cdef Workspace workspace
    cdef double unheard = 0.0
    cdef const float* normed = &x[0, 0]
    cdef float* query_rows
    cdef float* key_rows
    cdef float* value_rows
    cdef float* context
    job.heads = num_heads
    job.key_size = inner // num_heads
    job.value_size = value_width // num_heads
    job.group = 1
    workspace = Workspace(m * (d + inner + key_width + 2 * value_width)
                          + n_threads * attention_kernel.attention_workspace(&job) + 64)
    query_rows = workspace.floats + m * d
    key_rows = query_rows + m * inner
    value_rows = key_rows + m * key_width
    context = value_rows + m * value_width
    job.query = query_rows
    job.query_row = inner
    job.query_head = job.key_size
    job.out = context
    job.out_row = value_width
    job.out_head = job.value_size
    if cached:
        job.key = &keys[0, 0, 0, 0]
        job.value = &values[0, 0, 0, 0]
        job.key_row = job.key_size
        job.value_row = job.value_size
        job.key_head = keys.shape[2] * job.key_size
        job.value_head = keys.shape[2] * job.value_size
    else:
        job.key = key_rows
        job.value = value_rows
        job.key_row = key_width
        job.value_row = value_width
        job.key_head = job.key_size
        job.value_head = job.value_size
    job.query_starts = &query_starts[0]
    job.query_counts = &query_counts[0]
    job.key_starts = &key_starts[0]
    job.key_counts = &key_counts[0]
    job.offsets = &offsets[0]
    job.batch = batch
    job.is_causal = is_causal
    job.left = -1
    job.right = -1
    job.softcap = 0.0
    job.scale = 1.0 / <double>job.key_size ** 0.5
    set_mask(&job, mask)
    set_weights(&job, weights)
    with nogil:
        if norm is not None and norm_first:
            norm.apply(workspace.floats, &x[0, 0], m, d, n_threads)
            normed = workspace.floats
        projection = query_projection.job(query_rows, normed, m)
        product(&projection, n_threads, &unheard)
        if key_projection is not None:
            projection = key_projection.job(key_rows, normed, m)
            product(&projection, n_threads, &unheard)
            projection = value_projection.job(value_rows, normed, m)
            product(&projection, n_threads, &unheard)
            if cached:
                scatter_heads(&keys[0, 0, 0, 0], key_rows, job.query_starts, job.query_counts,
                              job.key_starts, job.offsets, batch, num_heads, keys.shape[2],
                              job.key_size)
                scatter_heads(&values[0, 0, 0, 0], value_rows, job.query_starts, job.query_counts,
                              job.key_starts, job.offsets, batch, num_heads, keys.shape[2],
                              job.value_size)
        attention_kernel.attention(&job, context + m * value_width, n_threads, &unheard)
        projection = output_projection.job(&out[0, 0], context, m)
        if residual:
            projection.residual = &x[0, 0]
        product(&projection, n_threads, &unheard)
        if norm is not None and not norm_first:
            norm.apply(&out[0, 0], &out[0, 0], m, out.shape[1], n_threads)


def feed_forward_block(
    float[:, ::1] out, const float[:, ::1] x, NormParameters norm, bint norm_first, bint residual,
    PackedLinear linear1 not None, PackedLinear linear2 not None, int activation, int n_threads,
):
    """out (N, d) = x + W2 f(W1 Norm(x)) for norm_first, else Norm(x + W2 f(W1 x)).

    Rows pass through both products in runs whose hidden activations stay in the cache.
    """
    cdef Py_ssize_t m = x.shape[0], d = x.shape[1], hidden_size = linear1.out_features
    cdef Py_ssize_t run = min(m, max(HIDDEN_FLOATS // max(hidden_size, 1), 1))
    cdef Py_ssize_t row = 0, rows
    cdef Workspace workspace = Workspace(run * (d + hidden_size))
    cdef float* hidden = workspace.floats + run * d
    cdef const float* normed
    cdef double unheard = 0.0
    cdef Product job
    with nogil:
        while row < m:
            rows = min(run, m - row)
            normed = &x[row, 0]
            if norm is not None and norm_first:
                norm.apply(workspace.floats, normed, rows, d, n_threads)
                normed = workspace.floats
            job = linear1.job(hidden, normed, rows)
            job.activation = activation
            product(&job, n_threads, &unheard)
            job = linear2.job(&out[row, 0], hidden, rows)
            if residual:
                job.residual = &x[row, 0]
            product(&job, n_threads, &unheard)
            if norm is not None and not norm_first:
                norm.apply(&out[row, 0], &out[row, 0], rows, out.shape[1], n_threads)
            row += rows
