/* Loops that do nothing but multiply-add, and nothing but read, and the seconds that they take.
 *
 * Compiled by limits.py for the instruction set of the kernels in use, with OpenMP where there is
 * one. The sums go into `sink`: without a use of them the compiler leaves out the work.
 */
#include <stddef.h>
#include <time.h>

typedef ptrdiff_t Py_ssize_t; /* of simd.h, without Python */
#include "simd.h"

enum {
    FMA_CHAINS = 12, /* more than the adders' latency times their number, fewer than registers */
    READ_CHAINS = 8,
};

const int vector_width = VF;
const int fma_chains = FMA_CHAINS;
volatile float sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float sum_of(vf v) {
    float total = 0.0f;
    for (int i = 0; i < VF; i++) total += v[i];
    return total;
}

static float fma_run(ptrdiff_t steps) {
    vf chains[FMA_CHAINS], total = fill(0.0f), factor = fill(0.999f);
    __asm__ volatile(""); /* every call is made: what it gives is the same each time */
    for (int c = 0; c < FMA_CHAINS; c++) chains[c] = fill((float)c);
    for (ptrdiff_t i = 0; i < steps; i++) {
        for (int c = 0; c < FMA_CHAINS; c++) {
            vf next = factor + factor * chains[c];
            pin(next);
            chains[c] = next;
        }
    }
    for (int c = 0; c < FMA_CHAINS; c++) total = total + chains[c];
    return sum_of(total);
}

static float read_run(const float *x, ptrdiff_t n) {
    vf chains[READ_CHAINS], total = fill(0.0f);
    for (int c = 0; c < READ_CHAINS; c++) chains[c] = fill(0.0f);
    for (ptrdiff_t i = 0; i + READ_CHAINS * VF <= n; i += READ_CHAINS * VF) {
        for (int c = 0; c < READ_CHAINS; c++) chains[c] = chains[c] + load(x + i + c * VF);
    }
    for (int c = 0; c < READ_CHAINS; c++) total = total + chains[c];
    return sum_of(total);
}

/* Seconds of `steps` fused multiply-adds of each chain, on every thread. */
double fma_seconds(ptrdiff_t steps, int n_threads) {
    float total = 0.0f;
    double start = now();
#pragma omp parallel for num_threads(n_threads) schedule(static, 1) reduction(+ : total)
    for (int part = 0; part < n_threads; part++) total += fma_run(steps);
    double elapsed = now() - start;
    sink = total;
    return elapsed;
}

/* Seconds of one pass of reading x (n). */
double read_seconds(const float *x, ptrdiff_t n, int n_threads) {
    float total = 0.0f;
    double start = now();
#pragma omp parallel for num_threads(n_threads) schedule(static, 1) reduction(+ : total)
    for (int part = 0; part < n_threads; part++) {
        ptrdiff_t begin = n * part / n_threads, end = n * (part + 1) / n_threads;
        total += read_run(x + begin, end - begin);
    }
    double elapsed = now() - start;
    sink = total;
    return elapsed;
}
