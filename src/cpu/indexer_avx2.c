/*
 * indexer_avx2.c - index scores at the avx2 level.
 *
 * Place: cpu. Compiled with this level's instruction set; see indexer_tmpl.h.
 */
#include "vec_avx2.h"

#include "base/compiler.h"
#include "indexer_fp4_sse.h"

#define IX_HEAD_VECS 2
#define IX_KEYS      6
#define IX_STEP_DIMS 1

static DSV4_ALWAYS_INLINE vf multiply_add(vf sums, const float *q, const float *key)
{
    return vf_fma(vf_load(q), vf_set1(*key), sums);
}

#include "indexer_tmpl.h"

#include "indexer_f32_tmpl.h"

const dsv4_indexer_kernels dsv4_indexer_avx2 = INDEXER_TABLE;
