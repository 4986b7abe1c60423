"""Sums over rows in the order of a tree over the shards that the rows belong to.

A shard's rows are added up first, then the sums of the shards, in an aligned binary tree over their
numbers: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). One without rows counts as nothing. Shards come
in the order of their numbers, and their sums go onto a pile, where two neighbours become one as
soon as the left half of a larger subtree is whole.
"""

from libc.stdint cimport int64_t

from pyx_transformer._kernels.simd cimport fill, vf

cdef enum:
    MOST_SHARDS = 1024
    MOST_HELD = 12      # sums on a pile: one of each size of a subtree, and one that has come


cdef struct Shards:
    # The rows bounds[i] to bounds[i + 1] - 1 are those of shard i; bounds (count + 1).
    const int64_t* bounds
    Py_ssize_t count


cdef struct Held:
    # Which sums lie on a pile: a shard of each.
    Py_ssize_t shards[MOST_HELD]
    int count


cdef inline int folds_before(const Held* held, Py_ssize_t shard) noexcept nogil:
    """How often the two last sums become one before that of the next shard comes: as long as they
    are nearer to one another in the tree than to it, which the highest different bit says."""
    cdef int last = held.count - 1, folds = 0
    while folds < last and (held.shards[last - folds - 1] ^ held.shards[last]) < (
            held.shards[last] ^ shard):
        folds += 1
    return folds


cdef inline void hold(Held* held, int folds, Py_ssize_t shard) noexcept nogil:
    """The pile after so many folds and a shard's sum."""
    held.count -= folds
    held.shards[held.count] = shard
    held.count += 1


cdef struct Pile:
    Held held
    vf sums[MOST_HELD]


cdef inline void begin_pile(Pile* pile) noexcept nogil:
    pile.held.count = 0


cdef inline void fold(Pile* pile, int folds) noexcept nogil:
    """So often the two last sums become one."""
    cdef int last = pile.held.count - 1, _i
    for _i in range(folds):
        pile.sums[last - 1] = pile.sums[last - 1] + pile.sums[last]
        last -= 1


cdef inline void push(Pile* pile, vf sum, Py_ssize_t shard) noexcept nogil:
    """The sum of the next shard."""
    cdef int folds = folds_before(&pile.held, shard)
    fold(pile, folds)
    hold(&pile.held, folds, shard)
    pile.sums[pile.held.count - 1] = sum


cdef inline vf total(Pile* pile) noexcept nogil:
    """The sum of all shards, 0 where none had rows."""
    if pile.held.count == 0:
        return fill(0.0)
    fold(pile, pile.held.count - 1)
    return pile.sums[0]


cdef inline void add_shards(
    float* out, const double* x, const Shards* shards, Py_ssize_t d,
) noexcept nogil:
    """out (shards, d) += the sum of each shard's rows of x (m, d), one row after the other."""
    cdef Py_ssize_t shard, row, i
    cdef double sum
    for shard in range(shards.count):
        for i in range(d):
            sum = 0.0
            for row in range(shards.bounds[shard], shards.bounds[shard + 1]):
                sum += x[row * d + i]
            out[shard * d + i] = <float>(out[shard * d + i] + sum)
