/*
 * check_fibers.c - src/gpu's kernels, run on fibers, against the reference.
 *
 * Place: tests. Cases are those of check_attn (attn_group.h), cut to what fibers can do. Each is computed in one of the
 * ways that a device may take: heads together, thread blocks, split or not, waves upwards or downwards. Prints one line
 * for each group, then `N passed, M failed`; a failing case of check_attn's runs again with --case NUMBER and the other
 * options.
 * --quick: a quarter of them.
 * --cuda: by the kernels of src/cuda instead, each case by one of them; --kernel NAME: sm90 or mma alone.
 * --fail-fast: plan, groups of operations on keys and those of check_attn end with their first failure.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn_fp8.h"
#include "attn_group.h"
#include "fiber_decode.h"
#include "fiber_join_check.h"
#include "fiber_keys.h"
#include "fiber_matrix_check.h"
#include "fiber_plan_check.h"
#include "keys_case.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"

enum {
    MAX_FAILED = 3, /* of operations on keys: then enough is known */
    MANY_PARTS = 36,
};

typedef struct tally {
    int64_t n_cases, n_failed;
    attn_worst worst;
} tally;

/* Cases of a group of check_attn. */
typedef struct fiber_group {
    const char *name;
    int64_t n_cases;
    int64_t max_macs; /* larger ones are left out */
} fiber_group;

static const fiber_group groups[] = {
    {"corner", 120, 20000000},     {"blocks", 48, 20000000}, {"heads", 36, 30000000},
    {"values", 60, 20000000},      {"rope", 20, 20000000},   {"bits", 36, 20000000},
    {"fp8-output", 30, 20000000},  {"split", 8, 60000000},   {"grid", 10, 100000000},
    {"shared-plan", 12, 20000000}, {"far", 6, 20000000},     {"refused", 12, 20000000},
    {"scales", 24, 30000000},      {"growth", 12, 60000000}, {"queries", 48, 40000000},
};

static const attn_group *find_group(const char *name, uint64_t *number)
{
    for (int64_t i = 0; i < attn_n_groups; i++) {
        if (strcmp(attn_groups[i].name, name) == 0) {
            *number = (uint64_t)i;
            return &attn_groups[i];
        }
    }
    fprintf(stderr, "no group %s\n", name);
    exit(2);
}

/* Of --cuda and --kernel. */
static bool runs_cuda;
static const char *only_kernel;

/* Those that --kernel leaves and that have this output. ways: FIBER_CUDA_MAX_WAYS. -> their number */
static int list_cuda_ways(bool has_fp8_output, const fiber_cuda_way **ways)
{
    int n = 0;
    for (int i = 0; i < fiber_cuda_n_ways; i++) {
        const fiber_cuda_way *way = &fiber_cuda_ways[i];
        if (only_kernel != NULL && strcmp(way->kernel, only_kernel) != 0) continue;
        if (has_fp8_output && strcmp(way->kernel, "mma") != 0) continue;
        ways[n++] = way;
    }
    return n;
}

static const int32_t thread_blocks[] = {5, 8, 1, 16, 3};

/* The way of a case by a kernel of src/cuda; false when there is none. */
static bool find_cuda_way(uint64_t index, bool has_fp8_output, fiber_way *way)
{
    const fiber_cuda_way *ways[FIBER_CUDA_MAX_WAYS];
    const uint64_t n = (uint64_t)list_cuda_ways(has_fp8_output, ways);
    if (n == 0) return false;
    const fiber_cuda_way *cuda = ways[index % n];
    *way = (fiber_way){.name = cuda->kernel,
                       .math = DSV4_ATTN_MATH_BF16,
                       .group_heads = cuda->group_heads,
                       .cuda = cuda,
                       .joins = index / n % 5 != 4,
                       .seed = index,
                       .n_thread_blocks = thread_blocks[index / n % 5],
                       .may_split = index / n % 4 != 3,
                       .downwards = index / 2 % 2 == 1};
    return true;
}

/* The way of a case: every combination comes with enough cases. */
static fiber_way find_gpu_way(uint64_t index)
{
    static const int32_t heads[] = {16, 32, 64};
    const int32_t group_heads = heads[index % 3];
    const bool is_fp8 = index / 3 % 3 == 1, is_small = index / 3 % 3 == 2 && group_heads < 64;
    return (fiber_way){.name = is_fp8     ? "fp8"
                               : is_small ? "bf16 gfx942"
                                          : "bf16",
                       .math = is_fp8 ? DSV4_ATTN_MATH_FP8 : DSV4_ATTN_MATH_BF16,
                       .group_heads = group_heads,
                       .is_small = is_small,
                       .n_thread_blocks = thread_blocks[index / 3 % 5],
                       .may_split = index % 4 != 3,
                       .downwards = index / 2 % 2 == 1};
}

static uint8_t *collect(attn_tensor *tensor, const char *name, char *text)
{
    uint8_t *dense =
        attn_alloc(tensor->sizes[0] * tensor->sizes[1] * tensor->sizes[2] * tensor->row_bytes);
    if (attn_tensor_collect(tensor, dense)) return dense;
    snprintf(text, ATTN_TEXT_BYTES, "%s: an element not written, or bytes between or around", name);
    free(dense);
    return NULL;
}

/* As NVIDIA's devices have it, a NaN has no bits of its own; this processor keeps an operand's. */
static void settle_nans(const attn_result *result, int32_t out_dtype)
{
    uint16_t *halves = (uint16_t *)(void *)result->out;
    float *floats = (float *)(void *)result->out;
    for (int64_t i = 0; out_dtype == DSV4_DTYPE_BF16 && i < result->out_bytes / 2; i++)
        if ((halves[i] & 0x7fff) > 0x7f80) halves[i] = 0x7fff;
    for (int64_t i = 0; out_dtype == DSV4_DTYPE_F32 && i < result->out_bytes / 4; i++)
        if (isnan(floats[i])) floats[i] = NAN;
    for (int64_t i = 0; result->lse != NULL && i < result->n_lse; i++)
        if (isnan(result->lse[i])) result->lse[i] = NAN;
}

/* Out and lse, which become poison again. */
static bool collect_values(const dsv4_attn_params *params, attn_outputs *outputs,
                           attn_result *result, char *text)
{
    memset(result, 0, sizeof *result);
    result->n_lse = params->n_requests * params->n_queries * params->n_heads;
    result->out_bytes = result->n_lse * outputs->out.row_bytes;
    result->out = collect(&outputs->out, "out", text);
    if (result->out == NULL) return false;
    if (params->lse != NULL) {
        result->lse = (float *)(void *)collect(&outputs->lse, "lse", text);
        if (result->lse == NULL) return false;
    }
    if (runs_cuda) settle_nans(result, params->out_dtype);
    return true;
}

/* And scales, whose value where a plan is refused is that of poison. */
static bool collect_result(const dsv4_attn_params *params, attn_outputs *outputs,
                           attn_result *result, char *text)
{
    if (!collect_values(params, outputs, result, text)) return false;
    if (params->out_dtype != DSV4_DTYPE_FP8) return true;
    result->scales = collect(&outputs->scales, "out_scales", text);
    return result->scales != NULL;
}

static bool decode_way(const dsv4_attn_params *params, const fiber_way *way, bool is_refused,
                       attn_outputs *outputs, attn_result *result, char *text)
{
    char why[FIBER_TEXT_BYTES] = "";
    memset(result, 0, sizeof *result);
    attn_tensor_poison(&outputs->out);
    attn_tensor_poison(&outputs->lse);
    if (outputs->scales.block != NULL) attn_tensor_poison(&outputs->scales);
    if (!(is_refused ? fiber_decode_refused : fiber_decode)(params, way, why)) {
        snprintf(text, ATTN_TEXT_BYTES, "%s", why);
        return false;
    }
    return is_refused ? collect_values(params, outputs, result, text)
                      : collect_result(params, outputs, result, text);
}

static bool run_fibers(attn_case *c, const fiber_way *way, bool is_refused, attn_result *result,
                       char *text)
{
    return decode_way(&c->params, way, is_refused, &c->outputs, result, text);
}

/* For what check_attn asks of every way to compute. */
static fiber_way config_way;

static bool run_config(const dsv4_attn_params *params, attn_outputs *outputs, attn_result *result,
                       char *text)
{
    return decode_way(params, &config_way, false, outputs, result, text);
}

/*
 * A second run with waves and blocks in the other order, and with copies as early as they may come: a race, or a merge by
 * arrival, would hardly give the same bits.
 */
static bool run_twice(attn_case *c, const fiber_way *way, attn_result *result, char *text)
{
    attn_result second = {0};
    fiber_way reversed = *way;
    reversed.downwards = !way->downwards;
    reversed.copies_at_once = true;
    bool is_good =
        run_fibers(c, way, false, result, text) && run_fibers(c, &reversed, false, &second, text);
    if (is_good && !attn_result_equal(result, &second)) {
        snprintf(text, ATTN_TEXT_BYTES,
                 "waves and blocks in another order, or early copies, give other bits");
        is_good = false;
    }
    attn_result_free(&second);
    return is_good;
}

/* Codes and scales are those of an f32 result. */
static bool codes_match(const attn_result *codes, const float *values, char *text)
{
    for (int64_t i = 0; i < codes->n_lse * 4; i++) {
        float largest = 0.0f;
        for (int k = 0; k < DSV4_ATTN_OUT_GROUP; k++)
            largest = fmaxf(largest, fabsf(values[i * DSV4_ATTN_OUT_GROUP + k]));
        const uint8_t scale = dsv4_ue8m0_group_scale(largest, 448.0f, 1e-4f);
        const float inverse = ldexpf(1.0f, 127 - (int)scale);
        bool is_good = codes->scales[i] == scale;
        for (int k = 0; k < DSV4_ATTN_OUT_GROUP; k++) {
            const int64_t at = i * DSV4_ATTN_OUT_GROUP + k;
            is_good &= isnan(values[at])
                           ? (codes->out[at] & 0x7f) == 0x7f
                           : codes->out[at] == dsv4_e4m3_from_f32(values[at] * inverse);
        }
        if (is_good) continue;
        snprintf(text, ATTN_TEXT_BYTES, "group %d: codes or scale differ from the f32 result",
                 (int)i);
        return false;
    }
    return true;
}

/* In the case's output: FP8 has to be the f32 output of the same way, rounded, and that is what is compared further. */
static bool run_case_way(attn_case *c, const fiber_way *way, attn_result *result, char *text)
{
    if (c->spec.out_dtype != DSV4_DTYPE_FP8) return run_twice(c, way, result, text);
    attn_result codes;
    bool is_good = run_twice(c, way, &codes, text);
    attn_rng rng = {c->spec.id};
    attn_outputs kept = c->outputs;
    dsv4_attn_params params = c->params;
    c->params.out_dtype = DSV4_DTYPE_F32;
    attn_outputs_make(&c->outputs, &rng, ATTN_LAYOUT_DENSE, false, &c->params);
    memset(result, 0, sizeof *result);
    is_good = is_good && run_fibers(c, way, false, result, text) &&
              codes_match(&codes, (const float *)(const void *)result->out, text);
    attn_outputs_free(&c->outputs);
    c->outputs = kept;
    c->params = params;
    attn_result_free(&codes);
    return is_good;
}

/* The reference's answer. */
static bool answer_case(attn_case *c, attn_answer *answer, char *text)
{
    const attn_config reference = attn_config_ref;
    attn_result wide;
    const bool is_good = attn_run_case_f32(c, &reference, &wide, text);
    memset(answer, 0, sizeof *answer);
    if (is_good) attn_answer_from_result(answer, &wide);
    attn_result_free(&wide);
    return is_good;
}

/*
 * With FP8 math results are compared with the answer for the rounded queries, and by the tolerance of bf16: only the
 * first product is of codes, and the sums of this model are f32.
 */
static bool check_case(attn_case *c, const fiber_way *way, attn_worst *worst, char *text)
{
    const bool is_fp8 = way->math == DSV4_ATTN_MATH_FP8;
    attn_result got;
    attn_answer answer = {0}, plain = {0};
    attn_fp8_kept kept;
    bool is_good = run_case_way(c, way, &got, text);
    const int32_t out_dtype = c->spec.out_dtype;
    if (out_dtype == DSV4_DTYPE_FP8) c->spec.out_dtype = DSV4_DTYPE_F32; /* what got is */
    if (is_fp8) {
        is_good = answer_case(c, &plain, text) && is_good &&
                  attn_fp8_cosine_check(c, &got, &plain, worst, text);
        attn_fp8_queries_round(c, &kept);
    }
    is_good = answer_case(c, &answer, text) && is_good &&
              attn_compare(c, DSV4_ATTN_MATH_BF16, &got, &answer, 0, worst, text);
    if (is_fp8) attn_fp8_queries_restore(c, &kept);
    c->spec.out_dtype = out_dtype;
    attn_answer_free(&answer);
    attn_answer_free(&plain);
    attn_result_free(&got);
    return is_good;
}

/* A plan for other shapes: NaN everywhere. */
static bool check_refused(attn_case *c, const fiber_way *way, attn_worst *worst, char *text)
{
    attn_result got;
    (void)worst;
    bool is_good = run_fibers(c, way, true, &got, text);
    for (int64_t i = 0; is_good && i < got.n_lse * DSV4_ATTN_DIM; i++) {
        is_good = c->spec.out_dtype == DSV4_DTYPE_FP8
                      ? got.out[i] == 0x7f
                      : isnan(attn_out_value(got.out, c->spec.out_dtype, i));
        if (!is_good) snprintf(text, ATTN_TEXT_BYTES, "out is not NaN");
    }
    for (int64_t i = 0; is_good && got.lse != NULL && i < got.n_lse; i++) {
        is_good = isnan(got.lse[i]);
        if (!is_good) snprintf(text, ATTN_TEXT_BYTES, "lse is not NaN");
    }
    attn_result_free(&got);
    return is_good;
}

/* Tasks that are not split: each request by itself has the bits that it has among others. */
static bool check_alone(attn_case *c, const fiber_way *way, attn_worst *worst, char *text)
{
    fiber_way whole = *way;
    attn_result together, alone = {0};
    char why[FIBER_TEXT_BYTES] = "";
    (void)worst;
    whole.may_split = false;
    bool is_good = run_fibers(c, &whole, false, &together, text);
    const dsv4_attn_params all = c->params;
    for (int64_t r = 0; is_good && r < all.n_requests; r++) {
        dsv4_attn_params one = all;
        dsv4_attn_scope *scopes[2] = {&one.window, &one.extra};
        one.n_requests = 1;
        one.q = (const char *)all.q + r * all.q_request_stride_bytes;
        one.out = (char *)all.out + r * all.out_request_stride_bytes;
        if (all.lse != NULL)
            one.lse = (float *)(void *)((char *)all.lse + r * all.lse_request_stride_bytes);
        if (all.out_scales != NULL)
            one.out_scales = all.out_scales + r * all.out_scales_request_stride_bytes;
        if (all.rope_rows != NULL) one.rope_rows = all.rope_rows + r * all.n_queries;
        for (int i = 0; i < 2; i++) {
            if (scopes[i]->indices != NULL)
                scopes[i]->indices =
                    (const int32_t *)(const void *)((const char *)scopes[i]->indices +
                                                    r * scopes[i]->indices_request_stride_bytes);
            if (scopes[i]->lengths != NULL) scopes[i]->lengths += r;
        }
        is_good = fiber_decode(&one, &whole, why);
    }
    if (is_good) is_good = collect_result(&all, &c->outputs, &alone, text);
    if (is_good && !attn_result_equal(&together, &alone)) {
        snprintf(text, ATTN_TEXT_BYTES, "requests alone have other bits %s", why);
        is_good = false;
    }
    attn_result_free(&together);
    attn_result_free(&alone);
    return is_good;
}

/* By the group's property, which sees only numbers, or against the reference. */
static bool check_by_group(const attn_group *group, attn_case *c, const fiber_way *way,
                           attn_worst *worst, char *text)
{
    const attn_config config = {
        .name = way->name, .backend = DSV4_BACKEND_REF, .math = way->math, .run = run_config};
    config_way = *way;
    if (strcmp(group->name, "refused") == 0) return check_refused(c, way, worst, text);
    if (strcmp(group->name, "rope") == 0 || strcmp(group->name, "far") == 0)
        return group->property(c, &config, worst, text);
    if (strcmp(group->name, "shared-plan") == 0) return check_alone(c, way, worst, text);
    return check_case(c, way, worst, text);
}

static void run_case(uint64_t id, int64_t max_macs, tally *t)
{
    const attn_group *group = &attn_groups[id / ATTN_GROUP_CASES];
    char text[ATTN_TEXT_BYTES] = "";
    attn_spec spec;
    attn_case c;
    attn_group_draw(id, &spec);
    if (attn_spec_macs(&spec) > max_macs) return;
    fiber_way way = find_gpu_way(id % ATTN_GROUP_CASES);
    if (runs_cuda && !find_cuda_way(id % ATTN_GROUP_CASES, spec.out_dtype == DSV4_DTYPE_FP8, &way))
        return;
    attn_case_make(&c, &spec);
    const bool is_good = check_by_group(group, &c, &way, &t->worst, text);
    t->n_cases++;
    if (!is_good && t->n_failed++ < 3) {
        printf("FAILED %s %s: %s\n  %d heads together, %d blocks, split %d, downwards %d\n",
               group->name, way.name, text, way.group_heads, way.n_thread_blocks, way.may_split,
               way.downwards);
        attn_spec_print(&spec);
    }
    attn_case_free(&c);
}

/* FP8 math: a head whose query has an infinity is NaN, its neighbours are not. */
static bool check_infinite(uint64_t seed, char *text)
{
    const fiber_way way = {.name = "fp8",
                           .math = DSV4_ATTN_MATH_FP8,
                           .group_heads = 16 << seed % 3,
                           .n_thread_blocks = 3,
                           .may_split = true};
    attn_spec spec;
    attn_case c;
    attn_result plain, got;
    uint64_t number;
    (void)find_group("values", &number);
    attn_group_draw(number * ATTN_GROUP_CASES + 4 * seed, &spec);
    spec.scope[0].list = ATTN_LIST_ONE_SLOT;
    spec.scope[0].lengths = ATTN_LENGTHS_NONE;
    spec.scope[0].n_indices = 40;
    spec.n_heads = 7;
    spec.has_lse = true;
    spec.out_dtype = DSV4_DTYPE_F32;
    spec.sink = ATTN_SINK_NONE;
    attn_case_make(&c, &spec);
    bool is_good = run_fibers(&c, &way, false, &plain, text);
    const uint16_t infinity = seed % 2 == 0 ? 0x7f80 : 0xff80;
    memcpy((char *)(uintptr_t)c.params.q + 2 * (int64_t)(60 * seed), &infinity, sizeof infinity);
    is_good = run_fibers(&c, &way, false, &got, text) && is_good;
    double error = 0,
           square = 0; /* a NaN score moves the references of its neighbours: other roundings */
    for (int64_t i = 0; is_good && i < got.n_lse * DSV4_ATTN_DIM; i++) {
        const double value = attn_out_value(got.out, DSV4_DTYPE_F32, i),
                     wanted = attn_out_value(plain.out, DSV4_DTYPE_F32, i);
        is_good = isnan(value) == (i < DSV4_ATTN_DIM);
        if (!is_good) snprintf(text, ATTN_TEXT_BYTES, "value %d is %g", (int)i, value);
        if (i < DSV4_ATTN_DIM) continue;
        error += (value - wanted) * (value - wanted);
        square += wanted * wanted;
    }
    if (is_good && !(sqrt(error) <= 0x1p-7 * sqrt(square))) {
        snprintf(text, ATTN_TEXT_BYTES, "neighbours off by %g of %g", sqrt(error), sqrt(square));
        is_good = false;
    }
    is_good = is_good && isnan(got.lse[0]) && !isnan(got.lse[1]);
    attn_result_free(&plain);
    attn_result_free(&got);
    attn_case_free(&c);
    return is_good;
}

static void run_infinite(tally *t)
{
    for (uint64_t seed = 0; seed < 6; seed++) {
        char text[ATTN_TEXT_BYTES] = "";
        t->n_cases++;
        if (check_infinite(seed, text)) continue;
        t->n_failed++;
        printf("FAILED infinite: seed %d: %s\n", (int)seed, text);
    }
}

/* Random partial results, some without keys, against the reference. */
static bool check_merge(uint64_t seed)
{
    attn_rng rng = {seed};
    dsv4_attn_merge_params p = {.size = sizeof p,
                                .n_parts = attn_rng_range(&rng, 1, 7),
                                .n_rows = attn_rng_range(&rng, 1, 9),
                                .n_heads = attn_rng_range(&rng, 1, 20),
                                .part_dtype = DSV4_DTYPE_F32,
                                .out_dtype = DSV4_DTYPE_F32,
                                .backend = DSV4_BACKEND_REF};
    const int64_t n_rows = p.n_rows * p.n_heads;
    float *parts = attn_alloc(p.n_parts * n_rows * 512 * 4),
          *lse = attn_alloc(p.n_parts * n_rows * 4), *sink = attn_alloc(p.n_heads * 4), *out[3],
          *out_lse[3]; /* of the reference, and by waves of 32 and 64 threads */
    for (int64_t i = 0; i < p.n_parts * n_rows * 512; i++) parts[i] = attn_rng_normal(&rng);
    for (int64_t i = 0; i < p.n_parts * n_rows; i++)
        lse[i] = attn_rng_chance(&rng, 30) ? INFINITY : 5.0f * attn_rng_normal(&rng);
    for (int64_t i = 0; i < p.n_heads; i++)
        sink[i] = attn_rng_chance(&rng, 20) ? INFINITY : attn_rng_normal(&rng);
    p.out_parts = parts;
    p.lse_parts = lse;
    p.sink = seed % 3 == 0 ? NULL : sink;
    bool is_good = true;
    for (int i = 0; i < 3; i++) {
        p.out = out[i] = attn_alloc(n_rows * 512 * 4);
        p.lse = out_lse[i] = attn_alloc(n_rows * 4);
        if (i == 0) is_good = dsv4_attn_merge(NULL, &p, NULL) == DSV4_OK;
        if (i > 0) fiber_merge(&p, 32 * i, 1 + (int)(seed % 3));
    }
    for (int w = 1; w < 3; w++) {
        for (int64_t i = 0; i < n_rows * 512; i++)
            is_good &= fabsf(out[0][i] - out[w][i]) <= 1e-5f * (1.0f + fabsf(out[0][i]));
        for (int64_t i = 0; i < n_rows; i++)
            is_good &=
                out_lse[0][i] == out_lse[w][i] || fabsf(out_lse[0][i] - out_lse[w][i]) <= 1e-5f;
    }
    for (int i = 0; i < 3; i++) {
        free(out[i]);
        free(out_lse[i]);
    }
    free(parts);
    free(lse);
    free(sink);
    return is_good;
}

static void run_merges(tally *t)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        t->n_cases++;
        if (check_merge(seed)) continue;
        t->n_failed++;
        printf("FAILED merge: seed %d\n", (int)seed);
    }
}

/* Operations of dsv4/keys.h. */
static const struct keys_cases {
    const char *name;
    int64_t n_cases;
} keys_groups[] = {[KEYS_FINISH] = {"keys-finish", 120},
                   [KEYS_COMPRESS] = {"keys-compress", 80},
                   [KEYS_READ] = {"keys-read", 120}};

static void print_tally(const char *name, const tally *t, tally *all)
{
    printf("%-8s %4d cases, %d failed, largest error of out %.2g, of lse %.2g", name,
           (int)t->n_cases, (int)t->n_failed, t->worst.out, t->worst.lse);
    if (t->worst.cosine_distance > 0) /* of FP8 math, to the answer for unrounded queries */
        printf(", fp8 %.2g of the norm", sqrt(2 * t->worst.cosine_distance));
    printf("\n");
    fflush(stdout);
    all->n_cases += t->n_cases;
    all->n_failed += t->n_failed;
}

static void run_keys(const char *only, bool is_quick, bool fails_fast, tally *all)
{
    if (only == NULL || strcmp(only, "keys-formats") == 0) {
        tally t = {0};
        t.n_cases = fiber_keys_formats_check(&t.n_failed);
        print_tally("keys-formats", &t, all);
    }
    for (int op = 0; op < (int)(sizeof keys_groups / sizeof keys_groups[0]); op++) {
        const struct keys_cases *group = &keys_groups[op];
        tally t = {0};
        if (group->n_cases == 0 || (only != NULL && strcmp(only, group->name) != 0)) continue;
        t.n_cases = fiber_keys_check(op, group->n_cases / (is_quick ? 4 : 1),
                                     fails_fast ? 1 : MAX_FAILED, &t.n_failed);
        print_tally(group->name, &t, all);
    }
}

typedef struct options {
    bool is_quick, fails_fast;
    const char *group, *number; /* NULL: all of them */
} options;

static bool parse_options(int argc, char **argv, options *o)
{
    *o = (options){0};
    for (int i = 1; i < argc; i++) {
        const bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--quick") == 0) {
            o->is_quick = true;
        } else if (strcmp(argv[i], "--fail-fast") == 0) {
            o->fails_fast = true;
        } else if (strcmp(argv[i], "--cuda") == 0) {
            runs_cuda = true;
        } else if (strcmp(argv[i], "--kernel") == 0 && has_value) {
            only_kernel = argv[++i];
        } else if (strcmp(argv[i], "--group") == 0 && has_value) {
            o->group = argv[++i];
        } else if (strcmp(argv[i], "--case") == 0 && has_value) {
            o->number = argv[++i];
        } else {
            return false;
        }
    }
    return true;
}

/* More parts of a task than a warp has lanes; by `mma` alone, whose merge `sm90` has too. */
static void run_many_parts(tally *t)
{
    const fiber_cuda_way *ways[FIBER_CUDA_MAX_WAYS];
    const int n_ways = list_cuda_ways(true, ways);
    if (n_ways == 0) return;
    const fiber_way way = {.name = ways[0]->kernel,
                           .math = DSV4_ATTN_MATH_BF16,
                           .group_heads = ways[0]->group_heads,
                           .cuda = ways[0],
                           .n_thread_blocks = MANY_PARTS,
                           .may_split = true,
                           .least_parts = MANY_PARTS};
    char text[ATTN_TEXT_BYTES] = "";
    uint64_t number;
    attn_spec spec;
    attn_case c;
    (void)find_group("split", &number);
    attn_group_draw(number * ATTN_GROUP_CASES, &spec);
    spec.n_queries = 1;
    spec.n_heads = 8;
    spec.scope[0].n_indices = MANY_PARTS * 64; /* a part has a block of 64 keys */
    spec.scope[0].lengths = ATTN_LENGTHS_NONE;
    attn_case_make(&c, &spec);
    t->n_cases++;
    if (!check_case(&c, &way, &t->worst, text)) {
        t->n_failed++;
        printf("FAILED many-parts %s: %s\n", way.name, text);
        attn_spec_print(&spec);
    }
    attn_case_free(&c);
}

static void run_attn(const options *o, tally *all)
{
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        uint64_t number;
        tally t = {0};
        if (o->group != NULL && strcmp(o->group, groups[i].name) != 0) continue;
        (void)find_group(groups[i].name, &number);
        for (int64_t n = 0; n < groups[i].n_cases / (o->is_quick ? 4 : 1); n++) {
            run_case(number * ATTN_GROUP_CASES + (uint64_t)n, groups[i].max_macs, &t);
            if (o->fails_fast && t.n_failed > 0) break;
        }
        print_tally(groups[i].name, &t, all);
    }
    if (runs_cuda && (o->group == NULL || strcmp(o->group, "many-parts") == 0)) {
        tally t = {0};
        run_many_parts(&t);
        print_tally("many-parts", &t, all);
    }
}

/* With --cuda only what check_attn has cases for. */
static bool is_wanted(const options *o, const char *group)
{
    return !runs_cuda && (o->group == NULL || strcmp(o->group, group) == 0);
}

int main(int argc, char **argv)
{
    options o;
    tally all = {0};
    if (!parse_options(argc, argv, &o)) {
        fprintf(stderr, "usage: check_fibers [--cuda [--kernel NAME]] [--quick] [--fail-fast] "
                        "[--group NAME | --case NUMBER]\n");
        return 2;
    }
    if (only_kernel != NULL && !runs_cuda) {
        fprintf(stderr, "--kernel %s: given without --cuda\n", only_kernel);
        return 2;
    }
    if (runs_cuda && fiber_cuda_n_ways == 0) {
        fprintf(stderr, "--cuda: this build had no C++ compiler\n");
        return 2;
    }
    if (o.number != NULL) {
        run_case(strtoull(o.number, NULL, 10), INT64_MAX, &all);
        return all.n_failed > 0;
    }
    if (is_wanted(&o, "matrix")) {
        tally t = {0};
        t.n_cases = fiber_matrix_check(&t.n_failed);
        print_tally("matrix", &t, &all);
    }
    if (is_wanted(&o, "plan")) {
        tally t = {0};
        t.n_cases = fiber_plan_check(o.fails_fast, &t.n_failed);
        print_tally("plan", &t, &all);
    }
    if (is_wanted(&o, "join")) {
        tally t = {0};
        t.n_cases = fiber_join_check(&t.n_failed);
        print_tally("join", &t, &all);
    }
    if (is_wanted(&o, "merge")) {
        tally t = {0};
        run_merges(&t);
        print_tally("merge", &t, &all);
    }
    if (is_wanted(&o, "infinite")) {
        tally t = {0};
        run_infinite(&t);
        print_tally("infinite", &t, &all);
    }
    if (!runs_cuda) run_keys(o.group, o.is_quick, o.fails_fast, &all);
    run_attn(&o, &all);
    printf("%d passed, %d failed\n", (int)(all.n_cases - all.n_failed), (int)all.n_failed);
    return all.n_failed > 0 || all.n_cases == 0;
}
