/*
 * forward.c - one step of the model (specification 2, 6): embedding, layers, head, MTP block.
 *
 * Place: model. Invariant: everything that a token's logits depend on is computed row by row in a fixed
 * order, so a batch is only a way to read the weights once.
 */
#include "forward.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "ref/rope.h"
#include "step.h"
#include "step_memory.h"

enum { N_MIX = 24, ALIGN_BYTES = 64, FREQUENCIES = DSV4_ROPE_DIM / 2 };

/* Of one token's rotation tables, in simple operations on one value. */
enum { ROPE_TABLE_COST = 8192 };

struct dsv4_forward {
    const dsv4_weights *weights;
    dsv4_compute compute;
    int32_t numerics;
    float plain_frequencies[FREQUENCIES], compressed_frequencies[FREQUENCIES];
    unsigned char *memory;
    size_t memory_bytes;
    int64_t n_growths;
    dsv4_step step;
};

dsv4_status dsv4_forward_create(const dsv4_weights *weights, int32_t numerics,
                                const dsv4_compute *compute, dsv4_forward **forward,
                                dsv4_error *error)
{
    const dsv4_config *config = &weights->config;
    dsv4_forward *made = calloc(1, sizeof *made);
    if (made == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "forward: no memory");
    }
    made->weights = weights;
    made->numerics = numerics;
    made->compute = *compute;
    dsv4_rope_frequencies(config->rope_theta, 1.0, 0, 1.0, 1.0, made->plain_frequencies);
    dsv4_rope_frequencies(config->compress_rope_theta, config->yarn_factor,
                          config->yarn_original_positions, config->yarn_beta_fast,
                          config->yarn_beta_slow, made->compressed_frequencies);
    *forward = made;
    return DSV4_OK;
}

void dsv4_forward_free(dsv4_forward *forward)
{
    if (forward == NULL) return;
    free(forward->memory);
    free(forward);
}

int64_t dsv4_forward_n_growths(const dsv4_forward *forward)
{
    return forward->n_growths;
}

const int32_t *dsv4_forward_last_experts(const dsv4_forward *forward)
{
    return forward->step.chosen;
}

/* ---- checks ---- */

static dsv4_status check_rows(const dsv4_cache *cache, const dsv4_cache_view *view, int kind,
                              int64_t first, int64_t last, dsv4_error *error)
{
    static const char *const names[DSV4_CACHE_N_KINDS] = {
        "window", "compressed-4", "compressed-128", "raw rows of ratio 4", "raw rows of ratio 128"};
    for (int64_t row = first < 0 ? 0 : first; row <= last;) {
        if (dsv4_cache_slot(cache, view, kind, row) < 0) {
            return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                                  "cache: the sequence holds no page for row %" PRId64
                                  " of kind %s",
                                  row, names[kind]);
        }
        row = (row / cache->page_rows[kind] + 1) * cache->page_rows[kind];
    }
    return DSV4_OK;
}

static dsv4_status check_token(const dsv4_config *config, const dsv4_cache *cache,
                               const dsv4_batch *batch, int64_t token, unsigned ratios,
                               dsv4_error *error)
{
    int64_t position = batch->positions[token];
    const dsv4_cache_view *view = &batch->views[batch->sequences[token]];
    if (batch->tokens[token] < 0 || batch->tokens[token] >= config->vocab_size) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "token %" PRId64 ": id %" PRId32 ", expected 0 .. %" PRId64, token,
                              batch->tokens[token], config->vocab_size - 1);
    }
    if (position < 0 || position >= config->max_positions) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "token %" PRId64 ": position %" PRId64 ", expected 0 .. %" PRId64
                              " (max_position_embeddings)",
                              token, position, config->max_positions - 1);
    }
    DSV4_TRY(
        check_rows(cache, view, DSV4_CACHE_WINDOW, position - DSV4_WINDOW + 1, position, error));
    if (ratios & 4u) {
        DSV4_TRY(check_rows(cache, view, DSV4_CACHE_S4, position / 4 * 4 - 4, position, error));
        DSV4_TRY(check_rows(cache, view, DSV4_CACHE_C4, 0, (position + 1) / 4 - 1, error));
    }
    if (ratios & 128u) {
        DSV4_TRY(check_rows(cache, view, DSV4_CACHE_S128, position / 128 * 128, position, error));
        DSV4_TRY(check_rows(cache, view, DSV4_CACHE_C128, 0, (position + 1) / 128 - 1, error));
    }
    return DSV4_OK;
}

static unsigned ratios_of(const dsv4_config *config)
{
    unsigned ratios = 0;
    for (int64_t i = 0; i < config->n_layers + config->n_mtp_blocks; i++) {
        ratios |= (unsigned)config->ratios[i];
    }
    return ratios;
}

static dsv4_status check_batch(const dsv4_config *config, const dsv4_cache *cache,
                               const dsv4_batch *batch, dsv4_error *error)
{
    unsigned ratios = ratios_of(config);
    for (int64_t i = 0; i < batch->n_tokens; i++) {
        DSV4_TRY(check_token(config, cache, batch, i, ratios, error));
    }
    for (int64_t i = 0; i < batch->n_logits; i++) {
        if (batch->logit_tokens[i] < 0 || batch->logit_tokens[i] >= batch->n_tokens) {
            return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                                  "logit_tokens[%" PRId64 "]: %" PRId32 ", expected 0 .. %" PRId64,
                                  i, batch->logit_tokens[i], batch->n_tokens - 1);
        }
    }
    return DSV4_OK;
}

/* ---- memory and lists ---- */

static int64_t at_least(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void set_shapes(dsv4_forward *forward, const dsv4_cache *cache, const dsv4_batch *batch)
{
    dsv4_step *step = &forward->step;
    const dsv4_config *config = &forward->weights->config;
    memset(step, 0, sizeof *step);
    step->weights = forward->weights;
    step->config = config;
    step->compute = &forward->compute;
    step->rows = dsv4_rows_kernels_of(forward->compute.cpu_level);
    step->compressed_frequencies = forward->compressed_frequencies;
    step->cache = cache;
    step->batch = batch;
    step->tokens = batch->tokens;
    step->n_tokens = batch->n_tokens;
    step->round = forward->numerics == DSV4_NUMERICS_OFFICIAL;
    /* By what the page tables can hold, not by what they hold now: a growing sequence needs no more. */
    int64_t length = 0;
    for (int64_t i = 0; i < batch->n_tokens; i++) {
        const dsv4_cache_view *view = &batch->views[batch->sequences[i]];
        length = at_least(length,
                          view->n_pages[DSV4_CACHE_WINDOW] * cache->page_rows[DSV4_CACHE_WINDOW]);
    }
    if (length > config->max_positions) length = config->max_positions;
    unsigned ratios = ratios_of(config);
    step->max_visible = ratios & 4u ? length / 4 : 0;
    step->c4_stride =
        step->max_visible < config->index_topk ? step->max_visible : config->index_topk;
    step->c128_stride = ratios & 128u ? length / 128 : 0;
}

/*
 * Plan and workspace for this step and for any with fewer tokens, the MTP block's among them: with few
 * queries the attention splits lists over threads, which takes more workspace than many queries do.
 */
static dsv4_status size_attention(dsv4_step *step, dsv4_error *error)
{
    int64_t few = 4 * (int64_t)step->compute->n_threads;
    for (int plan = 0; plan < DSV4_STEP_N_PLANS; plan++) {
        dsv4_attn_params params;
        dsv4_step_attn_params(step, plan, &params);
        for (int64_t n = step->n_tokens; n > 0; n = n > few ? few : n - 1) {
            size_t plan_bytes, workspace_bytes;
            params.n_requests = n;
            DSV4_TRY(dsv4_attn_plan_size(&params, &plan_bytes, &workspace_bytes, error));
            if (plan_bytes > step->plan_bytes) step->plan_bytes = plan_bytes;
            if (workspace_bytes > step->attn_workspace_bytes) {
                step->attn_workspace_bytes = workspace_bytes;
            }
        }
    }
    return DSV4_OK;
}

static dsv4_status place_memory(dsv4_forward *forward, dsv4_error *error)
{
    size_t needed = 0;
    bool fits = dsv4_step_place(&forward->step, NULL, &needed);
    if (fits && needed > forward->memory_bytes) {
        free(forward->memory);
        forward->memory_bytes = 0;
        forward->memory = aligned_alloc(ALIGN_BYTES, needed);
        forward->n_growths++;
    }
    if (!fits || forward->memory == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "forward: no memory for a step of %" PRId64 " tokens (%zu bytes)",
                              forward->step.n_tokens, needed);
    }
    if (needed > forward->memory_bytes) forward->memory_bytes = needed;
    (void)dsv4_step_place(&forward->step, forward->memory, &needed);
    return DSV4_OK;
}

static void fill_lists(const dsv4_step *step)
{
    const dsv4_batch *batch = step->batch;
    for (int64_t t = 0; t < step->n_tokens; t++) {
        const dsv4_cache_view *view = &batch->views[batch->sequences[t]];
        int64_t position = batch->positions[t];
        for (int64_t i = 0; i < DSV4_WINDOW; i++) {
            step->window_list[t * DSV4_WINDOW + i] = dsv4_cache_slot(
                step->cache, view, DSV4_CACHE_WINDOW, position - DSV4_WINDOW + 1 + i);
        }
        int64_t n_visible = step->c4_stride > 0 ? (position + 1) / 4 : 0;
        if (n_visible > step->c4_stride) n_visible = step->c4_stride;
        step->c4_lens[t] = (int32_t)n_visible;
        int64_t n_long = step->c128_stride > 0 ? (position + 1) / 128 : 0;
        step->c128_lens[t] = (int32_t)n_long;
        for (int64_t j = 0; j < n_long; j++) {
            step->c128_list[t * step->c128_stride + j] =
                dsv4_cache_slot(step->cache, view, DSV4_CACHE_C128, j);
        }
    }
}

static dsv4_status build_plans(const dsv4_step *step, dsv4_error *error)
{
    for (int plan = 0; plan < DSV4_STEP_N_PLANS; plan++) {
        dsv4_attn_params params;
        dsv4_step_attn_params(step, plan, &params);
        DSV4_TRY(dsv4_attn_plan_build(NULL, &params, step->plans[plan], step->plan_bytes, error));
    }
    return DSV4_OK;
}

/* ---- rotation ---- */

static void fill_token_tables(void *shared, int64_t token, int32_t worker)
{
    (void)worker;
    const dsv4_forward *forward = shared;
    const dsv4_step *step = &forward->step;
    int64_t position = step->batch->positions[token];
    dsv4_rope_table(forward->plain_frequencies, position,
                    step->plain_tables + token * DSV4_ROPE_DIM);
    dsv4_rope_table(forward->compressed_frequencies, position,
                    step->compressed_tables + token * DSV4_ROPE_DIM);
}

/* Layers have one of two sets of frequencies, so two tables do for all of them. */
static void fill_tables(dsv4_forward *forward)
{
    dsv4_step *step = &forward->step;
    dsv4_step_spread(step, step->n_tokens, ROPE_TABLE_COST, fill_token_tables, forward);
}

/* ---- streams ---- */

static void embed_token(const dsv4_step *step, int32_t id, float *values)
{
    dsv4_linear_row(&step->weights->embed, id, values);
}

static void start_streams(const dsv4_step *step)
{
    int64_t hidden = step->config->hidden_size;
    for (int64_t t = 0; t < step->n_tokens; t++) {
        float *streams = step->streams + t * DSV4_N_STREAMS * hidden;
        embed_token(step, step->tokens[t], streams);
        for (int64_t k = 1; k < DSV4_N_STREAMS; k++) {
            memcpy(streams + k * hidden, streams, (size_t)hidden * sizeof *streams);
        }
    }
}

/* projected [n_tokens, n_out] = fn . x (2.3); each row is still to be divided by the streams' RMS. */
static void project_streams(const dsv4_step *step, const dsv4_hyper *hyper, int n_out)
{
    int64_t width = DSV4_N_STREAMS * step->config->hidden_size;
    dsv4_linear fn = {.weight = hyper->fn, .n_out = n_out, .n_in = width, .kind = DSV4_LINEAR_F32};
    dsv4_linear_cpu(step->compute, &fn, step->streams, width, step->n_tokens, false,
                    step->projected, n_out);
}

/* A row of projected * rsqrt(mean(streams^2) + eps). */
static float *scale_projected(const dsv4_step *step, int64_t token, int n_out)
{
    int64_t width = DSV4_N_STREAMS * step->config->hidden_size;
    float *row = step->projected + token * n_out;
    float sum = step->rows->sum_squares(step->streams + token * width, width);
    float scale = 1.0f / sqrtf(sum / (float)width + step->config->norm_eps);
    for (int i = 0; i < n_out; i++) row[i] *= scale;
    return row;
}

/* What the tokens of a point between sublayers share. */
typedef struct mixing_point {
    const dsv4_step *step;
    const dsv4_hyper *hyper;
    const uint16_t *norm; /* [hidden] bf16 */
} mixing_point;

static void enter_token(void *shared, int64_t token, int32_t worker)
{
    (void)worker;
    const mixing_point *point = shared;
    const dsv4_step *step = point->step;
    const dsv4_config *config = step->config;
    int64_t hidden = config->hidden_size;
    float *x = step->x + token * hidden;
    dsv4_hyper_mix *mix = &step->mixes[token];
    dsv4_hyper_split(point->hyper, scale_projected(step, token, N_MIX), config->n_sinkhorn_iters,
                     config->hc_eps, mix);
    step->rows->collapse(mix->pre, step->streams + token * DSV4_N_STREAMS * hidden, hidden,
                         step->round, x);
    step->rows->normalize(x, point->norm, hidden, config->norm_eps, x);
    dsv4_step_round(step, x, hidden);
    dsv4_step_quantize(step, x, hidden, step->x_quantized + token * hidden);
}

/* Streams -> normalized sublayer input x, and the mix for after the sublayer. */
static void enter_sublayer(const dsv4_step *step, const dsv4_hyper *hyper, const uint16_t *norm)
{
    mixing_point point = {step, hyper, norm};
    project_streams(step, hyper, N_MIX);
    dsv4_step_spread(step, step->n_tokens, DSV4_N_STREAMS * step->config->hidden_size, enter_token,
                     &point);
}

static void leave_token(void *shared, int64_t token, int32_t worker)
{
    (void)worker;
    const dsv4_step *step = ((const mixing_point *)shared)->step;
    int64_t hidden = step->config->hidden_size;
    step->rows->expand(&step->mixes[token], step->sublayer + token * hidden, hidden, step->round,
                       step->streams + token * DSV4_N_STREAMS * hidden);
}

static void leave_sublayer(const dsv4_step *step)
{
    mixing_point point = {.step = step};
    dsv4_step_spread(step, step->n_tokens, DSV4_N_STREAMS * step->config->hidden_size, leave_token,
                     &point);
}

static dsv4_status run_layer(dsv4_forward *forward, int64_t index, dsv4_error *error)
{
    dsv4_step *step = &forward->step;
    const dsv4_layer *layer = &step->weights->layers[index];
    step->tables = layer->ratio > 0 ? step->compressed_tables : step->plain_tables;
    enter_sublayer(step, &layer->hyper_attn, layer->attn_norm);
    DSV4_TRY(dsv4_step_attention(step, layer, &step->cache->layers[index], error));
    leave_sublayer(step);
    enter_sublayer(step, &layer->hyper_ffn, layer->ffn_norm);
    dsv4_step_experts(step, layer);
    leave_sublayer(step);
    return DSV4_OK;
}

static void collapse_token(void *shared, int64_t token, int32_t worker)
{
    (void)worker;
    const mixing_point *point = shared;
    const dsv4_step *step = point->step;
    const dsv4_config *config = step->config;
    int64_t hidden = config->hidden_size;
    float pre[DSV4_N_STREAMS], *out = step->head_in + token * hidden;
    dsv4_hyper_split_head(point->hyper, scale_projected(step, token, DSV4_N_STREAMS),
                          config->hc_eps, pre);
    step->rows->collapse(pre, step->streams + token * DSV4_N_STREAMS * hidden, hidden, step->round,
                         out);
    step->rows->normalize(out, point->norm, hidden, config->norm_eps, out);
    dsv4_step_round(step, out, hidden);
}

/* head_in [n_tokens, hidden]: streams collapsed by the head's weights and normalized (2.4). */
static void collapse_head(const dsv4_step *step, const dsv4_head *head)
{
    mixing_point point = {step, &head->hyper, head->norm};
    project_streams(step, &head->hyper, DSV4_N_STREAMS);
    dsv4_step_spread(step, step->n_tokens, DSV4_N_STREAMS * step->config->hidden_size,
                     collapse_token, &point);
}

/*
 * Logits of batch->logit_tokens, as many in one product as x has rows to gather them in; zeros for tokens
 * that have no row of head_in. batch is the one whose size x has.
 */
static void write_logits(const dsv4_step *step, const dsv4_batch *batch, float *logits)
{
    int64_t hidden = step->config->hidden_size, vocab = step->config->vocab_size;
    for (int64_t i = 0; i < batch->n_logits;) {
        int64_t n_rows = 0;
        for (; n_rows < batch->n_tokens && i + n_rows < batch->n_logits; n_rows++) {
            int32_t row = step->head_rows[batch->logit_tokens[i + n_rows]];
            if (row < 0) break;
            memcpy(step->x + n_rows * hidden, step->head_in + row * hidden,
                   (size_t)hidden * sizeof(float));
        }
        dsv4_linear_cpu(step->compute, &step->weights->unembed, step->x, hidden, n_rows,
                        step->round != 0, logits + i * vocab, vocab);
        i += n_rows;
        if (n_rows > 0) continue;
        memset(logits + i * vocab, 0, (size_t)vocab * sizeof *logits);
        i++;
    }
}

dsv4_status dsv4_forward_step(dsv4_forward *forward, const dsv4_cache *cache,
                              const dsv4_batch *batch, dsv4_error *error)
{
    dsv4_step *step = &forward->step;
    if (batch->n_tokens == 0) return DSV4_OK;
    DSV4_TRY(check_batch(&forward->weights->config, cache, batch, error));
    set_shapes(forward, cache, batch);
    DSV4_TRY(size_attention(step, error));
    DSV4_TRY(place_memory(forward, error));
    fill_lists(step);
    DSV4_TRY(build_plans(step, error));
    fill_tables(forward);
    start_streams(step);
    for (int64_t i = 0; i < step->config->n_layers; i++) DSV4_TRY(run_layer(forward, i, error));
    memcpy(step->mtp_streams, step->streams,
           (size_t)(step->n_tokens * DSV4_N_STREAMS * step->config->hidden_size) * sizeof(float));
    collapse_head(step, &step->weights->head);
    for (int64_t t = 0; t < step->n_tokens; t++) step->head_rows[t] = (int32_t)t;
    write_logits(step, batch, batch->logits);
    return DSV4_OK;
}

/* ---- the MTP block ---- */

/* What the tokens of one product of the MTP block share. */
typedef struct mtp_use {
    const dsv4_step *step;
    int64_t stream; /* which one goes in or comes out; DSV4_N_STREAMS: the embedding */
} mtp_use;

/* x = a stream of the model, or the token's embedding, normalized. */
static void enter_mtp_token(void *shared, int64_t token, int32_t worker)
{
    (void)worker;
    const mtp_use *use = shared;
    const dsv4_step *step = use->step;
    const dsv4_mtp *mtp = &step->weights->mtp;
    int64_t hidden = step->config->hidden_size;
    float eps = step->config->norm_eps, *x = step->x + token * hidden;
    if (use->stream == DSV4_N_STREAMS) {
        embed_token(step, step->tokens[token], x);
        step->rows->normalize(x, mtp->enorm, hidden, eps, x);
    } else {
        int64_t row = step->mtp_source[token] * DSV4_N_STREAMS + use->stream;
        step->rows->normalize(step->mtp_streams + row * hidden, mtp->hnorm, hidden, eps, x);
    }
    dsv4_step_round(step, x, hidden);
    dsv4_step_quantize(step, x, hidden, x);
}

/* The product of x, in sublayer, becomes a stream; that of the embedding is added to all of them. */
static void leave_mtp_token(void *shared, int64_t token, int32_t worker)
{
    (void)worker;
    const mtp_use *use = shared;
    const dsv4_step *step = use->step;
    int64_t hidden = step->config->hidden_size;
    const float *from = step->sublayer + token * hidden;
    float *streams = step->streams + token * DSV4_N_STREAMS * hidden;
    if (use->stream < DSV4_N_STREAMS) {
        memcpy(streams + use->stream * hidden, from, (size_t)hidden * sizeof(float));
        return;
    }
    for (int64_t k = 0; k < DSV4_N_STREAMS; k++) {
        float *to = streams + k * hidden;
        for (int64_t d = 0; d < hidden; d++) to[d] += from[d];
        dsv4_step_round(step, to, hidden);
    }
}

/* streams [n_tokens, 4, hidden] = e_proj . norm(embedding) + h_proj . norm(stream) (6). */
static void start_mtp_streams(const dsv4_step *step)
{
    const dsv4_mtp *mtp = &step->weights->mtp;
    int64_t hidden = step->config->hidden_size;
    mtp_use use = {.step = step};
    for (; use.stream <= DSV4_N_STREAMS; use.stream++) {
        bool is_embedding = use.stream == DSV4_N_STREAMS;
        dsv4_step_spread(step, step->n_tokens, hidden, enter_mtp_token, &use);
        dsv4_step_linear(step, is_embedding ? &mtp->e_proj : &mtp->h_proj, step->x, step->sublayer);
        dsv4_step_round(step, step->sublayer, step->n_tokens * hidden);
        dsv4_step_spread(step, step->n_tokens, hidden, leave_mtp_token, &use);
    }
}

/* Keeps the tokens whose successor is known; returns how many. */
static int64_t gather_mtp(const dsv4_step *step, const dsv4_batch *batch,
                          const int32_t *next_tokens)
{
    int64_t n = 0;
    for (int64_t t = 0; t < batch->n_tokens; t++) {
        step->head_rows[t] = next_tokens[t] < 0 ? -1 : (int32_t)n;
        if (next_tokens[t] < 0) continue;
        step->mtp_tokens[n] = next_tokens[t];
        step->mtp_positions[n] = batch->positions[t];
        step->mtp_sequences[n] = batch->sequences[t];
        step->mtp_source[n++] = (int32_t)t;
    }
    return n;
}

dsv4_status dsv4_forward_mtp(dsv4_forward *forward, const dsv4_cache *cache,
                             const dsv4_batch *batch, const int32_t *next_tokens, float *logits,
                             dsv4_error *error)
{
    dsv4_step *step = &forward->step;
    const dsv4_config *config = &forward->weights->config;
    if (config->n_mtp_blocks == 0) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "mtp: the model has no MTP block");
    }
    dsv4_batch block = {.views = batch->views,
                        .tokens = step->mtp_tokens,
                        .positions = step->mtp_positions,
                        .sequences = step->mtp_sequences};
    block.n_tokens = gather_mtp(step, batch, next_tokens);
    if (block.n_tokens > 0) {
        DSV4_TRY(check_batch(config, cache, &block, error));
        step->batch = &block;
        step->tokens = block.tokens;
        step->n_tokens = block.n_tokens;
        fill_lists(step);
        DSV4_TRY(build_plans(step, error));
        fill_tables(forward);
        start_mtp_streams(step);
        DSV4_TRY(run_layer(forward, config->n_layers, error));
        collapse_head(step, &step->weights->mtp.head);
    }
    step->n_tokens = block.n_tokens;
    if (logits != NULL) write_logits(step, batch, logits);
    return DSV4_OK;
}
