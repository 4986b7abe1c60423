"""Decoding: a layer with its cache, steps through all layers, and the best next tokens. Included by
entry.pxi."""

from pyx_transformer._kernels.candidates cimport Candidate, Candidates, find


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


cpdef int decode(
    float[:, ::1] out, const int64_t[::1] ids, const int64_t[::1] slots,
    const int64_t[::1] counts, int64_t[::1] lengths, int64_t[:, ::1] key_rows, Py_ssize_t width,
    const float[:, ::1] table, float scale, const float[:, ::1] positions, list layers,
    NormParameters norm, const int64_t[::1] memory_starts, const int64_t[::1] memory_counts,
    float[:, :, :, ::1] cross_weights, int n_threads,
) except -1:
    """out (N, d): the next tokens, ids (N), through embedding, all `CachedLayer`s and the norm.

    counts[b] of them come after the lengths[slots[b]] tokens that a slot holds, which they are
    added to. `width` slots side by side belong to one sentence. key_rows (slots, capacity), where
    it is given, says where each key of a slot lies, the caches seen as rows. Sentence i's memory is
    memory_counts[i] places from row memory_starts[i] on; cross_weights (groups, H, rows, S) takes
    the last layer's weights, a group being a run of slots of one sentence.
    """
    cdef CachedLayer layer
    cdef Py_ssize_t m = ids.shape[0], d = out.shape[1], batch = slots.shape[0]
    cdef Py_ssize_t rows_each = 0, row = 0, sentence, before = -1, b, i, slot
    cdef Attention own, cross
    cdef Lookup lookup
    cdef Workspace numbers, workspace
    cdef int64_t* starts
    cdef int64_t* offsets
    cdef int64_t* totals
    cdef int64_t* first_rows
    cdef int64_t* places
    cdef int64_t* group
    cdef float* middle
    cdef double unheard = 0.0
    cdef float[:, :, :, ::1] weights
    if m == 0:
        return 0
    if layers:
        layer = layers[0]
        rows_each = layer.keys.shape[1] * layer.keys.shape[2]
    numbers = Workspace(2 * (8 * batch + m))  # floats; an int64 takes two
    starts = <int64_t*>numbers.floats
    offsets = starts + batch
    totals = offsets + batch
    first_rows = totals + batch
    group = first_rows + batch  # starts, counts, and the memory's; then the places
    places = group + 4 * batch
    cross.batch = 0
    for b in range(batch):
        slot = slots[b]
        starts[b] = row
        offsets[b] = lengths[slot]
        totals[b] = lengths[slot] + counts[b]
        first_rows[b] = slot * rows_each
        for i in range(offsets[b], totals[b]):
            places[row] = i
            row += 1
            if key_rows is not None:
                key_rows[slot, i] = first_rows[b] + i
        sentence = slot // width
        if sentence != before and memory_starts is not None:
            group[cross.batch] = starts[b]
            group[batch + cross.batch] = 0
            group[2 * batch + cross.batch] = memory_starts[sentence]
            group[3 * batch + cross.batch] = memory_counts[sentence]
            cross.batch += 1
            before = sentence
        if memory_starts is not None:
            group[batch + cross.batch - 1] += counts[b]
    lookup = Lookup(&out[0, 0], &ids[0], &table[0, 0], NULL, places, m, d, scale)
    if positions is not None:
        lookup.positions = &positions[0, 0]
    with nogil:
        embed_all(&lookup, n_threads)
    if layers:
        own = plain_attention(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3])
        own.query_starts = starts
        own.query_counts = &counts[0]
        own.key_starts = first_rows
        own.key_counts = totals
        own.offsets = offsets
        own.batch = batch
        own.is_causal = True
        b = cross.batch
        cross = own
        cross.batch = b
        cross.query_starts = group
        cross.query_counts = group + batch
        cross.key_starts = group + 2 * batch
        cross.key_counts = group + 3 * batch
        cross.is_causal = False
        if key_rows is not None:
            own.key_rows = &key_rows[0, 0]
            own.key_rows_stride = key_rows.shape[1]
            own.key_slots = &slots[0]
        workspace = Workspace(m * d + 16 + max(
            attention_floats(&own, m, d, n_threads),
            feed_forward_run(m, layer.linear1) * (d + layer.linear1.out_features)))
        middle = workspace.floats
        for i in range(len(layers)):
            layer = layers[i]
            weights = cross_weights if i == len(layers) - 1 else None
            layer.apply(&out[0, 0], middle, m, own, cross, first_rows, weights,
                        middle + (m * d + 15) // 16 * 16, n_threads, &unheard)
    if norm is not None:
        with nogil:
            norm.apply(&out[0, 0], &out[0, 0], m, d, n_threads)
    for b in range(batch):  # not before: an interrupted pass has added nothing
        lengths[slots[b]] = totals[b]
    return 0


cdef Workspace room_for(Candidates* job, Py_ssize_t rows):
    """What holds the candidates of a search whose other fields are set."""
    cdef Workspace room = Workspace(
        (job.groups * job.most * sizeof(Candidate) + rows * sizeof(double)) // sizeof(float))
    job.best = <Candidate*>room.floats
    job.log_sums = <double*>(job.best + job.groups * job.most)
    return room


cdef inline void follow_parents(
    void* rows, Py_ssize_t stride, Py_ssize_t size, const Candidate* best, Py_ssize_t first,
    Py_ssize_t count, void* room,
) noexcept nogil:
    """Row i of `count`, `first` being row 0, takes `size` bytes of its parent; rows are `stride`
    bytes apart."""
    cdef Py_ssize_t i
    for i in range(count):
        memcpy(<char*>room + i * size, <char*>rows + (best[i].row - first) * stride, size)
    for i in range(count):
        memcpy(<char*>rows + i * stride, <char*>room + i * size, size)


def decode_best(
    float[:, ::1] logits, PackedLinear projection not None, Py_ssize_t beams, double[::1] sums,
    int64_t[:, ::1] tokens, int64_t[::1] token_counts, float[:, ::1] token_scores,
    Py_ssize_t count, Py_ssize_t most, const int64_t[::1] end_tokens, const int64_t[::1] slots,
    int64_t[::1] lengths, int64_t[:, ::1] key_rows, Py_ssize_t width, const float[:, ::1] table,
    float scale, const float[:, ::1] positions, list layers not None, NormParameters norm,
    const int64_t[::1] memory_starts, const int64_t[::1] memory_counts, int n_threads,
):
    """Up to `most` steps of greedy or beam search; how many were made.

    `beams` rows, one below the other, are a sentence's, in slots that follow each other. A step
    replaces them by their best continuations, in tokens (N, capacity), of which token_counts (N)
    are there, in token_scores (N, columns), of which there are `count`, and in sums (N). The
    logits (N, V) are then those that `projection` makes of what `decode` gives. Before a step in
    which a continuation is an end token, or there are too few, all is left as it is.
    """
    cdef Py_ssize_t rows = logits.shape[0], step, group, first, row, i, held
    cdef int64_t[::1] ids = np.empty(rows, np.int64)
    cdef int64_t[::1] ones = np.ones(rows, np.int64)
    cdef int64_t[::1] starts = np.arange(0, rows + 1, beams, np.int64)
    cdef float[:, ::1] decoded = np.empty((rows, projection.in_features), np.float32)
    cdef Product job = projection.job(&logits[0, 0], &decoded[0, 0], rows)
    cdef Candidates search = Candidates(
        NULL, NULL, beams, &logits[0, 0], &sums[0], &starts[0], rows // beams, logits.shape[1])
    cdef Workspace room = room_for(&search, rows)
    cdef int64_t[:, ::1] copies = np.empty((beams, tokens.shape[1]), np.int64)
    cdef Candidate* best
    cdef double unheard = 0.0
    cdef bint moves
    for step in range(most):
        with nogil:
            find(&search, n_threads)
        for row in range(rows):
            if search.best[row].token < 0:
                return step
            for i in range(end_tokens.shape[0]):
                if search.best[row].token == end_tokens[i]:
                    return step
        for group in range(rows // beams):
            first = group * beams
            best = search.best + first
            moves = False
            for i in range(beams):
                moves = moves or best[i].row != first + i
            if moves:
                follow_parents(&tokens[first, 0], tokens.strides[0],
                               token_counts[first] * sizeof(int64_t), best, first, beams,
                               &copies[0, 0])
                follow_parents(&token_scores[first, 0], token_scores.strides[0],
                               (count + step) * sizeof(float), best, first, beams, &copies[0, 0])
                held = lengths[slots[first]]
                follow_parents(&key_rows[slots[first], 0], key_rows.strides[0],
                               held * sizeof(int64_t), best, first, beams, &copies[0, 0])
            for i in range(beams):
                row = first + i
                ids[row] = best[i].token
                tokens[row, token_counts[row]] = ids[row]
                token_counts[row] += 1
                token_scores[row, count + step] = best[i].log_probability
                sums[row] = best[i].value
        decode(decoded, ids, slots, ones, lengths, key_rows, width, table, scale, positions, layers,
               norm, memory_starts, memory_counts, None, n_threads)
        with nogil:
            product(&job, n_threads, &unheard)
        PyErr_CheckSignals()
    return most


def candidates(
    double[:, ::1] values, int64_t[:, ::1] tokens, int64_t[:, ::1] rows,
    float[:, ::1] log_probabilities, const float[:, ::1] logits, const double[::1] sums,
    const int64_t[::1] group_starts, int n_threads,
):
    """The best of sums[row] + log_softmax(logits (N, V))[row, token] for each group of rows.

    Group g's rows are group_starts[g] ... group_starts[g + 1] - 1; values, tokens, rows and
    log_probabilities (G, C) take its best C, best first; -inf and -1 where there are fewer.
    """
    cdef Py_ssize_t groups = values.shape[0], most = values.shape[1], group, i
    cdef Candidates job = Candidates(
        NULL, NULL, most, &logits[0, 0], &sums[0], &group_starts[0], groups, logits.shape[1])
    cdef Workspace room = room_for(&job, logits.shape[0])
    cdef const Candidate* best
    with nogil:
        find(&job, n_threads)
    for group in range(groups):
        for i in range(most):
            best = &job.best[group * most + i]
            values[group, i] = best.value
            tokens[group, i] = best.token
            rows[group, i] = best.row
            log_probabilities[group, i] = best.log_probability
