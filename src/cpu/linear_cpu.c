/*
 * linear_cpu.c - y = x W^T on the CPU: how work is divided.
 *
 * Place: cpu; the arithmetic is in the level's kernel (linear_kernels.h). Invariants: nothing is
 * allocated; a task writes only its own elements of y; the cut decides no element's order of sums.
 */
#include "linear_cpu.h"

#include "base/checked.h"
#include "base/parallel.h"
#include "dsv4/base.h"
#include "linear_kernels.h"

enum {
    MIN_TASK_OUT = 16,          /* rows of W: a task packs its rows of x once for all of them ... */
    MIN_TASK_BYTES = 128 << 10, /* ... but so many bytes of W are work enough */
    MIN_SHARED_BYTES = 128 << 10, /* of W times rows of x: less is done before other threads wake */
    AHEAD_BYTES =
        8 << 10,          /* of codes, that prefetches run ahead: what comes while memory answers */
    MAX_TASK_OUT = 128,   /* so that a task's part of W stays in L2 for the next rows of x */
    TASKS_PER_THREAD = 8, /* of rows of W: slack for threads that are disturbed */
    ROW_CHUNK_MULTIPLE = 6, /* rows of x in a register tile of the widest levels */
    MOST_AT_ONCE = 32       /* products whose tasks are shared out together */
};

_Static_assert(DSV4_LINEAR_MAX_ROWS % ROW_CHUNK_MULTIPLE == 0, "a chunk fits in a task");

#define SCALE_BITS(s) ((s) == 0 ? 0x00400000u : (s) == 255 ? 0x7fc00000u : (uint32_t)(s) << 23)
#define FOUR_BITS(s)  SCALE_BITS(s), SCALE_BITS((s) + 1), SCALE_BITS((s) + 2), SCALE_BITS((s) + 3)
#define ALL_BITS(s)                                                                                \
    FOUR_BITS(s), FOUR_BITS((s) + 4), FOUR_BITS((s) + 8), FOUR_BITS((s) + 12),                     \
        FOUR_BITS((s) + 16), FOUR_BITS((s) + 20), FOUR_BITS((s) + 24), FOUR_BITS((s) + 28)

const uint32_t dsv4_linear_scale_bits[256] = {ALL_BITS(0),   ALL_BITS(32),  ALL_BITS(64),
                                              ALL_BITS(96),  ALL_BITS(128), ALL_BITS(160),
                                              ALL_BITS(192), ALL_BITS(224)};

/* A product, cut into tasks. */
typedef struct linear_cut {
    dsv4_linear_job job;          /* of all rows of x */
    int64_t task_out;             /* rows of W per task */
    int64_t chunk_rows, n_chunks; /* rows of x per task; tasks that share rows of W */
    int64_t end_task;             /* of this product and those before it */
} linear_cut;

typedef struct linear_work {
    dsv4_linear_kernel *kernel;
    int32_t n_threads;
    linear_cut cuts[MOST_AT_ONCE];
} linear_work;

static int64_t ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

static int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static dsv4_linear_kernel *kernel_of(int32_t level, bool x_is_bf16)
{
    switch (level) {
    case DSV4_CPU_LEVEL_V2: return dsv4_linear_kernel_v2;
    case DSV4_CPU_LEVEL_AVX2: return dsv4_linear_kernel_avx2;
    case DSV4_CPU_LEVEL_AVX512: return dsv4_linear_kernel_avx512;
    default: return x_is_bf16 ? dsv4_linear_kernel_avx512bf16 : dsv4_linear_kernel_avx512;
    }
}

/* A multiple of n. */
static int64_t round_up(int64_t a, int64_t n)
{
    return ceil_div(a, n) * n;
}

static int64_t count_row_bytes(const dsv4_linear *linear)
{
    return ceil_div(dsv4_linear_bytes(linear), linear->n_out);
}

/* Whole groups, at least one. */
static int64_t choose_ahead_rows(const dsv4_linear *linear)
{
    int64_t group_bytes = DSV4_LINEAR_GROUP_ROWS * count_row_bytes(linear);
    int64_t n_groups = group_bytes > 0 ? ceil_div(AHEAD_BYTES, group_bytes) : 1;
    return n_groups * DSV4_LINEAR_GROUP_ROWS;
}

static int64_t choose_task_out(const dsv4_linear *linear, int32_t n_threads)
{
    int64_t row_bytes = count_row_bytes(linear);
    int64_t least =
        row_bytes > 0 ? min_i64(MIN_TASK_BYTES / row_bytes, MIN_TASK_OUT) : MIN_TASK_OUT;
    int64_t step = round_up(least > 0 ? least : 1, DSV4_LINEAR_GROUP_ROWS);
    int64_t wanted = ceil_div(linear->n_out, (int64_t)n_threads * TASKS_PER_THREAD);
    return min_i64(round_up(wanted, step), MAX_TASK_OUT);
}

/* Even chunks: a short last one would pay for dequantizing all of W as a full one does. */
static int64_t choose_chunk_rows(int64_t n_rows)
{
    int64_t n_chunks = ceil_div(n_rows, DSV4_LINEAR_MAX_ROWS);
    int64_t rows = ceil_div(n_rows, n_chunks);
    return round_up(rows, ROW_CHUNK_MULTIPLE);
}

static void run_task(void *shared, int64_t task, int32_t worker)
{
    (void)worker;
    const linear_work *work = shared;
    const linear_cut *cut = work->cuts;
    int64_t first_task = 0;
    for (; task >= cut->end_task; cut++) first_task = cut->end_task;
    task -= first_task;
    int64_t begin = task / cut->n_chunks * cut->task_out;
    int64_t end = min_i64(begin + cut->task_out, cut->job.linear->n_out);
    int64_t row = task % cut->n_chunks * cut->chunk_rows;
    dsv4_linear_job job = cut->job;
    job.x += row * job.x_stride;
    job.y += row * job.y_stride;
    job.n_rows = min_i64(cut->chunk_rows, job.n_rows - row);
    job.next_begin = (task + work->n_threads) / cut->n_chunks * cut->task_out;
    job.next_rows = job.next_begin - begin;
    work->kernel(&job, begin, end);
}

/* Whether all products together are done before other threads wake. */
static bool are_small(const dsv4_linear_product *products, int64_t n_products)
{
    int64_t all_bytes = 0, bytes;
    for (int64_t i = 0; i < n_products; i++) {
        if (!dsv4_checked_mul_i64(dsv4_linear_bytes(products[i].linear), products[i].n_rows,
                                  &bytes) ||
            !dsv4_checked_add_i64(all_bytes, bytes, &all_bytes)) {
            return false;
        }
    }
    return all_bytes < MIN_SHARED_BYTES;
}

/* Its tasks come after first_task others; returns the end of its own. */
static int64_t cut_product(const dsv4_linear_product *product, int32_t n_threads,
                           int64_t first_task, linear_cut *cut)
{
    cut->end_task = first_task;
    if (product->n_rows <= 0 || product->linear->n_out <= 0) return first_task;
    cut->job = (dsv4_linear_job){.linear = product->linear,
                                 .x = product->x,
                                 .y = product->y,
                                 .x_stride = product->x_stride,
                                 .y_stride = product->y_stride,
                                 .n_rows = product->n_rows,
                                 .ahead_rows = choose_ahead_rows(product->linear)};
    cut->task_out = choose_task_out(product->linear, n_threads);
    cut->chunk_rows = choose_chunk_rows(product->n_rows);
    cut->n_chunks = ceil_div(product->n_rows, cut->chunk_rows);
    cut->end_task += ceil_div(product->linear->n_out, cut->task_out) * cut->n_chunks;
    return cut->end_task;
}

void dsv4_linear_cpu_all(const dsv4_compute *compute, const dsv4_linear_product *products,
                         int64_t n_products, bool x_is_bf16)
{
    for (; n_products > 0 && compute->cpu_level == 0; n_products--, products++) {
        dsv4_linear_ref(products->linear, products->x, products->x_stride, products->n_rows,
                        products->y, products->y_stride);
    }
    linear_work work = {.kernel = kernel_of(compute->cpu_level, x_is_bf16)};
    while (n_products > 0) {
        int64_t n_cuts = min_i64(n_products, MOST_AT_ONCE), n_tasks = 0;
        work.n_threads = are_small(products, n_cuts) ? 1 : compute->n_threads;
        for (int64_t i = 0; i < n_cuts; i++) {
            n_tasks = cut_product(&products[i], work.n_threads, n_tasks, &work.cuts[i]);
        }
        dsv4_parallel_for(work.n_threads, n_tasks, run_task, &work);
        products += n_cuts;
        n_products -= n_cuts;
    }
}

void dsv4_linear_cpu(const dsv4_compute *compute, const dsv4_linear *linear, const float *x,
                     int64_t x_stride, int64_t n_rows, bool x_is_bf16, float *y, int64_t y_stride)
{
    dsv4_linear_product product = {linear, x, y, x_stride, y_stride, n_rows};
    dsv4_linear_cpu_all(compute, &product, 1, x_is_bf16);
}
