"""What this CPU runs, asked before any module that may need more of it is loaded; OpenMP's version.

Compiled with the compiler's baseline flags.
"""

cdef extern from * nogil:
    """
    #if defined(__x86_64__)
    #include <cpuid.h>

    /* The highest of the levels 2 to 4 of x86-64 that CPU and operating system run, else 1.
     * cpuid answers for features that not every compiler's __builtin_cpu_supports knows. */
    static int x86_64_level(void) {
        unsigned int a, b, c = 0, d, more = 0;
        __get_cpuid(1, &a, &b, &c, &d);
        __get_cpuid(0x80000001, &a, &b, &more, &d);
        __builtin_cpu_init();
        if (!(__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt")
              && (c & bit_CMPXCHG16B) && (more & bit_LAHF_LM)))
            return 1;
        if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
              && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")
              && (c & bit_F16C) && (c & bit_MOVBE) && (more & bit_LZCNT)))
            return 2;
        if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
              && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
              && __builtin_cpu_supports("avx512vl")))
            return 3;
        return 4;
    }
    #else
    static int x86_64_level(void) { return 0; }
    #endif

    #if defined(__aarch64__)
    #define HAS_NEON 1
    #else
    #define HAS_NEON 0
    #endif

    #if defined(_OPENMP)
    #define OPENMP_VERSION _OPENMP
    #else
    #define OPENMP_VERSION 0
    #endif
    """
    int x86_64_level()
    enum:
        HAS_NEON
        OPENMP_VERSION


def supported():
    """Names of the instruction sets that this CPU runs, the best one first; may be empty."""
    if HAS_NEON:
        return ("neon",)
    return tuple([f"x86-64-v{level}" for level in range(x86_64_level(), 1, -1)])


def openmp_version():
    """The OpenMP standard that the package was compiled with, as yyyymm; 0 without OpenMP."""
    return OPENMP_VERSION
