/*
 * bench_ceiling.c - runs the ceiling loops on all threads and takes the best run.
 *
 * Place: program, bench. The ceiling of a run's header is a maximum: a piece that something else
 * disturbed says less about the machine than one that nothing disturbed.
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

#define PIECE_S 0.003

enum { MIN_RUNS = 5, PROBE_RUNS = 3, BF16_ROW = 4, N_PIECES = 8 };

typedef struct dsv4_bench_loops {
    const char *name;
    dsv4_ceiling_flop_loop *flop;
    int64_t flop_per_round;
    dsv4_ceiling_read_loop *read;
} dsv4_bench_loops;

/* Rows 0 .. 3: f32 at V2, AVX2, AVX512, AVX512BF16; row BF16_ROW: bf16. */
static const dsv4_bench_loops all_loops[] = {
    {"SSE mulps and addps", dsv4_ceiling_flop_v2, DSV4_CEILING_V2_FLOP, dsv4_ceiling_read_v2},
    {"AVX2 vfmadd", dsv4_ceiling_flop_avx2, DSV4_CEILING_AVX2_FLOP, dsv4_ceiling_read_avx2},
    {"AVX-512 vfmadd", dsv4_ceiling_flop_avx512, DSV4_CEILING_AVX512_FLOP,
     dsv4_ceiling_read_avx512},
    {"AVX-512 vfmadd", dsv4_ceiling_flop_avx512, DSV4_CEILING_AVX512_FLOP,
     dsv4_ceiling_read_avx512},
    {"AVX-512 vdpbf16ps", dsv4_ceiling_flop_avx512bf16, DSV4_CEILING_AVX512BF16_FLOP,
     dsv4_ceiling_read_avx512},
};

static void flop_body(void *context, int64_t task, int32_t worker)
{
    const dsv4_bench_gauge *gauge = context;
    float seeds[DSV4_CEILING_CHAINS];
    for (int i = 0; i < DSV4_CEILING_CHAINS; i++) seeds[i] = 1 / (float)(1 + i);
    volatile float result = gauge->loops->flop(gauge->n_rounds, seeds);
    (void)result, (void)task, (void)worker;
}

static unsigned char *part_of(const dsv4_bench_gauge *gauge, int64_t piece, int64_t thread)
{
    return gauge->bytes + (size_t)(piece * gauge->n_threads + thread) * gauge->part_bytes;
}

static void read_body(void *context, int64_t task, int32_t worker)
{
    const dsv4_bench_gauge *gauge = context;
    volatile uint64_t result =
        gauge->loops->read(part_of(gauge, gauge->next_piece, task), gauge->part_bytes);
    (void)result, (void)worker;
}

/* First touch, so that each part is real memory, near the thread that reads it. */
static void fill_body(void *context, int64_t task, int32_t worker)
{
    const dsv4_bench_gauge *gauge = context;
    for (int64_t i = 0; i < N_PIECES; i++) memset(part_of(gauge, i, task), 1, gauge->part_bytes);
    (void)worker;
}

static double time_run(dsv4_bench_gauge *gauge, dsv4_parallel_body *body)
{
    double start_s = dsv4_bench_now_s();
    dsv4_parallel_for(gauge->n_threads, gauge->n_threads, body, gauge);
    return dsv4_bench_now_s() - start_s;
}

double dsv4_bench_gauge_read(dsv4_bench_gauge *gauge)
{
    double time_s = time_run(gauge, read_body);
    gauge->next_piece = (gauge->next_piece + 1) % N_PIECES;
    return (double)(gauge->part_bytes * (size_t)gauge->n_threads) / time_s;
}

double dsv4_bench_gauge_flop(dsv4_bench_gauge *gauge)
{
    double n_rounds = (double)gauge->n_rounds * (double)gauge->n_threads;
    return n_rounds * (double)gauge->loops->flop_per_round / time_run(gauge, flop_body);
}

/* The best of at least min_runs pieces, and of as many as the budget allows. */
static double best_rate(dsv4_bench_gauge *gauge, int min_runs, double budget_s,
                        double (*rate)(dsv4_bench_gauge *))
{
    double best = rate(gauge), end_s = dsv4_bench_now_s() + budget_s;
    for (int run = 1; run < min_runs || dsv4_bench_now_s() < end_s; run++) {
        double next = rate(gauge);
        if (next > best) best = next;
    }
    return best;
}

/* Pieces long enough that starting threads does not count; found from the best of a few, because a
 * single one may have waited for a processor. */
static void choose_rounds(dsv4_bench_gauge *gauge)
{
    gauge->n_rounds = 1000;
    double flop_per_round = (double)(gauge->loops->flop_per_round * gauge->n_threads);
    while ((double)gauge->n_rounds * flop_per_round /
               best_rate(gauge, PROBE_RUNS, 0, dsv4_bench_gauge_flop) <
           PIECE_S) {
        gauge->n_rounds *= 2;
    }
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

dsv4_status dsv4_bench_gauge_open(int32_t level, bool uses_bf16, int32_t n_threads, double budget_s,
                                  dsv4_bench_gauge *gauge, dsv4_error *error)
{
    bool has_bf16 = level == DSV4_CPU_LEVEL_AVX512BF16;
    int32_t row = uses_bf16 && has_bf16 ? BF16_ROW : level - DSV4_CPU_LEVEL_V2;
    *gauge = (dsv4_bench_gauge){.loops = &all_loops[row], .n_threads = n_threads};
    dsv4_bench_ceilings *ceilings = &gauge->ceilings;
    ceilings->flop_loop = gauge->loops->name;

    size_t n_parts = (size_t)N_PIECES * (size_t)n_threads;
    gauge->part_bytes = choose_read_bytes() / READ_CHUNK_BYTES / n_parts * READ_CHUNK_BYTES;
    ceilings->read_bytes = gauge->part_bytes * n_parts;
    gauge->bytes = aligned_alloc(READ_CHUNK_BYTES, ceilings->read_bytes);
    if (gauge->bytes == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "no memory for %zu bytes to measure reading with",
                              ceilings->read_bytes);
    }
    dsv4_parallel_for(n_threads, n_threads, fill_body, gauge);
    ceilings->read_bytes_per_s = best_rate(gauge, MIN_RUNS, budget_s, dsv4_bench_gauge_read);
    choose_rounds(gauge);
    double start_s = dsv4_bench_now_s(), start_cpu_s = dsv4_bench_cpu_s();
    ceilings->flop_per_s = best_rate(gauge, MIN_RUNS, budget_s, dsv4_bench_gauge_flop);
    double elapsed_s = dsv4_bench_now_s() - start_s;
    ceilings->cpu_share = (dsv4_bench_cpu_s() - start_cpu_s) / (elapsed_s * (double)n_threads);
    return DSV4_OK;
}

void dsv4_bench_gauge_close(dsv4_bench_gauge *gauge)
{
    free(gauge->bytes);
    gauge->bytes = NULL;
}

dsv4_status dsv4_bench_ceilings_measure(int32_t level, bool uses_bf16, int32_t n_threads,
                                        double budget_s, dsv4_bench_ceilings *ceilings,
                                        dsv4_error *error)
{
    dsv4_bench_gauge gauge;
    DSV4_TRY(dsv4_bench_gauge_open(level, uses_bf16, n_threads, budget_s, &gauge, error));
    *ceilings = gauge.ceilings;
    dsv4_bench_gauge_close(&gauge);
    return DSV4_OK;
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

double dsv4_bench_median(double *samples, int32_t n)
{
    qsort(samples, (size_t)n, sizeof *samples, compare_doubles);
    return samples[n / 2];
}
