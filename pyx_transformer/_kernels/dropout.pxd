"""Dropout (Srivastava et al. 2014) from a counter: value i of a shard's stream is kept or not
whoever computes it and in whatever order, and the backward pass asks again instead of storing a
mask."""

from libc.stdint cimport uint64_t

from pyx_transformer._kernels.shards cimport Shards
from pyx_transformer._kernels.simd cimport VF, fill, load_part, select_less, store_part, uniform, vf
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for


cdef struct Dropout:
    # out (n) = residual (n) + x (n) / (1 - rate) where the stream's value is at least rate, else
    # residual, which may be NULL; out may be x. Each of `shards`, here of values, has a stream.
    float* out
    const float* x
    const float* residual
    Shards shards
    const uint64_t* seeds
    Py_ssize_t n
    double rate


cdef inline void drop_share(const void* work, int part, int parts) noexcept nogil:
    """One thread's share, of each shard whole vectors from its first value on."""
    cdef const Dropout* job = <const Dropout*>work
    cdef Py_ssize_t shard, begin, end, vectors, i, v, count
    cdef vf scale = fill(<float>(1.0 / (1.0 - job.rate)))
    cdef vf kept
    for shard in range(job.shards.count):
        begin, end = job.shards.bounds[shard], job.shards.bounds[shard + 1]
        vectors = (end - begin + VF - 1) // VF
        for v in range(share(vectors, part, parts), share(vectors, part + 1, parts)):
            i = begin + v * VF
            count = min(end - i, <Py_ssize_t>VF)
            kept = select_less(
                uniform(job.seeds[shard], <uint64_t>(v * VF)), fill(<float>job.rate), fill(0.0),
                load_part(job.x + i, count, 0.0) * scale)
            if job.residual != NULL:
                kept = kept + load_part(job.residual + i, count, 0.0)
            store_part(job.out + i, count, kept)


cdef inline void drop_all(const Dropout* job, int n_threads) noexcept nogil:
    """All values: see `Dropout`."""
    in_parallel(drop_share, job, threads_for(20.0 * job.n, n_threads))
