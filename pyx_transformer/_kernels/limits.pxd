"""Loops that do nothing but multiply-add, and nothing but read."""

from pyx_transformer._kernels.simd cimport VF, fill, load, pin, sum_lanes, vf

cdef enum:
    FMA_CHAINS = 12     # more than the adders' latency times their number, fewer than registers
    READ_CHAINS = 8


cdef inline float fma_run(Py_ssize_t steps) noexcept nogil:
    cdef vf chains[FMA_CHAINS]
    cdef vf total = fill(0.0)
    cdef vf factor = fill(0.999)
    cdef Py_ssize_t _i
    cdef int c
    for c in range(FMA_CHAINS):
        chains[c] = fill(<float>c)
    for _i in range(steps):
        for c in range(FMA_CHAINS):
            chains[c] = factor + factor * chains[c]
            pin(chains[c])
    for c in range(FMA_CHAINS):
        total = total + chains[c]
    return sum_lanes(total)


cdef inline float read_run(const float* x, Py_ssize_t n) noexcept nogil:
    cdef vf chains[READ_CHAINS]
    cdef vf total = fill(0.0)
    cdef Py_ssize_t i = 0
    cdef int c
    for c in range(READ_CHAINS):
        chains[c] = fill(0.0)
    while i + READ_CHAINS * VF <= n:
        for c in range(READ_CHAINS):
            chains[c] = chains[c] + load(x + i + c * VF)
        i += READ_CHAINS * VF
    for c in range(READ_CHAINS):
        total = total + chains[c]
    return sum_lanes(total)
