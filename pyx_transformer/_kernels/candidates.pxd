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
    # best (groups, most) takes those of each group; log_sums (N) is room for log sum e^z.
    Candidate* best
    double* log_sums
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

    Rows come in rising order, and so do the tokens of a row.
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


cdef inline void add_row(
    const Candidates* job, Candidate* best, Py_ssize_t* held, Py_ssize_t row,
) noexcept nogil:
    cdef const float* z = job.logits + row * job.vocabulary
    cdef double log_sum = job.log_sums[row], sum = job.sums[row], value, least
    cdef float log_probability, floor = -INFINITY
    cdef Py_ssize_t start = 0, token, count
    while start < job.vocabulary:
        if held[0] == job.most:
            # A logit below this cannot get in; the margin is for the rounding of the logarithm.
            least = best[job.most - 1].value - sum + log_sum
            floor = <float>(least - 4 * FLT_EPSILON * (fabs(least) + fabs(log_sum)))
        count = min(job.vocabulary - start, <Py_ssize_t>LOOK)
        if row_maximum(z + start, count) >= floor:
            for token in range(start, start + count):
                if z[token] >= floor:
                    log_probability = <float>(z[token] - log_sum)
                    value = sum + log_probability
                    if value > -INFINITY:
                        insert(best, job.most, held,
                               Candidate(value, token, row, log_probability))
        start += LOOK


cdef inline void sum_rows(const void* work, int part, int parts) noexcept nogil:
    cdef const Candidates* job = <const Candidates*>work
    cdef Py_ssize_t rows = job.group_starts[job.groups], row
    for row in range(share(rows, part, parts), share(rows, part + 1, parts)):
        job.log_sums[row] = log_sum_exp(job.logits + row * job.vocabulary, job.vocabulary)


cdef inline void find_groups(const void* work, int part, int parts) noexcept nogil:
    cdef const Candidates* job = <const Candidates*>work
    cdef Candidate* best
    cdef Py_ssize_t group, row, held, i
    for group in range(share(job.groups, part, parts), share(job.groups, part + 1, parts)):
        best = job.best + group * job.most
        held = 0
        for row in range(job.group_starts[group], job.group_starts[group + 1]):
            add_row(job, best, &held, row)
        for i in range(held, job.most):
            best[i] = Candidate(-INFINITY, -1, -1, -INFINITY)


cdef inline void find(const Candidates* job, int n_threads) noexcept nogil:
    cdef double logits = job.group_starts[job.groups] * <double>job.vocabulary
    in_parallel(sum_rows, job, threads_for(20.0 * logits, n_threads))
    in_parallel(find_groups, job, threads_for(logits, n_threads))
