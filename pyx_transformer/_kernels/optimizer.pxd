"""AdamW (Loshchilov and Hutter 2019) and an average of the weights, in one pass over memory."""

from pyx_transformer._kernels.norm cimport row_squares
from pyx_transformer._kernels.simd cimport VF, fill, fused, load_part, square_root, store_part, vf
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for

cdef enum:
    SUMMED_BLOCK = 1 << 14  # values whose squares are added up by one thread


cdef struct AdamW:
    # With g = gradients clip: means = beta1 means + (1 - beta1) g, squares = beta2 squares +
    # (1 - beta2) g^2, weights -= step_size means / (sqrt(squares) correction + eps) + weight_decay
    # weights, average += (1 - average_decay) (weights - average); all (n). average may be NULL.
    # gradients become 0.
    float* weights
    float* gradients
    float* means
    float* squares
    float* average
    Py_ssize_t n
    float clip
    float beta1
    float beta2
    float eps
    float step_size     # learning rate / (1 - beta1^t)
    float correction    # 1 / sqrt(1 - beta2^t)
    float weight_decay  # times the learning rate
    float average_decay


cdef inline void adamw_share(const void* work, int part, int parts) noexcept nogil:
    cdef const AdamW* job = <const AdamW*>work
    cdef Py_ssize_t vectors = (job.n + VF - 1) // VF, v, i, count
    cdef vf g, mean, square, weight, average
    for v in range(share(vectors, part, parts), share(vectors, part + 1, parts)):
        i = v * VF
        count = min(job.n - i, <Py_ssize_t>VF)
        g = load_part(job.gradients + i, count, 0.0) * fill(job.clip)
        mean = load_part(job.means + i, count, 0.0)
        square = load_part(job.squares + i, count, 0.0)
        weight = load_part(job.weights + i, count, 0.0)
        mean = fused(fill(<float>(1.0 - job.beta1)), g - mean, mean)
        square = fused(fill(<float>(1.0 - job.beta2)), fused(g, g, -square), square)
        weight = fused(-weight, fill(job.weight_decay), weight)
        weight = weight - fill(job.step_size) * mean / fused(
            square_root(square), fill(job.correction), fill(job.eps))
        store_part(job.gradients + i, count, fill(0.0))
        store_part(job.means + i, count, mean)
        store_part(job.squares + i, count, square)
        store_part(job.weights + i, count, weight)
        if job.average != NULL:
            average = load_part(job.average + i, count, 0.0)
            store_part(job.average + i, count,
                       fused(fill(<float>(1.0 - job.average_decay)), weight - average, average))


cdef inline void adamw(const AdamW* job, int n_threads) noexcept nogil:
    """All weights: see `AdamW`."""
    in_parallel(adamw_share, job, threads_for(20.0 * job.n, n_threads))


cdef struct Squares:
    # sums (ceil(n / SUMMED_BLOCK)) = the sum of the squares of each block of x (n)
    double* sums
    const float* x
    Py_ssize_t n


cdef inline void squares_share(const void* work, int part, int parts) noexcept nogil:
    cdef const Squares* job = <const Squares*>work
    cdef Py_ssize_t blocks = (job.n + SUMMED_BLOCK - 1) // SUMMED_BLOCK, block, start
    for block in range(share(blocks, part, parts), share(blocks, part + 1, parts)):
        start = block * SUMMED_BLOCK
        job.sums[block] = row_squares(job.x + start, 0.0,
                                      min(job.n - start, <Py_ssize_t>SUMMED_BLOCK))


cdef inline void squares(const Squares* job, int n_threads) noexcept nogil:
    """All blocks: see `Squares`."""
    in_parallel(squares_share, job, threads_for(2.0 * job.n, n_threads))
