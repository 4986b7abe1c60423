"""Drawing a token: of the likely ones, the one that a number in [0, 1) falls on.

Tokens in falling order of probability, of equal ones the lower id first, weigh e^(z - max z), which
is 1 for the first. All comparisons are of sums of weights in double with shares of the whole, so
that equal logits have exactly equal shares; a share that is reached but for the rounding of float32
counts as reached.
"""

from libc.float cimport FLT_EPSILON
from libc.math cimport INFINITY
from libc.stdint cimport int64_t

from pyx_transformer._kernels.activation cimport exponential
from pyx_transformer._kernels.candidates cimport Candidate, Candidates, add_row
from pyx_transformer._kernels.norm cimport log_sum_exp, row_maximum, sum_of_exponentials
from pyx_transformer._kernels.simd cimport VF, fill, store
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for

cdef enum:
    FIRST_LOOK = 64     # tokens that nearly always hold the one that is drawn


cdef struct Kept:
    # The first top_k tokens; of these as few as have the share top_p of their weight; of these the
    # ones with at least min_p of the first one's weight. 0: no such limit.
    Py_ssize_t top_k
    double top_p
    double min_p


cdef struct Falling:
    # A row's tokens in falling order of logit: first the `held` best, then, from a heap of all.
    # heap, tokens and weights have room for V.
    const float* z
    Py_ssize_t vocabulary
    Candidate best[FIRST_LOOK]
    Py_ssize_t held
    Py_ssize_t taken
    Py_ssize_t heap_size        # 0: there is no heap yet
    int64_t* heap
    int64_t* tokens             # those taken, and their weights
    double* weights
    float top


cdef inline bint goes_before(const float* z, int64_t a, int64_t b) noexcept nogil:
    return z[a] > z[b] or (z[a] == z[b] and a < b)


cdef inline void sink(Falling* falling, Py_ssize_t place) noexcept nogil:
    """Put what lies at a place of the heap below all that goes before it."""
    cdef int64_t* heap = falling.heap
    cdef int64_t token = heap[place]
    cdef Py_ssize_t child = 2 * place + 1
    while child < falling.heap_size:
        if child + 1 < falling.heap_size and goes_before(falling.z, heap[child + 1], heap[child]):
            child += 1
        if not goes_before(falling.z, heap[child], token):
            break
        heap[place] = heap[child]
        place = child
        child = 2 * place + 1
    heap[place] = token


cdef inline int64_t pop(Falling* falling) noexcept nogil:
    """The first of the heap, which leaves it."""
    cdef int64_t token = falling.heap[0]
    falling.heap_size -= 1
    falling.heap[0] = falling.heap[falling.heap_size]
    sink(falling, 0)
    return token


cdef inline void look_at_all(Falling* falling) noexcept nogil:
    """A heap of all tokens that can be drawn but those taken already."""
    cdef Py_ssize_t i, _i
    for i in range(falling.vocabulary):
        if falling.z[i] > -INFINITY:
            falling.heap[falling.heap_size] = i
            falling.heap_size += 1
    for i in range(falling.heap_size // 2 - 1, -1, -1):
        sink(falling, i)
    for _i in range(falling.taken):
        pop(falling)


cdef inline bint take_next(Falling* falling) noexcept nogil:
    """One token more among those taken; False: there is none that can be drawn."""
    cdef float weight[VF]
    cdef int64_t token
    if falling.taken < falling.held:
        token = falling.best[falling.taken].token
    else:
        if falling.held < FIRST_LOOK:
            return False
        if falling.taken == falling.held:
            look_at_all(falling)
        if falling.heap_size == 0:
            return False
        token = pop(falling)
    store(weight, exponential(fill(falling.z[token] - falling.top)))
    falling.tokens[falling.taken] = token
    falling.weights[falling.taken] = weight[0]
    falling.taken += 1
    return True


cdef inline Py_ssize_t drawn(const Falling* falling, double aim) noexcept nogil:
    """The first of the tokens taken with which the sum of weights passes `aim`; -1: none."""
    cdef double sum = 0.0
    cdef Py_ssize_t i
    for i in range(falling.taken):
        sum += falling.weights[i]
        if sum > aim:
            return i
    return -1


cdef inline Py_ssize_t last_weight(const Falling* falling) noexcept nogil:
    """The last of the tokens taken that weighs something, where rounding has left the sum short."""
    cdef Py_ssize_t i = falling.taken - 1
    while i > 0 and falling.weights[i] == 0.0:
        i -= 1
    return i


cdef inline Py_ssize_t draw_among(
    Falling* falling, const Kept* kept, double number, double total,
) noexcept nogil:
    """Which of the tokens taken is drawn; total: the weight of all."""
    cdef double sum = 0.0, reached
    cdef double nearly = 1.0 - 4.0 * FLT_EPSILON
    cdef Py_ssize_t most = falling.vocabulary, i
    if kept.top_k > 0:
        most = min(most, kept.top_k)
        total = 0.0
        while falling.taken < most and take_next(falling):
            total += falling.weights[falling.taken - 1]
    if kept.top_p == 0.0 and kept.min_p == 0.0:
        reached = number * total
        if kept.top_k == 0:
            while sum <= reached and take_next(falling):
                sum += falling.weights[falling.taken - 1]
    else:
        i = 0
        while i < most:
            if kept.top_p > 0.0 and sum >= kept.top_p * total * nearly:
                break
            if i == falling.taken and not take_next(falling):
                break
            if falling.weights[i] < kept.min_p * nearly:
                break
            sum += falling.weights[i]
            i += 1
        falling.taken = i
        reached = number * sum
    i = drawn(falling, reached)
    return last_weight(falling) if i < 0 else i


cdef inline Candidate draw(
    const float* z, Py_ssize_t vocabulary, double sum, const Kept* kept, double number,
    Falling* falling,
) noexcept nogil:
    """The token drawn from a row of logits, after log-probabilities that add up to `sum`; -1 where
    none can be. falling has room for V tokens."""
    cdef double log_sum = log_sum_exp(z, vocabulary)
    cdef Candidates look = Candidates(NULL, &log_sum, FIRST_LOOK, z, &sum, NULL, 1, vocabulary)
    cdef float log_probability
    cdef int64_t token
    falling.z = z
    falling.vocabulary = vocabulary
    falling.top = row_maximum(z, vocabulary)
    falling.held = falling.taken = falling.heap_size = 0
    add_row(&look, falling.best, &falling.held, 0)
    if falling.held == 0:
        return Candidate(-INFINITY, -1, -1, -INFINITY)
    token = falling.tokens[draw_among(
        falling, kept, number, sum_of_exponentials(z, falling.top, vocabulary))]
    log_probability = <float>(z[token] - log_sum)
    return Candidate(sum + log_probability, token, 0, log_probability)


cdef struct Drawing:
    # A row of logits, the sum before it, and the number that says which token is drawn.
    const float* logits
    double sum
    double number


cdef struct Drawings:
    # `count` drawings; drawn takes the token of each. Each thread has a Falling, and room for V
    # weights and 2 V tokens.
    Candidate* drawn
    const Drawing* drawings
    Py_ssize_t count
    Py_ssize_t vocabulary
    const Kept* kept
    Falling* falling
    double* weights
    int64_t* tokens


cdef inline void draw_share(const void* work, int part, int parts) noexcept nogil:
    cdef const Drawings* job = <const Drawings*>work
    cdef Falling* falling = job.falling + part
    cdef const Drawing* drawing
    cdef Py_ssize_t i
    falling.weights = job.weights + part * job.vocabulary
    falling.tokens = job.tokens + 2 * part * job.vocabulary
    falling.heap = falling.tokens + job.vocabulary
    for i in range(share(job.count, part, parts), share(job.count, part + 1, parts)):
        drawing = &job.drawings[i]
        job.drawn[i] = draw(drawing.logits, job.vocabulary, drawing.sum, job.kept, drawing.number,
                            falling)


cdef inline void draw_all(const Drawings* job, int n_threads) noexcept nogil:
    """All of them: see `Drawings`."""
    in_parallel(draw_share, job, threads_for(30.0 * job.count * job.vocabulary, n_threads))
