"""The kernels, compiled for 64-bit Arm: 4 floats to a vector (Neon)."""

include "entry.pxi"
