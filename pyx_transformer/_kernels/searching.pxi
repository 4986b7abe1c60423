"""The search that greedy decoding, beams, samples and alternatives share. Included by entry.pyx.

All rows of all sentences in play make up a step; a sentence leaves when its last unit is done, and
another may come before any step.
"""

from pyx_transformer._kernels.philox cimport uniform_number
from pyx_transformer._kernels.sampling cimport Drawing, Drawings, Falling, Kept, draw_all

USUAL_LENGTH = 256      # tokens that a hypothesis is expected to have, at most


cdef class Search:
    """Steps for the sentences in play.

    options are `GenerationOptions`; end_tokens are what they come to. hooks has the functions that
    Python is entered for: see `generation.hooks`.
    """
    cdef Steps steps
    cdef object hooks
    cdef bint has_stop, has_listener, has_bias
    cdef Kept kept
    cdef const int64_t[::1] end_tokens
    cdef Py_ssize_t beams, branches, enough, most
    cdef Py_ssize_t begun       # tokens of a prefix that count in the lengths of scores
    cdef bint is_sampling, has_alternatives, stops_early, hopes
    cdef double length_penalty, coverage_penalty
    cdef list sentences, units, done    # in play, those with rows in play, and those that are done

    def __init__(
        self, Cache cache not None, PackedLinear projection not None, options, hooks, *,
        int64_t start_id, end_tokens,
    ):
        cdef Py_ssize_t vocabulary = projection.out_features
        cdef double top_p = 0.0 if options.top_p is None else options.top_p
        self.steps = Steps(cache, projection, options, hooks, start_id, end_tokens)
        self.hooks = hooks
        self.has_stop = options.stop_when is not None
        self.has_listener = options.on_token is not None
        self.has_bias = options.prefix_bias > 0
        self.end_tokens = self.steps.end_tokens
        self.kept = Kept(options.top_k or 0, 0.0 if top_p == 1.0 else top_p, options.min_p or 0.0)
        self.beams, self.branches = options.beam_size, options.branches
        self.begun = options.first_token is not None and options.prefix is None
        self.is_sampling, self.has_alternatives = options.is_sampling, options.return_alternatives
        self.length_penalty = options.length_penalty
        self.coverage_penalty = options.coverage_penalty
        self.stops_early = options.early_stopping is True
        self.hopes = options.early_stopping == "never" and options.length_penalty > 0
        self.enough = max(1, int(options.beam_size * options.patience + 0.5))
        # Candidates that a unit's step looks at. Greedy search ends with the first end token, and
        # needs no candidate behind it.
        self.most = self.beams * (1 + self.end_tokens.shape[0])
        if self.beams == self.enough == 1 and self.stops_early:
            self.most = 1
        self.most = min(self.most, vocabulary * self.beams)
        self.sentences, self.units, self.done = [], [], []

    def add(self, Py_ssize_t number, const int64_t[::1] prefix not None, Py_ssize_t max_length,
            Past memory, const uint64_t[:, ::1] keys):
        """Begin with a sentence of at most max_length tokens after its prefix; keys (branches, 2),
        those of its random numbers, or None."""
        cdef Sentence sentence = Sentence()
        cdef Unit unit
        cdef Row row
        sentence.number, sentence.max_length, sentence.memory = number, max_length, memory
        sentence.units = [Unit(sentence, branch) for branch in range(self.branches)]
        sentence.made = []
        if self.has_bias:
            sentence.lean, prefix = prefix, prefix[:0]
        sentence.prefix_length = prefix.shape[0]
        for unit in sentence.units:
            unit.length = sentence.prefix_length
            if keys is not None:
                unit.key[0], unit.key[1] = keys[unit.branch, 0], keys[unit.branch, 1]
        unit = sentence.units[0]
        row = self.new_row(unit)
        row.widen(unit.length)
        if unit.length:
            memcpy(row.tokens, &prefix[0], unit.length * sizeof(int64_t))
            memset(row.scores, 0, unit.length * sizeof(float))
        if self.coverage_penalty and memory is not None:
            row.coverage = np.zeros(memory.length)
        self.sentences.append(sentence)
        if max_length > 0:
            unit.rows.append(row)
            self.units.append(unit)
        else:
            self.keep(unit, row, False)
            self.end(sentence)

    def run(self, Py_ssize_t steps, int n_threads):
        """At most so many steps, until a sentence is done; the list of those that are."""
        while steps > 0 and self.units and not self.done:
            self.step(n_threads)
            PyErr_CheckSignals()
            steps -= 1
        done, self.done = self.done, []
        for sentence in done:
            self.leave(sentence)
        return done

    def __len__(self):
        """Sentences in play."""
        return len(self.sentences)

    def may_hold(self):
        """Tokens that the sentences in play may soon hold, memories included: a row may double, or
        become as long as most are."""
        cdef Py_ssize_t usual = USUAL_LENGTH, total = 0
        cdef Sentence sentence
        cdef Unit unit
        for sentence in self.sentences:
            total += 0 if sentence.memory is None else sentence.memory.length
            for unit in sentence.units:
                total += self.beams * (sentence.prefix_length + min(
                    sentence.max_length, max(2 * unit.count, usual)))
        return total

    def close(self):
        """Let go of all sentences in play, which refer to themselves and would wait for the
        garbage collector."""
        for sentence in self.sentences[:]:
            self.leave(sentence)
        self.units, self.done = [], []

    cdef Row new_row(self, Unit unit):
        """A row for a unit: one that it does not use any more, or a new one."""
        cdef Row row
        if unit.spare:
            return unit.spare.pop()
        row = Row(self.steps.cache.sequence())
        unit.sentence.made.append(row)
        return row

    cdef int leave(self, Sentence sentence) except -1:
        """A sentence that is done gives back its pages."""
        cdef Row row
        for row in sentence.made:
            row.past.release()
        if sentence.memory is not None:
            sentence.memory.release()
        sentence.made, sentence.units, sentence.memory = [], [], None
        self.sentences.remove(sentence)
        return 0

    # A step.

    cdef int step(self, int n_threads) except -1:
        """One token more for each row, or its end."""
        cdef float[:, ::1] logits = self.steps.next_logits(self.units, n_threads)
        cdef list before = self.units
        cdef Sentence sentence
        cdef Unit unit
        self.units = []
        if self.is_sampling:
            self.sample(before, logits, n_threads)
        else:
            self.choose(before, logits, n_threads)
        for unit in before:
            sentence = unit.sentence
            if not unit.rows and sentence.found is None and not has_rows(sentence.units):
                self.end(sentence)
            if self.has_listener:
                self.tell(unit)
        return 0

    # What becomes of the rows.

    cdef int choose(self, list units, float[:, ::1] logits, int n_threads) except -1:
        """Greedy and beam search: the best candidates of each unit; alternatives begin with the
        best tokens of a sentence, each for a unit of its own."""
        cdef Py_ssize_t groups = len(units), most = self.most, i, row = 0, rows
        cdef int64_t[::1] starts = np.empty(groups + 1, np.int64)
        cdef double[::1] sums = np.empty(logits.shape[0])
        cdef Unit unit
        cdef Row one
        cdef Candidates job
        cdef Workspace room
        starts[0] = 0
        for i in range(groups):
            unit = units[i]
            for one in unit.rows:
                sums[row] = one.sum
                row += 1
            starts[i + 1] = row
            if self.begins_branches(unit):
                most = max(most, min(self.branches, logits.shape[1]))
        job = Candidates(NULL, NULL, most, floats_of(logits), doubles_of(sums),
                         integers_of(starts), groups, logits.shape[1])
        room = room_for(&job, row)
        with nogil:
            find(&job, n_threads)
        for i in range(groups):
            unit = units[i]
            if job.best[i * most].token < 0:
                self.hooks.refuse_no_numbers(np.asarray(logits[starts[i]:starts[i + 1]]))
            if self.begins_branches(unit):
                self.branch_out(unit, job.best + i * most)
            else:
                self.go_on(unit, job.best + i * most, self.most, starts[i])
        return 0

    cdef int sample(self, list units, float[:, ::1] logits, int n_threads) except -1:
        """One drawn token for each row; a sentence begins with one for each of its units."""
        cdef Py_ssize_t vocabulary = logits.shape[1], most = len(units) * self.branches
        cdef Py_ssize_t count = 0, i
        cdef Workspace room = Workspace(
            most * (sizeof(Drawing) + sizeof(Candidate)) + n_threads * (
                sizeof(Falling) + vocabulary * (2 * sizeof(int64_t) + sizeof(double))))
        cdef Drawings job
        cdef Drawing* drawings
        cdef Unit unit, other
        cdef Row row
        drawings = <Drawing*>room.floats
        job.drawings = drawings
        job.drawn = <Candidate*>(drawings + most)
        job.falling = <Falling*>(job.drawn + most)
        job.weights = <double*>(job.falling + n_threads)
        job.tokens = <int64_t*>(job.weights + n_threads * vocabulary)
        job.vocabulary = vocabulary
        job.kept = &self.kept
        for i in range(len(units)):
            unit = units[i]
            row = unit.rows[0]
            for other in unit.sentence.units if self.begins_branches(unit) else (unit,):
                drawings[count] = Drawing(
                    &logits[i, 0], row.sum,
                    uniform_number(other.key[0], other.key[1], unit.count))
                count += 1
        job.count = count
        with nogil:
            draw_all(&job, n_threads)
        count = 0
        for i in range(len(units)):
            unit = units[i]
            if job.drawn[count].token < 0:
                self.hooks.refuse_no_numbers(np.asarray(logits[i:i + 1]))
            if self.begins_branches(unit):
                self.branch_out(unit, job.drawn + count)
                count += self.branches
            else:
                self.go_on(unit, job.drawn + count, 1, 0)
                count += 1
        return 0

    cdef bint begins_branches(self, Unit unit) noexcept:
        """Whether a unit's next tokens are each for a unit of its own."""
        return unit.count == 0 and unit.branch == 0 and (
            self.has_alternatives or (self.is_sampling and self.branches > 1))

    cdef int go_on(self, Unit unit, const Candidate* best, Py_ssize_t count,
                   Py_ssize_t first) except -1:
        """End tokens among the first `beams` candidates finish a hypothesis, the first `beams`
        others go on. Candidates name rows from `first` on, or all of them the unit's only row."""
        cdef list parents = unit.rows, rows = [], chosen = []
        cdef Py_ssize_t i, parent
        cdef Row row
        for i in range(count):
            if best[i].token < 0 or len(chosen) == self.beams:
                break
            if not self.ends(best[i].token):
                chosen.append(i)
            elif i < self.beams:
                self.finish(unit, parents[best[i].row - first], best[i])
        # Each goes on in its parent's row, but for those whose parent is gone on with already.
        taken = set()
        for i in chosen:
            parent = best[i].row - first
            rows.append(None if parent in taken else parents[parent])
            taken.add(parent)
        unit.spare += [parents[i] for i in range(len(parents)) if i not in taken]
        for i in range(len(rows)):
            if rows[i] is None:
                row = self.new_row(unit)
                row.copy(parents[best[<Py_ssize_t>chosen[i]].row - first], unit.length)
                rows[i] = row
        for i in range(len(rows)):
            (<Row>rows[i]).push(best[<Py_ssize_t>chosen[i]], unit.length)
        unit.rows = rows
        return self.settle(unit)

    cdef int branch_out(self, Unit unit, const Candidate* best) except -1:
        """A sentence's first tokens, each for a unit of its own; -1 is none."""
        cdef Row source = unit.rows.pop(), row
        cdef Unit other
        for other in unit.sentence.units:
            if best[other.branch].token < 0:
                continue
            if self.ends(best[other.branch].token):
                self.finish(other, source, best[other.branch])
                continue
            row = self.new_row(other)
            row.copy(source, unit.length)
            row.push(best[other.branch], unit.length)
            other.rows.append(row)
        for other in unit.sentence.units:
            self.settle(other)
        unit.spare.append(source)
        return 0

    cdef bint ends(self, int64_t token) noexcept:
        cdef Py_ssize_t i
        for i in range(self.end_tokens.shape[0]):
            if token == self.end_tokens[i]:
                return True
        return False

    cdef int settle(self, Unit unit) except -1:
        """After a step's rows are there: whether they stay, and the unit's place in the next."""
        cdef Row row
        cdef list stays
        if unit.rows:
            unit.length += 1
            unit.count += 1
        if self.has_stop:
            stays = []
            for row in unit.rows:
                if self.hooks.stops(unit.sentence.number, unit.tokens_of(row)):
                    self.keep(unit, row, True)
                    unit.spare.append(row)
                else:
                    stays.append(row)
            unit.rows = stays
        if unit.count == unit.sentence.max_length:
            for row in unit.rows:
                self.keep(unit, row, False)
            unit.rows = []
        elif unit.rows and self.has_enough(unit):
            unit.rows = []
        if unit.rows:
            self.units.append(unit)
        else:
            rank(unit.found)
        return 0

    cdef bint has_enough(self, Unit unit) except -1:
        """Whether a unit with rows in play needs none of them any more."""
        cdef list found = unit.found
        cdef Py_ssize_t length = unit.sentence.max_length if self.hopes else unit.count
        if len(found) < self.enough:
            return False
        if self.stops_early:
            return True
        rank(found)
        del found[self.enough:]
        return (per_length((<Row>unit.rows[0]).sum, self.begun + length, self.length_penalty)
                <= (<Found>found[len(found) - 1]).score)

    cdef int end(self, Sentence sentence) except -1:
        """A sentence of which no row is left."""
        cdef Unit unit
        cdef Py_ssize_t count = 0
        cdef bint has_found = False
        for unit in sentence.units:
            has_found = has_found or len(unit.found) > 0
            count = max(count, unit.count)
        if not has_found:
            self.hooks.refuse_dead_end(sentence.number, count)
        sentence.found = [unit.found for unit in sentence.units]
        self.done.append(sentence)
        return 0

    # Hypotheses.

    cdef int finish(self, Unit unit, Row row, Candidate end) except -1:
        """A row that its end token ends."""
        row.widen(unit.length + 1)
        row.scores[unit.length] = end.log_probability
        unit.add_found(row, unit.count + 1, self.begun, end.value, True, self.length_penalty,
                       self.coverage_penalty)
        return 0

    cdef int keep(self, Unit unit, Row row, bint is_finished) except -1:
        """A row as it is."""
        unit.add_found(row, unit.count, self.begun, row.sum, is_finished, self.length_penalty,
                       self.coverage_penalty)
        return 0

    cdef int tell(self, Unit unit) except -1:
        """Hand on the tokens that all hypotheses of a unit agree on."""
        for token in unit.agreed()[unit.sentence.prefix_length + unit.told:]:
            unit.told += 1
            self.hooks.on_token(unit.sentence.number, int(token))
        return 0
