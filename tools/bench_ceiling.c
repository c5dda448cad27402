/*
 * bench_ceiling.c - runs the ceiling loops on all threads and takes the best run.
 *
 * Place: program, bench. A ceiling is a maximum: a run that something else disturbed says less
 * about the machine than one that nothing disturbed.
 */
#include "bench_ceiling.h"

#include "bench_clock.h"
#include "ceiling.h"

#include "base/error.h"
#include "base/parallel.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIN_READ_BYTES   ((size_t)256 << 20)
#define MAX_READ_BYTES   ((size_t)2 << 30)
#define READ_CHUNK_BYTES ((size_t)4096)

enum { MIN_RUNS = 5, PROBE_RUNS = 3, BF16_ROW = 4 };

typedef struct loops {
    const char *name;
    dsv4_ceiling_flop_loop *flop;
    int64_t flop_per_round;
    dsv4_ceiling_read_loop *read;
} loops;

/* Rows 0 .. 3: f32 at V2, AVX2, AVX512, AVX512BF16; row BF16_ROW: bf16. */
static const loops all_loops[] = {
    {"SSE mulps and addps", dsv4_ceiling_flop_v2, DSV4_CEILING_V2_FLOP, dsv4_ceiling_read_v2},
    {"AVX2 vfmadd", dsv4_ceiling_flop_avx2, DSV4_CEILING_AVX2_FLOP, dsv4_ceiling_read_avx2},
    {"AVX-512 vfmadd", dsv4_ceiling_flop_avx512, DSV4_CEILING_AVX512_FLOP,
     dsv4_ceiling_read_avx512},
    {"AVX-512 vfmadd", dsv4_ceiling_flop_avx512, DSV4_CEILING_AVX512_FLOP,
     dsv4_ceiling_read_avx512},
    {"AVX-512 vdpbf16ps", dsv4_ceiling_flop_avx512bf16, DSV4_CEILING_AVX512BF16_FLOP,
     dsv4_ceiling_read_avx512},
};

typedef struct ceiling_work {
    const loops *loops;
    int64_t n_rounds;
    unsigned char *bytes;
    size_t part_bytes; /* of one thread */
} ceiling_work;

static void flop_body(void *context, int64_t task, int32_t worker)
{
    const ceiling_work *work = context;
    float seeds[DSV4_CEILING_CHAINS];
    for (int i = 0; i < DSV4_CEILING_CHAINS; i++) seeds[i] = 1 / (float)(1 + i);
    volatile float result = work->loops->flop(work->n_rounds, seeds);
    (void)result, (void)task, (void)worker;
}

static void read_body(void *context, int64_t task, int32_t worker)
{
    const ceiling_work *work = context;
    const unsigned char *part = work->bytes + (size_t)task * work->part_bytes;
    volatile uint64_t result = work->loops->read(part, work->part_bytes);
    (void)result, (void)worker;
}

/* First touch, so that each part is real memory, near the thread that reads it. */
static void fill_body(void *context, int64_t task, int32_t worker)
{
    const ceiling_work *work = context;
    memset(work->bytes + (size_t)task * work->part_bytes, 1, work->part_bytes);
    (void)worker;
}

static double time_run(int32_t n_threads, dsv4_parallel_body *body, ceiling_work *work)
{
    double start_s = dsv4_bench_now_s();
    dsv4_parallel_for(n_threads, n_threads, body, work);
    return dsv4_bench_now_s() - start_s;
}

/* The shortest of at least min_runs runs, and of as many as the budget allows. */
static double best_run_s(int32_t n_threads, int min_runs, double budget_s, dsv4_parallel_body *body,
                         ceiling_work *work)
{
    double best_s = time_run(n_threads, body, work), end_s = dsv4_bench_now_s() + budget_s;
    for (int run = 1; run < min_runs || dsv4_bench_now_s() < end_s; run++) {
        double time_s = time_run(n_threads, body, work);
        if (time_s < best_s) best_s = time_s;
    }
    return best_s;
}

/* Runs long enough that starting threads does not count; found from the best of a few, because a
 * single run may have waited for a processor. */
static void measure_flop(int32_t n_threads, double budget_s, ceiling_work *work,
                         dsv4_bench_ceilings *ceilings)
{
    work->n_rounds = 1000;
    while (best_run_s(n_threads, PROBE_RUNS, 0, flop_body, work) < budget_s / MIN_RUNS) {
        work->n_rounds *= 2;
    }
    double start_s = dsv4_bench_now_s(), start_cpu_s = dsv4_bench_cpu_s();
    double best_s = best_run_s(n_threads, MIN_RUNS, budget_s, flop_body, work);
    double elapsed_s = dsv4_bench_now_s() - start_s;
    ceilings->cpu_share = (dsv4_bench_cpu_s() - start_cpu_s) / (elapsed_s * (double)n_threads);
    double n_rounds = (double)work->n_rounds * (double)n_threads;
    ceilings->flop_per_s = n_rounds * (double)work->loops->flop_per_round / best_s;
}

/* Twice the last-level cache, as far as the system knows it, within bounds. */
static size_t choose_read_bytes(void)
{
    size_t read_bytes = MIN_READ_BYTES;
#ifdef _SC_LEVEL3_CACHE_SIZE
    long cache_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (cache_bytes > 0 && 2 * (size_t)cache_bytes > read_bytes) {
        read_bytes = 2 * (size_t)cache_bytes;
    }
#endif
    return read_bytes < MAX_READ_BYTES ? read_bytes : MAX_READ_BYTES;
}

dsv4_status dsv4_bench_ceilings_measure(int32_t level, bool uses_bf16, int32_t n_threads,
                                        double budget_s, dsv4_bench_ceilings *ceilings,
                                        dsv4_error *error)
{
    bool has_bf16 = level == DSV4_CPU_LEVEL_AVX512BF16;
    int32_t row = uses_bf16 && has_bf16 ? BF16_ROW : level - DSV4_CPU_LEVEL_V2;
    ceiling_work work = {.loops = &all_loops[row]};
    *ceilings = (dsv4_bench_ceilings){.flop_loop = work.loops->name};

    size_t chunks = choose_read_bytes() / READ_CHUNK_BYTES / (size_t)n_threads;
    work.part_bytes = chunks * READ_CHUNK_BYTES;
    ceilings->read_bytes = work.part_bytes * (size_t)n_threads;
    work.bytes = aligned_alloc(READ_CHUNK_BYTES, ceilings->read_bytes);
    if (work.bytes == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "no memory for %zu bytes to measure reading with",
                              ceilings->read_bytes);
    }
    dsv4_parallel_for(n_threads, n_threads, fill_body, &work);
    double best_s = best_run_s(n_threads, MIN_RUNS, budget_s, read_body, &work);
    ceilings->read_bytes_per_s = (double)ceilings->read_bytes / best_s;
    free(work.bytes);
    measure_flop(n_threads, budget_s, &work, ceilings);
    return DSV4_OK;
}
