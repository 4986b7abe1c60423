"""Layer norm, RMS norm, softmax and log-softmax of the rows of a matrix.

Means, variances and sums are taken in double: a row with mean 10,000 and spread 0.001 keeps its
spread, and values of 1e30 do not overflow. The cost is hidden behind the matrix products.
"""

from libc.math cimport INFINITY, log, sqrt

from pyx_transformer._kernels.activation cimport exponential
from pyx_transformer._kernels.simd cimport (
    VF, fill, fill_double, load, load_doubles, load_part, maximum, maximum_lane, store,
    store_doubles, store_part, sum_doubles, vd, vf,
)
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for

cdef enum Norm:
    LAYER_NORM = 0
    RMS_NORM = 1
    SOFTMAX = 2
    LOG_SOFTMAX = 3

cdef enum:
    HALF = VF // 2
    TERMS = 16 * VF     # of a sum of exponentials, held at once; a multiple of CHAINS * HALF
    CHAINS = 4      # sums side by side, so that an addition does not wait for the one before it


cdef inline double sum_chains(vd* chains) noexcept nogil:
    return sum_doubles((chains[0] + chains[1]) + (chains[2] + chains[3]))


cdef inline double row_sum(const float* x, Py_ssize_t d) noexcept nogil:
    cdef vd chains[CHAINS]
    cdef double sum
    cdef Py_ssize_t i = 0
    cdef int c
    for c in range(CHAINS):
        chains[c] = fill_double(0.0)
    while i + CHAINS * HALF <= d:
        for c in range(CHAINS):
            chains[c] = chains[c] + load_doubles(x + i + c * HALF)
        i += CHAINS * HALF
    sum = sum_chains(chains)
    while i < d:
        sum += x[i]
        i += 1
    return sum


cdef inline double row_squares(const float* x, double mean, Py_ssize_t d) noexcept nogil:
    """sum (x - mean)^2"""
    cdef vd chains[CHAINS]
    cdef vd centred
    cdef double sum
    cdef Py_ssize_t i = 0
    cdef int c
    for c in range(CHAINS):
        chains[c] = fill_double(0.0)
    while i + CHAINS * HALF <= d:
        for c in range(CHAINS):
            centred = load_doubles(x + i + c * HALF) - fill_double(mean)
            chains[c] = chains[c] + centred * centred
        i += CHAINS * HALF
    sum = sum_chains(chains)
    while i < d:
        sum += (x[i] - mean) * (x[i] - mean)
        i += 1
    return sum


cdef inline void normalise_row(
    float* out, const float* x, const float* weight, const float* bias, Py_ssize_t d, double eps,
    int norm,
) noexcept nogil:
    """(x - mean) / sqrt(mean (x - mean)^2 + eps) * weight + bias (Ba et al. 2016); RMS norm (Zhang
    and Sennrich 2019) leaves the mean in."""
    cdef double mean = row_sum(x, d) / d if norm == LAYER_NORM else 0.0
    cdef double scale = 1.0 / sqrt(row_squares(x, mean, d) / d + eps)
    # Mean and scale are each two floats, the second what rounding took from the first: x less the
    # first mean is exact where x is near it.
    cdef vf mean_rounded = fill(<float>mean)
    cdef vf scale_rounded = fill(<float>scale)
    cdef vf scale_rest = fill(<float>(scale - <float>scale))
    cdef vf shift = fill(<float>((<float>mean - mean) * scale))
    cdef Py_ssize_t i = 0, count
    cdef vf y
    while i < d:
        count = min(d - i, <Py_ssize_t>VF)
        y = load_part(x + i, count, 0.0) - mean_rounded
        y = y * scale_rounded + (y * scale_rest + shift)
        if weight != NULL:
            y = y * load_part(weight + i, count, 0.0)
        if bias != NULL:
            y = y + load_part(bias + i, count, 0.0)
        store_part(out + i, count, y)
        i += VF


cdef inline float row_maximum(const float* x, Py_ssize_t d) noexcept nogil:
    """The largest value, NaN left out."""
    cdef vf top = fill(-INFINITY)
    cdef Py_ssize_t i = 0
    while i + VF <= d:
        top = maximum(load(x + i), top)
        i += VF
    if i < d:
        top = maximum(load_part(x + i, d - i, -INFINITY), top)
    return maximum_lane(top)


cdef inline double log_sum_exp(const float* x, Py_ssize_t d) noexcept nogil:
    """log sum e^x = max + log sum e^(x - max), the sum in double, nothing stored."""
    cdef float terms[TERMS]
    cdef vd chains[CHAINS]
    cdef float top = row_maximum(x, d)
    cdef double sum
    cdef Py_ssize_t start = 0, i = TERMS, count
    cdef int c
    for c in range(CHAINS):
        chains[c] = fill_double(0.0)
    while start < d:
        i = 0
        while i < TERMS and start + i < d:
            count = min(d - start - i, <Py_ssize_t>VF)
            store(terms + i, exponential(load_part(x + start + i, count, 0.0) - fill(top)))
            i += VF
        i = 0
        while i < TERMS and start + i + CHAINS * HALF <= d:
            for c in range(CHAINS):
                chains[c] = chains[c] + load_doubles(terms + i + c * HALF)
            i += CHAINS * HALF
        start += TERMS
    sum = sum_chains(chains)
    while i < TERMS and start - TERMS + i < d:
        sum += terms[i]
        i += 1
    return top + log(sum)


cdef inline void softmax_row(float* out, const float* x, Py_ssize_t d) noexcept nogil:
    """e^(x - max) / sum e^(x - max)"""
    cdef float top = row_maximum(x, d)
    cdef float total
    cdef Py_ssize_t i = 0
    while i + VF <= d:
        store(out + i, exponential(load(x + i) - fill(top)))
        i += VF
    if i < d:
        store_part(out + i, d - i, exponential(load_part(x + i, d - i, 0.0) - fill(top)))
    total = <float>row_sum(out, d)
    i = 0
    while i + VF <= d:
        store(out + i, load(out + i) / fill(total))
        i += VF
    if i < d:
        store_part(out + i, d - i, load_part(out + i, d - i, 0.0) / fill(total))


cdef inline void log_softmax_row(float* out, const float* x, Py_ssize_t d) noexcept nogil:
    """x - log sum e^x"""
    cdef double shift = log_sum_exp(x, d)
    cdef Py_ssize_t i = 0
    while i + HALF <= d:
        store_doubles(out + i, load_doubles(x + i) - fill_double(shift))
        i += HALF
    while i < d:
        out[i] = <float>(x[i] - shift)
        i += 1


cdef struct Rows:
    # The m rows of x (m, d) normalised into out (m, d), which may be x for the two norms; weight
    # and bias (d) may be NULL.
    float* out
    const float* x
    const float* weight
    const float* bias
    Py_ssize_t m
    Py_ssize_t d
    double eps
    int norm


cdef inline void normalise_rows(const void* work, int part, int parts) noexcept nogil:
    cdef const Rows* job = <const Rows*>work
    cdef Py_ssize_t d = job.d, row
    cdef float* out
    cdef const float* x
    for row in range(share(job.m, part, parts), share(job.m, part + 1, parts)):
        out = job.out + row * d
        x = job.x + row * d
        if job.norm == SOFTMAX:
            softmax_row(out, x, d)
        elif job.norm == LOG_SOFTMAX:
            log_softmax_row(out, x, d)
        else:
            normalise_row(out, x, job.weight, job.bias, d, job.eps, job.norm)


cdef inline void normalise(
    float* out, const float* x, const float* weight, const float* bias, Py_ssize_t m, Py_ssize_t d,
    double eps, int norm, int n_threads,
) noexcept nogil:
    """All rows: see `Rows`."""
    cdef Rows job = Rows(out, x, weight, bias, m, d, eps, norm)
    in_parallel(normalise_rows, &job, threads_for(10.0 * m * d, n_threads))
