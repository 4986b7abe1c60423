"""From all that rows in play have to the logits of their next tokens, and the best of these.
Included by entry.pyx."""

from libc.stdint cimport uint64_t

from pyx_transformer._kernels.candidates cimport Candidates, find
from pyx_transformer._kernels.rules cimport Known, Rules, Ruling, are_in_force, rule


cdef class Steps:
    """A decoder with its output projection, and what is done to logits.

    options are `GenerationOptions`; hooks has the functions that Python is entered for: see
    `generation.hooks`.
    """
    cdef Cache cache
    cdef PackedLinear projection
    cdef object hooks
    cdef bint has_processor, has_constraint, needs_weights
    cdef Rules rules
    cdef const int64_t[::1] sequences, sequence_starts, suppressed, end_tokens
    cdef int64_t start_id, last_token   # -1: none
    cdef int starts                     # tokens before those of a row: 1; 0 where start_id is -1
    cdef float[:, ::1] room             # for the logits of a step

    def __init__(self, Cache cache not None, PackedLinear projection not None, options, hooks,
                 int64_t start_id, end_tokens):
        self.cache, self.projection, self.hooks = cache, projection, hooks
        self.has_processor = options.logits_processor is not None
        self.has_constraint = options.constraint is not None
        self.needs_weights = options.coverage_penalty != 0
        self.start_id = start_id
        self.last_token = -1 if options.last_token is None else options.last_token
        self.starts = start_id >= 0
        self.end_tokens = np.array(end_tokens, np.int64)
        self.suppressed = np.array(options.suppress_tokens, np.int64)
        self.sequences = np.array([i for ids in options.suppress_sequences for i in ids], np.int64)
        self.sequence_starts = np.cumsum(
            [0, *map(len, options.suppress_sequences)], dtype=np.int64)
        self.rules = Rules(
            options.repetition_penalty, options.no_repeat_ngram_size,
            integers_of(self.sequences), integers_of(self.sequence_starts),
            len(options.suppress_sequences), integers_of(self.suppressed),
            self.suppressed.shape[0], integers_of(self.end_tokens), self.end_tokens.shape[0],
            options.min_length, options.temperature or 0.0, options.prefix_bias)
        self.room = np.empty((0, projection.out_features), np.float32)

    cdef float[:, ::1] next_logits(self, list units, int n_threads):
        """Logits (rows, V) after all that each row has, hooks and rules applied."""
        cdef Py_ssize_t rows = 0, tokens = 0, d = self.projection.in_features, i
        cdef list pasts = [], memories = []
        cdef Unit unit
        cdef Row row
        cdef int64_t[::1] ids, counts
        cdef float[:, ::1] decoded, logits
        cdef float[:, :, :, ::1] weights = None
        cdef Product job
        cdef double unheard = 0.0
        for unit in units:
            for row in unit.rows:
                pasts.append(row.past)
                memories.append(unit.sentence.memory)
                tokens += unit.length + self.starts - row.past.length
        ids = np.empty(tokens, np.int64)
        counts = np.empty(len(pasts), np.int64)
        tokens = 0
        for unit in units:
            for row in unit.rows:
                for i in range(row.past.length, unit.length + self.starts):
                    ids[tokens] = row.tokens[i - self.starts] if i >= self.starts else self.start_id
                    tokens += 1
                counts[rows] = unit.length + self.starts - row.past.length
                rows += 1
        decoded = np.empty((tokens, d), np.float32)
        if self.needs_weights and memories[0] is not None:
            weights = self.room_for_weights(memories, counts)
        self.cache.append(decoded, ids, pasts, counts, memories, weights, n_threads)
        if weights is not None:
            self.cover(units, weights, counts)
        if tokens > rows:
            decoded = np.asarray(decoded)[np.cumsum(counts) - 1]
        if self.room.shape[0] < rows:
            self.room = None
            self.room = np.empty((rows, self.projection.out_features), np.float32)
        logits = self.room[:rows]
        job = self.projection.job(floats_of(logits), floats_of(decoded), rows)
        with nogil:
            product(&job, n_threads, &unheard)
        if self.has_processor:
            logits = self.hooks.processed(np.asarray(logits))
        if self.has_constraint:
            rows = 0
            for unit in units:
                for row in unit.rows:
                    self.hooks.ban(np.asarray(logits[rows]), unit.sentence.number,
                                   unit.tokens_of(row))
                    rows += 1
        self.apply_rules(units, logits, n_threads)
        return logits

    cdef int apply_rules(self, list units, float[:, ::1] logits, int n_threads) except -1:
        """The rules on each row."""
        cdef Py_ssize_t rows = logits.shape[0], vocabulary = logits.shape[1], i = 0
        cdef Py_ssize_t words = vocabulary // 64 + 1
        cdef bint any = False
        cdef Workspace workspace
        cdef Ruling job
        cdef Unit unit
        cdef Row row
        for unit in units:
            any = any or self.forced(unit) >= 0 or are_in_force(&self.rules, unit.count)
        if not any:
            return 0
        workspace = Workspace(rows * sizeof(Known) + words * n_threads * sizeof(uint64_t))
        job = Ruling(&self.rules, <Known*>workspace.floats, rows, vocabulary, NULL, words)
        job.seen = <uint64_t*>(job.rows + rows)
        memset(job.seen, 0, words * n_threads * sizeof(uint64_t))
        for unit in units:
            for row in unit.rows:
                job.rows[i] = Known(
                    &logits[i, 0], row.tokens, unit.length, unit.count,
                    integers_of(unit.sentence.lean), unit.sentence.lean.shape[0]
                    if unit.sentence.lean is not None else 0, self.forced(unit))
                i += 1
        with nogil:
            rule(&job, n_threads)
        return 0

    cdef int64_t forced(self, Unit unit) noexcept:
        """What a unit's rows have to go on with, or -1."""
        return self.last_token if unit.count + 1 == unit.sentence.max_length else -1

    cdef float[:, :, :, ::1] room_for_weights(self, list memories, const int64_t[::1] counts):
        """Zeros for the last layer's weights of the memory: see `Cache.append`."""
        cdef Past memory, before = None
        cdef Py_ssize_t groups = 0, rows = 0, most = 0, columns = 0, i
        cdef CompiledLayer last = self.cache.stack.layers[len(self.cache.stack.layers) - 1]
        for i in range(counts.shape[0]):
            memory = memories[i]
            if memory is not before:
                groups += 1
                rows = 0
                before = memory
            rows += counts[i]
            most = max(most, rows)
            columns = max(columns, memory.length)
        return np.zeros((groups, attention_in(&last.layer, True).job.heads, most, columns),
                        np.float32)

    cdef int cover(self, list units, const float[:, :, :, ::1] weights,
                   const int64_t[::1] counts) except -1:
        """Each row's coverage gets the attention of its last token, averaged over heads. A prefix's
        last step chooses the first free token: the steps before chose what was forced."""
        cdef Past before = None
        cdef Py_ssize_t group = -1, place = 0, i = 0, s, h, heads = weights.shape[1]
        cdef Unit unit
        cdef Row row
        cdef double sum
        for unit in units:
            for row in unit.rows:
                if unit.sentence.memory is not before:
                    group += 1
                    place = 0
                    before = unit.sentence.memory
                place += counts[i]
                i += 1
                for s in range(row.coverage.shape[0]):
                    sum = 0.0
                    for h in range(heads):
                        sum += weights[group, h, place - 1, s]
                    row.coverage[s] += sum / heads
        return 0


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
