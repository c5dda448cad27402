/*
 * attn_run.h - running a decode under watch, and comparing what came out.
 *
 * Place: tests. Every run poisons out and lse, fences the plan and the workspace with guard bytes,
 * and fails when something was left unwritten or something else was written.
 */
#ifndef DSV4_TESTS_ATTN_RUN_H
#define DSV4_TESTS_ATTN_RUN_H

#include "attn/attn_check.h"
#include "attn_case_gen.h"

#include <string.h>

enum { ATTN_TEXT_BYTES = 640 };

struct attn_result;

/* One way to compute. */
typedef struct attn_config {
    const char *name;
    int32_t backend;
    int32_t math;
    int32_t cpu_level;
    int32_t group_heads; /* GPUs */
    int32_t cuda_kernel;
    int32_t fixed_split;  /* GPUs: bits do not depend on the batch */
    int32_t join_queries; /* DSV4_JOIN_* */
    /* NULL, or what decodes instead of the library; returns false with the reason in text */
    bool (*run)(const dsv4_attn_params *params, attn_outputs *outputs, struct attn_result *result,
                char *text);
} attn_config;

enum { ATTN_MAX_CONFIGS = 18 };

extern const attn_config attn_config_ref;

/* Fills the reference (always first) and the CPU levels that this machine has; returns how many. */
int32_t attn_config_list(attn_config configs[ATTN_MAX_CONFIGS]);

/*
 * The same with the ways of a GPU (DSV4_BACKEND_CUDA or _HIP) instead of CPU levels; those with FP8 math only where the
 * device has it.
 */
int32_t attn_config_list_gpu(int32_t backend, attn_config configs[ATTN_MAX_CONFIGS]);

static inline bool attn_config_on_gpu(const attn_config *config)
{
    return dsv4_attn_on_gpu(config->backend);
}

/* Plan and workspace of one call, each between guards and ending where it was asked to end. */
typedef struct attn_memory {
    uint8_t *block[2]; /* plan, workspace */
    uint8_t *data[2];
    size_t n_bytes[2];
    uint8_t *plan_copy; /* what plan_build made of it */
} attn_memory;

/* Dense copies of what a call wrote. */
typedef struct attn_result {
    uint8_t *out;    /* [n_requests, n_queries, n_heads, 512] out_dtype */
    uint8_t *scales; /* [n_requests, n_queries, n_heads, 4] with out_dtype FP8, else NULL */
    float *lse;      /* [n_requests, n_queries, n_heads], or NULL */
    int64_t out_bytes;
    int64_t n_lse;
} attn_result;

/* On failure these return false with the reason in text. */
bool attn_memory_make(attn_memory *memory, const dsv4_attn_params *params, char *text);
void attn_memory_free(attn_memory *memory);

/* Decodes with a plan that exists. outputs must be the tensors that params points to. */
bool attn_decode(const dsv4_attn_params *params, attn_memory *memory, attn_outputs *outputs,
                 attn_result *result, char *text);

/* Sets the config, plans, decodes, frees the plan. */
bool attn_run(const dsv4_attn_params *params, const attn_config *config, attn_outputs *outputs,
              attn_result *result, char *text);

/* The same on a case's own tensors. */
bool attn_run_case(attn_case *c, const attn_config *config, attn_result *result, char *text);

/* As attn_run_case, but to dense f32, whatever the case's out_dtype and layout. */
bool attn_run_case_f32(attn_case *c, const attn_config *config, attn_result *result, char *text);

/* Sets what the config says in params. */
void attn_config_apply(const attn_config *config, dsv4_attn_params *params);

/*
 * On a GPU, params with a config: decodes with a plan that is not its own but was built for `planned`, or is zeros when
 * that is NULL, and then with its own in the same workspace.
 */
bool attn_run_refused(const dsv4_attn_params *params, const dsv4_attn_params *planned,
                      attn_outputs *outputs, attn_result *refused, attn_result *own, char *text);

void attn_result_free(attn_result *result);

/* Bit for bit. */
bool attn_result_equal(const attn_result *a, const attn_result *b);

/* The expected numbers, as double. */
typedef struct attn_answer {
    double *out;   /* [n_rows, n_heads, 512] */
    double *lse;   /* [n_rows, n_heads] */
    double *slack; /* [n_rows, n_heads] norm by which out may be off besides, or NULL */
} attn_answer;

void attn_answer_from_result(attn_answer *answer, const attn_result *result);
void attn_answer_make(attn_answer *answer, int64_t n_heads_total);
/* What the oracle says of a case, which is in EXACT or OFFICIAL math; the latter sets slack. */
void attn_answer_from_oracle(attn_answer *answer, const attn_case *c, int32_t math);
void attn_answer_free(attn_answer *answer);

/* Largest errors seen. */
typedef struct attn_worst {
    double out; /* |error| / |expected| of one head (EXACT, OFFICIAL) or one query (BF16, FP8) */
    double lse; /* |error| / (1 + |expected|) */
    double cosine_distance; /* FP8, of one case (attn_fp8.h) */
} attn_worst;

/* Element i of a result's out. */
static inline double attn_out_value(const uint8_t *out, int32_t dtype, int64_t i)
{
    uint32_t bits = 0;
    float value;
    if (dtype == DSV4_DTYPE_BF16) {
        memcpy((uint8_t *)&bits + 2, out + 2 * i, 2);
    } else {
        memcpy(&bits, out + 4 * i, 4);
    }
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

/*
 * Compares a result on the case's out_dtype with the answer. With FP8 math case and answer are of rounded queries
 * (attn_fp8.h).
 *   extra_error  relative error of out that the answer itself may have
 */
bool attn_compare(const attn_case *c, int32_t math, const attn_result *got, const attn_answer *want,
                  double extra_error, attn_worst *worst, char *text);

#endif
