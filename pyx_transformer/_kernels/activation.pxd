"""Elementwise functions on vectors of floats, and on whole arrays.

Coefficients are minimax fits made for this file (relative error below 4e-9 for exp and tanh,
3e-8 for the normal tail), so that rounding and not the formula sets the error.
"""

from pyx_transformer._kernels.simd cimport (
    VF, fill, load_part, maximum, minimum, power_of_two, select_less, store_part, vf,
)
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for

cdef enum Activation:
    IDENTITY = 0
    RELU = 1
    GELU = 2
    GELU_TANH = 3
    QUICK_GELU = 4
    SILU = 5


cdef inline vf exponential(vf x) noexcept nogil:
    """e^x; exactly 0 below -87.3, infinite above 88.37; NaN stays NaN."""
    cdef vf rounder = fill(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number
    cdef vf t, n, r, y
    x = minimum(fill(89.0), x)
    t = x * fill(1.44269504) + rounder
    n = t - rounder
    r = x - n * fill(0.693359375)           # ln 2 = 0.693359375 - 0.000212194440
    r = r + n * fill(2.12194440e-4)
    y = fill(8.368710055947304e-03) + r * fill(1.381461275741458e-03)
    y = fill(4.166838899254799e-02) + r * y
    y = fill(1.666652113199234e-01) + r * y
    y = fill(4.999999403953552e-01) + r * y
    y = fill(1.0) + (r + r * r * y)
    return select_less(x, fill(-87.3), fill(0.0), y * power_of_two(t))


cdef inline vf hyperbolic_tangent(vf x) noexcept nogil:
    """tanh x: a polynomial near zero, (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x beyond."""
    cdef vf size = maximum(fill(0.0) - x, x)
    cdef vf square = x * x
    cdef vf e = exponential(fill(-2.0) * size)
    cdef vf far = (fill(1.0) - e) / (fill(1.0) + e)
    cdef vf near
    near = fill(2.079597301781178e-02) + square * fill(-5.895158741623163e-03)
    near = fill(-5.378383025527000e-02) + square * near
    near = fill(1.333192437887192e-01) + square * near
    near = fill(-3.333329856395721e-01) + square * near
    near = x + x * square * near
    far = select_less(x, fill(0.0), fill(0.0) - far, far)
    return select_less(size, fill(0.6), near, far)


cdef inline vf normal_tail(vf size) noexcept nogil:
    """P(Z > size) for a standard normal Z and size >= 0: e^(-size^2 / 2) times a polynomial in
    1 / (1 + 0.34 size)."""
    cdef vf u = fill(1.0) / (fill(1.0) + fill(0.34) * size)
    cdef vf y
    y = fill(0.1406720131635666) + u * fill(-0.02637024037539959)
    y = fill(-0.27546215057373047) + u * y
    y = fill(0.2047324925661087) + u * y
    y = fill(-0.0463949590921402) + u * y
    y = fill(0.11603491753339767) + u * y
    y = fill(0.11503510177135468) + u * y
    y = fill(0.13613347709178925) + u * y
    y = fill(0.13561934232711792) + u * y
    return u * y * exponential(fill(-0.5) * size * size)


cdef inline vf gelu(vf x) noexcept nogil:
    """x P(Z <= x): the exact GELU (Hendrycks and Gimpel 2016), accurate in the far tail too."""
    cdef vf tail = normal_tail(maximum(fill(0.0) - x, x))
    return x * select_less(x, fill(0.0), tail, fill(1.0) - tail)


cdef inline vf silu(vf x, float beta) noexcept nogil:
    """x / (1 + e^(-beta x)): SiLU for beta 1, quick GELU for beta 1.702."""
    return x / (fill(1.0) + exponential(fill(-beta) * x))


cdef inline vf gelu_tanh(vf x) noexcept nogil:
    """x (1 + tanh z) / 2 with z = sqrt(2 / pi) (x + 0.044715 x^3), written as x / (1 + e^-2z)."""
    cdef vf z = x + fill(0.044715) * x * x * x
    return x / (fill(1.0) + exponential(fill(-1.5957691216057308) * z))


cdef inline vf activate(vf x, int activation) noexcept nogil:
    """The activation of that code, elementwise."""
    if activation == RELU:
        return maximum(fill(0.0), x)
    elif activation == GELU:
        return gelu(x)
    elif activation == GELU_TANH:
        return gelu_tanh(x)
    elif activation == QUICK_GELU:
        return silu(x, 1.702)
    elif activation == SILU:
        return silu(x, 1.0)
    return x


cdef struct Values:
    # out (n) = activation(x (n))
    float* out
    const float* x
    Py_ssize_t n
    int activation


cdef inline void activate_share(const void* work, int part, int parts) noexcept nogil:
    cdef const Values* job = <const Values*>work
    cdef Py_ssize_t i = share(job.n, part, parts), end = share(job.n, part + 1, parts), count
    while i < end:
        count = min(end - i, <Py_ssize_t>VF)
        store_part(job.out + i, count,
                   activate(load_part(job.x + i, count, 0.0), job.activation))
        i += VF


cdef inline void activate_all(
    float* out, const float* x, Py_ssize_t n, int activation, int n_threads,
) noexcept nogil:
    """out (n) = activation(x (n))"""
    cdef Values job = Values(out, x, n, activation)
    in_parallel(activate_share, &job, threads_for(10.0 * n, n_threads))


cdef inline vf derivative(vf x, int activation) noexcept nogil:
    """The derivative of the activation of that code, elementwise; 0 at 0 for ReLU."""
    cdef vf y = minimum(fill(1e4), maximum(fill(-1e4), x))  # flat beyond, and no overflow
    cdef vf s, steep
    if activation == RELU:
        return select_less(fill(0.0), x, fill(1.0), fill(0.0))
    elif activation == GELU:
        s = normal_tail(maximum(fill(0.0) - y, y))
        s = select_less(y, fill(0.0), s, fill(1.0) - s)
        return s + y * fill(0.3989422804014327) * exponential(fill(-0.5) * y * y)
    elif activation == GELU_TANH:
        steep = fill(1.5957691216057308) + fill(0.21406671925) * y * y
        s = fill(1.0) / (fill(1.0) + exponential(
            fill(-1.5957691216057308) * (y + fill(0.044715) * y * y * y)))
        return s + y * s * (fill(1.0) - s) * steep
    elif activation == QUICK_GELU or activation == SILU:
        steep = fill(1.702 if activation == QUICK_GELU else 1.0)
        s = fill(1.0) / (fill(1.0) + exponential(fill(0.0) - steep * y))
        return s + y * s * (fill(1.0) - s) * steep
    return fill(1.0)


cdef struct ActivationGradient:
    # out (n) = grad (n) derivative(x (n)); out may be grad
    float* out
    const float* grad
    const float* x
    Py_ssize_t n
    int activation


cdef inline void activation_gradient_share(const void* work, int part, int parts) noexcept nogil:
    cdef const ActivationGradient* job = <const ActivationGradient*>work
    cdef Py_ssize_t i = share(job.n, part, parts), end = share(job.n, part + 1, parts), count
    while i < end:
        count = min(end - i, <Py_ssize_t>VF)
        store_part(job.out + i, count,
                   load_part(job.grad + i, count, 0.0)
                   * derivative(load_part(job.x + i, count, 0.0), job.activation))
        i += VF


cdef inline void activation_gradient(
    float* out, const float* grad, const float* x, Py_ssize_t n, int activation, int n_threads,
) noexcept nogil:
    """out (n) = grad (n) times the activation's derivative at x (n)"""
    cdef ActivationGradient job = ActivationGradient(out, grad, x, n, activation)
    in_parallel(activation_gradient_share, &job, threads_for(10.0 * n, n_threads))
