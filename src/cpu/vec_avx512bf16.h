/*
 * vec_avx512bf16.h - e4m3 codes to bf16 with byte tables (AVX-512 BW and VBMI).
 *
 * Place: cpu. The bf16 of an e4m3 code is two bytes, each looked up by the code's seven magnitude bits in
 * the tables of its scale.
 */
#ifndef DSV4_CPU_VEC_AVX512BF16_H
#define DSV4_CPU_VEC_AVX512BF16_H

#include <immintrin.h>
#include <stdint.h>

#include "base/compiler.h"
#include "bf16_tables.h"

/* Scale bytes under which every nonzero e4m3 value is a normal, finite bf16; e2m1 has a wider range. */
#define DSV4_E4M3_LEAST_PLAIN_SCALE 10
#define DSV4_E4M3_MOST_PLAIN_SCALE  246
#define DSV4_E2M1_LEAST_PLAIN_SCALE 2
#define DSV4_E2M1_MOST_PLAIN_SCALE  252

/* 64 codes to bf16, for a plain scale. Of each 16 codes the first 8 go to values[0], the others to
 * values[1]. */
static DSV4_ALWAYS_INLINE void e4m3_to_bf16(__m512i codes, uint8_t scale, __m512i values[2])
{
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    const uint8_t *table = dsv4_e4m3_bytes[scale];
    __m512i high =
        _mm512_permutex2var_epi8(_mm512_loadu_si512(table), codes, _mm512_loadu_si512(table + 64));
    __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), codes,
                                           _mm512_loadu_si512(table + 192));
    high = _mm512_or_si512(high, _mm512_and_si512(codes, sign));
    values[0] = _mm512_unpacklo_epi8(low, high);
    values[1] = _mm512_unpackhi_epi8(low, high);
}

#endif
