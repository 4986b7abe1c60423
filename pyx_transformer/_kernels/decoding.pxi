"""Decoding: a layer with its cache, steps through all layers, and the best next tokens. Included by
entry.pxi."""

from pyx_transformer._kernels.candidates cimport Candidates, find


cdef class CachedLayer:
    """A decoder layer bound to its caches: what a step needs, looked up once.

    keys and values (slots, H, capacity, K) hold the target's past; memory_keys and memory_values
    (sentences, H, S, K) what cross-attention reads. A layer without cross-attention has None for
    these, its projections and norm2.
    """
    cdef PackedLinear query, key, value, output, cross_query, cross_output, linear1, linear2
    cdef NormParameters norm1, norm2, norm3
    cdef float[:, :, :, ::1] keys, values, memory_keys, memory_values
    cdef bint norm_first
    cdef int activation

    def __init__(
        self, PackedLinear query not None, PackedLinear key not None, PackedLinear value not None,
        PackedLinear output not None, NormParameters norm1 not None, PackedLinear cross_query,
        PackedLinear cross_output, NormParameters norm2, PackedLinear linear1 not None,
        PackedLinear linear2 not None, NormParameters norm3 not None, bint norm_first,
        int activation, float[:, :, :, ::1] keys not None, float[:, :, :, ::1] values not None,
        float[:, :, :, ::1] memory_keys, float[:, :, :, ::1] memory_values,
    ):
        self.query, self.key, self.value, self.output = query, key, value, output
        self.cross_query, self.cross_output = cross_query, cross_output
        self.linear1, self.linear2 = linear1, linear2
        self.norm1, self.norm2, self.norm3 = norm1, norm2, norm3
        self.norm_first = norm_first
        self.activation = activation
        self.keys, self.values = keys, values
        self.memory_keys, self.memory_values = memory_keys, memory_values

    cdef int apply(
        self, float* x, float* middle, Py_ssize_t m, Attention own, Attention cross,
        const int64_t* slots, float[:, :, :, ::1] weights, float* workspace, int n_threads,
        double* unheard,
    ) except -1:
        """x (m, d) through the layer, in place; middle (m, d) is room to work in."""
        cdef PackedLinear query = self.query, key = self.key, value = self.value
        cdef PackedLinear output = self.output, cross_query = self.cross_query
        cdef PackedLinear cross_output = self.cross_output
        cdef PackedLinear linear1 = self.linear1, linear2 = self.linear2
        cdef NormParameters norm1 = self.norm1, norm2 = self.norm2, norm3 = self.norm3
        cdef float* keys = &self.keys[0, 0, 0, 0]
        cdef float* values = &self.values[0, 0, 0, 0]
        cdef Py_ssize_t capacity = self.keys.shape[2]
        cdef float* attended = middle
        cdef float* out = x
        read_cache(&own, self.keys, self.values)
        if cross_query is not None:
            read_cache(&cross, self.memory_keys, self.memory_values)
            set_weights(&cross, weights)
        with nogil:
            attention_sublayer(
                middle, x, m, norm1, self.norm_first, True, query, key, value, output, &own, keys,
                values, slots, capacity, workspace, n_threads, unheard)
            if cross_query is not None:
                attention_sublayer(
                    x, middle, m, norm2, self.norm_first, True, cross_query, None, None,
                    cross_output, &cross, NULL, NULL, NULL, 0, workspace, n_threads, unheard)
                attended, out = x, middle
            feed_forward_sublayer(
                out, attended, m, norm3, self.norm_first, True, linear1, linear2, self.activation,
                workspace, n_threads, unheard)
            if out != x:
                memcpy(x, out, m * query.in_features * sizeof(float))
        return 0


def decode(
    float[:, ::1] x, list layers not None, const int64_t[::1] starts, const int64_t[::1] counts,
    const int64_t[::1] slots, const int64_t[::1] offsets, const int64_t[::1] totals,
    const int64_t[:, ::1] key_rows, const int64_t[::1] cross_starts,
    const int64_t[::1] cross_counts, const int64_t[::1] memory_starts,
    const int64_t[::1] memory_counts, float[:, :, :, ::1] cross_weights, int n_threads,
):
    """The next tokens' rows x (N, d) through all `CachedLayer`s, in place, one nogil call each.

    counts[b] rows from starts[b] on come after the offsets[b] tokens that sequence b has, and are
    added to the caches, seen as rows, from slots[b] on; key_rows (B, capacity) says where all
    totals[b] keys lie, in the same order as the slots' where it is None. Cross-attention:
    cross_counts[g] rows from cross_starts[g] on read memory_counts[g] places from row
    memory_starts[g] of the memory; cross_weights (G, H, rows, S) takes the last layer's weights.
    """
    cdef CachedLayer layer
    cdef Py_ssize_t m = x.shape[0], i
    cdef Attention own, cross
    cdef Workspace workspace
    cdef float* middle
    cdef double unheard = 0.0
    cdef float[:, :, :, ::1] weights
    if not layers or m == 0:
        return
    layer = layers[0]
    own = plain_job(layer.keys.shape[1], layer.query, layer.output)
    own.query_starts = &starts[0]
    own.query_counts = &counts[0]
    own.key_starts = &slots[0]
    own.key_counts = &totals[0]
    own.offsets = &offsets[0]
    own.batch = counts.shape[0]
    own.is_causal = True
    if key_rows is not None:
        own.key_rows = &key_rows[0, 0]
        own.key_rows_stride = key_rows.shape[1]
    cross = own
    if cross_counts is not None:
        cross.key_rows = NULL
        cross.query_starts = &cross_starts[0]
        cross.query_counts = &cross_counts[0]
        cross.key_starts = &memory_starts[0]
        cross.key_counts = &memory_counts[0]
        cross.batch = cross_counts.shape[0]
        cross.is_causal = False
    workspace = Workspace(m * x.shape[1] + 16 + max(
        attention_floats(&own, m, x.shape[1], n_threads),
        feed_forward_run(m, layer.linear1) * (x.shape[1] + layer.linear1.out_features)))
    middle = workspace.floats
    for i in range(len(layers)):
        layer = layers[i]
        weights = cross_weights if i == len(layers) - 1 else None
        layer.apply(&x[0, 0], middle, m, own, cross, &slots[0], weights,
                    middle + (m * x.shape[1] + 15) // 16 * 16, n_threads, &unheard)


def candidates(
    double[:, ::1] values, int64_t[:, ::1] tokens, int64_t[:, ::1] rows,
    float[:, ::1] log_probabilities, const float[:, ::1] logits, const double[::1] sums,
    const int64_t[::1] group_starts, int n_threads,
):
    """The best of sums[row] + log_softmax(logits (N, V))[row, token] for each group of rows.

    Group g's rows are group_starts[g] ... group_starts[g + 1] - 1; values, tokens, rows and
    log_probabilities (G, C) take its best C, best first; -inf and -1 where there are fewer.
    """
    cdef Candidates job
    job.values = &values[0, 0]
    job.tokens = &tokens[0, 0]
    job.rows = &rows[0, 0]
    job.log_probabilities = &log_probabilities[0, 0]
    job.most = values.shape[1]
    job.logits = &logits[0, 0]
    job.sums = &sums[0]
    job.group_starts = &group_starts[0]
    job.groups = values.shape[0]
    job.vocabulary = logits.shape[1]
    with nogil:
        find(&job, n_threads)
