"""Cross-entropy with label smoothing (Szegedy et al. 2016); the logits become their gradient."""

from libc.stdint cimport int64_t
from libc.string cimport memset

from pyx_transformer._kernels.activation cimport exponential
from pyx_transformer._kernels.norm cimport log_sum_exp, row_sum
from pyx_transformer._kernels.simd cimport VF, fill, load_part, store_part, vf
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for


cdef struct CrossEntropy:
    # Row by row of logits (m, V), with p = softmax(logits) and q = (1 - smoothing) [j = target] +
    # smoothing / V: losses (m) = -sum q log p, and logits = (p - q) factor, its gradient. A row
    # whose target is negative counts nothing.
    double* losses
    float* logits
    const int64_t* targets
    Py_ssize_t m
    Py_ssize_t size
    double smoothing
    float factor


cdef inline double cross_entropy_row(
    float* logits, int64_t target, Py_ssize_t size, double smoothing, float factor,
) noexcept nogil:
    """One row: its loss; see `CrossEntropy`."""
    cdef double log_sum = log_sum_exp(logits, size)
    cdef double loss = log_sum - (1.0 - smoothing) * logits[target]
    cdef vf first = fill(<float>log_sum)
    cdef vf rest = fill(<float>(log_sum - <float>log_sum))
    cdef vf floor = fill(<float>(smoothing / size))
    cdef Py_ssize_t i = 0, count
    if smoothing > 0.0:
        loss -= smoothing * row_sum(logits, size) / size
    while i < size:
        count = min(size - i, <Py_ssize_t>VF)
        store_part(logits + i, count, fill(factor) * (
            exponential(load_part(logits + i, count, 0.0) - first - rest) - floor))
        i += VF
    logits[target] -= <float>(1.0 - smoothing) * factor
    return loss


cdef inline void cross_entropy_rows(const void* work, int part, int parts) noexcept nogil:
    cdef const CrossEntropy* job = <const CrossEntropy*>work
    cdef Py_ssize_t row
    for row in range(share(job.m, part, parts), share(job.m, part + 1, parts)):
        if job.targets[row] < 0:
            job.losses[row] = 0.0
            memset(job.logits + row * job.size, 0, job.size * sizeof(float))
        else:
            job.losses[row] = cross_entropy_row(job.logits + row * job.size, job.targets[row],
                                                job.size, job.smoothing, job.factor)


cdef inline void cross_entropy(const CrossEntropy* job, int n_threads) noexcept nogil:
    """All rows: see `CrossEntropy`."""
    in_parallel(cross_entropy_rows, job, threads_for(20.0 * job.m * job.size, n_threads))
