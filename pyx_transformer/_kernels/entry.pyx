"""The compiled entry points: arrays to pointers, then one call without the GIL.

Compiled once per instruction set, as a module of its name: see setup.py. Nothing is checked here
that the Python side has checked: shapes fit one another, ids are in range, outputs are separate
arrays.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc

import numpy as np

from pyx_transformer._kernels.activation cimport (
    GELU, GELU_TANH, IDENTITY, QUICK_GELU, RELU, SILU, SOFT_CAP, activate_all,
)
from pyx_transformer._kernels.attention cimport attention as attention_kernel
from pyx_transformer._kernels.attention cimport attention_workspace
from pyx_transformer._kernels.attention_job cimport BIAS_PAD as BIAS_PAD_FLOATS
from pyx_transformer._kernels.attention_job cimport Attention, no_attention
from pyx_transformer._kernels.embedding cimport Lookup, embed_all
from pyx_transformer._kernels.norm cimport LAYER_NORM, LOG_SOFTMAX, RMS_NORM, SOFTMAX, normalise
from pyx_transformer._kernels.packing cimport (
    Move, pack_in_parallel, pack_rows_in_parallel, padded, unpack,
)
from pyx_transformer._kernels.product cimport Product, plain_product, product
from pyx_transformer._kernels.rotary cimport Rotary
from pyx_transformer._kernels.rotary cimport rotate as rotate_kernel
from pyx_transformer._kernels.simd cimport ISA_NAME as ISA_CHARS
from pyx_transformer._kernels.simd cimport VF
from pyx_transformer._kernels.threads cimport end_team

cdef extern from * nogil:
    """
    /* The address of a memoryview's first value, whether or not there is one; NULL for None. */
    #define start_of(view) ((void *)(view).data)
    """
    float* floats_of "start_of" (...)
    double* doubles_of "start_of" (...)
    int64_t* integers_of "start_of" (...)
    unsigned char* bytes_of "start_of" (...)

cdef enum:
    VALUES_BETWEEN_SIGNALS = 1 << 26    # that an elementwise kernel computes between two looks

ISA_NAME = ISA_CHARS.decode()
VECTOR_WIDTH = VF
BIAS_PAD = BIAS_PAD_FLOATS
ACTIVATIONS = {
    None: IDENTITY, "relu": RELU, "gelu": GELU, "gelu_tanh": GELU_TANH, "quick_gelu": QUICK_GELU,
    "silu": SILU,
}


def pause_threads():
    """End the OpenMP threads that wait for work of this one; its next call starts others.

    For use before a fork: GCC's OpenMP waits forever in a child for threads of its parent.
    """
    with nogil:
        end_team()


cdef class Workspace:
    """So many bytes that live as long as one call, aligned to a cache line."""
    cdef void* start
    cdef float* floats

    def __cinit__(self, Py_ssize_t size):
        self.start = malloc(size + 64)
        if self.start == NULL:
            raise MemoryError(f"a workspace of {size} bytes does not fit in memory")
        self.floats = <float*>(((<uintptr_t>self.start) + 63) // 64 * 64)

    def __dealloc__(self):
        free(self.start)


cdef float[::1] aligned_floats(Py_ssize_t size):
    """An array that begins at a cache line; where it is large, NumPy asks for huge pages."""
    room = np.empty(size + 16, np.float32)
    cdef uintptr_t address = room.ctypes.data
    cdef Py_ssize_t start = (64 - address % 64) % 64 // sizeof(float)
    return room[start:start + size]


cdef class PackedLinear:
    """Weights (out_features, in_features) packed into panels, with their bias, and the soft cap of
    what they give, 0 for none.

    With `transposed` weight is (in_features, out_features).
    The layout depends on the instruction set: pickle `unpack()`, never the panels.
    """
    cdef readonly Py_ssize_t out_features
    cdef readonly Py_ssize_t in_features
    cdef const float[::1] panels
    cdef const float[::1] padded_bias   # zeros past out_features; None without a bias
    cdef float softcap

    def __init__(self, const float[:, ::1] weight, const float[::1] bias=None,
                 bint transposed=False, int n_threads=1, float softcap=0.0):
        cdef Move move
        cdef float[::1] panels, padded_bias = None
        cdef Py_ssize_t room
        self.softcap = softcap
        self.out_features, self.in_features = weight.shape[0], weight.shape[1]
        if transposed:
            self.out_features, self.in_features = self.in_features, self.out_features
        room = padded(self.out_features)
        panels = aligned_floats(room * self.in_features)
        if bias is not None:
            padded_bias = aligned_floats(room)
            padded_bias[:] = 0.0
            padded_bias[:self.out_features] = bias
        self.panels, self.padded_bias = panels, padded_bias
        move = Move(floats_of(panels), floats_of(weight), weight.shape[1], weight.shape[0],
                    weight.shape[1])
        with nogil:
            if transposed:
                pack_rows_in_parallel(&move, n_threads)
            else:
                pack_in_parallel(&move, n_threads)

    @staticmethod
    def sizes(Py_ssize_t out_features, Py_ssize_t in_features, bint bias):
        """How many floats each array of `arrays` has."""
        cdef Py_ssize_t room = padded(out_features)
        return [room * in_features, room] if bias else [room * in_features]

    @property
    def arrays(self):
        """The panels and, if there is one, the bias, as they lie in memory."""
        panels = np.asarray(self.panels)
        return [panels] if self.padded_bias is None else [panels, np.asarray(self.padded_bias)]

    @staticmethod
    def of_arrays(arrays, Py_ssize_t out_features, Py_ssize_t in_features, float softcap):
        """The weights whose `arrays` these are, without a copy: they begin at a cache line."""
        cdef PackedLinear packed = PackedLinear.__new__(PackedLinear)
        packed.out_features, packed.in_features = out_features, in_features
        packed.softcap = softcap
        packed.panels, packed.padded_bias = arrays[0], arrays[1] if len(arrays) > 1 else None
        return packed

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
            unpack(floats_of(weight), floats_of(self.panels), self.out_features, self.in_features)
        return np.asarray(weight)

    cdef Product job(self, float* out, const float* x, Py_ssize_t m) noexcept nogil:
        """x times these weights plus their bias, capped; nothing else."""
        cdef Product job = plain_product(out, x, floats_of(self.panels), m, self.out_features,
                                         self.in_features)
        job.bias = floats_of(self.padded_bias)
        if self.softcap != 0.0:
            job.activation = SOFT_CAP
            job.softcap = self.softcap
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
        normalise(out, x, floats_of(self.weight), floats_of(self.bias), m, d, self.eps, self.norm,
                  n_threads)


def linear(float[:, ::1] out, const float[:, ::1] x, PackedLinear packed not None,
           const float[:, ::1] factor, const float[:, ::1] residual, int activation,
           int n_threads):
    """out (m, n) = activation(x (m, k) w^T + b) factor (m, n) + residual (m, n)"""
    cdef Product job
    cdef double unheard = 0.0
    with nogil:
        job = packed.job(floats_of(out), floats_of(x), x.shape[0])
        if activation != IDENTITY:
            job.activation = activation
        job.factor = floats_of(factor)
        job.residual = floats_of(residual)
        product(&job, n_threads, &unheard)


cdef void normalise_array(float[:, ::1] out, const float[:, ::1] x, const float[::1] weight,
                          const float[::1] bias, double eps, int norm, int n_threads) except *:
    cdef Py_ssize_t d = x.shape[1]
    cdef Py_ssize_t run = max(VALUES_BETWEEN_SIGNALS // max(d, 1), 1)
    cdef Py_ssize_t row = 0
    while d > 0 and row < x.shape[0]:
        with nogil:
            normalise(&out[row, 0], &x[row, 0], floats_of(weight), floats_of(bias),
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
    while start < ids.shape[0]:
        job = Lookup(floats_of(out) + start * d, &ids[start], floats_of(table),
                     floats_of(positions), NULL, min(run, ids.shape[0] - start), d, scale)
        if positions is not None:
            job.position_ids = &position_ids[start]
        with nogil:
            embed_all(&job, n_threads)
        PyErr_CheckSignals()
        start += run


def rotate(float[:, :] rows, Py_ssize_t heads, Py_ssize_t head_size, const float[:, ::1] cosines,
           const float[:, ::1] sines, bint interleaved, const int64_t[::1] position_ids,
           bint inverse, int n_threads):
    """rows (m, heads head_size), which may be part of longer rows, turned in place by the angles of
    positions position_ids (m), whose cosines and sines are (positions, pairs); or turned back"""
    cdef Rotary rotary = Rotary(floats_of(cosines), floats_of(sines), cosines.shape[1], interleaved)
    with nogil:
        rotate_kernel(floats_of(rows), rows.strides[0] // <Py_ssize_t>sizeof(float), rows.shape[0],
                      heads, head_size, &rotary, integers_of(position_ids), inverse, n_threads)


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
        job.bool_mask = bytes_of(bools)
    else:
        floats = mask
        job.float_mask = floats_of(floats)


cdef void set_bias(Attention* job, const float[:, ::1] bias) noexcept:
    """bias: None, or each head's biases of the distances -M ... M, padded: (H, BIAS_PAD + 2 M + 1 +
    BIAS_PAD)."""
    job.bias = floats_of(bias)
    if bias is not None:
        job.bias_row = bias.shape[1]
        job.bias_reach = (bias.shape[1] - 2 * BIAS_PAD_FLOATS) // 2


cdef void set_weights(Attention* job, float[:, :, :, ::1] weights) noexcept:
    job.weights = floats_of(weights)
    if weights is not None:
        job.weights_rows = weights.shape[2]
        job.weights_columns = weights.shape[3]


cdef int run_attention(const Attention* job, int n_threads) except -1:
    """The outputs that a job asks for."""
    cdef Workspace workspace = Workspace(
        n_threads * attention_workspace(job) * sizeof(float))
    cdef double unheard = 0.0
    with nogil:
        attention_kernel(job, workspace.floats, n_threads, &unheard)
    return 0


cdef class HeadsJob:
    """Attention on query (B, H, T, K), key (B, Hkv, S, K) and value (B, Hkv, S, Kv), and the arrays
    that its job points to."""
    cdef Attention job
    cdef object arrays

    def __init__(self, const float[:, :, :, ::1] query, const float[:, :, :, ::1] key,
                 const float[:, :, :, ::1] value, mask, const int64_t[::1] lengths,
                 const int64_t[::1] offsets, bint is_causal, Py_ssize_t left, Py_ssize_t right,
                 float softcap, float scale, float[:, :, :, ::1] normalisers,
                 const float[:, ::1] bias=None):
        cdef Py_ssize_t batch = query.shape[0], heads = query.shape[1], queries = query.shape[2]
        cdef int64_t[::1] query_starts = np.arange(batch) * (heads * queries)
        cdef int64_t[::1] query_counts = np.full(batch, queries)
        cdef int64_t[::1] key_starts = np.arange(batch) * (key.shape[1] * key.shape[2])
        self.arrays = query, key, value, mask, lengths, offsets, normalisers, bias, (
            query_starts, query_counts, key_starts)
        self.job = no_attention(heads, query.shape[3], value.shape[3])
        self.job.group = heads // max(key.shape[1], 1)
        self.job.query = floats_of(query)
        self.job.key = floats_of(key)
        self.job.value = floats_of(value)
        self.job.out_row = self.job.value_row = self.job.value_size
        self.job.query_row = self.job.key_row = self.job.key_size
        self.job.out_head = queries * self.job.out_row
        self.job.query_head = queries * self.job.query_row
        self.job.key_head = key.shape[2] * self.job.key_row
        self.job.value_head = key.shape[2] * self.job.value_row
        self.job.query_starts = integers_of(query_starts)
        self.job.query_counts = integers_of(query_counts)
        self.job.key_starts = integers_of(key_starts)
        self.job.key_counts = integers_of(lengths)
        self.job.offsets = integers_of(offsets)
        self.job.batch = batch
        self.job.is_causal = is_causal
        self.job.left = left
        self.job.right = right
        self.job.softcap = softcap
        self.job.scale = scale
        self.job.normalisers = floats_of(normalisers)
        self.job.normalisers_rows = queries
        set_mask(&self.job, mask)
        set_bias(&self.job, bias)


def attention(float[:, :, :, ::1] out, float[:, :, :, ::1] weights, inputs, int n_threads):
    """out (B, H, T, Kv) = softmax(scale query (B, H, T, K) key (B, Hkv, S, K)^T, masked) value;
    inputs: the arguments of HeadsJob"""
    cdef HeadsJob arguments = HeadsJob(*inputs)
    arguments.job.out = floats_of(out)
    set_weights(&arguments.job, weights)
    run_attention(&arguments.job, n_threads)


include "layer.pxi"
include "blocks.pxi"
include "caches.pxi"
include "hypotheses.pxi"
include "steps.pxi"
include "searching.pxi"
include "gradients.pxi"
