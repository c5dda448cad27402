/*
 * indexer_v2.c - index scores at the v2 level.
 *
 * Place: cpu. Compiled with this level's instruction set; see indexer_tmpl.h.
 */
#include "vec_v2.h"

#include "indexer_fp4_sse.h"

#define IX_HEAD_VECS 2
#define IX_KEYS      6

#include "indexer_f32_tmpl.h"

const dsv4_indexer_kernels dsv4_indexer_v2 = INDEXER_TABLE;
