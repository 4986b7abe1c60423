"""Sentences in play: their units, and the rows of each. Included by entry.pyx.

A sentence is decoded by one unit or, where samples or alternatives are asked for, by several. A
unit has rows, hypotheses in play, in order of rank.
"""

from libc.math cimport log
from libc.math cimport pow as power
from libc.stdint cimport uint64_t

from pyx_transformer._kernels.candidates cimport Candidate


cdef class Found:
    """A hypothesis that is complete: tokens, a forced prefix included, and their log-probabilities,
    0 in that prefix, with that of the end token where one came."""
    cdef readonly object tokens, token_scores
    cdef readonly double score
    cdef readonly bint is_finished


cdef class Row:
    """A hypothesis in play; its unit knows how long it is."""
    cdef Past past
    cdef double sum                 # of log-probabilities
    cdef Py_ssize_t room
    cdef int64_t* tokens            # (room)
    cdef float* scores              # (room), of the tokens that count
    cdef double[::1] coverage       # (S), or None

    def __cinit__(self, Past past not None):
        self.past = past
        self.room = 0
        self.tokens, self.scores = NULL, NULL
        self.coverage = None

    def __dealloc__(self):
        free(self.tokens)
        free(self.scores)

    cdef int widen(self, Py_ssize_t length) except -1:
        """Room for so many tokens."""
        cdef Py_ssize_t room = max(length, 2 * self.room, <Py_ssize_t>PAGE)
        if length <= self.room:
            return 0
        self.tokens = <int64_t*>longer(self.tokens, room * sizeof(int64_t))
        self.scores = <float*>longer(self.scores, room * sizeof(float))
        self.room = room
        return 0

    cdef int copy(self, Row other, Py_ssize_t length) except -1:
        """Become another row of that length."""
        self.past.copy(other.past)
        self.widen(length)
        memcpy(self.tokens, other.tokens, length * sizeof(int64_t))
        memcpy(self.scores, other.scores, length * sizeof(float))
        self.sum = other.sum
        if other.coverage is not None:
            self.coverage = np.array(other.coverage)
        return 0

    cdef int push(self, Candidate next, Py_ssize_t length) except -1:
        """One token more, at place `length`."""
        self.widen(length + 1)
        self.tokens[length] = next.token
        self.scores[length] = next.log_probability
        self.sum = next.value
        return 0


cdef class Unit:
    """A search of its own: rows of `length` tokens, of which `count` came after the prefix."""
    cdef Sentence sentence
    cdef Py_ssize_t branch, length, count
    cdef list rows, spare
    cdef list found                 # best first once it is done
    cdef uint64_t key[2]            # of its random numbers
    cdef Py_ssize_t told            # tokens that on_token has heard of

    def __init__(self, Sentence sentence, Py_ssize_t branch):
        self.sentence, self.branch = sentence, branch
        self.rows, self.spare, self.found = [], [], []
        self.length = self.count = self.told = 0

    cdef object tokens_of(self, Row row):
        """The row's tokens, as an array of their own."""
        cdef int64_t[::1] tokens = np.empty(self.length, np.int64)
        memcpy(integers_of(tokens), row.tokens, self.length * sizeof(int64_t))
        return np.asarray(tokens)

    cdef int add_found(self, Row row, Py_ssize_t count, Py_ssize_t begun, double sum,
                       bint is_finished, double length_penalty, double coverage_penalty) except -1:
        """A row as a hypothesis of so many tokens after the prefix, an end included, with that sum;
        begun: those of the prefix that count in its length."""
        cdef Found found = Found()
        cdef float[::1] scores = np.empty(self.sentence.prefix_length + count, np.float32)
        cdef double coverage = 0.0
        cdef Py_ssize_t s
        memcpy(floats_of(scores), row.scores, scores.shape[0] * sizeof(float))
        found.tokens, found.token_scores = self.tokens_of(row), np.asarray(scores)
        found.is_finished = is_finished
        found.score = per_length(sum, begun + count, length_penalty)
        if row.coverage is not None and count > 0:
            for s in range(row.coverage.shape[0]):
                coverage += log(min(row.coverage[s], 1.0))
            found.score += coverage_penalty * coverage
        self.found.append(found)
        return 0

    cdef object agreed(self):
        """The tokens that all hypotheses begin with: of a unit that is done, the best one's."""
        cdef Found found
        cdef Row row
        rivals = [found.tokens for found in self.found]
        if self.rows:
            rivals += [self.tokens_of(row) for row in self.rows]
        else:
            del rivals[1:]
        shortest = min(map(len, rivals))
        table = np.array([tokens[:shortest] for tokens in rivals])
        differs = (table != table[0]).any(axis=0)
        return table[0, :differs.argmax() if differs.any() else shortest]


cdef bint has_rows(list units) except -1:
    """Whether any unit has a row in play."""
    cdef Unit unit
    for unit in units:
        if unit.rows:
            return True
    return False


cdef void rank(list found) noexcept:
    """Put hypotheses in falling order of score; of equal ones the earlier comes first."""
    cdef Py_ssize_t i, place
    cdef Found one
    for i in range(1, len(found)):
        one = found[i]
        place = i
        while place > 0 and (<Found>found[place - 1]).score < one.score:
            found[place] = found[place - 1]
            place -= 1
        found[place] = one


cdef double per_length(double total, Py_ssize_t length, double penalty) noexcept:
    """total / length ^ penalty, without a limit to the penalty; the total of no token is 0."""
    return total if length == 0 else total / power(length, penalty)


cdef class Sentence:
    """What is decoded, by its caller's number: memory or None, what is forced, and units."""
    cdef readonly Py_ssize_t number
    cdef Past memory
    cdef const int64_t[::1] lean    # what its hypotheses are biased towards
    cdef Py_ssize_t prefix_length   # of what is forced
    cdef Py_ssize_t max_length      # tokens after that, at most
    cdef list units, made           # units; all rows that there have been
    cdef readonly list found        # what each unit found, best first; None before all are done

    def __cinit__(self):
        self.lean = None
