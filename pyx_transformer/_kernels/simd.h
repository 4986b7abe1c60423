/* The one file that knows the instruction set.
 *
 * vf is a vector of VF floats, vd one of VF / 2 doubles, vi one of VF ints. They are compiler
 * vector types, so + - * / work on them. Everything here is chosen by the flags that the including
 * module is compiled with; nothing is detected at run time.
 *
 * Every set that has a fused multiply-add computes the same bits. Only `fused` fuses: the flags
 * forbid it to the compiler. A sum along a row goes over LANES lanes, in PARTS vectors of floats or
 * twice as many of doubles: value i is added in lane i % LANES, and `tree_sum` adds up the lanes.
 */
#ifndef PYX_TRANSFORMER_SIMD_H
#define PYX_TRANSFORMER_SIMD_H

#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include <immintrin.h>
#define ISA_NAME "x86-64-v4"
#define VF 16
#define TILE_ROWS 14 /* 14 x 2 accumulators, 2 weights and 1 broadcast of 32 registers */
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define ISA_NAME "x86-64-v3"
#define VF 8
#define TILE_ROWS 6 /* 6 x 2 accumulators, 2 weights and 1 broadcast of 16 registers */
#elif defined(__SSE4_1__)
#include <immintrin.h>
#define ISA_NAME "x86-64-v2"
#define VF 4
#define TILE_ROWS 6
#elif defined(__aarch64__)
#include <arm_neon.h>
#define ISA_NAME "neon"
#define VF 4
#define TILE_ROWS 14
#else
#error "pyx_transformer needs x86-64-v2 or 64-bit Arm: compile this module with its own flags"
#endif

/* f(rows, ...) with the number of rows, 1 to TILE_ROWS, as a constant: each is compiled by itself. */
#define ROWS_CASE(r, f, ...) case r: f(r, __VA_ARGS__); break;
#if TILE_ROWS == 14
#define LAST_CASES(f, ...) \
    ROWS_CASE(7, f, __VA_ARGS__) ROWS_CASE(8, f, __VA_ARGS__) ROWS_CASE(9, f, __VA_ARGS__) \
    ROWS_CASE(10, f, __VA_ARGS__) ROWS_CASE(11, f, __VA_ARGS__) ROWS_CASE(12, f, __VA_ARGS__) \
    ROWS_CASE(13, f, __VA_ARGS__) ROWS_CASE(14, f, __VA_ARGS__)
#else
#define LAST_CASES(f, ...)
#endif
#define with_constant_rows(f, rows, ...) \
    switch (rows) { \
        ROWS_CASE(1, f, __VA_ARGS__) ROWS_CASE(2, f, __VA_ARGS__) ROWS_CASE(3, f, __VA_ARGS__) \
        ROWS_CASE(4, f, __VA_ARGS__) ROWS_CASE(5, f, __VA_ARGS__) ROWS_CASE(6, f, __VA_ARGS__) \
        LAST_CASES(f, __VA_ARGS__) \
    }

/* A function as it is compiled by itself, called through an address that the compiler does not
 * know. All others are inlined wherever they are called, which would be many times for what threads
 * share out (bench/results/compile.md); and inlined into a long function, GCC 12 keeps sums of a
 * tile in memory: attention took 1.8 times as long (AVX-512). */
#define apart(function) ({ \
    __typeof__(function) *address = function; \
    __asm__("" : "+r"(address)); \
    address; \
})

#define LANES 32 /* two vectors of the widest set */
#define PARTS (LANES / VF)

typedef float vf __attribute__((vector_size(VF * 4)));
typedef int vi __attribute__((vector_size(VF * 4)));
typedef unsigned vu __attribute__((vector_size(VF * 4)));
typedef double vd __attribute__((vector_size(VF * 4)));
typedef float half_vf __attribute__((vector_size(VF * 2)));
typedef float unaligned_vf __attribute__((vector_size(VF * 4), aligned(4), may_alias));
typedef float unaligned_half_vf __attribute__((vector_size(VF * 2), aligned(4), may_alias));

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

/* Keeps x in a register: without it the compiler reloads the weights for every row of a tile. */
#if defined(__aarch64__)
#define pin(x) __asm__("" : "+w"(x))
#elif VF == 16
#define pin(x) __asm__("" : "+v"(x))
#else
#define pin(x) __asm__("" : "+x"(x))
#endif

/* Starts fetching the cache line at p, which may lie past the array: then nothing happens. */
#define prefetch(p) __builtin_prefetch(p)
/* The same, into the second-level cache. */
#define prefetch_second(p) __builtin_prefetch(p, 0, 2)

static inline vf load(const float *p) { return *(const unaligned_vf *)p; }
static inline void store(float *p, vf v) { *(unaligned_vf *)p = v; }
static inline vf fill(float x) { return x - (vf){0}; }
static inline vd fill_double(double x) { return x - (vd){0}; }

/* a b + c, rounded once; twice on x86-64-v2, which has no such instruction. */
#if VF == 16
static inline vf fused(vf a, vf b, vf c) {
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
static inline vd fused_doubles(vd a, vd b, vd c) {
    return (vd)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
#elif VF == 8
static inline vf fused(vf a, vf b, vf c) {
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
static inline vd fused_doubles(vd a, vd b, vd c) {
    return (vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#elif defined(__aarch64__)
static inline vf fused(vf a, vf b, vf c) {
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
static inline vd fused_doubles(vd a, vd b, vd c) {
    return (vd)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#else
static inline vf fused(vf a, vf b, vf c) { return a * b + c; }
static inline vd fused_doubles(vd a, vd b, vd c) { return a * b + c; }
#endif

/* load_part: the first `count` floats at p, from 0 to VF, and `rest` in the other lanes. store_part:
 * the first `count` lanes. Neither touches anything past them. Masks keep a part in one instruction;
 * a part that goes through memory stalls the load of the whole vector behind it. */
#if VF == 16
static inline vf load_part(const float *p, Py_ssize_t count, float rest) {
    return (vf)_mm512_mask_loadu_ps((__m512)fill(rest), (__mmask16)((1u << count) - 1), p);
}
static inline void store_part(float *p, Py_ssize_t count, vf v) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
}
#elif VF == 8
static inline __m256i first_lanes(Py_ssize_t count) {
    __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lanes);
}
static inline vf load_part(const float *p, Py_ssize_t count, float rest) {
    if (count == VF) return load(p);
    __m256i mask = first_lanes(count);
    __m256 v = _mm256_maskload_ps(p, mask);
    return (vf)_mm256_blendv_ps((__m256)fill(rest), v, (__m256)mask);
}
static inline void store_part(float *p, Py_ssize_t count, vf v) {
    if (count == VF)
        store(p, v);
    else
        _mm256_maskstore_ps(p, first_lanes(count), (__m256)v);
}
#else
static inline vf load_part(const float *p, Py_ssize_t count, float rest) {
    if (count == VF) return load(p);
    vf v = fill(rest);
    memcpy(&v, p, (size_t)count * sizeof(float));
    return v;
}
static inline void store_part(float *p, Py_ssize_t count, vf v) {
    if (count == VF)
        store(p, v);
    else
        memcpy(p, &v, (size_t)count * sizeof(float));
}
#endif

/* In one instruction: GCC 12 makes four of __builtin_convertvector. The `rest` of a part is as of
 * load_part. */
static inline vd load_doubles(const float *p) {
#if VF == 16
    return (vd)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif VF == 8
    return (vd)_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    return __builtin_convertvector(*(const unaligned_half_vf *)p, vd);
#endif
}
static inline vd load_doubles_part(const float *p, Py_ssize_t count, double rest) {
#if VF == 16
    __mmask8 mask = (__mmask8)((1u << count) - 1);
    return (vd)_mm512_mask_cvtps_pd((__m512d)fill_double(rest), mask,
                                    _mm256_maskz_loadu_ps(mask, p));
#elif VF == 8
    __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32((int)count), _mm_setr_epi32(0, 1, 2, 3));
    return (vd)_mm256_blendv_pd((__m256d)fill_double(rest),
                                _mm256_cvtps_pd(_mm_maskload_ps(p, mask)),
                                (__m256d)_mm256_cvtepi32_epi64(mask));
#else
    vd v = fill_double(rest);
    if (count > 0) v[0] = p[0];
    if (count > 1) v[1] = p[1];
    return v;
#endif
}
static inline void store_doubles(float *p, vd v) {
    *(unaligned_half_vf *)p = __builtin_convertvector(v, half_vf);
}

static inline vf square_root(vf v) {
    for (int i = 0; i < VF; i++) v[i] = __builtin_sqrtf(v[i]);
    return v;
}

/* maximum(a, b) is b where either is NaN; select_less(a, b, x, y) is x where a < b, else y. */
#if VF == 16
static inline vf maximum(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
static inline vf minimum(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
static inline vf select_less(vf a, vf b, vf x, vf y) {
    __mmask16 less = _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
    return (vf)_mm512_mask_blend_ps(less, (__m512)y, (__m512)x);
}
#elif VF == 8
static inline vf maximum(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
static inline vf minimum(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
static inline vf select_less(vf a, vf b, vf x, vf y) {
    return (vf)_mm256_blendv_ps((__m256)y, (__m256)x, (__m256)(a < b));
}
#elif defined(__aarch64__)
static inline vf select_less(vf a, vf b, vf x, vf y) {
    return (vf)vbslq_f32((uint32x4_t)(a < b), (float32x4_t)x, (float32x4_t)y);
}
static inline vf maximum(vf a, vf b) { return select_less(b, a, a, b); }
static inline vf minimum(vf a, vf b) { return select_less(a, b, a, b); }
#else
static inline vf maximum(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
static inline vf minimum(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
static inline vf select_less(vf a, vf b, vf x, vf y) {
    return (vf)_mm_blendv_ps((__m128)y, (__m128)x, (__m128)(a < b));
}
#endif

/* interleave_low: a0 b0 a1 b1 ... of the lower halves; interleave_high: of the upper halves.
 * even_lanes: a0 a2 ... b0 b2 ...; odd_lanes: a1 a3 ... b1 b3 ...; what was interleaved comes apart.
 * ROTATE(v, s) turns v by s places. */
#if VF == 16
static inline vf interleave_low(vf a, vf b) {
    return SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
static inline vf interleave_high(vf a, vf b) {
    return SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
static inline vf even_lanes(vf a, vf b) {
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
static inline vf odd_lanes(vf a, vf b) {
    return SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
#define ROTATE(v, s) \
    SHUFFLE(v, v, s, s + 1, s + 2, s + 3, s + 4, s + 5, s + 6, s + 7, s + 8, s + 9, s + 10, \
            s + 11, s + 12, s + 13, s + 14, s + 15)
static inline vi lane_numbers(void) {
    return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}
#elif VF == 8
static inline vf interleave_low(vf a, vf b) { return SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
static inline vf interleave_high(vf a, vf b) { return SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
static inline vf even_lanes(vf a, vf b) { return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
static inline vf odd_lanes(vf a, vf b) { return SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
#define ROTATE(v, s) SHUFFLE(v, v, s, s + 1, s + 2, s + 3, s + 4, s + 5, s + 6, s + 7)
static inline vi lane_numbers(void) { return (vi){0, 1, 2, 3, 4, 5, 6, 7}; }
#else
static inline vf interleave_low(vf a, vf b) { return SHUFFLE(a, b, 0, 4, 1, 5); }
static inline vf interleave_high(vf a, vf b) { return SHUFFLE(a, b, 2, 6, 3, 7); }
static inline vf even_lanes(vf a, vf b) { return SHUFFLE(a, b, 0, 2, 4, 6); }
static inline vf odd_lanes(vf a, vf b) { return SHUFFLE(a, b, 1, 3, 5, 7); }
#define ROTATE(v, s) SHUFFLE(v, v, s, s + 1, s + 2, s + 3)
static inline vi lane_numbers(void) { return (vi){0, 1, 2, 3}; }
#endif

static inline float sum_lanes(vf v) {
#if VF >= 16
    v = v + ROTATE(v, 8);
#endif
#if VF >= 8
    v = v + ROTATE(v, 4);
#endif
    v = v + ROTATE(v, 2);
    v = v + ROTATE(v, 1);
    return v[0];
}

/* The sum of all LANES lanes: each of the first half plus its partner in the second, and so on. */
static inline float tree_sum(vf parts[PARTS]) {
    for (int n = PARTS / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) parts[i] = parts[i] + parts[i + n];
    return sum_lanes(parts[0]);
}
static inline double tree_sum_doubles(vd parts[2 * PARTS]) {
    for (int n = PARTS; n > 0; n /= 2)
        for (int i = 0; i < n; i++) parts[i] = parts[i] + parts[i + n];
    vd v = parts[0];
#if VF >= 16
    v = v + (vd)ROTATE((vf)v, 8);
#endif
#if VF >= 8
    v = v + (vd)ROTATE((vf)v, 4);
#endif
    v = v + (vd)ROTATE((vf)v, 2);
    return v[0];
}

static inline float maximum_lane(vf v) {
#if VF >= 16
    v = maximum(v, ROTATE(v, 8));
#endif
#if VF >= 8
    v = maximum(v, ROTATE(v, 4));
#endif
    v = maximum(v, ROTATE(v, 2));
    v = maximum(v, ROTATE(v, 1));
    return v[0];
}

/* VF rows of VF floats become VF columns: each pass of interleaving moves one bit of the index. */
static inline void transpose_lanes(vf rows[VF]) {
    vf next[VF];
    for (int pass = 1; pass < VF; pass *= 2) {
        for (int i = 0; i < VF / 2; i++) {
            next[2 * i] = interleave_low(rows[i], rows[i + VF / 2]);
            next[2 * i + 1] = interleave_high(rows[i], rows[i + VF / 2]);
        }
        for (int i = 0; i < VF; i++) rows[i] = next[i];
    }
}

/* 2^n for the whole number n that t = n + 1.5 * 2^23 holds in its low bits, -126 <= n <= 127. */
static inline vf power_of_two(vf t) { return (vf)((((vi)t) << 23) + 0x3f800000); }

/* Lane numbers as floats, counted from `first`: exact below 2^24 lanes. */
static inline vf lanes_from(float first) {
    return __builtin_convertvector(lane_numbers(), vf) + first;
}

/* Numbers `counter` to `counter` + VF - 1 of the stream `seed`: uniform in [0, 1), 24 bits each. The
 * counter is mixed before it meets the seed: else one seed's numbers would be another's in a
 * different order. In the mixing function each bit of the input turns half of those of the output
 * (constants: Wellons, "lowbias32"). */
static inline vu mix_bits(vu x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}
static inline vf uniform(unsigned long long seed, unsigned long long counter) {
    vu x = (vu)lane_numbers() + (unsigned)counter; /* a multiple of VF: no carry */
    x = mix_bits(mix_bits(x) ^ (unsigned)seed);
    x = mix_bits(x + (unsigned)(seed >> 32) * 0x85ebca6bu);
    x = mix_bits(x + (unsigned)(counter >> 32) * 0x9e3779b9u);
    return __builtin_convertvector((vi)(x >> 8), vf) * 0x1p-24f;
}

/* 1.0 where the byte is set, 0.0 where it is not and past `count`. */
static inline vf load_bytes(const unsigned char *p, Py_ssize_t count) {
    vf v = {0};
    for (Py_ssize_t i = 0; i < count; i++) v[i] = p[i] != 0;
    return v;
}

#endif
