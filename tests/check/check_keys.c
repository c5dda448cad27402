/*
 * check_keys.c - randomized check of dsv4/keys.h: the reference against double precision, every other backend
 * against the reference byte by byte.
 *
 * Place: tests. One line for each operation and backend, then `N passed, M failed`; fails when M > 0. A failing
 * case prints its number and runs again alone with --case.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keys_bench.h"
#include "keys_case.h"
#include "keys_gpu.h"
#include "keys_oracle.h"

enum { MAX_PRINTED = 3, N_BACKENDS = 2 };

static const struct keys_group {
    const char *name;
    int64_t n_quick, n_threads; /* cases; of the second, with --threads */
} groups[KEYS_N_OPS] = {{"finish", 400, 20}, {"compress", 250, 6}, {"read", 400, 20}};

typedef struct run_options {
    bool is_long, for_threads, stops_early, is_bench, has_case;
    int32_t gpu;       /* DSV4_BACKEND_CUDA or _HIP; AUTO: none */
    const char *group; /* run no other; NULL: all */
    int64_t case_id;
} run_options;

typedef struct tally {
    int64_t n_cases, n_failed;
} tally;

static const char *backend_name(int i, int32_t gpu)
{
    if (i == 0) return "ref";
    return gpu == DSV4_BACKEND_CUDA ? "cuda" : gpu == DSV4_BACKEND_HIP ? "hip" : "cpu";
}

static void fail(tally *t, const keys_case *c, const char *backend, int64_t id, const char *text)
{
    char shape[KEYS_TEXT_BYTES];
    if (t->n_failed++ >= MAX_PRINTED) return;
    keys_case_describe(c, shape);
    printf("FAILED %s %s case %lld: %s\n    %s\n", groups[c->op].name, backend, (long long)id, text,
           shape);
}

/* The case on a copy of its image, by a backend of the CPU. */
static bool run_on_copy(const keys_case *c, uint8_t *image, int32_t backend,
                        char text[KEYS_TEXT_BYTES])
{
    dsv4_error error;
    memcpy(image, c->image, c->used_bytes);
    if (keys_case_call(c, image, backend, NULL, &error) == DSV4_OK) return true;
    (void)snprintf(text, KEYS_TEXT_BYTES, "%.200s", error.text);
    return false;
}

static bool same_images(const keys_case *c, uint8_t *got, uint8_t *want, char text[KEYS_TEXT_BYTES])
{
    keys_case_level_nan(c, got);
    keys_case_level_nan(c, want);
    size_t i = 0, n_apart = 0, first = 0;
    for (; i < c->used_bytes; i++) {
        if (got[i] != want[i] && n_apart++ == 0) first = i;
    }
    (void)snprintf(text, KEYS_TEXT_BYTES,
                   "%zu bytes differ from the reference's, the first at %zu: %02x, not %02x%s",
                   n_apart, first, got[first], want[first],
                   want[first] == c->image[first] ? " as before the call" : "");
    return n_apart == 0;
}

typedef struct image_pair {
    uint8_t *want, *got;
} image_pair;

static void run_case(keys_case *c, int op, int64_t id, int32_t gpu, const image_pair *images,
                     tally tallies[N_BACKENDS], double *worst)
{
    char text[KEYS_TEXT_BYTES];
    keys_case_draw(c, op, (uint64_t)id, gpu != DSV4_BACKEND_AUTO);
    for (int i = 0; i < N_BACKENDS; i++) tallies[i].n_cases++;
    bool is_good = run_on_copy(c, images->want, DSV4_BACKEND_REF, text) &&
                   keys_oracle_check(c, images->want, worst, text);
    if (!is_good) fail(&tallies[0], c, backend_name(0, gpu), id, text);
    is_good = gpu != DSV4_BACKEND_AUTO ? keys_gpu_run(c, images->got, text)
                                       : run_on_copy(c, images->got, DSV4_BACKEND_CPU, text);
    is_good = is_good && same_images(c, images->got, images->want, text);
    if (!is_good) fail(&tallies[1], c, backend_name(1, gpu), id, text);
}

static void run_group(keys_case *c, int op, const run_options *options, const image_pair *images,
                      int64_t totals[2])
{
    tally tallies[N_BACKENDS] = {{0}};
    double worst = 0;
    int64_t n_cases = options->for_threads ? groups[op].n_threads
                                           : groups[op].n_quick * (options->is_long ? 20 : 1);
    for (int64_t id = 0; id < n_cases; id++) {
        int64_t chosen = options->has_case ? options->case_id : id;
        run_case(c, op, chosen, options->gpu, images, tallies, &worst);
        bool has_failed = tallies[0].n_failed + tallies[1].n_failed > 0;
        if (options->has_case || (options->stops_early && has_failed)) break;
    }
    for (int i = 0; i < N_BACKENDS; i++) {
        const tally *t = &tallies[i];
        printf("%-9s %-5s %5lld cases  ", groups[op].name, backend_name(i, options->gpu),
               (long long)t->n_cases);
        if (i == 0) printf("worst %5.3f of bound  ", worst);
        if (i > 0) printf("bytes of the reference  ");
        printf("%s\n", t->n_failed == 0 ? "ok" : "FAILED");
        totals[0] += t->n_cases - t->n_failed;
        totals[1] += t->n_failed;
    }
    fflush(stdout);
}

static bool options_parse(int argc, char **argv, run_options *options)
{
    memset(options, 0, sizeof *options);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--long") == 0) {
            options->is_long = true;
        } else if (strcmp(argv[i], "--threads") == 0) {
            options->for_threads = true;
        } else if (strcmp(argv[i], "--cuda") == 0) {
            options->gpu = DSV4_BACKEND_CUDA;
        } else if (strcmp(argv[i], "--hip") == 0) {
            options->gpu = DSV4_BACKEND_HIP;
        } else if (strcmp(argv[i], "--fail-fast") == 0) {
            options->stops_early = true;
        } else if (strcmp(argv[i], "--bench") == 0) {
            options->is_bench = true;
        } else if (strcmp(argv[i], "--group") == 0 && i + 1 < argc) {
            options->group = argv[++i];
        } else if (strcmp(argv[i], "--case") == 0 && i + 1 < argc) {
            char *end;
            options->has_case = true;
            options->case_id = strtoll(argv[++i], &end, 10);
            if (*end != 0 || options->case_id < 0) return false;
        } else {
            return false;
        }
    }
    if (options->is_bench && options->gpu == DSV4_BACKEND_HIP) return false; /* there is none */
    return !options->has_case || options->group != NULL;
}

int main(int argc, char **argv)
{
    run_options options;
    int64_t totals[2] = {0, 0}; /* passed, failed */
    dsv4_error error;
    if (!options_parse(argc, argv, &options)) {
        fprintf(stderr, "usage: check_keys [--long | --threads] [--cuda | --hip] [--fail-fast] "
                        "[--group NAME [--case NUMBER]] [--bench]\n");
        return 2;
    }
    if (options.gpu != DSV4_BACKEND_AUTO && keys_gpu_find(options.gpu, &error) != DSV4_OK) {
        fprintf(stderr, "check_keys: %s\n", error.text);
        return 2;
    }
    if (options.is_bench)
        return options.gpu == DSV4_BACKEND_AUTO ? keys_bench_run() : keys_gpu_bench();
    keys_case c = {0};
    keys_case_draw(&c, KEYS_READ, 0, options.gpu != DSV4_BACKEND_AUTO);
    image_pair images = {malloc(c.capacity_bytes), malloc(c.capacity_bytes)};
    if (images.want == NULL || images.got == NULL) return 2;
    for (int op = 0; op < KEYS_N_OPS; op++) {
        if (options.group != NULL && strcmp(options.group, groups[op].name) != 0) continue;
        run_group(&c, op, &options, &images, totals);
        if (options.stops_early && totals[1] > 0) break;
    }
    free(images.want);
    free(images.got);
    keys_case_free(&c);
    printf("%lld passed, %lld failed\n", (long long)totals[0], (long long)totals[1]);
    return totals[1] == 0 && totals[0] > 0 ? 0 : 1;
}
