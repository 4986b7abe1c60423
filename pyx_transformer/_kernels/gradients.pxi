"""Entry points of training: what inputs and parameters get back from an output's gradient.

bounds (shards + 1): the rows from bounds[i] on, up to bounds[i + 1], are those of shard i. Sums
over rows are in the order of shards.pxd.
"""

from libc.stdint cimport uint64_t

from pyx_transformer._kernels.activation cimport GateGradient
from pyx_transformer._kernels.activation cimport activation_gradient as activation_gradient_kernel
from pyx_transformer._kernels.activation cimport gate_gradients as gate_gradients_kernel
from pyx_transformer._kernels.attention_gradient cimport WIDEST_HEAD as WIDEST_HEAD_FLOATS
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
from pyx_transformer._kernels.shards cimport MOST_SHARDS as MOST_SHARDS_COUNT
from pyx_transformer._kernels.shards cimport Shards, add_shards
from pyx_transformer._kernels.weight_gradient cimport (
    Piece, Stretch, WeightGradient, bias_gradient, most_held, most_pieces, pieces_of, pile_floats,
    stretches_of,
)
from pyx_transformer._kernels.weight_gradient cimport weight_gradient as weight_gradient_kernel

WIDEST_HEAD = WIDEST_HEAD_FLOATS    # that training takes
MOST_SHARDS = MOST_SHARDS_COUNT     # of the rows of one call


cdef Shards shards_of(const int64_t[::1] bounds) except *:
    if bounds.shape[0] - 1 > MOST_SHARDS_COUNT:
        raise ValueError(f"bounds are those of {bounds.shape[0] - 1} shards, expected at most "
                         f"{MOST_SHARDS_COUNT}")
    return Shards(integers_of(bounds), bounds.shape[0] - 1)


def linear_weight_gradient(float[:, ::1] grad_weight, float[::1] grad_bias,
                           const float[:, ::1] grad, const float[:, ::1] x,
                           const int64_t[::1] bounds, int n_threads):
    """grad_weight (n, k) += grad (m, n)^T x (m, k); grad_bias (n), or None, += the sum of grad"""
    cdef Py_ssize_t m = grad.shape[0], n = grad.shape[1], k = x.shape[1], most, pieces
    cdef Shards shards = shards_of(bounds)
    cdef Workspace panels, plan, sums
    cdef Piece* first
    cdef Move move
    cdef WeightGradient job
    cdef double unheard = 0.0
    if m == 0:
        return
    most = most_pieces(&shards, m)
    panels = Workspace(padded(k) * m * sizeof(float))
    plan = Workspace(most * (sizeof(Piece) + sizeof(Stretch)))
    first = <Piece*>plan.floats
    move = Move(panels.floats, floats_of(x), k, m, k)
    job = WeightGradient(floats_of(grad_weight), floats_of(grad), panels.floats, m, n, k, 0, 0,
                         first, <Stretch*>(first + most), 0, NULL, 0, 0)
    pieces = pieces_of(first, &shards)
    job.num_stretches = stretches_of(<Stretch*>job.stretches, first, pieces)
    job.held = most_held(job.stretches, job.num_stretches)
    job.size = pile_floats(&job)
    sums = Workspace(n_threads * job.held * job.size * sizeof(float))
    job.workspace = sums.floats
    with nogil:
        pack_rows_in_parallel(&move, n_threads)
        weight_gradient_kernel(&job, n_threads, &unheard)
        if grad_bias is not None:
            bias_gradient(floats_of(grad_bias), floats_of(grad), &shards, m, n, n_threads)


def sum_rows(float[::1] out, const float[:, ::1] x, const int64_t[::1] bounds, int n_threads):
    """out (d) += the sum of the rows of x (m, d)"""
    cdef Shards shards = shards_of(bounds)
    with nogil:
        bias_gradient(floats_of(out), floats_of(x), &shards, x.shape[0], x.shape[1], n_threads)


def norm_gradients(float[:, ::1] grad_x, float[::1] grad_weight, float[::1] grad_bias,
                   const float[:, ::1] grad, const float[:, ::1] x, const float[::1] weight,
                   double eps, bint rms, const int64_t[::1] bounds, int n_threads):
    """What x (m, d), weight (d) and bias (d) of a layer norm or, with rms, of an RMS norm get from
    grad (m, d); the last two outputs are added to and may be None"""
    cdef Py_ssize_t m = x.shape[0]
    cdef Workspace standards = Workspace(m * sizeof(Standard))
    cdef NormGradient job = NormGradient(
        floats_of(grad_x), floats_of(grad_weight), floats_of(grad_bias),
        <Standard*>standards.floats, floats_of(grad), floats_of(x), floats_of(weight),
        shards_of(bounds), m, x.shape[1], eps, RMS_NORM if rms else LAYER_NORM)
    with nogil:
        norm_gradient(&job, n_threads)


def activation_gradient(float[::1] grad_x, const float[::1] grad, const float[::1] x,
                        int activation, int n_threads):
    """grad_x (n) = grad (n) activation'(x (n)); grad_x may be grad"""
    with nogil:
        activation_gradient_kernel(floats_of(grad_x), floats_of(grad), floats_of(x), x.shape[0],
                                   activation, n_threads)


def gate_gradients(float[::1] grad_value, float[::1] grad_gate, const float[::1] grad,
                   const float[::1] value, const float[::1] before, int activation,
                   int n_threads):
    """What value (n) and before (n) get from grad (n), the gradient of activation(before) value;
    an output may be one of the inputs"""
    cdef GateGradient job = GateGradient(
        floats_of(grad_value), floats_of(grad_gate), floats_of(grad), floats_of(value),
        floats_of(before), value.shape[0], activation)
    with nogil:
        gate_gradients_kernel(&job, n_threads)


def embedding_gradient(float[:, ::1] grad_table, const int64_t[::1] ids, const float[:, ::1] grad,
                       float scale, const int64_t[::1] bounds, int n_threads):
    """grad_table (V, d) += scale grad (m, d) in the rows ids (m)"""
    order = np.argsort(ids, kind="stable")
    shards = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    cdef const int64_t[::1] rows = order, sorted_ids = np.asarray(ids)[order]
    cdef const int64_t[::1] sorted_shards = shards[order]
    cdef Scatter job = Scatter(floats_of(grad_table), integers_of(sorted_ids), integers_of(rows),
                               integers_of(sorted_shards), floats_of(grad), ids.shape[0],
                               grad.shape[1], scale)
    with nogil:
        scatter_add(&job, n_threads)


def cross_entropy(double[::1] losses, float[:, ::1] logits, const int64_t[::1] targets,
                  double smoothing, float factor, int n_threads):
    """losses (m) = -sum q log softmax(logits (m, V)); logits become their gradient times factor"""
    cdef CrossEntropy job = CrossEntropy(
        doubles_of(losses), floats_of(logits), integers_of(targets), logits.shape[0],
        logits.shape[1], smoothing, factor)
    with nogil:
        cross_entropy_kernel(&job, n_threads)


def dropout(float[::1] out, const float[::1] x, const float[::1] residual, double rate,
            const int64_t[::1] bounds, const uint64_t[::1] seeds, int n_threads):
    """out (n) = x (n) / (1 - rate) where the stream's value is at least rate, else 0; plus residual
    (n), if not None. bounds are those of values, and each shard's stream is that of its seed."""
    cdef Dropout job = Dropout(floats_of(out), floats_of(x), floats_of(residual),
                               shards_of(bounds), &seeds[0], x.shape[0], rate)
    with nogil:
        drop_all(&job, n_threads)


cdef int run_gradient(
    float* grad_query, float* grad_key, float* grad_value, float[:, :, ::1] grad_bias,
    const int64_t[::1] bounds, const Attention* forward, const float* grad, int n_threads,
) except -1:
    """What a job's queries, keys and values get and, unless None, its biases (shards, H, 2 reach +
    1); bounds are those of sequences."""
    cdef Py_ssize_t size = gradient_workspace(forward)
    cdef Workspace workspace = Workspace(n_threads * size * sizeof(float))
    cdef double[:, :, ::1] bias_sums = None
    cdef AttentionGradient job
    cdef Shards shards = Shards(NULL, 0)
    cdef double unheard = 0.0
    if grad_bias is not None:
        shards = shards_of(bounds)
        bias_sums = np.zeros((forward.batch, forward.heads, 2 * forward.bias_reach + 1))
    job = AttentionGradient(forward[0], grad_query, grad_key, grad_value, doubles_of(bias_sums),
                            grad, workspace.floats, size, 0, 0, 0, 0)
    with nogil:
        attention_gradient_kernel(&job, n_threads, &unheard)
        if grad_bias is not None:
            add_shards(floats_of(grad_bias), job.bias_sums, &shards,
                       forward.heads * (2 * forward.bias_reach + 1))
    return 0


def attention_gradient(float[:, :, :, ::1] grad_query, float[:, :, :, ::1] grad_key,
                       float[:, :, :, ::1] grad_value, float[:, :, ::1] grad_bias,
                       const int64_t[::1] bounds, const float[:, :, :, ::1] grad,
                       float[:, :, :, ::1] out, inputs, int n_threads):
    """Adds what query, key, value and, unless None, the biases get from grad (B, H, T, Kv), the
    gradient of out; inputs: those of `attention`, with the normalisers it left. The biases' are
    those of each shard (shards, H, 2 reach + 1); bounds are those of sequences."""
    cdef HeadsJob arguments = HeadsJob(*inputs)
    arguments.job.out = floats_of(out)
    run_gradient(floats_of(grad_query), floats_of(grad_key), floats_of(grad_value), grad_bias,
                 bounds, &arguments.job, floats_of(grad), n_threads)


cdef class RowsJob:
    """Attention between the rows of a batch's sequences, each sequence after the other: query (N,
    H K), key (M, Hkv K) and value (M, Hkv Kv), whose rows may lie apart, as part of a longer row.

    Options are as in `Attention`; scale is 1 / sqrt(K) unless given, bias is as for `set_bias`.
    Keeps out (N, H Kv) and the normalisers between `run` and `gradient`.
    """
    cdef Attention job
    cdef object arrays
    cdef readonly object out

    def __init__(self, const float[:, :] query, const float[:, :] key, const float[:, :] value,
                 Py_ssize_t num_heads, Py_ssize_t num_kv_heads, const int64_t[::1] query_starts,
                 const int64_t[::1] query_counts, const int64_t[::1] key_starts,
                 const int64_t[::1] key_counts, *, bint is_causal=False, Py_ssize_t left=-1,
                 Py_ssize_t right=-1, float softcap=0.0, scale=None,
                 const float[:, ::1] bias=None):
        cdef Py_ssize_t batch = query_counts.shape[0]
        cdef Py_ssize_t longest = max(np.max(query_counts), 1)
        cdef Py_ssize_t value_size = value.shape[1] // num_kv_heads
        cdef float[:, ::1] out = np.empty((query.shape[0], num_heads * value_size), np.float32)
        cdef float[:, :, :, ::1] normalisers = np.empty((batch, num_heads, longest, 2), np.float32)
        cdef int64_t[::1] offsets = np.zeros(batch, np.int64)
        self.out = np.asarray(out)
        self.arrays = (query, key, value, query_starts, query_counts, key_starts, key_counts,
                       normalisers, offsets, bias)
        self.job = no_attention(num_heads, query.shape[1] // num_heads, value_size)
        self.job.group = num_heads // num_kv_heads
        self.job.query_head = self.job.key_head = self.job.key_size
        self.job.out_head = self.job.value_head = value_size
        self.job.out = floats_of(out)
        self.job.query = floats_of(query)
        self.job.key = floats_of(key)
        self.job.value = floats_of(value)
        self.job.out_row = num_heads * value_size
        self.job.query_row = query.strides[0] // sizeof(float)
        self.job.key_row = key.strides[0] // sizeof(float)
        self.job.value_row = value.strides[0] // sizeof(float)
        self.job.query_starts = integers_of(query_starts)
        self.job.query_counts = integers_of(query_counts)
        self.job.key_starts = integers_of(key_starts)
        self.job.key_counts = integers_of(key_counts)
        self.job.offsets = integers_of(offsets)
        self.job.batch = batch
        self.job.is_causal = is_causal
        self.job.left = left
        self.job.right = right
        self.job.softcap = softcap
        if scale is not None:
            self.job.scale = scale
        set_bias(&self.job, bias)
        self.job.normalisers = floats_of(normalisers)
        self.job.normalisers_rows = longest

    def run(self, int n_threads):
        """out = softmax(scale query key^T + bias) value, head by head"""
        run_attention(&self.job, n_threads)

    def gradient(self, float[:, :] grad_query, float[:, :] grad_key, float[:, :] grad_value,
                 const float[:, ::1] grad, float[:, :, ::1] grad_bias, const int64_t[::1] bounds,
                 int n_threads):
        """Adds what query, key, value and, unless None, the biases get from grad (N, H Kv), the
        gradient of out; the first three lie as those do. The biases' are those of each shard
        (shards, H, 2 reach + 1); bounds are those of sequences."""
        run_gradient(floats_of(grad_query), floats_of(grad_key), floats_of(grad_value), grad_bias,
                     bounds, &self.job, floats_of(grad), n_threads)


def adamw(float[::1] weights, float[::1] gradients, float[::1] means, float[::1] squares,
          float[::1] average, float clip, float beta1, float beta2, float eps, float step_size,
          float correction, float weight_decay, float average_decay, int n_threads):
    """One update of weights (n), and the next gradients' zeros: see AdamW in optimizer.pxd; average
    (n) may be None"""
    cdef AdamW job = AdamW(
        floats_of(weights), floats_of(gradients), floats_of(means), floats_of(squares),
        floats_of(average), weights.shape[0], clip, beta1, beta2, eps, step_size, correction,
        weight_decay, average_decay)
    with nogil:
        adamw_kernel(&job, n_threads)


def sums_of_squares(const float[::1] x, int n_threads):
    """The sum of the squares of each block of x (n), in float64"""
    cdef double[::1] sums = np.zeros((x.shape[0] + SUMMED_BLOCK - 1) // SUMMED_BLOCK)
    cdef Squares job = Squares(doubles_of(sums), floats_of(x), x.shape[0])
    with nogil:
        squares_kernel(&job, n_threads)
    return np.asarray(sums)
