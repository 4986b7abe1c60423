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
from pyx_transformer._kernels.packing cimport pack_rows, transpose
from pyx_transformer._kernels.product cimport sum_columns

cdef enum:
    TRANSPOSED = 1024   # output features whose gradients lie side by side at a time


def linear_input_gradient(float[:, ::1] grad_x, const float[:, ::1] grad,
                          const float[:, ::1] weight, int n_threads):
    """grad_x (m, k) = grad (m, n) weight (n, k)"""
    cdef Py_ssize_t m = grad.shape[0], n = weight.shape[0], k = weight.shape[1]
    cdef Workspace panels = Workspace(padded(k) * n)
    cdef Product job
    cdef double unheard = 0.0
    with nogil:
        pack_rows(panels.floats, n, &weight[0, 0], k, n, k)
        job = product_of(&grad_x[0, 0], &grad[0, 0], panels.floats, m, k, n)
        product(&job, n_threads, &unheard)


def linear_weight_gradient(float[:, ::1] grad_weight, float[::1] grad_bias,
                           const float[:, ::1] grad, const float[:, ::1] x, int n_threads):
    """grad_weight (n, k) = grad (m, n)^T x (m, k); grad_bias (n), or None, = sum of grad's rows"""
    cdef Py_ssize_t m = grad.shape[0], n = grad.shape[1], k = x.shape[1], start = 0, rows
    cdef Workspace panels = Workspace(padded(k) * m)
    cdef Workspace transposed = Workspace(min(n, <Py_ssize_t>TRANSPOSED) * m)
    cdef Product job
    cdef double unheard = 0.0
    with nogil:
        pack_rows(panels.floats, m, &x[0, 0], k, m, k)
        while start < n:
            rows = min(n - start, <Py_ssize_t>TRANSPOSED)
            transpose(transposed.floats, &grad[0, start], n, m, rows)
            job = product_of(&grad_weight[start, 0], transposed.floats, panels.floats, rows, k, m)
            product(&job, n_threads, &unheard)
            start += rows
        if grad_bias is not None:
            sum_columns(&grad_bias[0], &grad[0, 0], m, n, n_threads)


def norm_gradients(float[:, ::1] grad_x, float[::1] grad_weight, float[::1] grad_bias,
                   const float[:, ::1] grad, const float[:, ::1] x, const float[::1] weight,
                   double eps, bint rms, int n_threads):
    """What x (m, d), weight (d) and bias (d) of a layer norm or, with rms, of an RMS norm get from
    grad (m, d); the last two outputs may be None"""
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


def dropout(float[::1] out, const float[::1] x, double rate, uint64_t seed, int n_threads):
    """out (n) = x (n) / (1 - rate) where the stream's value is at least rate, else 0"""
    cdef Dropout job = Dropout(&out[0], &x[0], x.shape[0], rate, seed)
    with nogil:
        drop_all(&job, n_threads)


def attention_gradient(float[:, :, :, ::1] grad_query, float[:, :, :, ::1] grad_key,
                       float[:, :, :, ::1] grad_value, const float[:, :, :, ::1] grad,
                       float[:, :, :, ::1] out, heads, int n_threads):
    """What query, key and value get from grad (B, H, T, Kv), the gradient of out; heads: as for
    `attention`, with the normalisers that it left. The outputs are zeros before."""
    cdef HeadsJob arguments = HeadsJob(*heads)
    cdef AttentionGradient job
    cdef double unheard = 0.0
    cdef Workspace workspace
    job.forward = arguments.job
    job.forward.out = &out[0, 0, 0, 0]
    job.grad_query = &grad_query[0, 0, 0, 0]
    job.grad_key = &grad_key[0, 0, 0, 0]
    job.grad_value = &grad_value[0, 0, 0, 0]
    job.grad = &grad[0, 0, 0, 0]
    job.size = gradient_workspace(&job.forward)
    workspace = Workspace(n_threads * job.size)
    job.workspace = workspace.floats
    with nogil:
        attention_gradient_kernel(&job, n_threads, &unheard)
