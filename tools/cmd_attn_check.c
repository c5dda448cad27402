/*
 * cmd_attn_check.c - `dsv4 attn check`: computes case files and compares with their answers.
 *
 * Place: program. Sums are in double. The bounds: bf16 products and probabilities bound the
 * relative error of out by 2^-9 (dsv4/attn.h); a log-sum-exp in f32 of scores up to some hundreds
 * is good to 1e-5 relative, near zero to the absolute error of the scores.
 */
#include "attn_call.h"
#include "attn_case.h"
#include "commands.h"
#include "eval_errors.h"

#include "base/error.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define MAX_RELATIVE_ERROR 0x1p-9
#define LSE_ABSOLUTE_ERROR 1e-4
#define LSE_RELATIVE_ERROR 1e-5

typedef struct comparison {
    int64_t n_nan_rows;     /* rows with a NaN in out, ours or the answer's */
    int64_t n_nonzero_rows; /* rows that the answer has as zero and we have not */
    int64_t n_lse_wrong;    /* elements of lse outside their bound */
    double max_error;       /* largest |out - answer| */
    double max_lse_error;   /* largest |lse - answer| where both are finite */
    double error_sq, answer_sq, out_sq, dot;
    const char *damaged; /* buffer with changed guard bytes, or NULL */
} comparison;

/* One head of one query: out and answer are [512] f32. */
static void compare_row(comparison *c, const float *out, const float *answer)
{
    bool answer_is_zero = true, out_is_zero = true, has_nan = false;
    for (int i = 0; i < DSV4_ATTN_DIM; i++) {
        double x = (double)out[i], y = (double)answer[i];
        answer_is_zero = answer_is_zero && answer[i] == 0;
        out_is_zero = out_is_zero && out[i] == 0;
        has_nan = has_nan || isnan(x) || isnan(y);
        double difference = fabs(x - y);
        if (difference > c->max_error) c->max_error = difference;
        c->error_sq += difference * difference;
        c->answer_sq += y * y;
        c->out_sq += x * x;
        c->dot += x * y;
    }
    c->n_nan_rows += has_nan;
    c->n_nonzero_rows += answer_is_zero && !out_is_zero;
}

static void compare_lse(comparison *c, float lse, float answer)
{
    if (isinf(answer) || isinf(lse)) {
        c->n_lse_wrong += lse != answer;
        return;
    }
    double difference = fabs((double)lse - (double)answer);
    double bound = LSE_ABSOLUTE_ERROR + LSE_RELATIVE_ERROR * fabs((double)answer);
    if (difference > c->max_lse_error) c->max_lse_error = difference;
    if (!(difference <= bound)) c->n_lse_wrong++;
}

static double relative_error(const comparison *c)
{
    if (c->error_sq == 0) return 0;
    return sqrt(c->error_sq) / sqrt(c->answer_sq);
}

/* Computes the case into *c. */
static dsv4_status compute(const dsv4_attn_case *attn_case, const dsv4_options *options,
                           comparison *c, dsv4_error *error)
{
    dsv4_attn_params params = attn_case->params;
    dsv4_attn_call_set_options(&params, options);
    params.out_dtype = DSV4_DTYPE_F32;
    dsv4_attn_call call;
    dsv4_status status = dsv4_attn_call_open(&call, &params, error);
    if (status == DSV4_OK) status = dsv4_attn_call_decode(&call, error);
    if (status == DSV4_OK) {
        const float *out = call.out.bytes, *lse = call.lse.bytes;
        for (int64_t row = 0; row < dsv4_attn_case_n_rows(attn_case); row++) {
            compare_row(c, out + row * DSV4_ATTN_DIM, attn_case->out + row * DSV4_ATTN_DIM);
            compare_lse(c, lse[row], attn_case->lse[row]);
        }
        c->damaged = dsv4_attn_call_damaged(&call);
    }
    dsv4_attn_call_close(&call);
    return status;
}

static void print_shape(const dsv4_attn_params *params)
{
    printf("  b%" PRId64 " q%" PRId64 " h%" PRId64 " k%" PRId64, params->n_requests,
           params->n_queries, params->n_heads, params->window.n_indices);
    if (params->extra.cache != NULL) printf("+%" PRId64, params->extra.n_indices);
    if (params->sink != NULL) printf(" sink");
}

/* Prints the line of one file; returns whether it passed. */
static bool report(const char *path, const dsv4_attn_case *attn_case, const comparison *c)
{
    double relative = relative_error(c);
    bool is_close = relative <= MAX_RELATIVE_ERROR; /* false for NaN */
    bool passed = is_close && c->n_nan_rows == 0 && c->n_nonzero_rows == 0 && c->n_lse_wrong == 0 &&
                  c->damaged == NULL;
    printf("%s", path);
    print_shape(&attn_case->params);
    printf("  max error %.2e  relative %.2e  cosine %.8f  max lse error %.2e  %s", c->max_error,
           relative, dsv4_cosine(c->answer_sq, c->out_sq, c->dot), c->max_lse_error,
           passed ? "ok" : "FAILED");
    if (!is_close) printf("; relative error above %.2e", MAX_RELATIVE_ERROR);
    if (c->n_nan_rows > 0) printf("; NaN in %" PRId64 " rows", c->n_nan_rows);
    if (c->n_nonzero_rows > 0) {
        printf("; %" PRId64 " rows are not zero where the answer is", c->n_nonzero_rows);
    }
    if (c->n_lse_wrong > 0) printf("; lse outside its bound in %" PRId64 " rows", c->n_lse_wrong);
    if (c->damaged != NULL) printf("; bytes around %s were written", c->damaged);
    printf("\n");
    return passed;
}

/* Checks one file. What a file makes the library refuse is the file's fault. */
static dsv4_status check_file(const char *path, const dsv4_options *options, bool *passed,
                              dsv4_error *error)
{
    dsv4_attn_case attn_case;
    comparison c = {0};
    dsv4_status status = dsv4_attn_case_open(path, &attn_case, error);
    if (status == DSV4_OK && (attn_case.out == NULL || attn_case.lse == NULL)) {
        status = dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                                "%s: tensor %s is missing; expected the answer to check against",
                                path, attn_case.out == NULL ? "out" : "lse");
    }
    if (status == DSV4_OK) {
        dsv4_error cause;
        status = compute(&attn_case, options, &c, &cause);
        if (status != DSV4_OK) {
            if (status == DSV4_ERROR_INVALID_ARGUMENT) status = DSV4_ERROR_BAD_FILE;
            (void)dsv4_error_set(error, status, "%.200s: %.280s", path, cause.text);
        }
    }
    if (status == DSV4_OK) *passed = report(path, &attn_case, &c);
    dsv4_attn_case_close(&attn_case);
    return status;
}

int dsv4_cmd_attn_check(const dsv4_options *options)
{
    dsv4_attn_params params;
    dsv4_attn_choice choice;
    dsv4_error error;
    if (dsv4_attn_call_choose(options, &params, &choice, &error) != DSV4_OK) {
        return dsv4_command_fail(options, &error);
    }
    printf("backend %s, kernel %s, math %s\n", choice.backend, choice.kernel, choice.math);

    int32_t n_passed = 0, n_failed = 0, n_refused = 0;
    int code = DSV4_EXIT_OK;
    for (int32_t i = 0; i < options->n_arguments; i++) {
        bool passed = false;
        if (check_file(options->arguments[i], options, &passed, &error) != DSV4_OK) {
            int file_code = dsv4_command_fail(options, &error);
            if (file_code > code) code = file_code;
            n_refused++;
            continue;
        }
        n_passed += passed;
        n_failed += !passed;
    }
    printf("%" PRId32 " passed, %" PRId32 " failed", n_passed, n_failed);
    if (n_refused > 0) printf(", %" PRId32 " not checked", n_refused);
    printf("\n");
    if (code == DSV4_EXIT_OK && n_failed > 0) code = DSV4_EXIT_FAILED;
    return code;
}
