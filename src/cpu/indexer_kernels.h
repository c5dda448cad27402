/*
 * indexer_kernels.h - what one CPU level provides to the driver of index scores.
 *
 * Place: cpu. The driver (indexer_cpu.c) takes heads in blocks of 64 and keys in ranges. In a block a lane
 * of a vector is a head: a dot product adds its dimensions (pairs of them in bf16) ascending. Weighted
 * dots of vectors of heads are added ascending, lanes then in a fixed tree (vf_sum4), blocks ascending;
 * dots and weighted dots are rounded to bf16 before, the score after, where the query says so.
 * Lanes without a head are masked, since with an infinite key they hold NaN. Kernels do not allocate.
 */
#ifndef DSV4_CPU_INDEXER_KERNELS_H
#define DSV4_CPU_INDEXER_KERNELS_H

#include "indexer_cpu.h"

enum {
    DSV4_INDEXER_DIM = 128,
    DSV4_INDEXER_BLOCK_HEADS = 64,
    DSV4_INDEXER_FP4_BYTES = 64, /* codes of a key; the scales follow */
    DSV4_INDEXER_FP4_ROW_BYTES = 68,
    DSV4_INDEXER_FP4_GROUP = 32
};

/* One block of heads, made ready by a level's pack. */
typedef struct dsv4_indexer_query {
    /* By vectors of a register tile, as the level orders them: f32, or pairs of bf16. */
    _Alignas(64) float packed[DSV4_INDEXER_BLOCK_HEADS * DSV4_INDEXER_DIM];
    _Alignas(64) float weights[DSV4_INDEXER_BLOCK_HEADS];
    _Alignas(64) uint32_t valid[DSV4_INDEXER_BLOCK_HEADS]; /* all ones where there is a head */
    int64_t n_heads;
    bool adds;    /* to scores that hold those of earlier blocks */
    bool is_last; /* block of the query */
    bool rounds;  /* dots, weighted dots and scores to bf16 */
} dsv4_indexer_query;

typedef struct dsv4_indexer_kernels {
    /* q [query->n_heads, 128] into query->packed. */
    void (*pack)(const float *q, dsv4_indexer_query *query);

    /* Scores begin .. end - 1 (absolute indices into scores). */
    void (*score)(const dsv4_indexer_query *query, const dsv4_index_keys *keys, int64_t begin,
                  int64_t end, float *scores);
} dsv4_indexer_kernels;

/* The last one takes FP4 keys only, and q that are zero or normal in bf16 and exact. */
extern const dsv4_indexer_kernels dsv4_indexer_v2, dsv4_indexer_avx2, dsv4_indexer_avx512,
    dsv4_indexer_avx512bf16;

#endif
