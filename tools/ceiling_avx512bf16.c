/*
 * ceiling_avx512bf16.c - rate of bf16 dot products into f32 (vdpbf16ps).
 *
 * Place: program, bench; compiled for its own instruction set, run only where dsv4_cpu_level has
 * it.
 */
#include "ceiling.h"

#include <immintrin.h>

float dsv4_ceiling_flop_avx512bf16(int64_t n_rounds, const float *seeds)
{
    const __m512 wide_a = _mm512_set1_ps(seeds[0]), wide_b = _mm512_set1_ps(seeds[1]);
    const __m512bh a = _mm512_cvtne2ps_pbh(wide_a, wide_a);
    const __m512bh b = _mm512_cvtne2ps_pbh(wide_b, wide_b);
    __m512 s0 = _mm512_set1_ps(seeds[0]), s1 = _mm512_set1_ps(seeds[1]),
           s2 = _mm512_set1_ps(seeds[2]), s3 = _mm512_set1_ps(seeds[3]),
           s4 = _mm512_set1_ps(seeds[4]), s5 = _mm512_set1_ps(seeds[5]),
           s6 = _mm512_set1_ps(seeds[6]), s7 = _mm512_set1_ps(seeds[7]),
           s8 = _mm512_set1_ps(seeds[8]), s9 = _mm512_set1_ps(seeds[9]),
           s10 = _mm512_set1_ps(seeds[10]), s11 = _mm512_set1_ps(seeds[11]);
    for (int64_t i = 0; i < n_rounds; i++) {
        s0 = _mm512_dpbf16_ps(s0, a, b);
        s1 = _mm512_dpbf16_ps(s1, a, b);
        s2 = _mm512_dpbf16_ps(s2, a, b);
        s3 = _mm512_dpbf16_ps(s3, a, b);
        s4 = _mm512_dpbf16_ps(s4, a, b);
        s5 = _mm512_dpbf16_ps(s5, a, b);
        s6 = _mm512_dpbf16_ps(s6, a, b);
        s7 = _mm512_dpbf16_ps(s7, a, b);
        s8 = _mm512_dpbf16_ps(s8, a, b);
        s9 = _mm512_dpbf16_ps(s9, a, b);
        s10 = _mm512_dpbf16_ps(s10, a, b);
        s11 = _mm512_dpbf16_ps(s11, a, b);
    }
    __m512 sum =
        _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)),
                                    _mm512_add_ps(_mm512_add_ps(s4, s5), _mm512_add_ps(s6, s7))),
                      _mm512_add_ps(_mm512_add_ps(s8, s9), _mm512_add_ps(s10, s11)));
    return _mm512_reduce_add_ps(sum);
}
