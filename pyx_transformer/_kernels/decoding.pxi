"""Decoding: steps through all layers with caches, and the best next tokens. Included by
entry.pxi."""

from pyx_transformer._kernels.candidates cimport Candidate, Candidates, find


cdef class Decoder:
    """A stack with caches for the tokens so far, and what a step embeds the next ones with.

    arrays: each layer's `LayerArrays`, with caches (slots, H, capacity, K); cache_rows: H capacity,
    the rows that a slot has. lengths (slots): tokens that each holds. `width` slots side by side
    belong to one sentence. key_rows (slots, capacity), or None, says where each key of a slot lies,
    the caches seen as rows. Sentence i's memory is memory_counts[i] places from row
    memory_starts[i] on, None without a memory.
    """
    cdef CompiledStack stack
    cdef list arrays
    cdef Py_ssize_t width, cache_rows
    cdef int64_t[::1] lengths
    cdef int64_t[:, ::1] key_rows
    cdef const int64_t[::1] memory_starts, memory_counts
    cdef const float[:, ::1] table, positions
    cdef float scale
    cdef NormParameters embedding_norm
    cdef Tables tables

    def __init__(
        self, CompiledStack stack not None, list arrays not None, *, Py_ssize_t width,
        Py_ssize_t cache_rows, int64_t[::1] lengths not None, int64_t[:, ::1] key_rows,
        const int64_t[::1] memory_starts, const int64_t[::1] memory_counts,
    ):
        self.stack = stack
        self.arrays = arrays
        self.width = width
        self.cache_rows = cache_rows
        self.lengths = lengths
        self.key_rows = key_rows
        self.memory_starts, self.memory_counts = memory_starts, memory_counts

    def embed_with(self, const float[:, ::1] table not None, float scale,
                   const float[:, ::1] positions, NormParameters norm, Tables tables):
        """Embed as norm(table[ids] scale + positions) from now on, positions and norm being None
        where there are none; layers turn queries and keys by `tables`."""
        self.table, self.scale, self.positions = table, scale, positions
        self.embedding_norm, self.tables = norm, tables

    cpdef int append(
        self, float[:, ::1] out, const int64_t[::1] ids, const int64_t[::1] slots,
        const int64_t[::1] counts, float[:, :, :, ::1] cross_weights, int n_threads,
    ) except -1:
        """out (N, d): the next tokens, ids (N), through embedding, all layers and the norm.

        counts[b] of them come after the lengths[slots[b]] tokens that a slot holds, which they are
        added to. cross_weights (groups, H, rows, S) takes the last layer's weights of the memory, a
        group being a run of slots of one sentence.
        """
        cdef Py_ssize_t m = ids.shape[0], d = out.shape[1], batch = slots.shape[0]
        cdef Py_ssize_t row = 0, sentence, before = -1, groups = 0, b, i, slot
        cdef Workspace numbers
        cdef int64_t* starts
        cdef int64_t* offsets
        cdef int64_t* totals
        cdef int64_t* first_rows
        cdef int64_t* places
        cdef int64_t* group
        cdef Lookup lookup
        cdef Attention own = no_attention(0, 0, 0), cross
        cdef Run run
        cdef LayerArrays last
        cdef double unheard = 0.0
        if m == 0:
            return 0
        numbers = Workspace((8 * batch + m) * sizeof(int64_t))
        starts = <int64_t*>numbers.floats
        offsets = starts + batch
        totals = offsets + batch
        first_rows = totals + batch
        group = first_rows + batch  # starts, counts, and the memory's; then the places
        places = group + 4 * batch
        for b in range(batch):
            slot = slots[b]
            starts[b] = row
            offsets[b] = self.lengths[slot]
            totals[b] = self.lengths[slot] + counts[b]
            first_rows[b] = slot * self.cache_rows
            for i in range(offsets[b], totals[b]):
                places[row] = i
                row += 1
                if self.key_rows is not None:
                    self.key_rows[slot, i] = first_rows[b] + i
            if self.memory_starts is None:
                continue
            sentence = slot // self.width
            if sentence != before:
                group[groups] = starts[b]
                group[batch + groups] = 0
                group[2 * batch + groups] = self.memory_starts[sentence]
                group[3 * batch + groups] = self.memory_counts[sentence]
                groups += 1
                before = sentence
            group[batch + groups - 1] += counts[b]
        lookup = Lookup(floats_of(out), integers_of(ids), floats_of(self.table),
                        floats_of(self.positions), places, m, d, self.scale)
        with nogil:
            embed_all(&lookup, n_threads)
        if self.embedding_norm is not None:
            self.embedding_norm.apply(floats_of(out), floats_of(out), m, d, n_threads)
        own.query_starts = starts
        own.query_counts = integers_of(counts)
        own.key_starts = first_rows
        own.key_counts = totals
        own.offsets = offsets
        own.batch = batch
        cross = own
        cross.query_starts = group
        cross.query_counts = group + batch
        cross.key_starts = group + 2 * batch
        cross.key_counts = group + 3 * batch
        cross.batch = groups
        if self.key_rows is not None:
            own.key_rows = integers_of(self.key_rows)
            own.key_rows_stride = self.key_rows.shape[1]
            own.key_slots = integers_of(slots)
        run = Run(own, cross, rotaries_of(self.tables), places, n_threads, &unheard)
        if self.arrays:
            last = self.arrays[len(self.arrays) - 1]
            last.set_cross_attention(cross_weights)
        self.stack.run(floats_of(out), floats_of(out), m, &run, self.arrays, None)
        for b in range(batch):  # not before: an interrupted pass has added nothing
            self.lengths[slots[b]] = totals[b]
        return 0

    def append_best(
        self, float[:, ::1] logits, PackedLinear projection not None, Beams beams not None,
        Py_ssize_t most, int n_threads,
    ):
        """Up to `most` steps of greedy or beam search; how many were made.

        A step replaces the rows of `beams` by their best continuations; logits (N, V) are then
        those that `projection` makes of what `append` gives. Before a step in which a continuation
        is an end token, or there are too few, all is left as it is.
        """
        cdef Py_ssize_t rows = logits.shape[0], step, row
        cdef int64_t[::1] ones = np.ones(rows, np.int64)
        cdef int64_t[::1] starts = np.arange(0, rows + 1, beams.each, np.int64)
        cdef float[:, ::1] decoded = np.empty((rows, projection.in_features), np.float32)
        cdef Product job = projection.job(floats_of(logits), floats_of(decoded), rows)
        cdef Candidates search = Candidates(
            NULL, NULL, beams.each, floats_of(logits), doubles_of(beams.sums), integers_of(starts),
            rows // beams.each, logits.shape[1])
        cdef Workspace room = room_for(&search, rows)
        cdef double unheard = 0.0
        for step in range(most):
            with nogil:
                find(&search, n_threads)
            for row in range(rows):
                if search.best[row].token < 0 or beams.ends(search.best[row].token):
                    return step
            beams.go_on(search.best, self)
            self.append(decoded, beams.last, beams.slots, ones, None, n_threads)
            with nogil:
                product(&job, n_threads, &unheard)
            PyErr_CheckSignals()
        return most


cdef class Beams:
    """The rows of a search: `each` of them, one below the other, are a sentence's, in slots that
    follow each other.

    tokens (N, capacity), of which token_counts (N) are there, their scores (N, columns), of which
    there are `count`, and sums (N). end_tokens end a row.
    """
    cdef Py_ssize_t each, count
    cdef double[::1] sums
    cdef int64_t[:, ::1] tokens
    cdef int64_t[::1] token_counts
    cdef float[:, ::1] token_scores
    cdef const int64_t[::1] slots, end_tokens
    cdef int64_t[::1] last
    cdef int64_t[:, ::1] copies

    def __init__(
        self, Py_ssize_t each, double[::1] sums, int64_t[:, ::1] tokens, int64_t[::1] token_counts,
        float[:, ::1] token_scores, Py_ssize_t count, const int64_t[::1] slots,
        const int64_t[::1] end_tokens,
    ):
        self.each, self.count = each, count
        self.sums, self.tokens, self.token_counts = sums, tokens, token_counts
        self.token_scores, self.slots, self.end_tokens = token_scores, slots, end_tokens
        self.last = np.empty(slots.shape[0], np.int64)
        self.copies = np.empty((each, tokens.shape[1]), np.int64)

    cdef bint ends(self, int64_t token) noexcept:
        cdef Py_ssize_t i
        for i in range(self.end_tokens.shape[0]):
            if token == self.end_tokens[i]:
                return True
        return False

    cdef void go_on(self, const Candidate* best, Decoder decoder) noexcept:
        """Each row becomes its candidate: a parent of the same sentence with one more token."""
        cdef Py_ssize_t first = 0, i, row, held
        cdef bint moves
        while first < self.slots.shape[0]:
            moves = False
            for i in range(self.each):
                moves = moves or best[first + i].row != first + i
            if moves:
                self.follow(&self.tokens[first, 0], self.tokens.strides[0],
                            self.token_counts[first] * sizeof(int64_t), best, first)
                self.follow(&self.token_scores[first, 0], self.token_scores.strides[0],
                            self.count * sizeof(float), best, first)
                held = decoder.lengths[self.slots[first]]
                self.follow(&decoder.key_rows[self.slots[first], 0], decoder.key_rows.strides[0],
                            held * sizeof(int64_t), best, first)
            for i in range(self.each):
                row = first + i
                self.last[row] = best[row].token
                self.tokens[row, self.token_counts[row]] = best[row].token
                self.token_counts[row] += 1
                self.token_scores[row, self.count] = best[row].log_probability
                self.sums[row] = best[row].value
            first += self.each
        self.count += 1

    cdef void follow(self, void* rows, Py_ssize_t stride, Py_ssize_t size, const Candidate* best,
                     Py_ssize_t first) noexcept:
        """Each row of the sentence whose first row is `first` takes `size` bytes of its parent;
        rows are `stride` bytes apart."""
        cdef char* room = <char*>integers_of(self.copies)
        cdef Py_ssize_t i
        for i in range(self.each):
            memcpy(room + i * size, <char*>rows + (best[first + i].row - first) * stride, size)
        for i in range(self.each):
            memcpy(<char*>rows + i * stride, room + i * size, size)


cdef Workspace room_for(Candidates* job, Py_ssize_t rows):
    """What holds the candidates of a search whose other fields are set."""
    cdef Workspace room = Workspace(job.groups * job.most * sizeof(Candidate)
                                    + rows * sizeof(double))
    job.best = <Candidate*>room.floats
    job.log_sums = <double*>(job.best + job.groups * job.most)
    return room


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
        NULL, NULL, most, floats_of(logits), doubles_of(sums), integers_of(group_starts), groups,
        logits.shape[1])
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
