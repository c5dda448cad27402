/*
 * indexer_cpu.c - scores of index keys on the CPU: how work is divided.
 *
 * Place: cpu; the arithmetic is in the level's kernels (indexer_kernels.h). Invariants: nothing is
 * allocated; the query is packed once for all threads; a task writes only its own scores.
 */
#include "indexer_cpu.h"

#include <math.h>
#include <string.h>

#include "base/parallel.h"
#include "dsv4/base.h"
#include "indexer_kernels.h"
#include "ref/indexer.h"

enum {
    DIM = DSV4_INDEXER_DIM,
    BLOCK_HEADS = DSV4_INDEXER_BLOCK_HEADS,
    MIN_TASK_KEYS = 192, /* some 10 us, well above what a task costs; whole tiles of each level */
    TASKS_PER_THREAD = 4
};

_Static_assert(sizeof(float) * DIM * BLOCK_HEADS <= 32768, "a query's block stays near a core");

typedef struct score_work {
    const dsv4_indexer_kernels *kernels;
    const dsv4_indexer_query *query;
    const dsv4_index_keys *keys;
    int64_t n_keys, task_keys;
    float *scores;
} score_work;

static int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Whether bf16 holds every value, none of them subnormal, infinite or NaN. */
static bool are_exact_in_bf16(const float *values, int64_t n)
{
    uint32_t lost = 0, n_bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        uint32_t magnitude = bits & 0x7fffffffu;
        lost |= bits & 0xffffu;
        n_bad |= (uint32_t)(magnitude - 1u < 0x007fffffu) | (uint32_t)(magnitude >= 0x7f800000u);
    }
    return lost == 0 && n_bad == 0;
}

static const dsv4_indexer_kernels *kernels_of(int32_t level, const dsv4_index_keys *keys,
                                              const float *q, int64_t n_values)
{
    switch (level) {
    case DSV4_CPU_LEVEL_V2: return &dsv4_indexer_v2;
    case DSV4_CPU_LEVEL_AVX2: return &dsv4_indexer_avx2;
    case DSV4_CPU_LEVEL_AVX512: return &dsv4_indexer_avx512;
    default:
        return keys->is_fp4 && are_exact_in_bf16(q, n_values) ? &dsv4_indexer_avx512bf16
                                                              : &dsv4_indexer_avx512;
    }
}

static void score_by_reference(const float *q, const float *weights, int64_t n_heads,
                               const dsv4_index_keys *keys, int64_t n_keys, float *scores)
{
    int64_t row_bytes = keys->is_fp4 ? DSV4_INDEXER_FP4_ROW_BYTES : DIM * (int64_t)sizeof(float);
    for (int64_t j = 0; j < n_keys; j++) {
        float key[DIM];
        const unsigned char *row = keys->base +
                                   keys->pages[j / keys->page_rows] * keys->page_stride_bytes +
                                   j % keys->page_rows * row_bytes;
        if (keys->is_fp4) {
            dsv4_indexer_read_fp4(row, key);
        } else {
            memcpy(key, row, sizeof key);
        }
        scores[j] = dsv4_indexer_score(q, weights, n_heads, key, keys->is_fp4);
    }
}

static void run_task(void *shared, int64_t task, int32_t worker)
{
    (void)worker;
    const score_work *work = shared;
    int64_t begin = task * work->task_keys;
    work->kernels->score(work->query, work->keys, begin,
                         min_i64(begin + work->task_keys, work->n_keys), work->scores);
}

static void set_query(const float *weights, int64_t n_heads, dsv4_indexer_query *query)
{
    query->n_heads = n_heads;
    for (int64_t h = 0; h < BLOCK_HEADS; h++) {
        query->weights[h] = h < n_heads ? weights[h] : 0.0f;
        query->valid[h] = h < n_heads ? UINT32_MAX : 0;
    }
}

void dsv4_indexer_cpu(const dsv4_compute *compute, const float *q, const float *weights,
                      int64_t n_heads, const dsv4_index_keys *keys, int64_t n_keys, float *scores)
{
    if (compute->cpu_level == 0 || n_heads <= 0) {
        score_by_reference(q, weights, n_heads, keys, n_keys, scores);
        return;
    }
    dsv4_indexer_query query;
    score_work work = {.kernels = kernels_of(compute->cpu_level, keys, q, n_heads * DIM),
                       .query = &query,
                       .keys = keys,
                       .n_keys = n_keys,
                       .scores = scores};
    int64_t wanted = n_keys / ((int64_t)compute->n_threads * TASKS_PER_THREAD);
    work.task_keys = (wanted / MIN_TASK_KEYS + 1) * MIN_TASK_KEYS;
    int64_t n_tasks = (n_keys + work.task_keys - 1) / work.task_keys;
    for (int64_t h = 0; h < n_heads; h += BLOCK_HEADS) {
        set_query(weights + h, min_i64(n_heads - h, BLOCK_HEADS), &query);
        query.adds = h > 0;
        query.is_last = h + BLOCK_HEADS >= n_heads;
        query.rounds = keys->is_fp4;
        work.kernels->pack(q + h * DIM, &query);
        dsv4_parallel_for(compute->n_threads, n_tasks, run_task, &work);
    }
}
