"""What one attention call is asked for, which keys a query may see, and what changes its scores.

Bounds come from lengths, causality and the window; a boolean or float mask comes on top. A score
meets the soft cap, then the bias of its distance, then mask and bounds.
"""

from libc.float cimport FLT_MAX
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memset

from pyx_transformer._kernels.activation cimport soft_capped
from pyx_transformer._kernels.scratch cimport ensure
from pyx_transformer._kernels.simd cimport (
    VF, fill, load, load_bytes, load_part, select_less, vf,
)

cdef enum:
    BIAS_PAD = 32       # copies of the edge values on each side of a row of biases; at least VF


cdef struct Attention:
    # Row t of head h of sequence b lies at base + (starts[b] + t) * row + h * head, in floats.
    float* out
    const float* query
    const float* key
    const float* value
    Py_ssize_t out_row
    Py_ssize_t out_head
    Py_ssize_t query_row
    Py_ssize_t query_head
    Py_ssize_t key_row
    Py_ssize_t key_head
    Py_ssize_t value_row
    Py_ssize_t value_head
    const int64_t* query_starts
    const int64_t* query_counts
    const int64_t* key_starts
    const int64_t* key_counts
    # NULL, or where each key and its value lie, whatever key_starts says: those of key s of
    # sequence b at base + key_rows[b][s] * row + h * head.
    const int64_t** key_rows
    const int64_t* offsets      # position of a sequence's first query among its keys
    Py_ssize_t batch
    Py_ssize_t heads
    Py_ssize_t group            # query heads that share a key head
    Py_ssize_t key_size
    Py_ssize_t value_size
    bint is_causal
    Py_ssize_t left             # keys seen before and after the query's own place; -1: all
    Py_ssize_t right
    float softcap               # 0: none
    float scale
    # NULL, or each head's biases by distance, key place - query place, bias_row floats apart: those
    # of -bias_reach ... bias_reach, its edges repeated BIAS_PAD times on both sides, which hold for
    # what is further away too.
    const float* bias
    Py_ssize_t bias_row
    Py_ssize_t bias_reach
    const unsigned char* bool_mask      # at most one of the two; strides in elements, 0 broadcasts
    const float* float_mask
    Py_ssize_t mask_strides[4]
    float* weights              # (batch, heads, weights_rows, weights_columns), or NULL
    Py_ssize_t weights_rows
    Py_ssize_t weights_columns
    # (batch, heads, normalisers_rows, 2): each query's largest score m and 1 / sum e^(score - m),
    # zeros where it sees nothing; or NULL.
    float* normalisers
    Py_ssize_t normalisers_rows


cdef inline Attention no_attention(
    Py_ssize_t heads, Py_ssize_t key_size, Py_ssize_t value_size,
) noexcept nogil:
    """Attention scaled by 1 / sqrt(K), with nothing else asked for and no arrays yet."""
    cdef Attention job
    memset(&job, 0, sizeof(Attention))
    job.heads = heads
    job.group = 1
    job.key_size = key_size
    job.value_size = value_size
    job.left = -1
    job.right = -1
    job.scale = 1.0 / <double>max(key_size, <Py_ssize_t>1) ** 0.5
    return job


cdef inline double score_work(const Attention* job) noexcept nogil:
    """Floating-point operations of one query and one key. What is no product counts as many as a
    product would do in its time, roughly."""
    cdef double work = 2.0 * (job.key_size + job.value_size) + 30.0
    if job.softcap != 0.0:
        work += 40.0
    if job.bias != NULL:
        work += 8.0
    if job.bool_mask != NULL or job.float_mask != NULL:
        work += 40.0
    if job.weights != NULL:
        work += 20.0
    return work


cdef inline Py_ssize_t first_key(const Attention* job, Py_ssize_t b, Py_ssize_t t) noexcept nogil:
    """The first key that query t of sequence b may see, masks aside."""
    if job.left < 0:
        return 0
    return max(job.offsets[b] + t - job.left, <Py_ssize_t>0)


cdef inline Py_ssize_t end_key(const Attention* job, Py_ssize_t b, Py_ssize_t t) noexcept nogil:
    """One past the last key that query t of sequence b may see, masks aside."""
    cdef Py_ssize_t end = job.key_counts[b]
    if job.is_causal:
        end = min(end, <Py_ssize_t>(job.offsets[b] + t + 1))
    if job.right >= 0:
        end = min(end, <Py_ssize_t>(job.offsets[b] + t + job.right + 1))
    return max(end, <Py_ssize_t>0)


cdef inline const float* biases_of(const Attention* job, Py_ssize_t h) noexcept nogil:
    """The bias of head h at distance 0, those of other distances beside it."""
    return job.bias + h * job.bias_row + BIAS_PAD + job.bias_reach


cdef inline vf capped_and_biased(
    const Attention* job, vf scores, Py_ssize_t h, Py_ssize_t distance,
) noexcept nogil:
    """Soft cap and bias on head h's scores of neighbouring keys, the first at that distance."""
    if job.softcap != 0.0:
        scores = soft_capped(scores, job.softcap)
    ensure(BIAS_PAD >= VF)
    if job.bias != NULL:
        scores = scores + load(
            biases_of(job, h) + min(max(distance, -job.bias_reach - BIAS_PAD), job.bias_reach))
    return scores


cdef inline Py_ssize_t mask_place(
    const Attention* job, Py_ssize_t b, Py_ssize_t h, Py_ssize_t t, Py_ssize_t s,
) noexcept nogil:
    return (b * job.mask_strides[0] + h * job.mask_strides[1] + t * job.mask_strides[2]
            + s * job.mask_strides[3])


cdef inline vf masked(
    const Attention* job, vf scores, Py_ssize_t place, Py_ssize_t count,
) noexcept nogil:
    """Scores with the mask applied: -inf where the query may not attend."""
    cdef vf mask
    if job.bool_mask != NULL:
        if job.mask_strides[3] == 0:
            mask = fill(job.bool_mask[place] != 0)
        else:
            mask = load_bytes(job.bool_mask + place, count)
        return select_less(mask, fill(0.5), fill(-INFINITY), scores)
    if job.mask_strides[3] == 0:
        mask = fill(job.float_mask[place])
    else:
        mask = load_part(job.float_mask + place, count, 0.0)
    return select_less(mask, fill(-FLT_MAX), fill(-INFINITY), scores + mask)


cdef inline bint may_attend(
    const Attention* job, Py_ssize_t b, Py_ssize_t h, Py_ssize_t t, Py_ssize_t s,
) noexcept nogil:
    if s < first_key(job, b, t) or s >= end_key(job, b, t):
        return False
    if job.bool_mask != NULL:
        return job.bool_mask[mask_place(job, b, h, t, s)] != 0
    if job.float_mask != NULL:
        return not job.float_mask[mask_place(job, b, h, t, s)] < -FLT_MAX
    return True
