/*
 * bench_report.c - the table and the JSON lines of the attention benchmark.
 *
 * Place: program, bench.
 */
#include "bench_report.h"

#include "base/error.h"

#include <cpuid.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* A quiet machine gives more than this share of its time. */
#define MIN_CPU_SHARE 0.95

enum { CPU_NAME_BYTES = 49, FIRST_NAME_LEAF = 0x80000002 };

/* The processor's own name, without the spaces that some put in front. */
static void read_cpu_name(char name[static CPU_NAME_BYTES])
{
    memset(name, 0, CPU_NAME_BYTES);
    for (unsigned i = 0; i < 3; i++) {
        unsigned words[4];
        if (!__get_cpuid((unsigned)FIRST_NAME_LEAF + i, &words[0], &words[1], &words[2],
                         &words[3])) {
            break;
        }
        memcpy(name + 16 * i, words, sizeof words);
    }
    size_t n_spaces = strspn(name, " ");
    memmove(name, name + n_spaces, CPU_NAME_BYTES - n_spaces);
}

void dsv4_bench_print_header(const dsv4_bench_setup *setup)
{
    const dsv4_bench_ceilings *ceilings = &setup->ceilings;
    char cpu_name[CPU_NAME_BYTES];
    read_cpu_name(cpu_name);
    printf("machine   %s, cpu level %s, %ld processors\n", cpu_name,
           dsv4_cpu_level_name(dsv4_cpu_level()), sysconf(_SC_NPROCESSORS_ONLN));
    printf("measured  backend %s, kernel %s, math %s, %" PRId32 " threads\n", setup->choice.backend,
           setup->choice.kernel, setup->choice.math, setup->n_threads);
    printf("ceilings  %.1f GFLOP/s (%s), reading %.1f GB/s (%zu MiB)\n",
           ceilings->flop_per_s * 1e-9, ceilings->flop_loop, ceilings->read_bytes_per_s * 1e-9,
           ceilings->read_bytes >> 20);
    if (ceilings->cpu_share < MIN_CPU_SHARE) {
        printf("caution   the threads had %.0f %% of the processor time they asked for: other "
               "programs run, or\n          there are fewer processors than threads; do not trust "
               "the numbers\n",
               ceilings->cpu_share * 100);
    }
    printf("cache     two pools of %" PRId64 " rows; each call names other rows\n",
           setup->n_pool_rows);
    printf("ref       the reference on one thread; measured for b1, times b for more requests\n\n");
    printf("%-20s %12s %9s %8s %8s %-6s %9s", "shape", "time", "GFLOP/s", "GB/s", "ceiling",
           "binds", "ref/time");
    if (setup->n_threads > 1) printf("  1->%" PRId32, setup->n_threads);
    printf("\n");
}

static void print_time(double time_s)
{
    if (time_s < 1e-3) {
        printf(" %9.1f us", time_s * 1e6);
    } else {
        printf(" %9.3f ms", time_s * 1e3);
    }
}

void dsv4_bench_print_row(const dsv4_bench_setup *setup, const dsv4_bench_result *result)
{
    printf("%-20s", result->shape.name);
    print_time(result->time_s);
    printf(" %9.1f %8.2f %6.1f %% %-6s %9.1f", result->flop / result->time_s * 1e-9,
           result->bytes / result->time_s * 1e-9, result->ceiling_fraction * 100,
           result->flop_binds ? "flop" : "read", result->ref_time_s / result->time_s);
    if (setup->n_threads > 1) printf(" %5.2f", result->one_thread_time_s / result->time_s);
    printf("\n");
    (void)fflush(stdout);
}

static json_t *machine_json(void)
{
    char cpu_name[CPU_NAME_BYTES];
    struct utsname system_name;
    read_cpu_name(cpu_name);
    if (uname(&system_name) < 0) memset(&system_name, 0, sizeof system_name);
    return json_pack("{s:s, s:I, s:s, s:s}", "cpu", cpu_name, "n_processors",
                     (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "system", system_name.sysname,
                     "release", system_name.release);
}

static json_t *result_json(const dsv4_bench_result *result)
{
    return json_pack("{s:f, s:f, s:I, s:I, s:f, s:f, s:f, s:s, s:f, s:f}", "time_s", result->time_s,
                     "one_thread_time_s", result->one_thread_time_s, "flop",
                     (json_int_t)result->flop, "bytes", (json_int_t)result->bytes, "flop_per_s",
                     result->flop / result->time_s, "bytes_per_s", result->bytes / result->time_s,
                     "ceiling_fraction", result->ceiling_fraction, "binds",
                     result->flop_binds ? "flop" : "read", "ref_time_s", result->ref_time_s,
                     "ref_ratio", result->ref_time_s / result->time_s);
}

dsv4_status dsv4_bench_print_json(const dsv4_bench_setup *setup, const dsv4_bench_result *result,
                                  dsv4_error *error)
{
    const dsv4_bench_shape *shape = &result->shape;
    const dsv4_bench_ceilings *ceilings = &setup->ceilings;
    json_t *line = json_pack(
        "{s:s, s:s, s:o, s:s, s:s, s:s, s:s, s:I, s:I, s:{s:s, s:f, s:f, s:I, s:f}, s:s, "
        "s:{s:I, s:I, s:I, s:I}, s:o}",
        "bench", "attn", "version", dsv4_version(), "machine", machine_json(), "cpu_level",
        dsv4_cpu_level_name(dsv4_cpu_level()), "backend", setup->choice.backend, "kernel",
        setup->choice.kernel, "math", setup->choice.math, "n_threads", (json_int_t)setup->n_threads,
        "n_pool_rows", (json_int_t)setup->n_pool_rows, "ceilings", "flop_loop", ceilings->flop_loop,
        "flop_per_s", ceilings->flop_per_s, "read_bytes_per_s", ceilings->read_bytes_per_s,
        "read_bytes", (json_int_t)ceilings->read_bytes, "cpu_share", ceilings->cpu_share, "shape",
        shape->name, "sizes", "n_heads", (json_int_t)shape->n_heads, "n_window",
        (json_int_t)shape->n_window, "n_extra", (json_int_t)shape->n_extra, "n_requests",
        (json_int_t)shape->n_requests, "result", result_json(result));
    if (line == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for a line of JSON");
    }
    (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    json_decref(line);
    printf("\n");
    (void)fflush(stdout);
    return DSV4_OK;
}
