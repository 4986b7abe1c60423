"""Attention of one query without a mask: a step of decoding, without packing.

The sums are those of attention.pxd, in the same order, and so to the same bits.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memset

from pyx_transformer._kernels.activation cimport exponential
from pyx_transformer._kernels.attention_job cimport (
    Attention, capped_and_biased, end_key, first_key,
)
from pyx_transformer._kernels.scratch cimport ensure
from pyx_transformer._kernels.simd cimport (
    LANES, PARTS, VF, fill, fused, lanes_from, load, load_part, maximum, maximum_lane,
    prefetch_second, select_less, store, store_part, transpose_lanes, tree_sum, vf,
)
from pyx_transformer._kernels.tile cimport BLOCK_K, CHAIN, LINE, copy_tile

cdef enum:
    BLOCK_KEYS = 256
    ONE_VALUE = 256     # values up to this size go without packing
    # Vectors of values summed side by side, so that no sum waits for another: 8; with AVX-512 the 4
    # of the usual 64 values.
    TOGETHER = 8 - VF // 16 * 4


cdef inline vf exponentiated(float* scores, float top) noexcept nogil:
    """e^(scores - top) of a vector, also in place."""
    cdef vf p = exponential(load(scores) - fill(top))
    store(scores, p)
    return p


cdef inline float exponentials(float* scores, float top, Py_ssize_t width) noexcept nogil:
    """scores = e^(scores - top) in place; their sum. width: a multiple of VF."""
    cdef vf sums[PARTS]
    cdef Py_ssize_t i = 0
    cdef int part
    if width < LANES:
        for part in range(PARTS):
            sums[part] = fill(0.0)
    else:
        for part in range(PARTS):
            sums[part] = exponentiated(scores + part * VF, top)
        i = LANES
    while i + LANES <= width:
        for part in range(PARTS):
            sums[part] = sums[part] + exponentiated(scores + i + part * VF, top)
        i += LANES
    for part in range(PARTS - 1):
        if i < width:
            sums[part] = sums[part] + exponentiated(scores + i, top)
        i += VF
    return tree_sum(sums)


cdef inline vf divided(vf sums, float total) noexcept nogil:
    """sums / total, zeros where nothing was seen. Adding 0.0 makes -0.0 and 0.0 one."""
    return sums * fill(0.0 if total == 0.0 else 1.0 / total) + fill(0.0)


cdef inline bint is_one_plain_query(const Attention* job, Py_ssize_t queries) noexcept nogil:
    """Whether `attend_one` can take an item."""
    return (queries == 1 and job.bool_mask == NULL and job.float_mask == NULL
            and job.weights == NULL and job.normalisers == NULL
            and job.key_size <= BLOCK_K and job.value_size <= ONE_VALUE)


cdef inline const float* row_of(
    const float* base, const int64_t* rows, Py_ssize_t stride, Py_ssize_t s,
) noexcept nogil:
    """Row s, scattered where rows is given."""
    return base + (s if rows == NULL else rows[s]) * stride


cdef struct Coming:
    # Keys and values in pages that another head or sequence is to read next; those from `first` to
    # `end` - 1 have not been asked for. No pattern tells the processor to fetch them.
    const float* key
    const float* value
    const int64_t* places
    Py_ssize_t first
    Py_ssize_t end


cdef inline Coming what_comes(
    const Attention* job, Py_ssize_t b, Py_ssize_t h, Py_ssize_t t,
) noexcept nogil:
    """What query t of a head of sequence b reads, of which nothing has been asked for; nothing
    where keys are in no pages or b is -1."""
    if b < 0 or job.key_rows == NULL:
        return Coming(NULL, NULL, NULL, 0, 0)
    return Coming(job.key + h // job.group * job.key_head,
                  job.value + h // job.group * job.value_head,
                  job.key_rows[b], first_key(job, b, t), end_key(job, b, t))


cdef inline void ask_for(Coming* coming, Py_ssize_t count, const Attention* job) noexcept nogil:
    """So many keys more, and their values, come to the second-level cache."""
    cdef Py_ssize_t end = min(coming.first + count, coming.end), s, i
    for s in range(coming.first, end):
        i = 0
        while i < job.key_size:
            prefetch_second(coming.key + coming.places[s] + i)
            i += LINE
        i = 0
        while i < job.value_size:
            prefetch_second(coming.value + coming.places[s] + i)
            i += LINE
    coming.first = max(coming.first, end)


cdef inline void weigh_values(
    float* sums, const float* scores, const float* value, const int64_t* rows, Py_ssize_t stride,
    Py_ssize_t block, Py_ssize_t start, Py_ssize_t hidden, Py_ssize_t stop, const int vectors,
    Py_ssize_t count,
) noexcept nogil:
    """sums (vectors VF) += one chain: the values of keys start ... stop - 1 of a block, by scores.

    The first `hidden` keys of a block are left out, and its first chain begins the sums. count:
    floats of the only vector that are there.
    """
    cdef vf chains[TOGETHER]
    cdef vf score
    cdef const float* row
    cdef Py_ssize_t s
    cdef int v
    for v in range(vectors):
        chains[v] = fill(0.0)
    for s in range(max(start, hidden), stop):
        row = row_of(value, rows, stride, block + s)
        score = fill(scores[s])
        for v in range(vectors):
            chains[v] = fused(
                score, load(row + v * VF) if vectors > 1 else load_part(row, count, 0.0), chains[v])
    for v in range(vectors):
        if start > 0:
            chains[v] = load(sums + v * VF) + chains[v]
        store(sums + v * VF, chains[v])


cdef inline void attend_one(
    const Attention* job, float* out, const float* query, const float* key, const float* value,
    const int64_t* key_rows, Py_ssize_t h, Py_ssize_t place, Py_ssize_t begin, Py_ssize_t end,
    Coming* coming,
) noexcept nogil:
    """One query of head h, at a place among its keys, that sees keys begin ... end - 1: a step of
    decoding. The sums are those of `attend`, in the same order, but nothing is packed. Meanwhile
    what is coming is asked for."""
    cdef float scaled[BLOCK_K]
    cdef float scores[BLOCK_KEYS]
    cdef float sums[ONE_VALUE]
    cdef vf rows[VF]
    cdef vf total, chain
    cdef float top = -INFINITY, block_top, reference, decay, weight = 0.0
    cdef float decays[VF]
    cdef Py_ssize_t first_block = begin // BLOCK_KEYS * BLOCK_KEYS
    cdef Py_ssize_t block = first_block, size = job.key_size
    cdef Py_ssize_t hidden, keys, start, stop, i, c, group, count
    cdef int r
    if end <= begin:
        memset(out, 0, job.value_size * sizeof(float))
        return
    ensure(BLOCK_K % VF == 0)
    ensure(BLOCK_KEYS % VF == 0)
    ensure(ONE_VALUE % VF == 0)
    copy_tile(scaled, query, 0, size, 1, job.scale)
    while block < end:
        keys = min(end - block, <Py_ssize_t>BLOCK_KEYS)
        hidden = max(begin - block, <Py_ssize_t>0)  # keys of the first block that come too early
        block_top = -INFINITY
        group = hidden // VF * VF
        i = 0
        while i < group:
            store(scores + i, fill(-INFINITY))
            i += VF
        while group < keys:  # VF keys at once, each in a lane
            ask_for(coming, VF, job)
            total = fill(0.0)
            chain = fill(0.0)
            i = 0
            while i < size:
                count = min(size - i, <Py_ssize_t>VF)
                if count == VF and hidden <= group and group + VF <= keys:
                    for r in range(VF):
                        rows[r] = load(
                            row_of(key, key_rows, job.key_row, block + group + r) + i)
                else:
                    for r in range(VF):
                        rows[r] = fill(0.0)
                        if hidden <= group + r < keys:
                            rows[r] = load_part(
                                row_of(key, key_rows, job.key_row, block + group + r) + i, count,
                                0.0)
                transpose_lanes(rows)
                if count == VF:  # so that the rows stay in registers
                    for r in range(VF):
                        chain = fused(fill(scaled[i + r]), rows[r], chain)
                else:
                    for r in range(<int>count):
                        chain = fused(fill(scaled[i + r]), rows[r], chain)
                i += VF
                if i % CHAIN == 0 or i >= size:
                    if i > CHAIN:
                        chain = total + chain
                    total = chain
                    chain = fill(0.0)
            total = capped_and_biased(job, total, h, block + group - place)
            if group < hidden:
                total = select_less(lanes_from(0.0), fill(<float>(hidden - group)),
                                    fill(-INFINITY), total)
            if keys - group < VF:
                total = select_less(lanes_from(0.0), fill(<float>(keys - group)), total,
                                    fill(-INFINITY))
            store(scores + group, total)
            block_top = max(block_top, maximum_lane(maximum(total, fill(-INFINITY))))
            group += VF
        decay = top
        top = max(block_top, top)
        reference = 0.0 if top == -INFINITY else top
        store(decays, exponential(fill(decay) - fill(reference)))
        weight = weight * decays[0] + exponentials(scores, reference, group)
        start = 0
        while start < keys:
            stop = min(start + CHAIN, keys)
            c = 0
            while c < job.value_size:
                count = min(job.value_size - c, <Py_ssize_t>(TOGETHER * VF))
                if count == TOGETHER * VF:
                    weigh_values(sums + c, scores, value + c, key_rows, job.value_row, block,
                                 start, hidden, stop, TOGETHER, VF)
                else:
                    count = min(count, <Py_ssize_t>VF)
                    weigh_values(sums + c, scores, value + c, key_rows, job.value_row, block,
                                 start, hidden, stop, 1, count)
                c += count
            start += CHAIN
        c = 0
        while c < job.value_size:
            count = min(job.value_size - c, <Py_ssize_t>VF)
            total = load(sums + c)
            if block > first_block:
                total = fused(load_part(out + c, count, 0.0), fill(decays[0]), total)
            if block + keys == end:
                total = divided(total, weight)
            store_part(out + c, count, total)
            c += VF
        block += BLOCK_KEYS
