/*
 * ceiling_avx512.c - multiply-add and read rates of AVX-512 in f32.
 *
 * Place: program, bench; compiled for its own instruction set, run only where dsv4_cpu_level has
 * it.
 */
#include "ceiling.h"

#include <immintrin.h>

float dsv4_ceiling_flop_avx512(int64_t n_rounds, const float *seeds)
{
    const __m512 a = _mm512_set1_ps(seeds[0]), b = _mm512_set1_ps(seeds[1]);
    __m512 s0 = _mm512_set1_ps(seeds[0]), s1 = _mm512_set1_ps(seeds[1]),
           s2 = _mm512_set1_ps(seeds[2]), s3 = _mm512_set1_ps(seeds[3]),
           s4 = _mm512_set1_ps(seeds[4]), s5 = _mm512_set1_ps(seeds[5]),
           s6 = _mm512_set1_ps(seeds[6]), s7 = _mm512_set1_ps(seeds[7]),
           s8 = _mm512_set1_ps(seeds[8]), s9 = _mm512_set1_ps(seeds[9]),
           s10 = _mm512_set1_ps(seeds[10]), s11 = _mm512_set1_ps(seeds[11]);
    for (int64_t i = 0; i < n_rounds; i++) {
        s0 = _mm512_fmadd_ps(s0, a, b);
        s1 = _mm512_fmadd_ps(s1, a, b);
        s2 = _mm512_fmadd_ps(s2, a, b);
        s3 = _mm512_fmadd_ps(s3, a, b);
        s4 = _mm512_fmadd_ps(s4, a, b);
        s5 = _mm512_fmadd_ps(s5, a, b);
        s6 = _mm512_fmadd_ps(s6, a, b);
        s7 = _mm512_fmadd_ps(s7, a, b);
        s8 = _mm512_fmadd_ps(s8, a, b);
        s9 = _mm512_fmadd_ps(s9, a, b);
        s10 = _mm512_fmadd_ps(s10, a, b);
        s11 = _mm512_fmadd_ps(s11, a, b);
    }
    __m512 sum =
        _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)),
                                    _mm512_add_ps(_mm512_add_ps(s4, s5), _mm512_add_ps(s6, s7))),
                      _mm512_add_ps(_mm512_add_ps(s8, s9), _mm512_add_ps(s10, s11)));
    return _mm512_reduce_add_ps(sum);
}

uint64_t dsv4_ceiling_read_avx512(const void *bytes, size_t len_bytes)
{
    const __m512i *at = bytes, *end = at + len_bytes / sizeof *at;
    __m512i s0 = _mm512_setzero_si512(), s1 = _mm512_setzero_si512(), s2 = _mm512_setzero_si512(),
            s3 = _mm512_setzero_si512(), s4 = _mm512_setzero_si512(), s5 = _mm512_setzero_si512(),
            s6 = _mm512_setzero_si512(), s7 = _mm512_setzero_si512();
    for (; at != end; at += 8) {
        s0 = _mm512_add_epi64(s0, _mm512_load_si512(at + 0));
        s1 = _mm512_add_epi64(s1, _mm512_load_si512(at + 1));
        s2 = _mm512_add_epi64(s2, _mm512_load_si512(at + 2));
        s3 = _mm512_add_epi64(s3, _mm512_load_si512(at + 3));
        s4 = _mm512_add_epi64(s4, _mm512_load_si512(at + 4));
        s5 = _mm512_add_epi64(s5, _mm512_load_si512(at + 5));
        s6 = _mm512_add_epi64(s6, _mm512_load_si512(at + 6));
        s7 = _mm512_add_epi64(s7, _mm512_load_si512(at + 7));
    }
    __m512i sum =
        _mm512_add_epi64(_mm512_add_epi64(_mm512_add_epi64(s0, s1), _mm512_add_epi64(s2, s3)),
                         _mm512_add_epi64(_mm512_add_epi64(s4, s5), _mm512_add_epi64(s6, s7)));
    /* Not _mm512_reduce_add_epi64, which adds signed numbers: this sum may wrap. */
    uint64_t lanes[8], total = 0;
    _mm512_storeu_si512(lanes, sum);
    for (int i = 0; i < 8; i++) total += lanes[i];
    return total;
}
