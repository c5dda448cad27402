/*
 * attn_run.c - one watched decode, and the comparison with its tolerances.
 *
 * Place: tests.
 */
#include "attn_run.h"

#include "attn_oracle.h"
#include "device_call.h"
#include "device_kind.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD_BYTES = 512, GUARD_BYTE = 0xc9 };

const attn_config attn_config_ref = {
    .name = "ref", .backend = DSV4_BACKEND_REF, .math = DSV4_ATTN_MATH_EXACT};

int32_t attn_config_list(attn_config configs[ATTN_MAX_CONFIGS])
{
    int32_t n_configs = 0;
    configs[n_configs++] = attn_config_ref;
    for (int32_t level = DSV4_CPU_LEVEL_V2; level <= dsv4_cpu_level(); level++) {
        int32_t math =
            level == DSV4_CPU_LEVEL_AVX512BF16 ? DSV4_ATTN_MATH_BF16 : DSV4_ATTN_MATH_EXACT;
        configs[n_configs++] = (attn_config){.name = dsv4_cpu_level_name(level),
                                             .backend = DSV4_BACKEND_CPU,
                                             .math = math,
                                             .cpu_level = level};
    }
    return n_configs;
}

enum { BF16 = DSV4_ATTN_MATH_BF16, FP8 = DSV4_ATTN_MATH_FP8 };

/* A way of a GPU. */
typedef struct gpu_kind {
    const char *name;
    int32_t math, group_heads, fixed_split, kernel, join;
} gpu_kind;

static int32_t list_gpu(const gpu_kind *kinds, size_t n_kinds, int32_t backend, bool has_fp8,
                        attn_config configs[ATTN_MAX_CONFIGS])
{
    int32_t n_configs = 0;
    configs[n_configs++] = attn_config_ref;
    for (size_t i = 0; i < n_kinds; i++) {
        if (kinds[i].math == FP8 && !has_fp8) continue;
        configs[n_configs++] = (attn_config){.name = kinds[i].name,
                                             .backend = backend,
                                             .math = kinds[i].math,
                                             .group_heads = kinds[i].group_heads,
                                             .cuda_kernel = kinds[i].kernel,
                                             .fixed_split = kinds[i].fixed_split,
                                             .join_queries = kinds[i].join};
    }
    return n_configs;
}

static int32_t list_cuda(attn_config configs[ATTN_MAX_CONFIGS])
{
    enum { ANY = DSV4_CUDA_KERNEL_AUTO, MMA = DSV4_CUDA_KERNEL_MMA };
    enum { NEVER = DSV4_JOIN_NEVER, ALWAYS = DSV4_JOIN_ALWAYS };
    static const gpu_kind kinds[] = {{"cuda", BF16, 0, 0, ANY, 0},
                                     {"cuda 8", BF16, 8, 0, ANY, NEVER},
                                     {"cuda 16", BF16, 16, 0, ANY, NEVER},
                                     {"cuda 32", BF16, 32, 0, ANY, NEVER},
                                     {"cuda 64", BF16, 64, 0, ANY, NEVER},
                                     {"cuda mma 8", BF16, 8, 0, MMA, NEVER},
                                     {"cuda mma 16", BF16, 16, 0, MMA, NEVER},
                                     {"cuda mma fix", BF16, 0, 1, MMA, 0},
                                     {"cuda fixed", BF16, 0, 1, ANY, NEVER},
                                     {"cuda join", BF16, 0, 0, ANY, ALWAYS},
                                     {"cuda join 64", BF16, 64, 0, ANY, ALWAYS},
                                     {"cuda join fix", BF16, 0, 1, ANY, ALWAYS},
                                     {"cuda mma join", BF16, 16, 0, MMA, ALWAYS},
                                     {"cuda fp8", FP8, 0, 0, ANY, 0},
                                     {"cuda fp8 32", FP8, 32, 0, ANY, 0},
                                     {"cuda fp8 64", FP8, 64, 0, ANY, 0},
                                     {"cuda fp8 fix", FP8, 0, 1, ANY, ALWAYS}};
    return list_gpu(kinds, sizeof kinds / sizeof kinds[0], DSV4_BACKEND_CUDA, device_is_hopper(),
                    configs);
}

static int32_t list_hip(attn_config configs[ATTN_MAX_CONFIGS])
{
    static const gpu_kind kinds[] = {
        {"hip", BF16, 0, 0, 0, 0},        {"hip 16", BF16, 16, 0, 0, 0},
        {"hip 32", BF16, 32, 0, 0, 0},    {"hip 64", BF16, 64, 0, 0, 0},
        {"hip fixed", BF16, 0, 1, 0, 0},  {"hip fp8", FP8, 0, 0, 0, 0},
        {"hip fp8 32", FP8, 32, 0, 0, 0}, {"hip fp8 64", FP8, 64, 0, 0, 0},
        {"hip fp8 fix", FP8, 0, 1, 0, 0}};
    return list_gpu(kinds, sizeof kinds / sizeof kinds[0], DSV4_BACKEND_HIP, device_has_hip_fp8(),
                    configs);
}

int32_t attn_config_list_gpu(int32_t backend, attn_config configs[ATTN_MAX_CONFIGS])
{
    return backend == DSV4_BACKEND_HIP ? list_hip(configs) : list_cuda(configs);
}

static size_t round_up_64(size_t n_bytes)
{
    return (n_bytes + 63) / 64 * 64;
}

bool attn_memory_make(attn_memory *memory, const dsv4_attn_params *params, char *text)
{
    dsv4_error error;
    memset(memory, 0, sizeof *memory);
    if (dsv4_attn_plan_size(params, &memory->n_bytes[0], &memory->n_bytes[1], &error) != DSV4_OK) {
        snprintf(text, ATTN_TEXT_BYTES, "plan_size: %s", error.text);
        return false;
    }
    for (int i = 0; i < 2; i++) {
        size_t block_bytes = round_up_64(memory->n_bytes[i]) + 2 * GUARD_BYTES;
        memory->block[i] = aligned_alloc(64, block_bytes);
        if (!memory->block[i]) {
            snprintf(text, ATTN_TEXT_BYTES, "out of memory: %zu bytes", block_bytes);
            return false;
        }
        memset(memory->block[i], GUARD_BYTE, block_bytes);
        memory->data[i] = memory->block[i] + GUARD_BYTES;
        memset(memory->data[i], 0xff, memory->n_bytes[i]); /* NaN to whoever reads it */
    }
    if (dsv4_attn_plan_build(NULL, params, memory->data[0], memory->n_bytes[0], &error) !=
        DSV4_OK) {
        snprintf(text, ATTN_TEXT_BYTES, "plan_build: %s", error.text);
        return false;
    }
    memory->plan_copy = attn_alloc((int64_t)memory->n_bytes[0]);
    memcpy(memory->plan_copy, memory->data[0], memory->n_bytes[0]);
    return true;
}

void attn_memory_free(attn_memory *memory)
{
    free(memory->block[0]);
    free(memory->block[1]);
    free(memory->plan_copy);
    memset(memory, 0, sizeof *memory);
}

static bool memory_check(const attn_memory *memory, char *text)
{
    for (int i = 0; i < 2; i++) {
        const uint8_t *end = memory->data[i] + memory->n_bytes[i];
        size_t tail_bytes = round_up_64(memory->n_bytes[i]) - memory->n_bytes[i] + GUARD_BYTES;
        bool is_good = true;
        for (size_t j = 0; j < GUARD_BYTES; j++) is_good &= memory->block[i][j] == GUARD_BYTE;
        for (size_t j = 0; j < tail_bytes; j++) is_good &= end[j] == GUARD_BYTE;
        if (!is_good) {
            snprintf(text, ATTN_TEXT_BYTES, "wrote outside the %s", i == 0 ? "plan" : "workspace");
            return false;
        }
    }
    if (memcmp(memory->plan_copy, memory->data[0], memory->n_bytes[0]) != 0) {
        snprintf(text, ATTN_TEXT_BYTES, "decode wrote to the plan");
        return false;
    }
    return true;
}

/* A dense copy of a written tensor, or NULL with the reason in text. */
static uint8_t *tensor_collect(attn_tensor *tensor, const char *name, char *text)
{
    const int64_t *sizes = tensor->sizes;
    uint8_t *dense = attn_alloc(sizes[0] * sizes[1] * sizes[2] * tensor->row_bytes);
    if (attn_tensor_collect(tensor, dense)) return dense;
    snprintf(text, ATTN_TEXT_BYTES, "%s: an element not written, or bytes between or around", name);
    free(dense);
    return NULL;
}

/* Dense copies of the written tensors. */
static bool result_collect(const dsv4_attn_params *params, attn_outputs *outputs,
                           attn_result *result, char *text)
{
    result->n_lse = params->n_requests * params->n_queries * params->n_heads;
    result->out_bytes = result->n_lse * outputs->out.row_bytes;
    result->out = tensor_collect(&outputs->out, "out", text);
    if (result->out == NULL) return false;
    if (params->lse != NULL) {
        result->lse = (float *)(void *)tensor_collect(&outputs->lse, "lse", text);
        if (result->lse == NULL) return false;
    }
    if (params->out_dtype == DSV4_DTYPE_FP8) {
        result->scales = tensor_collect(&outputs->scales, "out_scales", text);
        if (result->scales == NULL) return false;
    }
    return true;
}

static void outputs_poison(attn_outputs *outputs)
{
    attn_tensor_poison(&outputs->out);
    attn_tensor_poison(&outputs->lse);
    if (outputs->scales.block != NULL) attn_tensor_poison(&outputs->scales);
}

bool attn_decode(const dsv4_attn_params *params, attn_memory *memory, attn_outputs *outputs,
                 attn_result *result, char *text)
{
    dsv4_error error;
    memset(result, 0, sizeof *result);
    outputs_poison(outputs);
    if (dsv4_attn_decode(NULL, params, memory->data[0], memory->n_bytes[0], memory->data[1],
                         memory->n_bytes[1], &error) != DSV4_OK) {
        snprintf(text, ATTN_TEXT_BYTES, "decode: %s", error.text);
        return false;
    }
    return result_collect(params, outputs, result, text) && memory_check(memory, text);
}

static void outputs_spans(const attn_outputs *outputs, dsv4_device_span spans[DSV4_DEVICE_WRITTEN])
{
    const attn_tensor *tensors[DSV4_DEVICE_WRITTEN] = {&outputs->out, &outputs->lse,
                                                       &outputs->scales};
    for (int i = 0; i < DSV4_DEVICE_WRITTEN; i++) {
        spans[i] = (dsv4_device_span){tensors[i]->block, (size_t)tensors[i]->block_bytes};
    }
}

static bool device_decode_once(const dsv4_attn_params *params, attn_outputs *outputs,
                               attn_result *result, char *text)
{
    dsv4_error error;
    dsv4_device_span written[DSV4_DEVICE_WRITTEN];
    outputs_spans(outputs, written);
    outputs_poison(outputs);
    if (dsv4_device_call_decode(params, written, &error) != DSV4_OK) {
        snprintf(text, ATTN_TEXT_BYTES, "%s", error.text);
        return false;
    }
    return result_collect(params, outputs, result, text);
}

/* Twice: a race would hardly give the same bits. */
static bool device_decode(const dsv4_attn_params *params, attn_outputs *outputs,
                          attn_result *result, char *text)
{
    attn_result first = {0};
    bool is_good = device_decode_once(params, outputs, &first, text) &&
                   device_decode_once(params, outputs, result, text);
    if (is_good && !attn_result_equal(&first, result)) {
        snprintf(text, ATTN_TEXT_BYTES, "a second run has other bits");
        is_good = false;
    }
    attn_result_free(&first);
    return is_good;
}

/* Zeros where a byte tensor's elements are: what is expected there may be its poison. */
static void rows_zero(attn_tensor *tensor)
{
    const int64_t *sizes = tensor->sizes, *strides = tensor->strides;
    for (int64_t i = 0; i < sizes[0] * sizes[1] * sizes[2]; i++) {
        const int64_t head = i % sizes[2], query = i / sizes[2] % sizes[1],
                      request = i / sizes[2] / sizes[1];
        memset(tensor->data + request * strides[0] + query * strides[1] + head * strides[2], 0,
               (size_t)tensor->row_bytes);
    }
}

bool attn_run_refused(const dsv4_attn_params *params, const dsv4_attn_params *planned,
                      attn_outputs *outputs, attn_result *refused, attn_result *own, char *text)
{
    dsv4_error error;
    dsv4_device_span written[DSV4_DEVICE_WRITTEN], after[DSV4_DEVICE_WRITTEN];
    memset(refused, 0, sizeof *refused);
    memset(own, 0, sizeof *own);
    outputs_spans(outputs, written);
    for (int i = 0; i < DSV4_DEVICE_WRITTEN; i++) {
        after[i] =
            (dsv4_device_span){attn_alloc((int64_t)written[i].len_bytes), written[i].len_bytes};
    }
    outputs_poison(outputs);
    if (params->out_dtype == DSV4_DTYPE_FP8) rows_zero(&outputs->scales);
    bool is_good = dsv4_device_call_refused(params, planned, written, after, &error) == DSV4_OK;
    if (!is_good) snprintf(text, ATTN_TEXT_BYTES, "%s", error.text);
    is_good = is_good && result_collect(params, outputs, refused, text);
    for (int i = 0; i < DSV4_DEVICE_WRITTEN; i++) {
        if (is_good && written[i].len_bytes > 0)
            memcpy(written[i].bytes, after[i].bytes, written[i].len_bytes);
        free(after[i].bytes);
    }
    return is_good && result_collect(params, outputs, own, text);
}

void attn_config_apply(const attn_config *config, dsv4_attn_params *params)
{
    params->backend = config->backend;
    params->math = config->math;
    params->cpu_level = config->cpu_level;
    params->group_heads = config->group_heads;
    params->cuda_kernel = config->cuda_kernel;
    params->fixed_split = config->fixed_split;
    params->join_queries = config->join_queries;
}

bool attn_run(const dsv4_attn_params *params, const attn_config *config, attn_outputs *outputs,
              attn_result *result, char *text)
{
    attn_memory memory;
    dsv4_attn_params chosen = *params;
    attn_config_apply(config, &chosen);
    memset(result, 0, sizeof *result);
    if (config->run != NULL) return config->run(&chosen, outputs, result, text);
    if (attn_config_on_gpu(config)) {
        return device_decode(&chosen, outputs, result, text);
    }
    bool is_good = attn_memory_make(&memory, &chosen, text) &&
                   attn_decode(&chosen, &memory, outputs, result, text);
    attn_memory_free(&memory);
    return is_good;
}

bool attn_run_case(attn_case *c, const attn_config *config, attn_result *result, char *text)
{
    return attn_run(&c->params, config, &c->outputs, result, text);
}

bool attn_run_case_f32(attn_case *c, const attn_config *config, attn_result *result, char *text)
{
    attn_rng rng = {c->spec.id};
    attn_outputs outputs;
    dsv4_attn_params params = c->params;
    params.out_dtype = DSV4_DTYPE_F32;
    attn_outputs_make(&outputs, &rng, ATTN_LAYOUT_DENSE, false, &params);
    bool is_good = attn_run(&params, config, &outputs, result, text);
    attn_outputs_free(&outputs);
    return is_good;
}

void attn_result_free(attn_result *result)
{
    free(result->out);
    free(result->scales);
    free(result->lse);
    memset(result, 0, sizeof *result);
}

bool attn_result_equal(const attn_result *a, const attn_result *b)
{
    if (a->out_bytes != b->out_bytes || !a->lse != !b->lse) return false;
    if (memcmp(a->out, b->out, (size_t)a->out_bytes) != 0) return false;
    if (!a->scales != !b->scales) return false;
    if (a->scales && memcmp(a->scales, b->scales, (size_t)a->n_lse * 4) != 0) return false;
    return !a->lse || memcmp(a->lse, b->lse, (size_t)a->n_lse * 4) == 0;
}

void attn_answer_make(attn_answer *answer, int64_t n_heads_total)
{
    answer->out = attn_alloc(n_heads_total * DSV4_ATTN_DIM * (int64_t)sizeof *answer->out);
    answer->lse = attn_alloc(n_heads_total * (int64_t)sizeof *answer->lse);
    answer->slack = NULL;
}

void attn_answer_from_result(attn_answer *answer, const attn_result *result)
{
    attn_answer_make(answer, result->n_lse);
    for (int64_t i = 0; i < result->n_lse * DSV4_ATTN_DIM; i++) {
        answer->out[i] = attn_out_value(result->out, DSV4_DTYPE_F32, i);
    }
    for (int64_t i = 0; i < result->n_lse; i++) answer->lse[i] = (double)result->lse[i];
}

void attn_answer_free(attn_answer *answer)
{
    free(answer->out);
    free(answer->lse);
    free(answer->slack);
    memset(answer, 0, sizeof *answer);
}

/* Squares of errors and of expected values by group of 64 dims. */
typedef struct group_sums {
    double error[ATTN_SCORE_GROUPS];
    double value[ATTN_SCORE_GROUPS];
} group_sums;

/*
 * How far a score of this head may be off. Let `magnitude` be the largest sum of |products| behind
 * a score, bounded by Cauchy-Schwarz in each group.
 *
 * f32 sums of 512 products in two different orders stay each below 2 * 2^-24 * magnitude (a random
 * walk of 512 steps of half an ulp of partial sums that are sqrt(512) times smaller than it). The
 * bf16 dot-product instruction, which OFFICIAL may use too, besides takes numbers below 2^-126 as
 * zero: up to 64 in a group.
 *
 * FP8 products of 64 dims are aligned to the largest of them and cut off 13 bits below it: each by up to 2^-12 of the
 * largest where that is just above a power of two, in the root of the mean square by 2^-13.8, all 64 by 2^-10.8 of a
 * product that is a tenth of the magnitude at most where numbers are of one size. 2^-12 of the magnitude is five times that.
 */
static double score_error(const attn_case *c, int32_t math, int64_t request, int64_t query,
                          int64_t head)
{
    const dsv4_attn_params *params = &c->params;
    const uint8_t *q = (const uint8_t *)params->q + request * params->q_request_stride_bytes +
                       query * params->q_query_stride_bytes + head * params->q_head_stride_bytes;
    double magnitude = 0, of_codes = 0, flushed = 0;
    for (int g = 0; g < ATTN_SCORE_GROUPS; g++) {
        double square = 0;
        for (int d = g * 64; d < g * 64 + 64; d++) {
            double value = attn_out_value(q, params->q_dtype, d);
            square += value * value;
        }
        magnitude += sqrt(square) * c->key_norm[g];
        if (g < ATTN_SCORE_GROUPS - 1) of_codes += sqrt(square) * c->key_norm[g];
        flushed += (sqrt(square) + c->key_norm[g]) * 8 * 0x1p-126;
    }
    double error = 4 * 0x1p-24 * magnitude + (math == DSV4_ATTN_MATH_EXACT ? 0.0 : flushed);
    if (math == DSV4_ATTN_MATH_FP8) error += 0x1p-12 * of_codes;
    return error * (double)params->softmax_scale;
}

/* Probabilities that are rounded: one head of few keys may be far off, the norm over a query's heads is compared. */
static bool is_by_query(int32_t math)
{
    return math == DSV4_ATTN_MATH_BF16 || math == DSV4_ATTN_MATH_FP8;
}

/*
 * OFFICIAL. Two implementations round nearly the same probabilities to bf16: all but those come out
 * the same that lie as near to the middle between two bf16 as f32 noise can move them. What moves
 * exp(s_i - m): the errors of two scores, and a few 2^-24 of exp and of s_i - m itself. The oracle
 * adds up what these few may do, each a step of at most 2^-7 of one key's weight; the rest is as
 * exact as EXACT. So a probability rounded relative to any other maximum shows: that moves most of
 * them, and the output by 2^-10 of its norm, which is fifty times the limit where slack is 0.
 */
void attn_answer_from_oracle(attn_answer *answer, const attn_case *c, int32_t math)
{
    const dsv4_attn_params *params = &c->params;
    const int64_t n_heads_total = params->n_requests * params->n_queries * params->n_heads;
    attn_answer_make(answer, n_heads_total);
    if (math != DSV4_ATTN_MATH_OFFICIAL) {
        attn_oracle_decode(params, answer->out, answer->lse);
        return;
    }
    double *noise = attn_alloc(n_heads_total * (int64_t)sizeof *noise);
    answer->slack = attn_alloc(n_heads_total * (int64_t)sizeof *answer->slack);
    for (int64_t i = 0; i < n_heads_total; i++) {
        int64_t row = i / params->n_heads;
        noise[i] = 1e-6 + 2 * score_error(c, math, row / params->n_queries, row % params->n_queries,
                                          i % params->n_heads);
    }
    attn_oracle_decode_official(params, noise, answer->out, answer->lse, answer->slack);
    free(noise);
}

/*
 * Tolerance of |error| / |expected|.
 *
 * EXACT, and OFFICIAL but for the slack of attn_answer_from_oracle. A score's absolute error is its probability's relative error. The sums over n keys add
 * about sqrt(n) * 2^-25 on either side, 4e-6 for 5000 keys, and exp a few 2^-24: 2e-5 in all.
 *
 * BF16. A probability moves by at most 2^-8 of itself in being rounded to 8 bits, 2^-9.3 in the
 * root of the mean square; the sum that normalizes moves along, and keys are next to orthogonal:
 * the norm over many heads moves by less than 2^-9. One head with a few keys may have them all
 * move by 2^-8, and what chance adds to the mean falls with the root of the number of heads. One
 * group of 64 dims is too few to be orthogonal in: it gets 2^-7, as a net for a wrong group and not
 * as a measure of accuracy.
 *
 * FP8, for rounded queries. The same with 4 bits: at most 2^-4 of a probability, 2^-5.4 in the root of the mean square,
 * and 2^-5.7 of the norm, since large ones are rounded by less; a group of 64 dims, which has codes of its own, 2^-3.
 *
 * A bf16 output adds half an ulp: at most 2^-8 of each element, so of the norm.
 */
static double tolerance(const attn_case *c, int32_t math, double off_by, bool is_group)
{
    double result = 2e-5 + off_by;
    if (math == DSV4_ATTN_MATH_BF16) {
        result += is_group ? 0x1p-7 : 0x1p-9 * (1 + 1 / sqrt((double)c->spec.n_heads));
    } else if (math == DSV4_ATTN_MATH_FP8) {
        result += is_group ? 0x1p-3 : 0x1p-5 * (1 + 1 / sqrt((double)c->spec.n_heads));
    }
    if (c->spec.out_dtype == DSV4_DTYPE_BF16) result += 0x1p-8;
    return result;
}

/*
 * Absolute error that a group may have besides: probabilities and weights below 2^-126 vanish
 * against 1; with bf16 products, which OFFICIAL may use, so do keys and products below the normal range, one for each key.
 */
static double group_floor(const attn_case *c, int32_t math, int group)
{
    double result = 0x1p-120 * c->key_norm[group] + 0x1p-140;
    if (c->spec.out_dtype == DSV4_DTYPE_BF16) result += 8 * 0x1p-134;
    if (math != DSV4_ATTN_MATH_EXACT) result += 8 * 0x1p-126 * (double)(c->n_keys_max + 1);
    return result;
}

static bool head_sums(const attn_case *c, const attn_result *got, const attn_answer *want,
                      int64_t at, bool is_zero, const bool is_nan[2], group_sums *sums, char *text)
{
    memset(sums, 0, sizeof *sums);
    for (int d = 0; d < DSV4_ATTN_DIM; d++) {
        double value = attn_out_value(got->out, c->spec.out_dtype, at * DSV4_ATTN_DIM + d);
        double expected = want->out[at * DSV4_ATTN_DIM + d];
        bool expects_nan = is_nan[d >= 448];
        if (isnan(value) != expects_nan || (!expects_nan && is_zero && value != 0)) {
            snprintf(text, ATTN_TEXT_BYTES, "head row %lld dim %d: %g, expected %s (%g)",
                     (long long)at, d, value,
                     expects_nan ? "NaN"
                     : is_zero   ? "zero"
                                 : "a number",
                     expected);
            return false;
        }
        if (expects_nan) continue;
        sums->error[d / 64] += (value - expected) * (value - expected);
        sums->value[d / 64] += expected * expected;
    }
    return true;
}

/* What sums over some heads may be off by, besides what follows from the case. */
typedef struct allowance {
    double off_by;      /* of a score */
    double extra_error; /* relative, of the answer */
    double slack;       /* absolute */
    double n_heads;
} allowance;

static bool sums_check(const attn_case *c, int32_t math, const group_sums *sums,
                       const allowance *allowed, int64_t at, attn_worst *worst, char *text)
{
    double error = 0, value = 0, all_floors = 0;
    for (int g = 0; g < ATTN_SCORE_GROUPS; g++) {
        double limit = tolerance(c, math, allowed->off_by, true) + allowed->extra_error;
        double floor_error = group_floor(c, math, g) * sqrt(allowed->n_heads);
        double limit_abs = limit * sqrt(sums->value[g]) + floor_error + allowed->slack;
        if (!(sqrt(sums->error[g]) <= limit_abs)) {
            snprintf(text, ATTN_TEXT_BYTES,
                     "row %lld dims %d..%d: |error| %g, |expected| %g, limit %g (relative %g)",
                     (long long)at, g * 64, g * 64 + 63, sqrt(sums->error[g]), sqrt(sums->value[g]),
                     limit_abs, limit);
            return false;
        }
        error += sums->error[g];
        value += sums->value[g];
        all_floors += floor_error;
    }
    double limit = tolerance(c, math, allowed->off_by, false) + allowed->extra_error;
    if (!(sqrt(error) <= limit * sqrt(value) + all_floors + allowed->slack)) {
        snprintf(text, ATTN_TEXT_BYTES, "row %lld: |error| %g, |expected| %g, limit %g + %g",
                 (long long)at, sqrt(error), sqrt(value), limit, allowed->slack);
        return false;
    }
    if (sqrt(value) > all_floors && sqrt(error / value) > worst->out) {
        worst->out = sqrt(error / value);
    }
    return true;
}

/* lse has f32 accuracy in all kinds of arithmetic but FP8; the bf16 kernel may use a rougher exp. */
static bool lse_check(double got, double expected, bool expects_nan, int32_t math, double off_by,
                      attn_worst *worst, char *text)
{
    bool is_bf16 = math == DSV4_ATTN_MATH_BF16;
    double limit = (is_bf16 ? 1e-4 : 2e-5) + (is_bf16 ? 1e-5 : 2e-5) * fabs(expected) + off_by;
    if (math == DSV4_ATTN_MATH_FP8) limit = 2e-3 + 1e-4 * fabs(expected) + off_by;
    if (expects_nan && isnan(got)) return true;
    if (!expects_nan && isinf(expected) && got == expected) return true;
    double error = fabs(got - expected);
    if (expects_nan || isinf(expected) || !(error <= limit)) {
        snprintf(text, ATTN_TEXT_BYTES, "lse %.9g, expected %.9g%s, limit %g", got, expected,
                 expects_nan ? " (NaN)" : "", limit);
        return false;
    }
    if (error / (1 + fabs(expected)) > worst->lse) worst->lse = error / (1 + fabs(expected));
    return true;
}

/* All heads of one query. */
static bool query_check(const attn_case *c, int32_t math, const attn_result *got,
                        const attn_answer *want, double extra_error, int64_t row, attn_worst *worst,
                        char *text)
{
    const dsv4_attn_params *params = &c->params;
    group_sums query_sums = {{0}, {0}};
    allowance query_allowed = {0, extra_error, 0, (double)params->n_heads};
    bool is_nan[2] = {c->row_is_nan[row], c->row_is_nan[row]};
    if (params->rope_table &&
        (params->rope_rows[row] < 0 || params->rope_rows[row] >= params->n_rope_rows)) {
        is_nan[1] = true;
    }
    for (int64_t head = 0; head < params->n_heads; head++) {
        int64_t at = row * params->n_heads + head;
        group_sums sums;
        allowance allowed = {
            score_error(c, math, row / params->n_queries, row % params->n_queries, head),
            extra_error, want->slack ? want->slack[at] : 0, 1};
        bool is_zero =
            want->lse[at] == (double)INFINITY || (params->sink && params->sink[head] == INFINITY);
        if (!head_sums(c, got, want, at, is_zero, is_nan, &sums, text)) return false;
        if (!is_by_query(math) && !sums_check(c, math, &sums, &allowed, at, worst, text)) {
            return false;
        }
        if (got->lse && !lse_check((double)got->lse[at], want->lse[at], c->row_is_nan[row], math,
                                   allowed.off_by, worst, text)) {
            return false;
        }
        for (int g = 0; g < ATTN_SCORE_GROUPS; g++) {
            query_sums.error[g] += sums.error[g];
            query_sums.value[g] += sums.value[g];
        }
        if (allowed.off_by > query_allowed.off_by) query_allowed.off_by = allowed.off_by;
    }
    if (!is_by_query(math)) return true;
    return sums_check(c, math, &query_sums, &query_allowed, row, worst, text);
}

bool attn_compare(const attn_case *c, int32_t math, const attn_result *got, const attn_answer *want,
                  double extra_error, attn_worst *worst, char *text)
{
    for (int64_t row = 0; row < c->params.n_requests * c->params.n_queries; row++) {
        if (!query_check(c, math, got, want, extra_error, row, worst, text)) return false;
    }
    return true;
}
