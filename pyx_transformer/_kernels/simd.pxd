"""What simd.h defines: see there. Vectors are declared as floats so that + - * / are allowed."""

cdef extern from "simd.h" nogil:
    ctypedef float vf
    ctypedef double vd

    const char* ISA_NAME
    enum:
        VF          # floats in a vector
        LANES       # that a sum along a row goes over, whatever VF is
        PARTS       # vectors of floats that hold them
        TILE_ROWS   # rows of the largest tile that the registers hold

    void prefetch(const float* p)
    void prefetch_second(const float* p)
    void pin(vf x)
    vf load(const float* p)
    void store(float* p, vf v)
    vf fill(float x)
    vf fused(vf a, vf b, vf c)
    vd fused_doubles(vd a, vd b, vd c)
    vf load_part(const float* p, Py_ssize_t count, float rest)
    void store_part(float* p, Py_ssize_t count, vf v)
    vf load_bytes(const unsigned char* p, Py_ssize_t count)
    vd load_doubles(const float* p)
    vd load_doubles_part(const float* p, Py_ssize_t count, double rest)
    void store_doubles(float* p, vd v)
    vd fill_double(double x)

    vf maximum(vf a, vf b)
    vf minimum(vf a, vf b)
    vf square_root(vf v)
    vf select_less(vf a, vf b, vf x, vf y)
    float sum_lanes(vf v)
    float tree_sum(vf* parts)
    double tree_sum_doubles(vd* parts)
    float maximum_lane(vf v)
    vf interleave_low(vf a, vf b)
    vf interleave_high(vf a, vf b)
    vf even_lanes(vf a, vf b)
    vf odd_lanes(vf a, vf b)
    void transpose_lanes(vf* rows)
    vf power_of_two(vf t)
    vf lanes_from(float first)
    vf uniform(unsigned long long seed, unsigned long long counter)
