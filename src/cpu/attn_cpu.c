/*
 * attn_cpu.c - decode attention on the CPU: how work is divided, and the walk over blocks of keys.
 *
 * Place: cpu; the arithmetic is in the level's kernels (attn_kernels.h). Invariants: nothing is allocated;
 * a task writes only its worker's scratch, its own partial state or its own heads of the output.
 */
#include "attn_cpu.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/compiler.h"
#include "base/parallel.h"
#include "dsv4/cache.h"

enum {
    BLOCK_ROWS = DSV4_ATTN_BLOCK_ROWS,
    MAX_SPLITS = 32,
    MIN_SPLITS = 4,         /* of a list that has the blocks */
    SPLIT_BLOCKS = 8,       /* blocks of a split in longer lists */
    TASKS_PER_THREAD = 2,   /* fewer than this, and the work is cut finer */
    MIN_TASK_HEADS = 32,    /* heads that make up for a task's own dequantization */
    FINEST_TASK_HEADS = 16, /* the same when lists are too short to split */
    MAX_SLOTS = 12, /* blocks that two passes keep between them: about 1 MB, what L2 holds */
    FIRST_ROWS = 8, /* rows whose prefetch begins before any work on them */
    SCRATCH_GAP_BYTES = 8192, /* or a worker's reads run ahead into what the next one writes */
    LEAST_FOLD_HEADS = 4,     /* of a task that folds splits */
    MAX_TASK_ROWS = 8 /* queries of a task: enough to prefetch across, few enough to balance */
};

/* How tasks are cut. Follows from shapes and threads alone. */
typedef struct task_shape {
    int64_t n_rows; /* n_requests * n_queries */
    int32_t n_threads;
    int32_t task_heads;    /* heads per task, a multiple of 16 or all; the last has the rest too */
    int32_t most_heads;    /* heads of the last task */
    int32_t n_head_groups; /* tasks per query and split */
    int64_t task_rows;     /* queries per task where lists are not split */
    int32_t split_lists;   /* 1: a query's splits are shared out */
    int64_t n_parts;       /* at most so many tasks per query and head group then */
    int32_t two_passes;    /* 1: official math, the maximum over all keys comes first */
    int64_t n_slots; /* blocks that a worker has room for; the last slot is used again and again */
    int32_t fold_heads; /* heads of a task that folds splits: 16 or a part of that */
    int64_t max_splits; /* most splits that a query of these shapes can have */
} task_shape;

typedef struct plan_request {
    int32_t window_len, extra_len; /* list entries that count */
    int32_t n_blocks, n_splits;
    int32_t n_parts;    /* tasks per query and head group where lists are split */
    int64_t first_task; /* first of them */
    int64_t first_split;
} plan_request;

typedef struct cpu_plan {
    task_shape shape;
    int64_t n_split_tasks;
    plan_request requests[];
} cpu_plan;

/* One worker's memory. */
typedef struct scratch {
    void *packed_q;
    unsigned char *kv;   /* [n_slots] blocks, kv_bytes apart */
    float *scores;       /* [n_slots, 64, task_heads_pad] */
    float *alpha, *beta; /* [task_heads_pad] */
    float *block_max, *block_sum, *block_weight;
    float *query_max; /* [task_heads_pad] two passes: over all keys */
    dsv4_attn_state query, split;
} scratch;

typedef struct decode_context {
    const dsv4_attn_params *params;
    const dsv4_attn_kernels *kernels;
    const cpu_plan *plan;
    unsigned char *scratches; /* n_threads times scratch_bytes */
    size_t scratch_bytes;
    unsigned char *partials; /* one state per split task */
    size_t state_bytes;
} decode_context;

/* A query and the heads of it that a task computes. */
typedef struct query_task {
    const plan_request *lists;
    int64_t request, query;
    int32_t first_head, n_heads;
} query_task;

typedef struct block_rows {
    dsv4_attn_row rows[BLOCK_ROWS];
    int32_t n_rows;
} block_rows;

const dsv4_attn_kernels *dsv4_attn_cpu_kernels(int32_t level)
{
    switch (level) {
    case DSV4_CPU_LEVEL_V2: return &dsv4_attn_kernels_v2;
    case DSV4_CPU_LEVEL_AVX2: return &dsv4_attn_kernels_avx2;
    case DSV4_CPU_LEVEL_AVX512: return &dsv4_attn_kernels_avx512;
    case DSV4_CPU_LEVEL_AVX512BF16: return &dsv4_attn_kernels_avx512bf16;
    default: return NULL;
    }
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t scope_n_indices(const dsv4_attn_scope *scope)
{
    return scope->n_pages > 0 ? scope->n_indices : 0;
}

/*
 * How many splits a list of n_blocks has: few, for each leaves a state of 2 KB a head to fold. Never falls
 * as lists grow. Two passes are never shared out, so one split does.
 */
static int64_t count_splits(int64_t n_blocks, bool two_passes)
{
    if (two_passes) return min_i64(n_blocks, 1);
    int64_t n_splits = ceil_div(n_blocks, SPLIT_BLOCKS);
    if (n_splits < MIN_SPLITS) n_splits = min_i64(n_blocks, MIN_SPLITS);
    return min_i64(n_splits, MAX_SPLITS);
}

static int64_t count_fold_chunks(const task_shape *shape)
{
    return ceil_div(shape->most_heads, shape->fold_heads);
}

static task_shape shape_tasks(const dsv4_attn_params *params, int32_t n_threads)
{
    task_shape shape = {.n_rows = params->n_requests * params->n_queries, .n_threads = n_threads};
    int64_t n_blocks =
        ceil_div(scope_n_indices(&params->window) + scope_n_indices(&params->extra), BLOCK_ROWS);
    int64_t n_wanted = n_threads > 1 ? (int64_t)TASKS_PER_THREAD * n_threads : 1;
    int64_t n_rows = shape.n_rows > 0 ? shape.n_rows : 1;
    int64_t n_groups =
        min_i64(ceil_div(n_wanted, n_rows), ceil_div(params->n_heads, MIN_TASK_HEADS));
    shape.two_passes = params->math == DSV4_ATTN_MATH_OFFICIAL;
    shape.max_splits = count_splits(n_blocks, shape.two_passes);
    shape.n_slots = shape.two_passes ? min_i64(n_blocks + 1, MAX_SLOTS) : 1;
    /* Heads first: splits leave states of 2 KB a head that must be folded. */
    bool is_even = n_rows * n_groups % n_threads == 0;
    shape.split_lists = n_rows * n_groups < n_wanted && !is_even && shape.max_splits > 1;
    if (shape.split_lists) {
        int64_t n_splits = n_rows * shape.max_splits;
        if (n_splits >= n_wanted || n_splits % n_threads == 0) {
            n_groups = 1;
        } else if (n_splits * n_groups < n_wanted) {
            n_groups = ceil_div(params->n_heads, FINEST_TASK_HEADS);
        }
    }
    int64_t n_tasks = n_rows * n_groups;
    shape.n_parts = n_threads % n_tasks == 0 ? n_threads / n_tasks : ceil_div(n_wanted, n_tasks);
    int64_t per_group = ceil_div(params->n_heads, n_groups);
    if (n_groups > 1) per_group = ceil_div(per_group, DSV4_ATTN_HEAD_PAD) * DSV4_ATTN_HEAD_PAD;
    /* A rest of a few heads joins the last group: kernels may compute few heads in their own way. */
    shape.task_heads = (int32_t)per_group;
    shape.n_head_groups = (int32_t)(params->n_heads / per_group);
    shape.most_heads = (int32_t)(params->n_heads - (shape.n_head_groups - 1) * per_group);
    shape.task_rows = min_i64(n_rows * shape.n_head_groups / n_wanted, MAX_TASK_ROWS);
    if (shape.task_rows < 1) shape.task_rows = 1;
    shape.fold_heads = DSV4_ATTN_HEAD_PAD;
    while (n_rows * shape.n_head_groups * count_fold_chunks(&shape) < n_threads &&
           shape.fold_heads > LEAST_FOLD_HEADS) {
        shape.fold_heads /= 2;
    }
    return shape;
}

/* ---- memory ---- */

static size_t round_up_64(size_t n)
{
    return (n + 63) / 64 * 64;
}

static size_t state_bytes(int32_t n_heads)
{
    size_t n_pad = (size_t)dsv4_attn_pad_heads(n_heads);
    return n_pad * (DSV4_ATTN_DIM + 3) * sizeof(float);
}

static dsv4_attn_state place_state(unsigned char *memory, int32_t n_heads)
{
    int32_t n_pad = dsv4_attn_pad_heads(n_heads);
    dsv4_attn_state state = {.values = (float *)(void *)memory};
    state.max = state.values + n_pad * DSV4_ATTN_DIM;
    state.sum = state.max + n_pad;
    state.weight = state.sum + n_pad;
    return state;
}

/* Lays a worker's scratch out from `memory` (which may be NULL) and returns its size. */
static size_t place_scratch(const dsv4_attn_kernels *kernels, const task_shape *shape,
                            unsigned char *memory, scratch *placed)
{
    int32_t n_heads = shape->most_heads;
    size_t n_pad = (size_t)dsv4_attn_pad_heads(n_heads), n_slots = (size_t)shape->n_slots;
    size_t head_bytes = n_pad * sizeof(float);
    size_t at[5];
    at[0] = round_up_64(n_pad * kernels->q_head_bytes);
    at[1] = at[0] + n_slots * round_up_64(kernels->kv_bytes);
    at[2] = at[1] + n_slots * round_up_64(BLOCK_ROWS * head_bytes);
    at[3] = at[2] + round_up_64(6 * head_bytes);
    at[4] = at[3] + round_up_64(state_bytes(n_heads));
    if (memory != NULL) {
        placed->packed_q = memory;
        placed->kv = memory + at[0];
        placed->scores = (float *)(void *)(memory + at[1]);
        float *heads = (float *)(void *)(memory + at[2]);
        placed->alpha = heads;
        placed->beta = heads + n_pad;
        placed->block_max = heads + 2 * n_pad;
        placed->block_sum = heads + 3 * n_pad;
        placed->block_weight = heads + 4 * n_pad;
        placed->query_max = heads + 5 * n_pad;
        placed->query = place_state(memory + at[3], n_heads);
        placed->split = place_state(memory + at[4], n_heads);
    }
    return at[4] + round_up_64(state_bytes(n_heads)) + SCRATCH_GAP_BYTES;
}

bool dsv4_attn_cpu_plan_size(const dsv4_attn_params *params, const dsv4_attn_kernels *kernels,
                             int32_t n_threads, size_t *plan_bytes, size_t *workspace_bytes)
{
    task_shape shape = shape_tasks(params, n_threads);
    size_t lists_bytes, partial_bytes = 0;
    if (!dsv4_checked_mul((size_t)params->n_requests, sizeof(plan_request), &lists_bytes) ||
        !dsv4_checked_add(sizeof(cpu_plan), lists_bytes, plan_bytes)) {
        return false;
    }
    if (shape.split_lists) {
        size_t n_partials = (size_t)(shape.n_rows * shape.n_head_groups * shape.max_splits);
        if (!dsv4_checked_mul(n_partials, round_up_64(state_bytes(shape.most_heads)),
                              &partial_bytes)) {
            return false;
        }
    }
    size_t scratch_bytes;
    return dsv4_checked_mul((size_t)n_threads, place_scratch(kernels, &shape, NULL, NULL),
                            &scratch_bytes) &&
           dsv4_checked_add(scratch_bytes, partial_bytes, workspace_bytes);
}

/* ---- plan ---- */

static int32_t scope_len(const dsv4_attn_scope *scope, int64_t request)
{
    int64_t len = scope_n_indices(scope);
    if (len > 0 && scope->lengths != NULL) len = min_i64(len, scope->lengths[request]);
    return len < 0 ? 0 : (int32_t)len;
}

void dsv4_attn_cpu_plan_build(const dsv4_attn_params *params, int32_t n_threads, void *memory)
{
    cpu_plan *plan = memory;
    plan->shape = shape_tasks(params, n_threads);
    int64_t n_tasks = 0, n_splits = 0, n_groups = plan->shape.n_head_groups;
    for (int64_t request = 0; request < params->n_requests; request++) {
        plan_request *lists = &plan->requests[request];
        lists->window_len = scope_len(&params->window, request);
        lists->extra_len = scope_len(&params->extra, request);
        int64_t n_blocks = ceil_div((int64_t)lists->window_len + lists->extra_len, BLOCK_ROWS);
        lists->n_blocks = (int32_t)n_blocks;
        lists->n_splits = (int32_t)count_splits(n_blocks, plan->shape.two_passes);
        lists->n_parts = (int32_t)min_i64(lists->n_splits, plan->shape.n_parts);
        lists->first_task = n_tasks;
        lists->first_split = n_splits;
        n_tasks += lists->n_parts * n_groups * params->n_queries;
        n_splits += lists->n_splits * n_groups * params->n_queries;
    }
    plan->n_split_tasks = n_tasks;
}

/* ---- blocks of keys ---- */

static const int32_t *list_of(const dsv4_attn_scope *scope, const query_task *task)
{
    return (const int32_t *)(const void *)((const unsigned char *)scope->indices +
                                           task->request * scope->indices_request_stride_bytes +
                                           task->query * scope->indices_query_stride_bytes);
}

static dsv4_attn_row locate_row(const dsv4_attn_scope *scope, const uint8_t *page, int64_t row)
{
    if (scope->row_format == DSV4_ATTN_ROWS_F32) {
        return (dsv4_attn_row){page + row * DSV4_ATTN_DIM * (int64_t)sizeof(float), NULL};
    }
    const uint8_t *scales = page + scope->page_rows * DSV4_CACHE_DATA_BYTES;
    return (dsv4_attn_row){page + row * DSV4_CACHE_DATA_BYTES,
                           scales + row * DSV4_CACHE_SCALE_BYTES};
}

/* Appends the rows that list entries begin .. end - 1 name to rows; returns the new count. */
static int32_t gather_scope(const dsv4_attn_scope *scope, const query_task *task, int64_t begin,
                            int64_t end, int32_t n_rows, dsv4_attn_row *rows)
{
    if (begin >= end) return n_rows;
    const int32_t *list = list_of(scope, task);
    uint32_t page_rows = (uint32_t)scope->page_rows;
    for (int64_t i = begin; i < end; i++) {
        int32_t slot = list[i];
        if (slot < 0) continue;
        uint32_t page = (uint32_t)slot / page_rows;
        if (page >= (uint64_t)scope->n_pages) continue;
        int64_t row = (int64_t)((uint32_t)slot - page * page_rows);
        const uint8_t *base = (const uint8_t *)scope->cache + page * scope->page_stride_bytes;
        rows[n_rows++] = locate_row(scope, base, row);
    }
    return n_rows;
}

/* The valid rows among entries [index * 64, index * 64 + 64) of the two lists seen as one. */
static void gather_block(const decode_context *context, const query_task *task, int64_t index,
                         block_rows *block)
{
    const plan_request *lists = task->lists;
    int64_t window_len = lists->window_len, all_len = window_len + lists->extra_len;
    int64_t begin = index * BLOCK_ROWS, end = min_i64(begin + BLOCK_ROWS, all_len);
    int32_t n_rows = gather_scope(&context->params->window, task, begin, min_i64(end, window_len),
                                  0, block->rows);
    int64_t extra_begin = begin > window_len ? begin - window_len : 0;
    block->n_rows = gather_scope(&context->params->extra, task, extra_begin, end - window_len,
                                 n_rows, block->rows);
}

/* No keys yet. The values stay what they are: the first keys overwrite them. */
static void clear_state(const dsv4_attn_state *state, int32_t n_heads)
{
    int32_t n_pad = dsv4_attn_pad_heads(n_heads);
    memset(state->sum, 0, (size_t)n_pad * sizeof(float));
    memset(state->weight, 0, (size_t)n_pad * sizeof(float));
    for (int32_t h = 0; h < n_pad; h++) state->max[h] = -INFINITY;
}

/* Whether a state holds any key. All its heads have the same ones. */
static bool has_keys(const dsv4_attn_state *state)
{
    return state->sum[0] != 0.0f || state->max[0] > -INFINITY;
}

/*
 * The keys of one block, on their way to acc, or, when that is NULL, to query_max. What the first of two
 * passes leaves in a slot of its own, dequantized rows and scores, serves the second.
 */
static void visit_block(const decode_context *context, const query_task *task, const scratch *own,
                        int64_t index, const block_rows *block, dsv4_attn_ahead *ahead,
                        const dsv4_attn_state *acc)
{
    int64_t slot = min_i64(index, context->plan->shape.n_slots - 1);
    bool is_kept = index < context->plan->shape.n_slots - 1 && acc != NULL;
    int32_t n_pad = dsv4_attn_pad_heads(context->plan->shape.most_heads);
    void *kv = own->kv + (size_t)slot * round_up_64(context->kernels->kv_bytes);
    float *scores = own->scores + slot * BLOCK_ROWS * n_pad;
    const dsv4_attn_kernels *kernels = context->kernels;
    const float log2_e = 1.442695040888963407f;
    float scale = context->params->softmax_scale * log2_e;
    if (!is_kept) {
        kernels->score_block(block->rows, block->n_rows, own->packed_q, task->n_heads, kv, scores);
    }
    if (acc == NULL) {
        kernels->raise_max(scale, task->n_heads, block->n_rows, scores, own->query_max);
        return;
    }
    dsv4_attn_state part = {
        .max = own->block_max, .sum = own->block_sum, .weight = own->block_weight};
    const float *fixed_max = context->plan->shape.two_passes ? own->query_max : NULL;
    kernels->softmax(scale, task->n_heads, block->n_rows, fixed_max, scores, &part);
    const float *alpha = has_keys(acc) ? own->alpha : NULL;
    kernels->fold_state(task->n_heads, &part, acc, own->alpha, own->beta);
    kernels->add_values(scores, kv, task->n_heads, block->n_rows, alpha, own->beta, ahead,
                        acc->values);
}

/* A block to be prefetched: one of a task's; none when task is NULL. */
typedef struct next_block {
    const query_task *task;
    int64_t index;
} next_block;

/* The rows that are needed before kernels prefetch any: the first block of a task may be nowhere near. */
static DSV4_ALWAYS_INLINE void prefetch_first(const block_rows *block)
{
    for (int32_t i = 0; i < block->n_rows && i < FIRST_ROWS; i++) {
        const dsv4_attn_row *row = &block->rows[i];
        if (row->scales != NULL) DSV4_PREFETCH_L2(row->scales);
        for (int32_t at = 0; at < DSV4_CACHE_DATA_BYTES; at += 64) DSV4_PREFETCH_L2(row->data + at);
    }
}

/*
 * Folds blocks begin .. end - 1 into acc (NULL: only raises query_max), prefetching each while the one
 * before it is computed, and `after` during the last.
 */
static void visit_blocks(const decode_context *context, const query_task *task, const scratch *own,
                         int64_t begin, int64_t end, next_block after, const dsv4_attn_state *acc)
{
    block_rows blocks[2];
    gather_block(context, task, begin, &blocks[begin & 1]);
    prefetch_first(&blocks[begin & 1]);
    for (int64_t i = begin; i < end; i++) {
        block_rows *next = &blocks[(i + 1) & 1];
        next->n_rows = 0;
        if (i + 1 < end) {
            gather_block(context, task, i + 1, next);
        } else if (after.task != NULL) {
            gather_block(context, after.task, after.index, next);
        }
        dsv4_attn_ahead ahead = {next->rows, next->n_rows, 0, 0};
        if (blocks[i & 1].n_rows > 0) {
            visit_block(context, task, own, i, &blocks[i & 1], &ahead, acc);
        }
    }
}

/* The first block of a split; of the one past the last, how many blocks there are. */
static int64_t split_begin(const plan_request *lists, int64_t split)
{
    return split * lists->n_blocks / lists->n_splits;
}

/* ---- tasks ---- */

static query_task task_of(const decode_context *context, int64_t request, int64_t query,
                          int64_t group)
{
    const task_shape *shape = &context->plan->shape;
    query_task task = {
        .lists = &context->plan->requests[request], .request = request, .query = query};
    task.first_head = (int32_t)group * shape->task_heads;
    task.n_heads = group + 1 < shape->n_head_groups ? shape->task_heads : shape->most_heads;
    return task;
}

static scratch scratch_of(const decode_context *context, int32_t worker)
{
    scratch own;
    place_scratch(context->kernels, &context->plan->shape,
                  context->scratches + (size_t)worker * context->scratch_bytes, &own);
    return own;
}

static void pack_query(const decode_context *context, const query_task *task, const scratch *own)
{
    const dsv4_attn_params *params = context->params;
    const unsigned char *q =
        (const unsigned char *)params->q + task->request * params->q_request_stride_bytes +
        task->query * params->q_query_stride_bytes + task->first_head * params->q_head_stride_bytes;
    context->kernels->pack_q(q, params->q_dtype, params->q_head_stride_bytes, task->n_heads,
                             own->packed_q);
}

static void finish_query(const decode_context *context, const query_task *task,
                         const dsv4_attn_state *acc)
{
    const dsv4_attn_params *params = context->params;
    dsv4_attn_target target = {.out = (unsigned char *)params->out +
                                      task->request * params->out_request_stride_bytes +
                                      task->query * params->out_query_stride_bytes +
                                      task->first_head * params->out_head_stride_bytes,
                               .out_head_stride_bytes = params->out_head_stride_bytes,
                               .out_dtype = params->out_dtype,
                               .lse_head_stride_bytes = params->lse_head_stride_bytes};
    if (params->out_dtype == DSV4_DTYPE_FP8) {
        target.scales = params->out_scales +
                        task->request * params->out_scales_request_stride_bytes +
                        task->query * params->out_scales_query_stride_bytes +
                        task->first_head * params->out_scales_head_stride_bytes;
        target.scales_head_stride_bytes = params->out_scales_head_stride_bytes;
    }
    if (params->lse != NULL) {
        target.lse = (unsigned char *)params->lse +
                     task->request * params->lse_request_stride_bytes +
                     task->query * params->lse_query_stride_bytes +
                     task->first_head * params->lse_head_stride_bytes;
    }
    if (params->sink != NULL) target.sink = params->sink + task->first_head;
    if (params->rope_table != NULL) {
        int64_t row = params->rope_rows[task->request * params->n_queries + task->query];
        target.rotate = row >= 0 && row < params->n_rope_rows ? 1 : 2;
        if (target.rotate == 1) target.rope = params->rope_table + row * DSV4_ATTN_ROPE_DIM;
    }
    context->kernels->finish(task->n_heads, acc, &target);
}

/* Folds part into acc, unless part is without keys. */
static void fold_split(const decode_context *context, const query_task *task, const scratch *own,
                       const dsv4_attn_state *part, const dsv4_attn_state *acc)
{
    const dsv4_attn_kernels *kernels = context->kernels;
    if (!has_keys(part)) return;
    const float *alpha = has_keys(acc) ? own->alpha : NULL;
    kernels->fold_state(task->n_heads, part, acc, own->alpha, own->beta);
    kernels->fold_values(task->n_heads, part->values, alpha, own->beta, acc->values, acc->values);
}

static query_task query_of(const decode_context *context, int64_t row, int64_t group)
{
    int64_t n_queries = context->params->n_queries;
    return task_of(context, row / n_queries, row % n_queries, group);
}

/* A whole query, some heads. */
static void run_query(const decode_context *context, const query_task *task, const scratch *own,
                      next_block after)
{
    int64_t n_blocks = task->lists->n_blocks, n_splits = task->lists->n_splits;
    clear_state(&own->query, task->n_heads);
    if (n_blocks > 0) pack_query(context, task, own);
    if (context->plan->shape.two_passes) {
        for (int32_t h = 0; h < dsv4_attn_pad_heads(task->n_heads); h++) {
            own->query_max[h] = -INFINITY;
        }
        visit_blocks(context, task, own, 0, n_blocks, (next_block){task, 0}, NULL);
    }
    for (int64_t split = 0; split < n_splits; split++) {
        int64_t begin = split_begin(task->lists, split), end = split_begin(task->lists, split + 1);
        next_block next = end == n_blocks ? after : (next_block){task, end};
        /* A split of one block is folded as a block is: only longer ones need a state of their own. */
        bool is_direct = split == 0 || end - begin == 1;
        const dsv4_attn_state *acc = is_direct ? &own->query : &own->split;
        if (!is_direct) clear_state(acc, task->n_heads);
        visit_blocks(context, task, own, begin, end, next, acc);
        if (!is_direct) fold_split(context, task, own, acc, &own->query);
    }
    finish_query(context, task, &own->query);
}

/* Some queries one after the other, some heads. */
static void run_queries(void *shared, int64_t index, int32_t worker)
{
    const decode_context *context = shared;
    const task_shape *shape = &context->plan->shape;
    int64_t group = index % shape->n_head_groups;
    int64_t begin = index / shape->n_head_groups * shape->task_rows;
    int64_t end = min_i64(begin + shape->task_rows, shape->n_rows);
    scratch own = scratch_of(context, worker);
    query_task now = query_of(context, begin, group);
    /* With tasks alike, this worker's next one is probably n_threads further on. */
    int64_t likely = (index + shape->n_threads) / shape->n_head_groups * shape->task_rows;
    for (int64_t row = begin; row < end; row++) {
        query_task next = now;
        int64_t after = row + 1 < end ? row + 1 : likely;
        if (after < shape->n_rows) next = query_of(context, after, group);
        run_query(context, &now, &own, (next_block){after < shape->n_rows ? &next : NULL, 0});
        now = next;
    }
}

/* The request that owns split task `index`. */
static int64_t find_request(const decode_context *context, int64_t index)
{
    int64_t low = 0, high = context->params->n_requests - 1;
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        if (context->plan->requests[middle].first_task <= index) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

static dsv4_attn_state partial_of(const decode_context *context, int64_t index)
{
    return place_state(context->partials + (size_t)index * context->state_bytes,
                       context->plan->shape.most_heads);
}

static dsv4_attn_state heads_from(dsv4_attn_state state, int32_t first_head)
{
    return (dsv4_attn_state){.values = state.values + (int64_t)first_head * DSV4_ATTN_DIM,
                             .max = state.max + first_head,
                             .sum = state.sum + first_head,
                             .weight = state.weight + first_head};
}

/* Some neighbouring splits of a query, some heads. */
typedef struct part_task {
    query_task task;
    int64_t begin, end;  /* splits */
    int64_t first_split; /* index of the query's first partial */
} part_task;

static part_task part_of(const decode_context *context, int64_t index)
{
    int64_t request = find_request(context, index), n_groups = context->plan->shape.n_head_groups;
    const plan_request *lists = &context->plan->requests[request];
    int64_t local = index - lists->first_task, part = local % lists->n_parts;
    int64_t query = local / lists->n_parts / n_groups, group = local / lists->n_parts % n_groups;
    part_task made = {.task = task_of(context, request, query, group),
                      .begin = part * lists->n_splits / lists->n_parts,
                      .end = (part + 1) * lists->n_splits / lists->n_parts};
    made.first_split = lists->first_split + (query * n_groups + group) * lists->n_splits;
    return made;
}

/* Leaves the state of each split among the partials. */
static void run_part(void *shared, int64_t index, int32_t worker)
{
    const decode_context *context = shared;
    const cpu_plan *plan = context->plan;
    part_task part = part_of(context, index), likely = part;
    next_block after = {NULL, 0};
    if (index + plan->shape.n_threads < plan->n_split_tasks) {
        likely = part_of(context, index + plan->shape.n_threads);
        after = (next_block){&likely.task, split_begin(likely.task.lists, likely.begin)};
    }
    scratch own = scratch_of(context, worker);
    pack_query(context, &part.task, &own);
    for (int64_t split = part.begin; split < part.end; split++) {
        dsv4_attn_state partial = partial_of(context, part.first_split + split);
        int64_t end = split_begin(part.task.lists, split + 1);
        clear_state(&partial, part.task.n_heads);
        visit_blocks(context, &part.task, &own, split_begin(part.task.lists, split), end,
                     split + 1 < part.end ? (next_block){&part.task, end} : after, &partial);
    }
}

static void copy_heads(const dsv4_attn_state *from, const dsv4_attn_state *to)
{
    memcpy(to->max, from->max, DSV4_ATTN_HEAD_PAD * sizeof(float));
    memcpy(to->sum, from->sum, DSV4_ATTN_HEAD_PAD * sizeof(float));
    memcpy(to->weight, from->weight, DSV4_ATTN_HEAD_PAD * sizeof(float));
}

/*
 * Folds a partial into *acc: n_heads heads from first_head on, which share a vector of heads. Other tasks fold
 * that vector's other heads, so nothing is written to a partial: acc's values are the first one's, then our own.
 */
static void fold_partial(const decode_context *context, const scratch *own,
                         const dsv4_attn_state *partial, int32_t first_head, int32_t n_heads,
                         dsv4_attn_state *acc)
{
    const dsv4_attn_kernels *kernels = context->kernels;
    int32_t lane = first_head % DSV4_ATTN_HEAD_PAD;
    dsv4_attn_state part = heads_from(*partial, first_head - lane);
    float *values = part.values + (int64_t)lane * DSV4_ATTN_DIM;
    if (!has_keys(&part)) return;
    if (!has_keys(acc)) {
        copy_heads(&part, acc);
        acc->values = values;
        return;
    }
    kernels->fold_state(lane + n_heads, &part, acc, own->alpha, own->beta);
    kernels->fold_values(n_heads, values, own->alpha + lane, own->beta + lane, acc->values,
                         own->query.values);
    acc->values = own->query.values;
}

/* Folds the splits of a query, fold_heads heads of a group, in order. */
static void run_fold(void *shared, int64_t index, int32_t worker)
{
    const decode_context *context = shared;
    const task_shape *shape = &context->plan->shape;
    int64_t n_chunks = count_fold_chunks(shape);
    int64_t group = index / n_chunks % shape->n_head_groups;
    query_task task = query_of(context, index / n_chunks / shape->n_head_groups, group);
    int32_t first_head = (int32_t)(index % n_chunks) * shape->fold_heads;
    int32_t n_heads = task.n_heads - first_head;
    if (n_heads <= 0) return;
    int64_t first = task.lists->first_split +
                    (task.query * shape->n_head_groups + group) * task.lists->n_splits;
    task.first_head += first_head;
    task.n_heads = n_heads < shape->fold_heads ? n_heads : shape->fold_heads;
    scratch own = scratch_of(context, worker);
    dsv4_attn_state acc = own.query;
    clear_state(&acc, DSV4_ATTN_HEAD_PAD);
    for (int64_t split = 0; split < task.lists->n_splits; split++) {
        dsv4_attn_state partial = partial_of(context, first + split);
        fold_partial(context, &own, &partial, first_head, task.n_heads, &acc);
    }
    int32_t lane = first_head % DSV4_ATTN_HEAD_PAD;
    acc.max += lane;
    acc.sum += lane;
    acc.weight += lane;
    finish_query(context, &task, &acc);
}

void dsv4_attn_cpu_decode(const dsv4_attn_params *params, const dsv4_attn_kernels *kernels,
                          const void *plan_memory, void *workspace)
{
    const cpu_plan *plan = plan_memory;
    int32_t n_threads = plan->shape.n_threads;
    decode_context context = {.params = params, .kernels = kernels, .plan = plan};
    context.scratches = workspace;
    context.scratch_bytes = place_scratch(kernels, &plan->shape, NULL, NULL);
    context.partials = context.scratches + (size_t)n_threads * context.scratch_bytes;
    context.state_bytes = round_up_64(state_bytes(plan->shape.most_heads));

    int64_t n_rows = plan->shape.n_rows, n_groups = plan->shape.n_head_groups;
    if (plan->shape.split_lists) {
        int64_t n_folds = n_rows * n_groups * count_fold_chunks(&plan->shape);
        dsv4_parallel_for_both(n_threads, plan->n_split_tasks, run_part, n_folds, run_fold,
                               &context);
    } else {
        int64_t n_tasks = ceil_div(n_rows, plan->shape.task_rows) * n_groups;
        dsv4_parallel_for(n_threads, n_tasks, run_queries, &context);
    }
}
