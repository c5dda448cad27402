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
    MAX_TASK_OUT = 128,    /* so that a task's part of W stays in L2 for the next rows of x */
    TASKS_PER_THREAD = 8,  /* of rows of W: slack for threads that are disturbed */
    ROW_CHUNK_MULTIPLE = 6 /* rows of x in a register tile of the widest levels */
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

typedef struct linear_work {
    dsv4_linear_kernel *kernel;
    dsv4_linear_job job;          /* of all rows of x */
    int64_t task_out;             /* rows of W per task */
    int64_t chunk_rows, n_chunks; /* rows of x per task; tasks that share rows of W */
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

static int64_t choose_task_out(const dsv4_linear *linear, int32_t n_threads)
{
    int64_t row_bytes = ceil_div(dsv4_linear_bytes(linear), linear->n_out);
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
    int64_t begin = task / work->n_chunks * work->task_out;
    int64_t end = min_i64(begin + work->task_out, work->job.linear->n_out);
    int64_t row = task % work->n_chunks * work->chunk_rows;
    dsv4_linear_job job = work->job;
    job.x += row * job.x_stride;
    job.y += row * job.y_stride;
    job.n_rows = min_i64(work->chunk_rows, job.n_rows - row);
    work->kernel(&job, begin, end);
}

void dsv4_linear_cpu(const dsv4_compute *compute, const dsv4_linear *linear, const float *x,
                     int64_t x_stride, int64_t n_rows, bool x_is_bf16, float *y, int64_t y_stride)
{
    if (compute->cpu_level == 0) {
        dsv4_linear_ref(linear, x, x_stride, n_rows, y, y_stride);
        return;
    }
    if (n_rows <= 0 || linear->n_out <= 0) return;
    linear_work work = {.kernel = kernel_of(compute->cpu_level, x_is_bf16)};
    work.job = (dsv4_linear_job){.linear = linear,
                                 .x = x,
                                 .y = y,
                                 .x_stride = x_stride,
                                 .y_stride = y_stride,
                                 .n_rows = n_rows};
    int64_t work_bytes;
    bool is_small = dsv4_checked_mul_i64(dsv4_linear_bytes(linear), n_rows, &work_bytes) &&
                    work_bytes < MIN_SHARED_BYTES;
    int32_t n_threads = is_small ? 1 : compute->n_threads;
    work.task_out = choose_task_out(linear, n_threads);
    work.chunk_rows = choose_chunk_rows(n_rows);
    work.n_chunks = ceil_div(n_rows, work.chunk_rows);
    int64_t n_tasks = ceil_div(linear->n_out, work.task_out) * work.n_chunks;
    dsv4_parallel_for(n_threads, n_tasks, run_task, &work);
}
