"""The kernels, compiled for x86-64-v2: 4 floats to a vector (SSE4.2)."""

include "entry.pxi"
