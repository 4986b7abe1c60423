"""The best next tokens of each group of rows of logits, without a softmax being stored.

A group is the rows (beams) of one sentence. A candidate is a row and a token; its value is the
row's sum so far plus the token's log-probability, log p = z - log sum e^z, the logarithm rounded to
float32 as `log_softmax` does. Candidates are in falling order of value; of equal ones the lower
token id comes first, then the lower row.
"""

from libc.float cimport FLT_EPSILON
from libc.math cimport INFINITY, fabs
from libc.stdint cimport int64_t

from pyx_transformer._kernels.norm cimport log_sum_exp, row_maximum
from pyx_transformer._kernels.simd cimport VF
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for

cdef enum:
    LOOK = 8 * VF       # logits that are passed over together where none of them can get in


cdef struct Candidate:
    double value
    int64_t token       # -1: there is none
    int64_t row
    float log_probability


cdef struct Candidates:
    # best (groups, most) takes those of each group, of_rows (N, most) those of each row.
    Candidate* best
    Candidate* of_rows
    Py_ssize_t most
    const float* logits             # (N, V)
    const double* sums              # (N)
    const int64_t* group_starts     # (groups + 1)
    Py_ssize_t groups
    Py_ssize_t vocabulary


cdef inline void insert(
    Candidate* best, Py_ssize_t most, Py_ssize_t* held, Candidate candidate,
) noexcept nogil:
    """Put a candidate in its place among those held; of more than `most` the last one falls out.

    Rows come in rising order, and so do a row's equal candidates.
    """
    cdef Py_ssize_t i = held[0]
    if i == most:
        i -= 1
        if candidate.value < best[i].value or (
                candidate.value == best[i].value and candidate.token >= best[i].token):
            return
    else:
        held[0] += 1
    while i > 0 and (candidate.value > best[i - 1].value or (
            candidate.value == best[i - 1].value and candidate.token < best[i - 1].token)):
        best[i] = best[i - 1]
        i -= 1
    best[i] = candidate


cdef inline void fill_up(Candidate* best, Py_ssize_t held, Py_ssize_t most) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(held, most):
        best[i] = Candidate(-INFINITY, -1, -1, -INFINITY)


cdef inline void find_in_row(const Candidates* job, Py_ssize_t row) noexcept nogil:
    cdef const float* z = job.logits + row * job.vocabulary
    cdef Candidate* best = job.of_rows + row * job.most
    cdef double shift = log_sum_exp(z, job.vocabulary)
    cdef double sum = job.sums[row], value, least
    cdef float log_probability, floor = -INFINITY
    cdef Py_ssize_t start = 0, held = 0, token, count
    while start < job.vocabulary:
        if held == job.most:
            # A logit below this cannot get in; the margin is for the rounding of the logarithm.
            least = best[held - 1].value - sum + shift
            floor = <float>(least - 4 * FLT_EPSILON * (fabs(least) + fabs(shift)))
        count = min(job.vocabulary - start, <Py_ssize_t>LOOK)
        if row_maximum(z + start, count) >= floor:
            for token in range(start, start + count):
                if z[token] >= floor:
                    log_probability = <float>(z[token] - shift)
                    value = sum + log_probability
                    if value > -INFINITY:
                        insert(best, job.most, &held,
                               Candidate(value, token, row, log_probability))
        start += LOOK
    fill_up(best, held, job.most)


cdef inline void find_in_rows(const void* work, int part, int parts) noexcept nogil:
    cdef const Candidates* job = <const Candidates*>work
    cdef Py_ssize_t rows = job.group_starts[job.groups], row
    for row in range(share(rows, part, parts), share(rows, part + 1, parts)):
        find_in_row(job, row)


cdef inline void find(const Candidates* job, int n_threads) noexcept nogil:
    """Of each row, then of each group."""
    cdef double work = 20.0 * job.group_starts[job.groups] * job.vocabulary
    cdef Py_ssize_t group, row, held, i
    cdef Candidate* best
    in_parallel(find_in_rows, job, threads_for(work, n_threads))
    for group in range(job.groups):
        best = job.best + group * job.most
        held = 0
        for row in range(job.group_starts[group], job.group_starts[group + 1]):
            for i in range(row * job.most, (row + 1) * job.most):
                if job.of_rows[i].token >= 0:
                    insert(best, job.most, &held, job.of_rows[i])
        fill_up(best, held, job.most)
