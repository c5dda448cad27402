/*
 * bench_machine.c - names the machine that a benchmark runs on.
 *
 * Place: program, bench.
 */
#include "bench_machine.h"

#include "base/error.h"

#include <cpuid.h>
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

void dsv4_bench_print_machine(void)
{
    char cpu_name[CPU_NAME_BYTES];
    read_cpu_name(cpu_name);
    printf("machine   %s, cpu level %s, %ld processors\n", cpu_name,
           dsv4_cpu_level_name(dsv4_cpu_level()), sysconf(_SC_NPROCESSORS_ONLN));
}

void dsv4_bench_print_caution(double cpu_share)
{
    if (cpu_share >= MIN_CPU_SHARE) return;
    printf("caution   the threads had %.0f %% of the processor time they asked for: other "
           "programs run, or\n          there are fewer processors than threads; do not trust "
           "the numbers\n",
           cpu_share * 100);
}

json_t *dsv4_bench_machine_json(void)
{
    char cpu_name[CPU_NAME_BYTES];
    struct utsname system_name;
    read_cpu_name(cpu_name);
    if (uname(&system_name) < 0) memset(&system_name, 0, sizeof system_name);
    return json_pack("{s:s, s:I, s:s, s:s}", "cpu", cpu_name, "n_processors",
                     (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "system", system_name.sysname,
                     "release", system_name.release);
}

dsv4_status dsv4_bench_print_json_line(json_t *line, dsv4_error *error)
{
    if (line == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for a line of JSON");
    }
    (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    json_decref(line);
    printf("\n");
    (void)fflush(stdout);
    return DSV4_OK;
}
