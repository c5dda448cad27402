/*
 * ceiling_v2.c - multiply-add and read rates of SSE, where multiply and add are two instructions.
 *
 * Place: program, bench; compiled for its own instruction set, run only where dsv4_cpu_level has
 * it.
 */
#include "ceiling.h"

#include <immintrin.h>

float dsv4_ceiling_flop_v2(int64_t n_rounds, const float *seeds)
{
    const __m128 a = _mm_set1_ps(seeds[0]), b = _mm_set1_ps(seeds[1]);
    __m128 p0 = _mm_set1_ps(seeds[0]), p1 = _mm_set1_ps(seeds[1]), p2 = _mm_set1_ps(seeds[2]),
           p3 = _mm_set1_ps(seeds[3]), p4 = _mm_set1_ps(seeds[4]), p5 = _mm_set1_ps(seeds[5]);
    __m128 s0 = _mm_set1_ps(seeds[6]), s1 = _mm_set1_ps(seeds[7]), s2 = _mm_set1_ps(seeds[8]),
           s3 = _mm_set1_ps(seeds[9]), s4 = _mm_set1_ps(seeds[10]), s5 = _mm_set1_ps(seeds[11]);
    for (int64_t i = 0; i < n_rounds; i++) {
        p0 = _mm_mul_ps(p0, a);
        s0 = _mm_add_ps(s0, b);
        p1 = _mm_mul_ps(p1, a);
        s1 = _mm_add_ps(s1, b);
        p2 = _mm_mul_ps(p2, a);
        s2 = _mm_add_ps(s2, b);
        p3 = _mm_mul_ps(p3, a);
        s3 = _mm_add_ps(s3, b);
        p4 = _mm_mul_ps(p4, a);
        s4 = _mm_add_ps(s4, b);
        p5 = _mm_mul_ps(p5, a);
        s5 = _mm_add_ps(s5, b);
    }
    __m128 sum = _mm_add_ps(_mm_add_ps(_mm_add_ps(_mm_add_ps(p0, p1), _mm_add_ps(p2, p3)),
                                       _mm_add_ps(_mm_add_ps(p4, p5), _mm_add_ps(s0, s1))),
                            _mm_add_ps(_mm_add_ps(s2, s3), _mm_add_ps(s4, s5)));
    return _mm_cvtss_f32(sum);
}

uint64_t dsv4_ceiling_read_v2(const void *bytes, size_t len_bytes)
{
    const __m128i *at = bytes, *end = at + len_bytes / sizeof *at;
    __m128i s0 = _mm_setzero_si128(), s1 = _mm_setzero_si128(), s2 = _mm_setzero_si128(),
            s3 = _mm_setzero_si128(), s4 = _mm_setzero_si128(), s5 = _mm_setzero_si128(),
            s6 = _mm_setzero_si128(), s7 = _mm_setzero_si128();
    for (; at != end; at += 8) {
        s0 = _mm_add_epi64(s0, _mm_load_si128(at + 0));
        s1 = _mm_add_epi64(s1, _mm_load_si128(at + 1));
        s2 = _mm_add_epi64(s2, _mm_load_si128(at + 2));
        s3 = _mm_add_epi64(s3, _mm_load_si128(at + 3));
        s4 = _mm_add_epi64(s4, _mm_load_si128(at + 4));
        s5 = _mm_add_epi64(s5, _mm_load_si128(at + 5));
        s6 = _mm_add_epi64(s6, _mm_load_si128(at + 6));
        s7 = _mm_add_epi64(s7, _mm_load_si128(at + 7));
    }
    __m128i sum = _mm_add_epi64(_mm_add_epi64(_mm_add_epi64(s0, s1), _mm_add_epi64(s2, s3)),
                                _mm_add_epi64(_mm_add_epi64(s4, s5), _mm_add_epi64(s6, s7)));
    return (uint64_t)_mm_cvtsi128_si64(sum) + (uint64_t)_mm_extract_epi64(sum, 1);
}
