/*
 * vec_avx512bf16.h - e4m3 codes to bf16 with byte tables (AVX-512 BW and VBMI).
 *
 * Place: cpu. The bf16 of an e4m3 code is two bytes, each looked up by the code's seven magnitude
 * bits. A power of two is then added to the exponent of whatever is neither zero nor NaN: the
 * tables mark those in bit 0, which e4m3 leaves free in bf16, and the sum takes the mark away.
 */
#ifndef DSV4_CPU_VEC_AVX512BF16_H
#define DSV4_CPU_VEC_AVX512BF16_H

#include <immintrin.h>
#include <stdint.h>

#include "base/compiler.h"

/* Scale bytes under which every nonzero e4m3 value is a normal, finite bf16. */
#define DSV4_E4M3_LEAST_PLAIN_SCALE 10
#define DSV4_E4M3_MOST_PLAIN_SCALE  246

/* Marked bits of the code with exponent field e > 0 and mantissa m; the last code is NaN. */
#define E4M3_BITS(e, m) ((e) == 15 && (m) == 7 ? 0x7fc0 : 0x3c01 + (e)*128 + (m)*16)
#define E4M3_HIGH(e)                                                                               \
    E4M3_BITS(e, 0) >> 8, E4M3_BITS(e, 1) >> 8, E4M3_BITS(e, 2) >> 8, E4M3_BITS(e, 3) >> 8,        \
        E4M3_BITS(e, 4) >> 8, E4M3_BITS(e, 5) >> 8, E4M3_BITS(e, 6) >> 8, E4M3_BITS(e, 7) >> 8
#define E4M3_LOW(e)                                                                                \
    E4M3_BITS(e, 0) & 255, E4M3_BITS(e, 1) & 255, E4M3_BITS(e, 2) & 255, E4M3_BITS(e, 3) & 255,    \
        E4M3_BITS(e, 4) & 255, E4M3_BITS(e, 5) & 255, E4M3_BITS(e, 6) & 255, E4M3_BITS(e, 7) & 255
#define E4M3_NORMALS(bytes)                                                                        \
    bytes(1), bytes(2), bytes(3), bytes(4), bytes(5), bytes(6), bytes(7), bytes(8), bytes(9),      \
        bytes(10), bytes(11), bytes(12), bytes(13), bytes(14), bytes(15)

/* High and low byte for each magnitude; first the subnormals 0 .. 7 times 2^-9. */
static const uint8_t e4m3_high_bytes[128] = {
    0x00, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, E4M3_NORMALS(E4M3_HIGH)};
static const uint8_t e4m3_low_bytes[128] = {
    0x00, 0x01, 0x81, 0xc1, 0x01, 0x21, 0x41, 0x61, E4M3_NORMALS(E4M3_LOW)};

/*
 * 64 codes to bf16, in order: 32 in values[0], 32 in values[1]. shift, in each 16-bit word, is what a plain
 * scale adds to marked bits: (scale - 127) * 128 - 1.
 */
static DSV4_ALWAYS_INLINE void e4m3_to_bf16(const uint8_t *codes, __m512i shift, __m512i values[2])
{
    const __m512i unpack_order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i sign = _mm512_set1_epi8((char)0x80), mark = _mm512_set1_epi16(1);
    __m512i ordered = _mm512_permutexvar_epi64(unpack_order, _mm512_loadu_si512(codes));
    __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(e4m3_high_bytes), ordered,
                                            _mm512_loadu_si512(e4m3_high_bytes + 64));
    __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(e4m3_low_bytes), ordered,
                                           _mm512_loadu_si512(e4m3_low_bytes + 64));
    high = _mm512_or_si512(high, _mm512_and_si512(ordered, sign));
    __m512i first = _mm512_unpacklo_epi8(low, high), second = _mm512_unpackhi_epi8(low, high);
    values[0] = _mm512_mask_add_epi16(first, _mm512_test_epi16_mask(first, mark), first, shift);
    values[1] = _mm512_mask_add_epi16(second, _mm512_test_epi16_mask(second, mark), second, shift);
}

#endif
