"""Entry points of training: what inputs and parameters get back from an output's gradient."""

from libc.stdint cimport uint64_t

from pyx_transformer._kernels.activation cimport activation_gradient as activation_gradient_kernel
from pyx_transformer._kernels.attention_gradient cimport AttentionGradient, gradient_workspace
from pyx_transformer._kernels.attention_gradient cimport (
    attention_gradient as attention_gradient_kernel,
)
from pyx_transformer._kernels.dropout cimport Dropout, drop_all
from pyx_transformer._kernels.embedding cimport Scatter, scatter_add
from pyx_transformer._kernels.loss cimport CrossEntropy
from pyx_transformer._kernels.loss cimport cross_entropy as cross_entropy_kernel
from pyx_transformer._kernels.norm cimport NormGradient, Standard, norm_gradient
from pyx_transformer._kernels.optimizer cimport SUMMED_BLOCK, AdamW, Squares
from pyx_transformer._kernels.optimizer cimport adamw as adamw_kernel
from pyx_transformer._kernels.optimizer cimport squares as squares_kernel
from pyx_transformer._kernels.product cimport sum_columns


def linear_weight_gradient(float[:, ::1] grad_weight, float[::1] grad_bias,
                           const float[:, ::1] grad, const float[:, ::1] x, int n_threads):
    """grad_weight (n, k) += grad (m, n)^T x (m, k); grad_bias (n), or None, += the sum of grad"""
    cdef Py_ssize_t m = grad.shape[0], n = grad.shape[1], k = x.shape[1]
    cdef Workspace panels = Workspace(padded(k) * m)
    cdef Move move = Move(panels.floats, &x[0, 0], k, m, k)
    cdef Product job = product_of(&grad_weight[0, 0], &grad[0, 0], panels.floats, n, k, m)
    cdef double unheard = 0.0
    job.x_stride = n
    job.transposed = True
    job.adds = True
    with nogil:
        pack_rows_in_parallel(&move, n_threads)
        product(&job, n_threads, &unheard)
        if grad_bias is not None:
            sum_columns(&grad_bias[0], &grad[0, 0], m, n, n_threads)


def norm_gradients(float[:, ::1] grad_x, float[::1] grad_weight, float[::1] grad_bias,
                   const float[:, ::1] grad, const float[:, ::1] x, const float[::1] weight,
                   double eps, bint rms, int n_threads):
    """What x (m, d), weight (d) and bias (d) of a layer norm or, with rms, of an RMS norm get from
    grad (m, d); the last two outputs are added to and may be None"""
    cdef Py_ssize_t m = x.shape[0]
    cdef Workspace standards = Workspace(m * sizeof(Standard) // sizeof(float))
    cdef NormGradient job
    job.grad_x = &grad_x[0, 0]
    job.grad_weight = NULL
    job.grad_bias = NULL
    if grad_weight is not None:
        job.grad_weight = &grad_weight[0]
    if grad_bias is not None:
        job.grad_bias = &grad_bias[0]
    job.standards = <Standard*>standards.floats
    job.grad = &grad[0, 0]
    job.x = &x[0, 0]
    job.weight = start_of(weight)
    job.m = m
    job.d = x.shape[1]
    job.eps = eps
    job.norm = RMS_NORM if rms else LAYER_NORM
    with nogil:
        norm_gradient(&job, n_threads)


def activation_gradient(float[::1] grad_x, const float[::1] grad, const float[::1] x,
                        int activation, int n_threads):
    """grad_x (n) = grad (n) activation'(x (n)); grad_x may be grad"""
    with nogil:
        activation_gradient_kernel(&grad_x[0], &grad[0], &x[0], x.shape[0], activation, n_threads)


def embedding_gradient(float[:, ::1] grad_table, const int64_t[::1] ids, const float[:, ::1] grad,
                       float scale, int n_threads):
    """grad_table (V, d) += scale grad (m, d) in the rows ids (m)"""
    cdef Scatter job = Scatter(&grad_table[0, 0], &ids[0], &grad[0, 0], ids.shape[0],
                               grad.shape[1], scale)
    with nogil:
        scatter_add(&job, n_threads)


def cross_entropy(double[::1] losses, float[:, ::1] logits, const int64_t[::1] targets,
                  double smoothing, float factor, int n_threads):
    """losses (m) = -sum q log softmax(logits (m, V)); logits become their gradient times factor"""
    cdef CrossEntropy job = CrossEntropy(&losses[0], &logits[0, 0], &targets[0], logits.shape[0],
                                         logits.shape[1], smoothing, factor)
    with nogil:
        cross_entropy_kernel(&job, n_threads)


def dropout(float[::1] out, const float[::1] x, const float[::1] residual, double rate,
            uint64_t seed, int n_threads):
    """out (n) = x (n) / (1 - rate) where the stream's value is at least rate, else 0; plus residual
    (n), if not None"""
    cdef Dropout job = Dropout(&out[0], &x[0], start_of(residual), x.shape[0], rate, seed)
    with nogil:
        drop_all(&job, n_threads)


cdef int run_gradient(AttentionGradient* job, int n_threads) except -1:
    """What a job's queries, keys and values get."""
    cdef Workspace workspace
    cdef double unheard = 0.0
    job.size = gradient_workspace(&job.forward)
    workspace = Workspace(n_threads * job.size)
    job.workspace = workspace.floats
    with nogil:
        attention_gradient_kernel(job, n_threads, &unheard)
    return 0


def attention_gradient(float[:, :, :, ::1] grad_query, float[:, :, :, ::1] grad_key,
                       float[:, :, :, ::1] grad_value, const float[:, :, :, ::1] grad,
                       float[:, :, :, ::1] out, heads, int n_threads):
    """What query, key and value get from grad (B, H, T, Kv), the gradient of out; heads: as for
    `attention`, with the normalisers that it left. The outputs are zeros before."""
    cdef HeadsJob arguments = HeadsJob(*heads)
    cdef AttentionGradient job
    job.forward = arguments.job
    job.forward.out = &out[0, 0, 0, 0]
    job.grad_query = &grad_query[0, 0, 0, 0]
    job.grad_key = &grad_key[0, 0, 0, 0]
    job.grad_value = &grad_value[0, 0, 0, 0]
    job.grad = &grad[0, 0, 0, 0]
    run_gradient(&job, n_threads)


cdef class RowsJob:
    """Attention between the rows of a batch's sequences, each sequence after the other: query (N,
    H K), key and value (M, H K), whose rows may lie apart, as part of a longer row.

    Keeps out (N, H K) and the normalisers between `run` and `gradient`.
    """
    cdef Attention job
    cdef object arrays
    cdef readonly object out

    def __init__(self, const float[:, :] query, const float[:, :] key, const float[:, :] value,
                 Py_ssize_t num_heads, const int64_t[::1] query_starts,
                 const int64_t[::1] query_counts, const int64_t[::1] key_starts,
                 const int64_t[::1] key_counts, bint is_causal):
        cdef Py_ssize_t width = query.shape[1], batch = query_counts.shape[0]
        cdef Py_ssize_t longest = max(np.max(query_counts), 1)
        cdef float[:, ::1] out = np.empty((query.shape[0], width), np.float32)
        cdef float[:, :, :, ::1] normalisers = np.empty((batch, num_heads, longest, 2), np.float32)
        cdef int64_t[::1] offsets = np.zeros(batch, np.int64)
        self.out = np.asarray(out)
        self.arrays = (query, key, value, query_starts, query_counts, key_starts, key_counts,
                       normalisers, offsets)
        self.job = plain_attention(num_heads, width // num_heads, width // num_heads)
        self.job.query_head = self.job.key_head = self.job.value_head = self.job.key_size
        self.job.out_head = self.job.key_size
        self.job.out = &out[0, 0]
        self.job.query = &query[0, 0]
        self.job.key = &key[0, 0]
        self.job.value = &value[0, 0]
        self.job.out_row = width
        self.job.query_row = query.strides[0] // sizeof(float)
        self.job.key_row = key.strides[0] // sizeof(float)
        self.job.value_row = value.strides[0] // sizeof(float)
        self.job.query_starts = &query_starts[0]
        self.job.query_counts = &query_counts[0]
        self.job.key_starts = &key_starts[0]
        self.job.key_counts = &key_counts[0]
        self.job.offsets = &offsets[0]
        self.job.batch = batch
        self.job.is_causal = is_causal
        self.job.normalisers = &normalisers[0, 0, 0, 0]
        self.job.normalisers_rows = longest

    def run(self, int n_threads):
        """out = softmax(query key^T / sqrt(K)) value, head by head"""
        run_attention(&self.job, n_threads)

    def gradient(self, float[:, :] grad_query, float[:, :] grad_key, float[:, :] grad_value,
                 const float[:, ::1] grad, int n_threads):
        """Adds what query, key and value get from grad (N, H K), the gradient of out; the three lie
        as those do."""
        cdef AttentionGradient job
        job.forward = self.job
        job.grad_query = &grad_query[0, 0]
        job.grad_key = &grad_key[0, 0]
        job.grad_value = &grad_value[0, 0]
        job.grad = &grad[0, 0]
        run_gradient(&job, n_threads)


def adamw(float[::1] weights, float[::1] gradients, float[::1] means, float[::1] squares,
          float[::1] average, float clip, float beta1, float beta2, float eps, float step_size,
          float correction, float weight_decay, float average_decay, int n_threads):
    """One update of weights (n), and the next gradients' zeros: see AdamW in optimizer.pxd; average
    (n) may be None"""
    cdef AdamW job = AdamW(&weights[0], &gradients[0], &means[0], &squares[0], NULL,
                           weights.shape[0], clip, beta1, beta2, eps, step_size, correction,
                           weight_decay, average_decay)
    if average is not None:
        job.average = &average[0]
    with nogil:
        adamw_kernel(&job, n_threads)


def sums_of_squares(const float[::1] x, int n_threads):
    """The sum of the squares of each block of x (n), in float64"""
    cdef double[::1] sums = np.zeros((x.shape[0] + SUMMED_BLOCK - 1) // SUMMED_BLOCK)
    cdef Squares job = Squares(&sums[0], &x[0], x.shape[0])
    with nogil:
        squares_kernel(&job, n_threads)
    return np.asarray(sums)
