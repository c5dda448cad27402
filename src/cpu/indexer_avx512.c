/*
 * indexer_avx512.c - index scores at the avx512 level, f32 products.
 *
 * Place: cpu. Compiled with this level's instruction set; see indexer_tmpl.h.
 */
#include "vec_avx512.h"

#include "base/compiler.h"
#include "indexer_kernels.h"
#include "num/e2m1.h"

#define IX_HEAD_VECS 4
#define IX_KEYS      6
#define IX_STEP_DIMS 1

static DSV4_ALWAYS_INLINE void load_fp4(const unsigned char *row, float *key)
{
    const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second_half = _mm512_set1_epi32(8);
    const vf table = vf_load(dsv4_e2m1_table);
    DSV4_UNROLL for (int g = 0; g < DSV4_INDEXER_DIM / DSV4_INDEXER_FP4_GROUP; g++)
    {
        vf scaled = vf_mul(table, vf_set1(dsv4_ue8m0_to_f32(row[DSV4_INDEXER_FP4_BYTES + g])));
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(row + 16 * g));
        __m512i pairs = _mm512_cvtepu8_epi32(bytes);
        /* The permutation looks at the low four bits only. */
        vf even = _mm512_permutexvar_ps(pairs, scaled);
        vf odd = _mm512_permutexvar_ps(_mm512_srli_epi32(pairs, 4), scaled);
        float *values = key + g * DSV4_INDEXER_FP4_GROUP;
        vf_store(values, _mm512_permutex2var_ps(even, order, odd));
        vf_store(values + 16,
                 _mm512_permutex2var_ps(even, _mm512_add_epi32(order, second_half), odd));
    }
}

static DSV4_ALWAYS_INLINE vf multiply_add(vf sums, const float *q, const float *key)
{
    return vf_fma(vf_load(q), vf_set1(*key), sums);
}

#include "indexer_tmpl.h"

#include "indexer_f32_tmpl.h"

const dsv4_indexer_kernels dsv4_indexer_avx512 = INDEXER_TABLE;
