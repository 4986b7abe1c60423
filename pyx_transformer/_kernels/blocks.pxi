"""Whole sub-layers, each one call without the GIL. Included by entry.pxi."""

from libc.string cimport memcpy

from pyx_transformer._kernels.product cimport products

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
    cdef Product jobs[2]
    with nogil:
        jobs[0] = key_projection.job(workspace.floats, &key_rows[0, 0], m)
        jobs[1] = value_projection.job(workspace.floats + m * key_projection.out_features,
                                       &value_rows[0, 0], m)
        products(jobs, 2, n_threads, &unheard)
        scatter_heads(&keys[0, 0, 0, 0], jobs[0].out, &starts[0], &counts[0], &cache_starts[0],
                      &offsets[0], counts.shape[0], keys.shape[1], keys.shape[2], keys.shape[3])
        scatter_heads(&values[0, 0, 0, 0], jobs[1].out, &starts[0], &counts[0], &cache_starts[0],
                      &offsets[0], counts.shape[0], values.shape[1], values.shape[2],
                      values.shape[3])


cdef void read_cache(
    Attention* job, float[:, :, :, ::1] keys, float[:, :, :, ::1] values,
) noexcept nogil:
    """Have a job read keys and values from caches (slots, heads, capacity, size)."""
    job.key = &keys[0, 0, 0, 0]
    job.value = &values[0, 0, 0, 0]
    job.key_row = job.key_size
    job.value_row = job.value_size
    job.key_head = keys.shape[2] * job.key_size
    job.value_head = keys.shape[2] * job.value_size


cdef Py_ssize_t attention_floats(
    const Attention* job, Py_ssize_t m, Py_ssize_t d, int n_threads,
) noexcept nogil:
    """Floats of workspace for `attention_sublayer` on m rows of d."""
    return (m * (d + 2 * job.heads * (job.key_size + job.value_size)) + 64
            + n_threads * attention_kernel.attention_workspace(job))


cdef int attention_sublayer(
    float* out, const float* x, Py_ssize_t m, NormParameters norm, bint norm_first, bint residual,
    PackedLinear query_projection, PackedLinear key_projection, PackedLinear value_projection,
    PackedLinear output_projection, Attention* job, float* keys, float* values,
    const int64_t* slots, Py_ssize_t capacity, float* workspace, int n_threads, double* unheard,
) except -1 nogil:
    """out (m, d) = x + Attention(Norm(x)) for norm_first, else Norm(x + Attention(x)).

    Without key_projection the job says where its keys and values are. With it they are those of
    the same rows; where the caches keys and values (slots, heads, capacity, size) are given, they
    are added there, from place job.offsets[b] of row slots[b] on, and the job reads the caches.
    """
    cdef Py_ssize_t d = query_projection.in_features
    cdef Py_ssize_t inner = job.heads * job.key_size, value_width = job.heads * job.value_size
    cdef float* query_rows = workspace + m * d
    cdef float* key_rows = query_rows + m * inner
    cdef float* value_rows = key_rows + m * inner
    cdef float* context = value_rows + m * value_width
    cdef const float* normed = x
    cdef Product projections[3]
    if norm is not None and norm_first:
        norm.apply(workspace, x, m, d, n_threads)
        normed = workspace
    projections[0] = query_projection.job(query_rows, normed, m)
    if key_projection is None:
        product(projections, n_threads, unheard)
    else:
        projections[1] = key_projection.job(key_rows, normed, m)
        projections[2] = value_projection.job(value_rows, normed, m)
        products(projections, 3, n_threads, unheard)
        if keys == NULL:
            job.key = key_rows
            job.value = value_rows
            job.key_row = inner
            job.value_row = value_width
            job.key_head = job.key_size
            job.value_head = job.value_size
        else:
            scatter_heads(keys, key_rows, job.query_starts, job.query_counts, slots, job.offsets,
                          job.batch, job.heads, capacity, job.key_size)
            scatter_heads(values, value_rows, job.query_starts, job.query_counts, slots,
                          job.offsets, job.batch, job.heads, capacity, job.value_size)
    job.query = query_rows
    job.query_row = inner
    job.query_head = job.key_size
    job.out = context
    job.out_row = value_width
    job.out_head = job.value_size
    attention_kernel.attention(job, context + m * value_width, n_threads, unheard)
    projections[0] = output_projection.job(out, context, m)
    if residual:
        projections[0].residual = x
    product(projections, n_threads, unheard)
    if norm is not None and not norm_first:
        norm.apply(out, out, m, output_projection.out_features, n_threads)
    return 0


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
    the same rows or, without key_projection, what keys and values (slots, heads, capacity, size)
    hold.
    """
    cdef Py_ssize_t m = x.shape[0]
    cdef Attention job = plain_attention(
        num_heads, query_projection.out_features // num_heads,
        output_projection.in_features // num_heads)
    cdef double unheard = 0.0
    cdef Workspace workspace
    job.query_starts = &query_starts[0]
    job.query_counts = &query_counts[0]
    job.key_starts = &key_starts[0]
    job.key_counts = &key_counts[0]
    job.offsets = &offsets[0]
    job.batch = query_counts.shape[0]
    job.is_causal = is_causal
    if keys is not None:
        read_cache(&job, keys, values)
    set_mask(&job, mask)
    set_weights(&job, weights)
    workspace = Workspace(attention_floats(&job, m, x.shape[1], n_threads))
    with nogil:
        attention_sublayer(
            &out[0, 0], &x[0, 0], m, norm, norm_first, residual, query_projection, key_projection,
            value_projection, output_projection, &job, NULL, NULL, NULL, 0, workspace.floats,
            n_threads, &unheard)


cdef Py_ssize_t feed_forward_run(Py_ssize_t m, PackedLinear linear1) noexcept nogil:
    """Rows that pass through both products together."""
    return min(m, max(HIDDEN_FLOATS // max(linear1.out_features, <Py_ssize_t>1), <Py_ssize_t>1))


cdef int feed_forward_sublayer(
    float* out, const float* x, Py_ssize_t m, NormParameters norm, bint norm_first, bint residual,
    PackedLinear linear1, PackedLinear linear2, int activation, float* workspace, int n_threads,
    double* unheard,
) except -1 nogil:
    """out (m, d) = x + W2 f(W1 Norm(x)) for norm_first, else Norm(x + W2 f(W1 x)).

    Rows pass through both products in runs whose hidden activations stay in the cache. workspace:
    a run's rows of d and of hidden activations.
    """
    cdef Py_ssize_t d = linear1.in_features, run = feed_forward_run(m, linear1), row = 0, rows
    cdef float* hidden = workspace + run * d
    cdef const float* normed
    cdef Product job
    while row < m:
        rows = min(run, m - row)
        normed = x + row * d
        if norm is not None and norm_first:
            norm.apply(workspace, normed, rows, d, n_threads)
            normed = workspace
        job = linear1.job(hidden, normed, rows)
        job.activation = activation
        product(&job, n_threads, unheard)
        job = linear2.job(out + row * linear2.out_features, hidden, rows)
        if residual:
            job.residual = x + row * d
        product(&job, n_threads, unheard)
        if norm is not None and not norm_first:
            norm.apply(job.out, job.out, rows, linear2.out_features, n_threads)
        row += rows
    return 0


def feed_forward_block(
    float[:, ::1] out, const float[:, ::1] x, NormParameters norm, bint norm_first, bint residual,
    PackedLinear linear1 not None, PackedLinear linear2 not None, int activation, int n_threads,
):
    """out (N, d) = x + W2 f(W1 Norm(x)) for norm_first, else Norm(x + W2 f(W1 x))."""
    cdef Py_ssize_t m = x.shape[0]
    cdef Workspace workspace = Workspace(
        feed_forward_run(m, linear1) * (x.shape[1] + linear1.out_features))
    cdef double unheard = 0.0
    with nogil:
        feed_forward_sublayer(&out[0, 0], &x[0, 0], m, norm, norm_first, residual, linear1,
                              linear2, activation, workspace.floats, n_threads, &unheard)
