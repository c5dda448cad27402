/*
 * ceiling_avx2.c - multiply-add and read rates of AVX2 with FMA.
 *
 * Place: program, bench; compiled for its own instruction set, run only where dsv4_cpu_level has
 * it.
 */
#include "ceiling.h"

#include <immintrin.h>

float dsv4_ceiling_flop_avx2(int64_t n_rounds, const float *seeds)
{
    const __m256 a = _mm256_set1_ps(seeds[0]), b = _mm256_set1_ps(seeds[1]);
    __m256 s0 = _mm256_set1_ps(seeds[0]), s1 = _mm256_set1_ps(seeds[1]),
           s2 = _mm256_set1_ps(seeds[2]), s3 = _mm256_set1_ps(seeds[3]),
           s4 = _mm256_set1_ps(seeds[4]), s5 = _mm256_set1_ps(seeds[5]),
           s6 = _mm256_set1_ps(seeds[6]), s7 = _mm256_set1_ps(seeds[7]),
           s8 = _mm256_set1_ps(seeds[8]), s9 = _mm256_set1_ps(seeds[9]),
           s10 = _mm256_set1_ps(seeds[10]), s11 = _mm256_set1_ps(seeds[11]);
    for (int64_t i = 0; i < n_rounds; i++) {
        s0 = _mm256_fmadd_ps(s0, a, b);
        s1 = _mm256_fmadd_ps(s1, a, b);
        s2 = _mm256_fmadd_ps(s2, a, b);
        s3 = _mm256_fmadd_ps(s3, a, b);
        s4 = _mm256_fmadd_ps(s4, a, b);
        s5 = _mm256_fmadd_ps(s5, a, b);
        s6 = _mm256_fmadd_ps(s6, a, b);
        s7 = _mm256_fmadd_ps(s7, a, b);
        s8 = _mm256_fmadd_ps(s8, a, b);
        s9 = _mm256_fmadd_ps(s9, a, b);
        s10 = _mm256_fmadd_ps(s10, a, b);
        s11 = _mm256_fmadd_ps(s11, a, b);
    }
    __m256 sum =
        _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3)),
                                    _mm256_add_ps(_mm256_add_ps(s4, s5), _mm256_add_ps(s6, s7))),
                      _mm256_add_ps(_mm256_add_ps(s8, s9), _mm256_add_ps(s10, s11)));
    return _mm256_cvtss_f32(sum);
}

uint64_t dsv4_ceiling_read_avx2(const void *bytes, size_t len_bytes)
{
    const __m256i *at = bytes, *end = at + len_bytes / sizeof *at;
    __m256i s0 = _mm256_setzero_si256(), s1 = _mm256_setzero_si256(), s2 = _mm256_setzero_si256(),
            s3 = _mm256_setzero_si256(), s4 = _mm256_setzero_si256(), s5 = _mm256_setzero_si256(),
            s6 = _mm256_setzero_si256(), s7 = _mm256_setzero_si256();
    for (; at != end; at += 8) {
        s0 = _mm256_add_epi64(s0, _mm256_load_si256(at + 0));
        s1 = _mm256_add_epi64(s1, _mm256_load_si256(at + 1));
        s2 = _mm256_add_epi64(s2, _mm256_load_si256(at + 2));
        s3 = _mm256_add_epi64(s3, _mm256_load_si256(at + 3));
        s4 = _mm256_add_epi64(s4, _mm256_load_si256(at + 4));
        s5 = _mm256_add_epi64(s5, _mm256_load_si256(at + 5));
        s6 = _mm256_add_epi64(s6, _mm256_load_si256(at + 6));
        s7 = _mm256_add_epi64(s7, _mm256_load_si256(at + 7));
    }
    __m256i sum =
        _mm256_add_epi64(_mm256_add_epi64(_mm256_add_epi64(s0, s1), _mm256_add_epi64(s2, s3)),
                         _mm256_add_epi64(_mm256_add_epi64(s4, s5), _mm256_add_epi64(s6, s7)));
    uint64_t parts[4];
    _mm256_storeu_si256((__m256i *)parts, sum);
    return parts[0] + parts[1] + parts[2] + parts[3];
}
