"""The kernels, compiled for x86-64-v4: 16 floats to a vector (AVX-512)."""

include "entry.pxi"
