"""Layer norm, RMS norm, softmax and log-softmax of the rows of a matrix.

Means, variances and sums are taken in double: a row with mean 10,000 and spread 0.001 keeps its
spread, and values of 1e30 do not overflow. The cost is hidden behind the matrix products.
"""

from libc.math cimport INFINITY, log, sqrt

from pyx_transformer._kernels.activation cimport exponential
from pyx_transformer._kernels.shards cimport Pile, Shards, begin_pile, push, total
from pyx_transformer._kernels.simd cimport (
    LANES, PARTS, VF, fill, fill_double, fused, fused_doubles, load, load_doubles,
    load_doubles_part, load_part, maximum, maximum_lane, store, store_doubles, store_part, tree_sum,
    tree_sum_doubles, vd, vf,
)
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for

cdef enum Norm:
    LAYER_NORM = 0
    RMS_NORM = 1
    SOFTMAX = 2
    LOG_SOFTMAX = 3

cdef enum:
    HALF = VF // 2
    TERMS = 8 * LANES   # of a sum of exponentials, held at once


cdef inline vd plus(vd sum, vd x, double mean, const bint squared) noexcept nogil:
    """sum + x or, squared, sum + (x - mean)^2"""
    if squared:
        x = x - fill_double(mean)
        return fused_doubles(x, x, sum)
    return sum + x


cdef inline void add_row(
    vd* parts, const float* x, double mean, Py_ssize_t d, const bint squared,
) noexcept nogil:
    """parts += x (d) or, squared, (x - mean)^2; mean is 0 where they are not."""
    cdef Py_ssize_t i = 0
    cdef int part
    while i + LANES <= d:
        for part in range(2 * PARTS):
            parts[part] = plus(parts[part], load_doubles(x + i + part * HALF), mean, squared)
        i += LANES
    if i == d:
        return
    for part in range(2 * PARTS):
        if i < d:
            parts[part] = plus(
                parts[part], load_doubles_part(x + i, min(d - i, <Py_ssize_t>HALF), mean), mean,
                squared)
        i += HALF


cdef inline double row_total(
    const float* x, double mean, Py_ssize_t d, const bint squared,
) noexcept nogil:
    cdef vd parts[2 * PARTS]
    cdef int part
    for part in range(2 * PARTS):
        parts[part] = fill_double(0.0)
    add_row(parts, x, mean, d, squared)
    return tree_sum_doubles(parts)


cdef inline double row_sum(const float* x, Py_ssize_t d) noexcept nogil:
    return row_total(x, 0.0, d, False)


cdef inline double row_squares(const float* x, double mean, Py_ssize_t d) noexcept nogil:
    """sum (x - mean)^2"""
    return row_total(x, mean, d, True)


cdef struct Standard:
    # What takes a row to (x - mean) scale. Mean and scale are each two floats, the second what
    # rounding took from the first, the mean's times scale: x less the first mean is exact where x
    # is near it.
    float mean
    float scale
    float scale_rest
    float shift


cdef inline Standard standard_of(
    const float* x, Py_ssize_t d, double eps, int norm,
) noexcept nogil:
    """A row's mean, 0 for RMS norm, and 1 / sqrt(mean (x - mean)^2 + eps)."""
    cdef double mean = row_sum(x, d) / d if norm == LAYER_NORM else 0.0
    cdef double scale = 1.0 / sqrt(row_squares(x, mean, d) / d + eps)
    return Standard(<float>mean, <float>scale, <float>(scale - <float>scale),
                    <float>((<float>mean - mean) * scale))


cdef inline vf standardised(const Standard* standard, vf x) noexcept nogil:
    """(x - mean) scale"""
    cdef vf y = x - fill(standard.mean)
    return fused(y, fill(standard.scale),
                 fused(y, fill(standard.scale_rest), fill(standard.shift)))


cdef inline void normalise_row(
    float* out, const float* x, const float* weight, const float* bias, Py_ssize_t d, double eps,
    int norm,
) noexcept nogil:
    """(x - mean) / sqrt(mean (x - mean)^2 + eps) * weight + bias (Ba et al. 2016); RMS norm (Zhang
    and Sennrich 2019) leaves the mean in."""
    cdef Standard standard = standard_of(x, d, eps, norm)
    cdef Py_ssize_t i = 0, count
    cdef vf factor = fill(1.0), shift = fill(0.0)
    while i < d:
        count = min(d - i, <Py_ssize_t>VF)
        if weight != NULL:
            factor = load_part(weight + i, count, 0.0)
        if bias != NULL:
            shift = load_part(bias + i, count, 0.0)
        store_part(out + i, count, fused(
            standardised(&standard, load_part(x + i, count, 0.0)), factor, shift))
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


cdef inline double sum_of_exponentials(
    const float* x, float top, Py_ssize_t d,
) noexcept nogil:
    """sum e^(x - top) in double, nothing stored."""
    cdef float terms[TERMS]
    cdef vd parts[2 * PARTS]
    cdef Py_ssize_t start = 0, held, i, count
    cdef int part
    for part in range(2 * PARTS):
        parts[part] = fill_double(0.0)
    while start < d:
        held = min(d - start, <Py_ssize_t>TERMS)
        i = 0
        while i < held:
            count = min(held - i, <Py_ssize_t>VF)
            store(terms + i, exponential(load_part(x + start + i, count, 0.0) - fill(top)))
            i += VF
        add_row(parts, terms, 0.0, held, False)
        start += TERMS
    return tree_sum_doubles(parts)


cdef inline double log_sum_exp(const float* x, Py_ssize_t d) noexcept nogil:
    """log sum e^x = max + log sum e^(x - max)"""
    cdef float top = row_maximum(x, d)
    return top + log(sum_of_exponentials(x, top, d))


cdef inline void softmax_row(float* out, const float* x, Py_ssize_t d) noexcept nogil:
    """e^(x - max) / sum e^(x - max)"""
    cdef float top = row_maximum(x, d)
    cdef float whole
    cdef Py_ssize_t i = 0
    while i + VF <= d:
        store(out + i, exponential(load(x + i) - fill(top)))
        i += VF
    if i < d:
        store_part(out + i, d - i, exponential(load_part(x + i, d - i, 0.0) - fill(top)))
    whole = <float>row_sum(out, d)
    i = 0
    while i + VF <= d:
        store(out + i, load(out + i) / fill(whole))
        i += VF
    if i < d:
        store_part(out + i, d - i, load_part(out + i, d - i, 0.0) / fill(whole))


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


cdef struct NormGradient:
    # Of out = standardised(x (m, d)) weight + bias, and grad (m, d) that out gets back: grad_x
    # (m, d), and what is added to grad_weight (d) and grad_bias (d), each of these two NULL where
    # it is not wanted. standards (m) is workspace.
    float* grad_x
    float* grad_weight
    float* grad_bias
    Standard* standards
    const float* grad
    const float* x
    const float* weight
    Shards shards
    Py_ssize_t m
    Py_ssize_t d
    double eps
    int norm


cdef inline void norm_gradient_row(
    float* grad_x, const float* grad, const float* x, const float* weight, const Standard* standard,
    Py_ssize_t d, int norm,
) noexcept nogil:
    """scale (g - mean g - y mean(g y)), with y = standardised(x) and g = grad weight; RMS norm
    leaves mean g out."""
    cdef vf sum_g[PARTS]
    cdef vf sum_gy[PARTS]
    cdef vf g, y, mean_g, minus_mean_gy
    cdef Py_ssize_t i = 0, count
    cdef int part
    for part in range(PARTS):
        sum_g[part] = fill(0.0)
        sum_gy[part] = fill(0.0)
    while i < d:
        for part in range(PARTS):
            if i < d:
                count = min(d - i, <Py_ssize_t>VF)
                g = load_part(grad + i, count, 0.0)
                if weight != NULL:
                    g = g * load_part(weight + i, count, 0.0)
                y = standardised(standard, load_part(x + i, count, standard.mean))
                sum_g[part] = sum_g[part] + g
                sum_gy[part] = fused(g, y, sum_gy[part])
            i += VF
    mean_g = fill(tree_sum(sum_g) / d if norm == LAYER_NORM else 0.0)
    minus_mean_gy = fill(-tree_sum(sum_gy) / d)
    i = 0
    while i < d:
        count = min(d - i, <Py_ssize_t>VF)
        g = load_part(grad + i, count, 0.0)
        if weight != NULL:
            g = g * load_part(weight + i, count, 0.0)
        y = standardised(standard, load_part(x + i, count, 0.0))
        store_part(grad_x + i, count, fill(standard.scale) * fused(y, minus_mean_gy, g - mean_g))
        i += VF


cdef inline void norm_gradient_rows(const void* work, int part, int parts) noexcept nogil:
    cdef const NormGradient* job = <const NormGradient*>work
    cdef Py_ssize_t d = job.d, row
    for row in range(share(job.m, part, parts), share(job.m, part + 1, parts)):
        job.standards[row] = standard_of(job.x + row * d, d, job.eps, job.norm)
        norm_gradient_row(job.grad_x + row * d, job.grad + row * d, job.x + row * d, job.weight,
                          &job.standards[row], d, job.norm)


cdef inline void norm_gradient_columns(const void* work, int part, int parts) noexcept nogil:
    """grad_weight += sum grad standardised(x), grad_bias += sum grad, over rows, those of a shard
    in double."""
    cdef const NormGradient* job = <const NormGradient*>work
    cdef Py_ssize_t strips = (job.d + VF - 1) // VF
    cdef Py_ssize_t strip, shard, place, row, count
    cdef float terms[2 * VF]
    cdef vd sums[4]
    cdef Pile of_weight, of_bias
    cdef vf g
    cdef int s
    for strip in range(share(strips, part, parts), share(strips, part + 1, parts)):
        count = min(job.d - strip * VF, <Py_ssize_t>VF)
        begin_pile(&of_weight)
        begin_pile(&of_bias)
        for shard in range(job.shards.count):
            if job.shards.bounds[shard] == job.shards.bounds[shard + 1]:
                continue
            for s in range(4):
                sums[s] = fill_double(0.0)
            for row in range(job.shards.bounds[shard], job.shards.bounds[shard + 1]):
                place = row * job.d + strip * VF
                g = load_part(job.grad + place, count, 0.0)
                store(terms, g * standardised(
                    &job.standards[row], load_part(job.x + place, count, 0.0)))
                store(terms + VF, g)
                for s in range(4):
                    sums[s] = sums[s] + load_doubles(terms + s * HALF)
            for s in range(4):
                store_doubles(terms + s * HALF, sums[s])
            push(&of_weight, load(terms), shard)
            push(&of_bias, load(terms + VF), shard)
        place = strip * VF
        if job.grad_weight != NULL:
            store_part(job.grad_weight + place, count,
                       load_part(job.grad_weight + place, count, 0.0) + total(&of_weight))
        if job.grad_bias != NULL:
            store_part(job.grad_bias + place, count,
                       load_part(job.grad_bias + place, count, 0.0) + total(&of_bias))


cdef inline void norm_gradient(const NormGradient* job, int n_threads) noexcept nogil:
    """All rows: see `NormGradient`."""
    cdef int threads = threads_for(20.0 * job.m * job.d, n_threads)
    in_parallel(norm_gradient_rows, job, threads)
    if job.grad_weight != NULL or job.grad_bias != NULL:
        in_parallel(norm_gradient_columns, job, threads)
