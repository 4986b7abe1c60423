"""The compiled entry points: arrays to pointers, then one call without the GIL.

Compiled once per instruction set, by the stubs beside this file. Nothing is checked here that the
Python side has checked: shapes fit one another, ids are in range, outputs are separate arrays.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc

import numpy as np

from pyx_transformer._kernels cimport attention as attention_kernel
from pyx_transformer._kernels.activation cimport (
    GELU, GELU_TANH, IDENTITY, QUICK_GELU, RELU, SILU, activate_all,
)
from pyx_transformer._kernels.attention cimport Attention
from pyx_transformer._kernels.embedding cimport Lookup, embed_all
from pyx_transformer._kernels.norm cimport LAYER_NORM, LOG_SOFTMAX, RMS_NORM, SOFTMAX, normalise
from pyx_transformer._kernels.packing cimport (
    Move, pack_in_parallel, pack_rows_in_parallel, padded, unpack,
)
from pyx_transformer._kernels.product cimport Product, product
from pyx_transformer._kernels.simd cimport ISA_NAME as ISA_CHARS
from pyx_transformer._kernels.simd cimport VF

cdef enum:
    VALUES_BETWEEN_SIGNALS = 1 << 26    # that an elementwise kernel computes between two looks

ISA_NAME = ISA_CHARS.decode()
VECTOR_WIDTH = VF
ACTIVATIONS = {
    None: IDENTITY, "relu": RELU, "gelu": GELU, "gelu_tanh": GELU_TANH, "quick_gelu": QUICK_GELU,
    "silu": SILU,
}


cdef class Workspace:
    """Floats that live as long as one call, aligned to a cache line."""
    cdef void* memory
    cdef float* floats

    def __cinit__(self, Py_ssize_t size):
        self.memory = malloc(size * sizeof(float) + 64)
        if self.memory == NULL:
            raise MemoryError(f"a workspace of {size} floats does not fit in memory")
        self.floats = <float*>(((<uintptr_t>self.memory) + 63) // 64 * 64)

    def __dealloc__(self):
        free(self.memory)


cdef float[::1] aligned_floats(Py_ssize_t size):
    """An array that begins at a cache line; where it is large, NumPy asks for huge pages."""
    memory = np.empty(size + 16, np.float32)
    start = -memory.ctypes.data // 4 % 16
    return memory[start:start + size]


cdef inline const float* start_of(const float[::1] array) noexcept nogil:
    """The address of an array's first value; NULL for None."""
    if array is None:
        return NULL
    return &array[0]


cdef Product product_of(float* out, const float* x, const float* panels, Py_ssize_t m,
                        Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """out (m, n) = x (m, k) w (n, k)^T; no bias, no activation, no residual."""
    cdef Product job
    job.out = out
    job.x = x
    job.panels = panels
    job.bias = NULL
    job.residual = NULL
    job.out_stride = n
    job.x_stride = k
    job.residual_stride = n
    job.m = m
    job.n = n
    job.k = k
    job.activation = IDENTITY
    job.adds = False
    job.transposed = False
    return job


cdef class PackedLinear:
    """Weights (out_features, in_features) packed into panels, with their bias.

    With `transposed` weight is (in_features, out_features).
    The layout depends on the instruction set: pickle `unpack()`, never the panels.
    """
    cdef readonly Py_ssize_t out_features
    cdef readonly Py_ssize_t in_features
    cdef float[::1] panels
    cdef float[::1] padded_bias     # zeros past out_features; None without a bias

    def __init__(self, const float[:, ::1] weight, const float[::1] bias=None,
                 bint transposed=False, int n_threads=1):
        cdef Move move
        self.out_features, self.in_features = weight.shape[0], weight.shape[1]
        if transposed:
            self.out_features, self.in_features = self.in_features, self.out_features
        room = padded(self.out_features)
        self.panels = aligned_floats(room * self.in_features)
        self.padded_bias = None
        if bias is not None:
            self.padded_bias = aligned_floats(room)
            self.padded_bias[:] = 0.0
            self.padded_bias[:self.out_features] = bias
        move = Move(&self.panels[0], &weight[0, 0], weight.shape[1], weight.shape[0],
                    weight.shape[1])
        with nogil:
            if transposed:
                pack_rows_in_parallel(&move, n_threads)
            else:
                pack_in_parallel(&move, n_threads)

    @property
    def bias(self):
        """The bias (out_features,), or None."""
        if self.padded_bias is None:
            return None
        return np.array(self.padded_bias[:self.out_features])

    def unpack(self):
        """The weight (out_features, in_features)."""
        cdef float[:, ::1] weight = np.empty((self.out_features, self.in_features), np.float32)
        with nogil:
            unpack(&weight[0, 0], &self.panels[0], self.out_features, self.in_features)
        return np.asarray(weight)

    cdef Product job(self, float* out, const float* x, Py_ssize_t m) noexcept nogil:
        """x times these weights plus their bias; no activation, no residual."""
        cdef Product job = product_of(out, x, &self.panels[0], m, self.out_features,
                                      self.in_features)
        job.bias = start_of(self.padded_bias)
        return job


cdef class NormParameters:
    """Weight and bias (d) of a layer norm or, with rms=True, of an RMS norm."""
    cdef const float[::1] weight
    cdef const float[::1] bias
    cdef double eps
    cdef int norm

    def __init__(self, const float[::1] weight, const float[::1] bias, double eps, bint rms=False):
        self.weight = weight
        self.bias = bias
        self.eps = eps
        self.norm = RMS_NORM if rms else LAYER_NORM

    cdef void apply(self, float* out, const float* x, Py_ssize_t m, Py_ssize_t d,
                    int n_threads) noexcept nogil:
        normalise(out, x, start_of(self.weight), start_of(self.bias), m, d, self.eps, self.norm,
                  n_threads)


def linear(float[:, ::1] out, const float[:, ::1] x, PackedLinear packed not None,
           const float[:, ::1] residual, int activation, int n_threads):
    """out (m, n) = activation(x (m, k) w^T + b) + residual (m, n)"""
    cdef Product job
    cdef double unheard = 0.0
    with nogil:
        job = packed.job(&out[0, 0], &x[0, 0], x.shape[0])
        job.activation = activation
        if residual is not None:
            job.residual = &residual[0, 0]
        product(&job, n_threads, &unheard)


cdef void normalise_array(float[:, ::1] out, const float[:, ::1] x, const float[::1] weight,
                          const float[::1] bias, double eps, int norm, int n_threads) except *:
    cdef Py_ssize_t d = x.shape[1]
    cdef Py_ssize_t run = max(VALUES_BETWEEN_SIGNALS // max(d, 1), 1)
    cdef Py_ssize_t row = 0
    while d > 0 and row < x.shape[0]:
        with nogil:
            normalise(&out[row, 0], &x[row, 0], start_of(weight), start_of(bias),
                      min(run, x.shape[0] - row), d, eps, norm, n_threads)
        PyErr_CheckSignals()
        row += run


def layer_norm(float[:, ::1] out, const float[:, ::1] x, const float[::1] weight,
               const float[::1] bias, double eps, int n_threads):
    """out (m, d) = (x - mean) / sqrt(variance + eps) * weight (d) + bias (d)"""
    normalise_array(out, x, weight, bias, eps, LAYER_NORM, n_threads)


def rms_norm(float[:, ::1] out, const float[:, ::1] x, const float[::1] weight, double eps,
             int n_threads):
    """out (m, d) = x / sqrt(mean x^2 + eps) * weight (d)"""
    normalise_array(out, x, weight, None, eps, RMS_NORM, n_threads)


def softmax(float[:, ::1] out, const float[:, ::1] x, int n_threads):
    """out (m, d) = e^x / sum e^x"""
    normalise_array(out, x, None, None, 0.0, SOFTMAX, n_threads)


def log_softmax(float[:, ::1] out, const float[:, ::1] x, int n_threads):
    """out (m, d) = x - log sum e^x"""
    normalise_array(out, x, None, None, 0.0, LOG_SOFTMAX, n_threads)


def activate(float[::1] out, const float[::1] x, int activation, int n_threads):
    """out (n) = activation(x (n))"""
    cdef Py_ssize_t start = 0
    while start < x.shape[0]:
        with nogil:
            activate_all(&out[start], &x[start], min(VALUES_BETWEEN_SIGNALS, x.shape[0] - start),
                         activation, n_threads)
        PyErr_CheckSignals()
        start += VALUES_BETWEEN_SIGNALS


def embedding(float[:, ::1] out, const int64_t[::1] ids, const float[:, ::1] table, float scale,
              const float[:, ::1] positions, const int64_t[::1] position_ids, int n_threads):
    """out (m, d) = table[ids (m)] scale + positions[position_ids (m)]"""
    cdef Py_ssize_t start = 0, d = out.shape[1]
    cdef Py_ssize_t run = max(VALUES_BETWEEN_SIGNALS // max(d, 1), 1)
    cdef Lookup job
    job.table = &table[0, 0]
    job.positions = NULL
    job.d = d
    job.scale = scale
    if positions is not None:
        job.positions = &positions[0, 0]
    while start < ids.shape[0]:
        job.out = &out[start, 0]
        job.ids = &ids[start]
        if positions is not None:
            job.position_ids = &position_ids[start]
        job.m = min(run, ids.shape[0] - start)
        with nogil:
            embed_all(&job, n_threads)
        PyErr_CheckSignals()
        start += run


cdef void set_mask(Attention* job, mask) except *:
    """mask: None, or a bool or float32 array (B, H, T, S) whose broadcast axes have stride 0."""
    cdef const unsigned char[:, :, :, :] bools
    cdef const float[:, :, :, :] floats
    job.bool_mask = NULL
    job.float_mask = NULL
    if mask is None:
        return
    for axis in range(4):
        job.mask_strides[axis] = mask.strides[axis] // mask.itemsize
    if mask.dtype == np.bool_:
        bools = mask.view(np.uint8)
        job.bool_mask = &bools[0, 0, 0, 0]
    else:
        floats = mask
        job.float_mask = &floats[0, 0, 0, 0]


cdef void set_weights(Attention* job, float[:, :, :, ::1] weights) noexcept:
    job.weights = NULL
    if weights is not None:
        job.weights = &weights[0, 0, 0, 0]
        job.weights_rows = weights.shape[2]
        job.weights_columns = weights.shape[3]


cdef Attention plain_attention(
    Py_ssize_t num_heads, Py_ssize_t key_size, Py_ssize_t value_size,
) noexcept nogil:
    """Attention scaled by 1 / sqrt(K), with nothing else asked for and no arrays yet."""
    cdef Attention job
    job.heads = num_heads
    job.group = 1
    job.key_size = key_size
    job.value_size = value_size
    job.key_rows = NULL
    job.is_causal = False
    job.left = -1
    job.right = -1
    job.softcap = 0.0
    job.scale = 1.0 / <double>max(key_size, 1) ** 0.5
    job.bool_mask = NULL
    job.float_mask = NULL
    job.weights = NULL
    job.normalisers = NULL
    return job


cdef int run_attention(const Attention* job, int n_threads) except -1:
    """The outputs that a job asks for."""
    cdef Workspace workspace = Workspace(n_threads * attention_kernel.attention_workspace(job))
    cdef double unheard = 0.0
    with nogil:
        attention_kernel.attention(job, workspace.floats, n_threads, &unheard)
    return 0


cdef class HeadsJob:
    """Attention on query (B, H, T, K), key (B, Hkv, S, K) and value (B, Hkv, S, Kv), and the arrays
    that its job points to."""
    cdef Attention job
    cdef object arrays

    def __init__(self, const float[:, :, :, ::1] query, const float[:, :, :, ::1] key,
                 const float[:, :, :, ::1] value, mask, const int64_t[::1] lengths,
                 const int64_t[::1] offsets, bint is_causal, Py_ssize_t left, Py_ssize_t right,
                 float softcap, float scale, float[:, :, :, ::1] normalisers):
        cdef Py_ssize_t batch = query.shape[0], heads = query.shape[1], queries = query.shape[2]
        cdef int64_t[::1] query_starts = np.arange(batch) * (heads * queries)
        cdef int64_t[::1] query_counts = np.full(batch, queries)
        cdef int64_t[::1] key_starts = np.arange(batch) * (key.shape[1] * key.shape[2])
        self.arrays = query, key, value, mask, lengths, offsets, normalisers, (
            query_starts, query_counts, key_starts)
        self.job = plain_attention(heads, query.shape[3], value.shape[3])
        self.job.group = heads // max(key.shape[1], 1)
        self.job.query = &query[0, 0, 0, 0]
        self.job.key = &key[0, 0, 0, 0]
        self.job.value = &value[0, 0, 0, 0]
        self.job.out_row = self.job.value_row = self.job.value_size
        self.job.query_row = self.job.key_row = self.job.key_size
        self.job.out_head = queries * self.job.out_row
        self.job.query_head = queries * self.job.query_row
        self.job.key_head = key.shape[2] * self.job.key_row
        self.job.value_head = key.shape[2] * self.job.value_row
        self.job.query_starts = &query_starts[0]
        self.job.query_counts = &query_counts[0]
        self.job.key_starts = &key_starts[0]
        self.job.key_counts = &lengths[0]
        self.job.offsets = &offsets[0]
        self.job.batch = batch
        self.job.is_causal = is_causal
        self.job.left = left
        self.job.right = right
        self.job.softcap = softcap
        self.job.scale = scale
        if normalisers is not None:
            self.job.normalisers = &normalisers[0, 0, 0, 0]
            self.job.normalisers_rows = queries
        set_mask(&self.job, mask)


def attention(float[:, :, :, ::1] out, float[:, :, :, ::1] weights, heads, int n_threads):
    """out (B, H, T, Kv) = softmax(scale query (B, H, T, K) key (B, Hkv, S, K)^T, masked) value;
    heads: the arguments of HeadsJob"""
    cdef HeadsJob arguments = HeadsJob(*heads)
    arguments.job.out = &out[0, 0, 0, 0]
    set_weights(&arguments.job, weights)
    run_attention(&arguments.job, n_threads)


include "blocks.pxi"
include "decoding.pxi"
include "gradients.pxi"
