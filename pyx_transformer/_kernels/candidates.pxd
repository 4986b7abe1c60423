"""The best next tokens of each group of rows of logits, without a softmax being stored.

A group is the rows (beams) of one sentence. A candidate is a row and a token; its value is the
row's sum so far plus the token's log-probability, log p = z - log sum e^z, the logarithm rounded to
float32 as `log_softmax` does. Candidates are in falling order of value; of equal ones the lower
token id comes first, then the lower row.
"""

from libc.float cimport FLT_EPSILON
from libc.math cimport INFINITY, fabs
from libc.stdint cimport int64_t

from pyx_transformer._kernels.norm cimport log_sum_exp
from pyx_transformer._kernels.simd cimport VF, load_part, maximum_lane, vf
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for


cdef struct Candidates:
    # The best `most` of each group, -inf and -1 where there are fewer; one group's values, tokens,
    # rows and log_probabilities lie side by side.
    double* values
    int64_t* tokens
    int64_t* rows
    float* log_probabilities
    Py_ssize_t most
    const float* logits             # (N, V)
    const double* sums              # (N)
    const int64_t* group_starts     # (groups + 1)
    Py_ssize_t groups
    Py_ssize_t vocabulary


cdef inline void insert(
    const Candidates* job, Py_ssize_t first, Py_ssize_t* held, double value, Py_ssize_t token,
    Py_ssize_t row, float log_probability,
) noexcept nogil:
    """Put a candidate in its place among those held from `first` on; the last one may fall out.

    Rows come in rising order, and so do the tokens of a row.
    """
    cdef Py_ssize_t i = first + held[0]
    if held[0] == job.most:
        i -= 1
        if value < job.values[i] or (value == job.values[i] and token >= job.tokens[i]):
            return
    else:
        held[0] += 1
    while i > first and (value > job.values[i - 1] or (
            value == job.values[i - 1] and token < job.tokens[i - 1])):
        job.values[i] = job.values[i - 1]
        job.tokens[i] = job.tokens[i - 1]
        job.rows[i] = job.rows[i - 1]
        job.log_probabilities[i] = job.log_probabilities[i - 1]
        i -= 1
    job.values[i] = value
    job.tokens[i] = token
    job.rows[i] = row
    job.log_probabilities[i] = log_probability


cdef inline void add_row(
    const Candidates* job, Py_ssize_t first, Py_ssize_t* held, Py_ssize_t row,
) noexcept nogil:
    cdef const float* z = job.logits + row * job.vocabulary
    cdef double shift = log_sum_exp(z, job.vocabulary)
    cdef double sum = job.sums[row], value, least
    cdef float log_probability, floor = -INFINITY
    cdef Py_ssize_t start = 0, token, count
    while start < job.vocabulary:
        if held[0] == job.most:
            # A logit below this cannot get in; the margin is for the rounding of the logarithm.
            least = job.values[first + job.most - 1] - sum + shift
            floor = <float>(least - 4 * FLT_EPSILON * (fabs(least) + fabs(shift)))
        count = min(job.vocabulary - start, <Py_ssize_t>VF)
        if maximum_lane(load_part(z + start, count, -INFINITY)) >= floor:
            for token in range(start, start + count):
                log_probability = <float>(z[token] - shift)
                value = sum + log_probability
                if value > -INFINITY:
                    insert(job, first, held, value, token, row, log_probability)
        start += VF


cdef inline void find_group(const Candidates* job, Py_ssize_t group) noexcept nogil:
    cdef Py_ssize_t first = group * job.most, held = 0, row, i
    for row in range(job.group_starts[group], job.group_starts[group + 1]):
        add_row(job, first, &held, row)
    for i in range(first + held, first + job.most):
        job.values[i] = -INFINITY
        job.tokens[i] = -1
        job.rows[i] = -1
        job.log_probabilities[i] = -INFINITY


cdef inline void find_groups(const void* work, int part, int parts) noexcept nogil:
    cdef const Candidates* job = <const Candidates*>work
    cdef Py_ssize_t group
    for group in range(share(job.groups, part, parts), share(job.groups, part + 1, parts)):
        find_group(job, group)


cdef inline void find(const Candidates* job, int n_threads) noexcept nogil:
    cdef Py_ssize_t n = job.group_starts[job.groups]
    in_parallel(find_groups, job, threads_for(20.0 * n * job.vocabulary, n_threads))
