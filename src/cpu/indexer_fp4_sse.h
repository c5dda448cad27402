/*
 * indexer_fp4_sse.h - one FP4 key to 128 f32 with SSE4 shuffles.
 *
 * Place: cpu, for levels without wider tables (v2, avx2). A code's bf16, the upper half of its f32, has two
 * bytes, each looked up by the code.
 */
#ifndef DSV4_CPU_INDEXER_FP4_SSE_H
#define DSV4_CPU_INDEXER_FP4_SSE_H

#include <smmintrin.h>

#include "base/compiler.h"
#include "indexer_kernels.h"
#include "num/ue8m0.h"

/* 16 codes, one per byte. */
static DSV4_ALWAYS_INLINE void store_codes(__m128i codes, __m128 factor, float *values)
{
    const __m128i high_bytes =
        _mm_setr_epi8(0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, (char)0x80, (char)0xbf,
                      (char)0xbf, (char)0xbf, (char)0xc0, (char)0xc0, (char)0xc0, (char)0xc0);
    const __m128i low_bytes = _mm_set1_epi64x((long long)0xc0804000c0800000u);
    __m128i high = _mm_shuffle_epi8(high_bytes, codes);
    __m128i low = _mm_shuffle_epi8(low_bytes, codes);
    __m128i halves[2] = {_mm_unpacklo_epi8(low, high), _mm_unpackhi_epi8(low, high)};
    for (int i = 0; i < 2; i++) {
        __m128i first = _mm_unpacklo_epi16(_mm_setzero_si128(), halves[i]);
        __m128i second = _mm_unpackhi_epi16(_mm_setzero_si128(), halves[i]);
        _mm_storeu_ps(values + 8 * i, _mm_mul_ps(_mm_castsi128_ps(first), factor));
        _mm_storeu_ps(values + 8 * i + 4, _mm_mul_ps(_mm_castsi128_ps(second), factor));
    }
}

static DSV4_ALWAYS_INLINE void load_fp4(const unsigned char *row, float *key)
{
    const __m128i low_bits = _mm_set1_epi8(0x0f);
    for (int g = 0; g < DSV4_INDEXER_DIM / DSV4_INDEXER_FP4_GROUP; g++) {
        __m128 factor = _mm_set1_ps(dsv4_ue8m0_to_f32(row[DSV4_INDEXER_FP4_BYTES + g]));
        __m128i pairs = _mm_loadu_si128((const __m128i *)(const void *)(row + 16 * g));
        __m128i even = _mm_and_si128(pairs, low_bits);
        __m128i odd = _mm_and_si128(_mm_srli_epi16(pairs, 4), low_bits);
        float *values = key + g * DSV4_INDEXER_FP4_GROUP;
        store_codes(_mm_unpacklo_epi8(even, odd), factor, values);
        store_codes(_mm_unpackhi_epi8(even, odd), factor, values + 16);
    }
}

#endif
