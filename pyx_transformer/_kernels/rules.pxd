"""What is done to a row of logits before the softmax: penalties, bans, temperature, a bias."""

from libc.float cimport FLT_MAX, FLT_MIN
from libc.math cimport INFINITY, exp, log, log1p
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp

from pyx_transformer._kernels.norm cimport log_softmax_row, row_maximum
from pyx_transformer._kernels.threads cimport in_parallel, share, threads_for


cdef struct Rules:
    double repetition_penalty           # 1: none
    Py_ssize_t ngram                    # no so many tokens come twice; 0: they may
    # Sequences that may not be, one after another; sequence i begins at sequence_starts[i], and the
    # next one where it ends.
    const int64_t* sequences
    const int64_t* sequence_starts
    Py_ssize_t sequence_count
    const int64_t* suppressed
    Py_ssize_t suppressed_count
    const int64_t* end_tokens
    Py_ssize_t end_count
    Py_ssize_t min_length
    double temperature                  # 0: none
    double prefix_bias                  # 0: none


cdef struct Known:
    # A row of logits (V) and what it continues: all tokens so far, the last `count` of which came
    # after the forced prefix; and what it leans towards, or has to be.
    float* logits
    const int64_t* tokens
    Py_ssize_t length
    Py_ssize_t count
    const int64_t* prefix
    Py_ssize_t prefix_length
    int64_t forced      # the only token that may come next; -1: any


cdef inline bint are_in_force(const Rules* rules, Py_ssize_t count) noexcept nogil:
    """Whether any of them changes logits after `count` tokens."""
    return (rules.repetition_penalty != 1.0 or rules.ngram > 0 or rules.sequence_count > 0
            or rules.suppressed_count > 0 or count < rules.min_length or rules.temperature > 0.0
            or rules.prefix_bias > 0.0)


cdef inline void penalise(
    const Known* known, double penalty, uint64_t* seen,
) noexcept nogil:
    """Each token that is there, once: its logit / penalty or, of a negative one, times it (Keskar
    et al. 2019). seen: a bit for each token, zeros before and after."""
    cdef Py_ssize_t i
    cdef int64_t token
    cdef double z
    for i in range(known.length):
        token = known.tokens[i]
        if seen[token // 64] >> (token % 64) & 1:
            continue
        seen[token // 64] |= <uint64_t>1 << (token % 64)
        z = known.logits[token]
        if z == INFINITY or z == -INFINITY:
            continue
        z = z / penalty if z > 0.0 else z * penalty
        known.logits[token] = <float>min(max(z, -<double>FLT_MAX), <double>FLT_MAX)
    for i in range(known.length):
        seen[known.tokens[i] // 64] = 0


cdef inline void ban_repetition(const Known* known, Py_ssize_t size) noexcept nogil:
    """No token that would make the last `size` tokens an n-gram that is there already."""
    cdef const int64_t* last = known.tokens + known.length - (size - 1)
    cdef Py_ssize_t i
    for i in range(known.length - size + 1):
        if memcmp(known.tokens + i, last, (size - 1) * sizeof(int64_t)) == 0:
            known.logits[known.tokens[i + size - 1]] = -INFINITY


cdef inline void ban_sequence(
    const Known* known, const int64_t* sequence, Py_ssize_t size,
) noexcept nogil:
    """Not its last token after all others of it."""
    if size - 1 <= known.length and memcmp(
            known.tokens + known.length - (size - 1), sequence,
            (size - 1) * sizeof(int64_t)) == 0:
        known.logits[sequence[size - 1]] = -INFINITY


cdef inline void cool(float* z, Py_ssize_t vocabulary, double temperature) noexcept nogil:
    """z / temperature, less its maximum, so that nothing overflows."""
    cdef float top = max(row_maximum(z, vocabulary), -FLT_MAX)
    cdef float divisor = <float>min(max(temperature, <double>FLT_MIN), <double>FLT_MAX)
    cdef Py_ssize_t i
    for i in range(vocabulary):
        z[i] = (z[i] - top) / divisor


cdef inline void lean(const Known* known, Py_ssize_t vocabulary, double bias) noexcept nogil:
    """p of the prefix's next token becomes bias + (1 - bias) p, and of others (1 - bias) p, as long
    as the prefix has been followed."""
    cdef float* z = known.logits
    cdef Py_ssize_t i
    cdef int64_t token
    cdef double p
    cdef float rest = <float>log1p(-bias)
    if known.length >= known.prefix_length or memcmp(
            known.tokens, known.prefix, known.length * sizeof(int64_t)) != 0:
        return
    if row_maximum(z, vocabulary) == -INFINITY:  # all is banned: what is left of p is no number
        return
    log_softmax_row(z, z, vocabulary)
    token = known.prefix[known.length]
    p = bias + (1.0 - bias) * exp(z[token])
    for i in range(vocabulary):
        z[i] = z[i] + rest
    z[token] = <float>log(p)


cdef inline void force(float* z, Py_ssize_t vocabulary, int64_t token) noexcept nogil:
    """p of the token becomes 1."""
    cdef Py_ssize_t i
    for i in range(vocabulary):
        z[i] = -INFINITY
    z[token] = 0.0


cdef inline void apply_rules(
    const Rules* rules, const Known* known, Py_ssize_t vocabulary, uint64_t* seen,
) noexcept nogil:
    """All rules, in the order of `GenerationOptions`, on one row. seen: see `penalise`."""
    cdef Py_ssize_t i
    if known.forced >= 0:
        force(known.logits, vocabulary, known.forced)
        return
    if rules.repetition_penalty != 1.0:
        penalise(known, rules.repetition_penalty, seen)
    if rules.ngram > 0 and known.length >= rules.ngram:
        ban_repetition(known, rules.ngram)
    for i in range(rules.sequence_count):
        ban_sequence(known, rules.sequences + rules.sequence_starts[i],
                     rules.sequence_starts[i + 1] - rules.sequence_starts[i])
    for i in range(rules.suppressed_count):
        known.logits[rules.suppressed[i]] = -INFINITY
    if known.count < rules.min_length:
        for i in range(rules.end_count):
            known.logits[rules.end_tokens[i]] = -INFINITY
    if rules.temperature > 0.0:
        cool(known.logits, vocabulary, rules.temperature)
    if rules.prefix_bias > 0.0:
        lean(known, vocabulary, rules.prefix_bias)


cdef struct Ruling:
    # Rules on `count` rows of logits; seen has `words` for each thread: see `penalise`.
    const Rules* rules
    Known* rows
    Py_ssize_t count
    Py_ssize_t vocabulary
    uint64_t* seen
    Py_ssize_t words


cdef inline void rule_share(const void* work, int part, int parts) noexcept nogil:
    cdef const Ruling* job = <const Ruling*>work
    cdef Py_ssize_t i
    for i in range(share(job.count, part, parts), share(job.count, part + 1, parts)):
        apply_rules(job.rules, &job.rows[i], job.vocabulary, job.seen + part * job.words)


cdef inline void rule(const Ruling* job, int n_threads) noexcept nogil:
    """All rows: see `Ruling`."""
    in_parallel(rule_share, job, threads_for(4.0 * job.count * job.vocabulary, n_threads))
