"""Philox 4x64-10 (Salmon et al. 2011): the random number at any place of a stream, by itself."""

from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    /* The two halves of a product, by the compiler's own type of 128 bits. */
    static inline void multiply_wide(uint64_t x, uint64_t y, uint64_t *high, uint64_t *low) {
        unsigned __int128 product = (unsigned __int128)x * y;
        *high = (uint64_t)(product >> 64);
        *low = (uint64_t)product;
    }
    """
    void multiply_wide(uint64_t x, uint64_t y, uint64_t* high, uint64_t* low)


cdef inline double uniform_number(uint64_t key0, uint64_t key1, uint64_t place) noexcept nogil:
    """Number `place` of a key's stream, in [0, 1): what numpy.random.Philox of that key draws."""
    cdef uint64_t words[4]
    cdef uint64_t high0, low0, high2, low2
    cdef int _i
    words[0] = place // 4 + 1
    words[1] = words[2] = words[3] = 0
    for _i in range(10):
        multiply_wide(<uint64_t>0xD2E7470EE14C6C93, words[0], &high0, &low0)
        multiply_wide(<uint64_t>0xCA5A826395121157, words[2], &high2, &low2)
        words[0] = high2 ^ words[1] ^ key0
        words[1] = low2
        words[2] = high0 ^ words[3] ^ key1
        words[3] = low0
        key0 = key0 + <uint64_t>0x9E3779B97F4A7C15
        key1 = key1 + <uint64_t>0xBB67AE8584CAA73B
    return (words[place % 4] >> 11) * (1.0 / 9007199254740992.0)
