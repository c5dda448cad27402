/*
 * attn_refused.c - on a GPU a plan that is not the call's own gives NaN, touches nothing else and leaves the workspace
 * ready for the right one.
 *
 * Place: tests.
 */
#include "attn_property.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef enum mistake {
    NEVER_BUILT,
    OTHER_REQUESTS,
    OTHER_QUERIES,
    OTHER_HEADS, /* of as many groups, mostly */
    OTHER_WINDOW,
    OTHER_EXTRA,
    OTHER_SPLIT,
    OTHER_GROUP,
    OTHER_MATH,
    OTHER_JOIN,
    N_MISTAKES
} mistake;

static const char *const mistake_names[] = {
    [NEVER_BUILT] = "of zeros",
    [OTHER_REQUESTS] = "of other requests",
    [OTHER_QUERIES] = "of other queries",
    [OTHER_HEADS] = "of other heads",
    [OTHER_WINDOW] = "of another window list",
    [OTHER_EXTRA] = "of another extra list",
    [OTHER_SPLIT] = "of another fixed_split",
    [OTHER_GROUP] = "of another group_heads",
    [OTHER_MATH] = "of another math",
    [OTHER_JOIN] = "of lists that are not joined",
};

/* The shapes and options of a call, all that a plan is built from, without tensors. */
static void planned_like(const dsv4_attn_params *params, dsv4_attn_params *planned)
{
    const dsv4_attn_scope *from[2] = {&params->window, &params->extra};
    dsv4_attn_params_default(planned);
    planned->backend = params->backend;
    planned->math = params->math;
    planned->out_dtype = params->out_dtype;
    planned->fixed_split = params->fixed_split;
    planned->group_heads = params->group_heads;
    planned->cuda_kernel = params->cuda_kernel;
    planned->join_queries = params->join_queries;
    planned->n_requests = params->n_requests;
    planned->n_queries = params->n_queries;
    planned->n_heads = params->n_heads;
    dsv4_attn_scope *to[2] = {&planned->window, &planned->extra};
    for (int i = 0; i < 2; i++) {
        to[i]->n_pages = from[i]->n_pages;
        to[i]->page_rows = from[i]->page_rows;
        to[i]->n_indices = from[i]->n_indices;
    }
}

/* False where the change would not make another plan. */
static bool make_mistake(mistake which, dsv4_attn_params *planned)
{
    switch (which) {
    case OTHER_REQUESTS: planned->n_requests++; break;
    case OTHER_QUERIES: planned->n_queries++; break;
    case OTHER_HEADS: planned->n_heads += planned->n_heads > 1 ? -1 : 1; break;
    case OTHER_WINDOW: planned->window.n_indices++; return planned->window.n_pages > 0;
    case OTHER_EXTRA: planned->extra.n_indices++; return planned->extra.n_pages > 0;
    case OTHER_SPLIT: planned->fixed_split = !planned->fixed_split; break;
    case OTHER_GROUP:
        if (planned->group_heads == 0) return false;
        if (planned->math == DSV4_ATTN_MATH_FP8) {
            planned->group_heads = planned->group_heads == 32 ? 64 : 32;
        } else if (planned->backend == DSV4_BACKEND_HIP) {
            planned->group_heads = planned->group_heads == 16 ? 32 : 16;
        } else {
            planned->group_heads = planned->group_heads == 8 ? 16 : 8; /* mma has both, AUTO too */
        }
        break;
    case OTHER_MATH:
        if (planned->math != DSV4_ATTN_MATH_FP8) return false; /* the device may have no other */
        planned->math = DSV4_ATTN_MATH_BF16;
        break;
    case OTHER_JOIN: /* every kernel that joins can join these */
        if (planned->join_queries != DSV4_JOIN_ALWAYS || planned->math == DSV4_ATTN_MATH_FP8 ||
            planned->n_heads != 8 || planned->n_queries != 2)
            return false;
        planned->join_queries = DSV4_JOIN_NEVER;
        break;
    default: break;
    }
    return true;
}

static bool is_refused(const attn_result *result, int32_t out_dtype, char *text)
{
    bool is_good = true;
    for (int64_t i = 0; i < result->n_lse * DSV4_ATTN_DIM; i++) {
        is_good &= out_dtype == DSV4_DTYPE_FP8
                       ? result->out[i] == 0x7f
                       : (bool)isnan(attn_out_value(result->out, out_dtype, i));
    }
    for (int64_t i = 0; result->scales && i < 4 * result->n_lse; i++)
        is_good &= result->scales[i] == 0xff;
    for (int64_t i = 0; result->lse && i < result->n_lse; i++)
        is_good &= (bool)isnan(result->lse[i]);
    if (!is_good) snprintf(text, ATTN_TEXT_BYTES, "not refused: an output is not NaN");
    return is_good;
}

static bool check_mistake(attn_case *c, const dsv4_attn_params *params, mistake which,
                          const attn_result *base, char *text)
{
    char reason[ATTN_TEXT_BYTES / 2] = "";
    attn_result refused = {0}, own = {0};
    dsv4_attn_params planned;
    planned_like(params, &planned);
    if (!make_mistake(which, &planned)) return true;
    dsv4_attn_params_set_dense(&planned);
    bool is_good = attn_run_refused(params, which == NEVER_BUILT ? NULL : &planned, &c->outputs,
                                    &refused, &own, text) &&
                   is_refused(&refused, params->out_dtype, text);
    if (is_good && !attn_result_equal(&own, base)) {
        snprintf(text, ATTN_TEXT_BYTES, "its own plan afterwards gives other bits");
        is_good = false;
    }
    if (!is_good) {
        snprintf(reason, sizeof reason, "%.300s", text);
        snprintf(text, ATTN_TEXT_BYTES, "a plan %s: %s", mistake_names[which], reason);
    }
    attn_result_free(&refused);
    attn_result_free(&own);
    return is_good;
}

bool attn_check_refused(attn_case *c, const attn_config *config, attn_worst *worst, char *text)
{
    (void)worst;
    attn_result base;
    dsv4_attn_params params = c->params;
    if (!attn_config_on_gpu(config)) return true;
    attn_config_apply(config, &params);
    bool is_good = attn_run_case(c, config, &base, text);
    for (int which = 0; is_good && which < N_MISTAKES; which++) {
        is_good = check_mistake(c, &params, (mistake)which, &base, text);
    }
    attn_result_free(&base);
    return is_good;
}
