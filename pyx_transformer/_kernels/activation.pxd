"""Elementwise functions on vectors of floats, and on whole arrays.

Coefficients are minimax fits made for this file (relative error below 4e-9 for exp and tanh,
3e-8 for the normal tail), so that rounding and not the formula sets the error.
"""

from pyx_transformer._kernels.simd cimport (
    VF, fill, fused, load_part, maximum, minimum, power_of_two, select_less, store_part, vf,
)
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for

cdef enum Activation:
    IDENTITY = 0
    RELU = 1
    GELU = 2
    GELU_TANH = 3
    QUICK_GELU = 4
    SILU = 5
    SOFT_CAP = 6    # cap tanh(x / cap): see `soft_capped`


cdef inline vf exponential(vf x) noexcept nogil:
    """e^x; exactly 0 below -87.3, infinite above 88.37; NaN stays NaN."""
    cdef vf rounder = fill(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number
    cdef vf t, n, r, y
    x = minimum(fill(89.0), x)
    t = fused(x, fill(1.44269504), rounder)
    n = t - rounder
    r = fused(n, fill(-0.693359375), x)     # ln 2 = 0.693359375 - 0.000212194440
    r = fused(n, fill(2.12194440e-4), r)
    y = fused(r, fill(1.381461275741458e-03), fill(8.368710055947304e-03))
    y = fused(r, y, fill(4.166838899254799e-02))
    y = fused(r, y, fill(1.666652113199234e-01))
    y = fused(r, y, fill(4.999999403953552e-01))
    y = fill(1.0) + fused(r * r, y, r)
    return select_less(x, fill(-87.3), fill(0.0), y * power_of_two(t))


cdef inline vf hyperbolic_tangent(vf x) noexcept nogil:
    """tanh x: a polynomial near zero, (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x beyond."""
    cdef vf size = maximum(fill(0.0) - x, x)
    cdef vf square = x * x
    cdef vf e = exponential(fill(-2.0) * size)
    cdef vf far = (fill(1.0) - e) / (fill(1.0) + e)
    cdef vf near
    near = fused(square, fill(-5.895158741623163e-03), fill(2.079597301781178e-02))
    near = fused(square, near, fill(-5.378383025527000e-02))
    near = fused(square, near, fill(1.333192437887192e-01))
    near = fused(square, near, fill(-3.333329856395721e-01))
    near = fused(x * square, near, x)
    far = select_less(x, fill(0.0), fill(0.0) - far, far)
    return select_less(size, fill(0.6), near, far)


cdef inline vf bell(vf x) noexcept nogil:
    """e^(-x^2 / 2)"""
    return exponential(fill(-0.5) * x * x)


cdef inline vf normal_below(vf x, vf bell_of_x) noexcept nogil:
    """P(Z <= x) for a standard normal Z. The tail beyond |x| is `bell` times a polynomial in
    1 / (1 + 0.34 |x|)."""
    cdef vf u = fill(1.0) / fused(fill(0.34), maximum(fill(0.0) - x, x), fill(1.0))
    cdef vf y
    y = fused(u, fill(-0.02637024037539959), fill(0.1406720131635666))
    y = fused(u, y, fill(-0.27546215057373047))
    y = fused(u, y, fill(0.2047324925661087))
    y = fused(u, y, fill(-0.0463949590921402))
    y = fused(u, y, fill(0.11603491753339767))
    y = fused(u, y, fill(0.11503510177135468))
    y = fused(u, y, fill(0.13613347709178925))
    y = fused(u, y, fill(0.13561934232711792))
    y = u * y * bell_of_x
    return select_less(x, fill(0.0), y, fill(1.0) - y)


cdef inline vf gelu(vf x) noexcept nogil:
    """x P(Z <= x): the exact GELU (Hendrycks and Gimpel 2016), accurate in the far tail too."""
    return x * normal_below(x, bell(x))


cdef inline vf silu(vf x, float beta) noexcept nogil:
    """x / (1 + e^(-beta x)): SiLU for beta 1, quick GELU for beta 1.702."""
    return x / (fill(1.0) + exponential(fill(-beta) * x))


cdef inline vf gelu_tanh(vf x) noexcept nogil:
    """x (1 + tanh z) / 2 with z = sqrt(2 / pi) (x + 0.044715 x^3), written as x / (1 + e^-2z)."""
    cdef vf z = fused(fill(0.044715) * x * x, x, x)
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


cdef inline vf soft_capped(vf x, float cap) noexcept nogil:
    """cap tanh(x / cap)"""
    return fill(cap) * hyperbolic_tangent(x / fill(cap))


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


cdef inline vf silu_derivative(vf x, float beta) noexcept nogil:
    """The derivative of `silu`."""
    cdef vf s = fill(1.0) / (fill(1.0) + exponential(fill(-beta) * x))
    return fused(x * s * (fill(1.0) - s), fill(beta), s)


cdef inline vf derivative(vf x, int activation) noexcept nogil:
    """The derivative of the activation of that code, elementwise; 0 at 0 for ReLU."""
    cdef vf y = minimum(fill(1e4), maximum(fill(-1e4), x))  # flat beyond, and no overflow
    cdef vf s, steep
    if activation == RELU:
        return select_less(fill(0.0), x, fill(1.0), fill(0.0))
    elif activation == GELU:
        s = bell(y)
        return fused(y * fill(0.3989422804014327), s, normal_below(y, s))
    elif activation == GELU_TANH:
        steep = fused(fill(0.21406671925) * y, y, fill(1.5957691216057308))
        s = fill(1.0) / (fill(1.0) + exponential(
            fill(-1.5957691216057308) * fused(fill(0.044715) * y * y, y, y)))
        return fused(y * s * (fill(1.0) - s), steep, s)
    elif activation == QUICK_GELU:
        return silu_derivative(y, 1.702)
    elif activation == SILU:
        return silu_derivative(y, 1.0)
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


cdef struct GateGradient:
    # Of h (n) = activation(before (n)) value (n), from its gradient grad (n): grad_value (n) =
    # grad activation(before), grad_before (n) = grad value derivative(before). An output may be one
    # of the inputs.
    float* grad_value
    float* grad_before
    const float* grad
    const float* value
    const float* before
    Py_ssize_t n
    int activation


cdef inline void gate_gradient_share(const void* work, int part, int parts) noexcept nogil:
    cdef const GateGradient* job = <const GateGradient*>work
    cdef Py_ssize_t i = share(job.n, part, parts), end = share(job.n, part + 1, parts), count
    cdef vf grad, value, before
    while i < end:
        count = min(end - i, <Py_ssize_t>VF)
        grad = load_part(job.grad + i, count, 0.0)
        value = load_part(job.value + i, count, 0.0)
        before = load_part(job.before + i, count, 0.0)
        store_part(job.grad_value + i, count, grad * activate(before, job.activation))
        store_part(job.grad_before + i, count, grad * value * derivative(before, job.activation))
        i += VF


cdef inline void gate_gradients(const GateGradient* job, int n_threads) noexcept nogil:
    """What both factors of a gated layer's hidden values get."""
    in_parallel(gate_gradient_share, job, threads_for(20.0 * job.n, n_threads))
