"""The kernels, compiled for x86-64-v3: 8 floats to a vector (AVX2 and FMA)."""

include "entry.pxi"
