"""Arrays that are too large for a thread's stack, and what has to hold of those that are on it.

Kernels run in threads whose stack may be 64 KB: the functions between the start of a parallel
region and its innermost loop use at most 16 KB of it together. What is larger is `scratch`.
"""

cdef extern from * nogil:
    """
    /* So many bytes, a constant, that the calling thread keeps for this place of the source:
     * aligned to a cache line, taken when the thread first comes by, the same at every call. The
     * address goes through a register: else GCC 12 asks for it anew, by a call, at every use. */
    #define scratch(bytes) ({ \\
        static __thread char room[bytes] __attribute__((aligned(64))); \\
        void *start = room; \\
        __asm__("" : "+r"(start)); \\
        start; \\
    })

    /* A constant condition that does not hold ends the build. */
    #define ensure(condition) \\
        ((void)sizeof(struct { _Static_assert(condition, #condition); char room; }))
    """
    void* scratch(size_t bytes)
    void ensure(bint condition)
