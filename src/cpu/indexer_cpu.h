/*
 * indexer_cpu.h - scores of one token's index query against many paged keys (specification 3.7).
 *
 * Place: cpu. score[j] = sum_h weights[h] * relu(q_h . key_j). One instruction set per file, chosen by
 * level. Keys are cut into ranges that the threads share. A score depends on its query, its key and the
 * level alone: on no other key, no range and no thread. A NaN passes through relu as in ref/indexer.h.
 * With FP4 keys the dots, the weighted dots and the score are rounded to bf16, as DeepSeek's code has it.
 *
 * Level avx512bf16 multiplies FP4 keys in bf16 with f32 sums when every q is exact in bf16 (as the official
 * numerics have it): products are exact. Keys with extreme scales, and other queries, are multiplied in f32.
 */
#ifndef DSV4_CPU_INDEXER_CPU_H
#define DSV4_CPU_INDEXER_CPU_H

#include <stdbool.h>

#include "linear_cpu.h"

/* Keys of one sequence and layer. Key j is row j % page_rows of page pages[j / page_rows]. */
typedef struct dsv4_index_keys {
    const unsigned char *base; /* any alignment */
    int64_t page_stride_bytes, page_rows;
    const int32_t *pages;
    bool is_fp4; /* rows of 64 bytes of e2m1 and 4 ue8m0 scales; else of 128 f32 */
} dsv4_index_keys;

/*
 *   q [n_heads, 128] f32, weights [n_heads] f32
 *   scores [n_keys] f32, written; every key's page must be held
 */
void dsv4_indexer_cpu(const dsv4_compute *compute, const float *q, const float *weights,
                      int64_t n_heads, const dsv4_index_keys *keys, int64_t n_keys, float *scores);

#endif
