/*
 * step.h - the state of one step, shared by the files that compute a layer.
 *
 * Place: model, private. Activations are f32 [n_tokens, ...]; under the official numerics they hold values
 * rounded to bf16 wherever DeepSeek's code rounds (`round` is then 1).
 */
#ifndef DSV4_MODEL_STEP_H
#define DSV4_MODEL_STEP_H

#include "base/parallel.h"
#include "cpu/linear_cpu.h"
#include "cpu/rows_cpu.h"
#include "dsv4/attn.h"
#include "forward.h"
#include "ref/hyper.h"

/* Which keys a layer sees besides the window. */
enum { DSV4_STEP_PLAN_WINDOW = 0, DSV4_STEP_PLAN_C4, DSV4_STEP_PLAN_C128, DSV4_STEP_N_PLANS };

typedef struct dsv4_step {
    const dsv4_weights *weights;
    const dsv4_config *config;
    const dsv4_compute *compute;
    const dsv4_rows_kernels *rows; /* of the level in compute */
    const dsv4_cache *cache;
    const dsv4_batch *batch;
    int64_t n_tokens;
    int round; /* 1: official numerics */
    const int32_t
        *tokens; /* [n_tokens] the ids that the layers see (the MTP block's are shifted) */
    const float *compressed_frequencies; /* [32] of layers with compressed keys */
    int64_t max_visible;                 /* most ratio-4 keys that a token of the batch sees */

    float *streams;         /* [n_tokens, 4, hidden] */
    dsv4_hyper_mix *mixes;  /* [n_tokens] */
    float *projected;       /* [n_tokens, 24] */
    float *x, *x_quantized; /* [n_tokens, hidden] sublayer input, and through the FP8 quantizer */
    float *sublayer;        /* [n_tokens, hidden] sublayer output */

    const float *tables; /* [n_tokens, 64] rotation of the layer at hand: one of the next two */
    float *plain_tables, *compressed_tables;
    float *q_low, *q_low_quantized;   /* [n_tokens, q_lora_rank] */
    float *q;                         /* [n_tokens, n_heads, 512] */
    uint16_t *q_bf16;                 /* the same under official numerics */
    float *attended;                  /* [n_tokens, n_heads, 512] */
    float *o_low;                     /* [n_tokens, n_o_groups * o_lora_rank] */
    float *kv;                        /* [n_tokens, 512] */
    float *raw_k, *raw_g;             /* [n_tokens, 1024] compressor rows */
    float *index_raw_k, *index_raw_g; /* [n_tokens, 256] the indexer's */
    float *index_q;                   /* [n_tokens, n_index_heads, 128] */
    float *index_weights;             /* [n_tokens, n_index_heads] */
    float *index_scores;              /* [n_threads, max_visible] */
    int32_t *index_scratch;           /* [n_threads, max_visible] */
    int32_t *index_chosen;            /* [n_threads, index_topk] */

    int32_t *window_list;         /* [n_tokens, 128] slots, -1 padded */
    int32_t *c4_list;             /* [n_tokens, c4_stride] slots */
    int32_t *c128_list;           /* [n_tokens, c128_stride] slots */
    int32_t *c4_lens, *c128_lens; /* [n_tokens] */
    int64_t c4_stride, c128_stride;
    unsigned char *plans[DSV4_STEP_N_PLANS]; /* shared by all layers of a kind */
    unsigned char *attn_workspace;
    size_t plan_bytes, attn_workspace_bytes;

    float *gate;           /* [n_tokens, n_experts] */
    int32_t *chosen;       /* [n_tokens, n_active] experts */
    float *chosen_weights; /* [n_tokens, n_active] */
    int32_t *routed;       /* [n_tokens * n_active] choices (token * n_active + i) by expert */
    int64_t *routed_begin; /* [n_experts + 1] */
    int64_t n_expert_rows; /* rows of experts that are computed together, n_tokens or more */
    float *expert_in;      /* [n_expert_rows, hidden] */
    float *expert_weights; /* [n_expert_rows] */
    float *expert_gate, *expert_up; /* [n_expert_rows, expert_dim] */
    float *expert_out;              /* [n_expert_rows, hidden] */
    float *shared_out;              /* [n_tokens, hidden] */
    float *routed_out;              /* [n_tokens * n_active, hidden] in the order of choices */
    float *head_in;                 /* [n_tokens, hidden] */
    int32_t *head_rows; /* [n_tokens] row of head_in for a token of the batch, -1: none */

    /* The MTP block's own batch: tokens with a known successor. */
    int32_t *mtp_tokens, *mtp_sequences, *mtp_source; /* [n_tokens] */
    int64_t *mtp_positions;                           /* [n_tokens] */
    float *mtp_streams;                               /* [n_tokens, 4, hidden] */
} dsv4_step;

/* y = x W^T for all tokens; inputs are bf16 values under the official numerics. */
void dsv4_step_linear(const dsv4_step *step, const dsv4_linear *linear, const float *x, float *y);

/* The same as one of several: they are run together, in any order. */
dsv4_linear_product dsv4_step_product(const dsv4_step *step, const dsv4_linear *linear,
                                      const float *x, float *y);
void dsv4_step_linears(const dsv4_step *step, const dsv4_linear_product *products,
                       int64_t n_products);

/* Rounds to bf16 under the official numerics. */
void dsv4_step_round(const dsv4_step *step, float *values, int64_t n);

/* quantized = x through the FP8 quantizer of GEMM inputs under the official numerics, else x. */
void dsv4_step_quantize(const dsv4_step *step, const float *x, int64_t n, float *quantized);

/*
 * Runs body(context, row, worker) for n_rows rows that handle row_len values each; on threads if that is
 * more work than waking them is.
 */
void dsv4_step_spread(const dsv4_step *step, int64_t n_rows, int64_t row_len,
                      dsv4_parallel_body *body, void *context);

/* Runs body for every token on the step's threads. */
typedef void dsv4_token_body(const dsv4_step *step, const dsv4_layer *layer,
                             const dsv4_layer_cache *cache, int64_t token, int32_t worker);
void dsv4_step_each(const dsv4_step *step, const dsv4_layer *layer, const dsv4_layer_cache *cache,
                    dsv4_token_body *body);

/* The attention call of a layer kind; tensors of the layer are filled in by the caller. */
void dsv4_step_attn_params(const dsv4_step *step, int plan, dsv4_attn_params *params);

/* x -> sublayer: attention with everything that belongs to it (specification 3). */
dsv4_status dsv4_step_attention(const dsv4_step *step, const dsv4_layer *layer,
                                const dsv4_layer_cache *cache, dsv4_error *error);

/*
 * Whether a layer chooses among its compressed keys: the indexer's query and weights are wanted then.
 */
static inline bool dsv4_step_chooses(const dsv4_step *step, const dsv4_layer *layer)
{
    return layer->ratio == 4 && step->max_visible > step->config->index_topk;
}

/* raw_k, raw_g -> compressed keys of the groups that end in the batch (3.6), main and indexer. */
void dsv4_step_compress(const dsv4_step *step, const dsv4_layer *layer,
                        const dsv4_layer_cache *cache);

/* index_q, index_weights -> c4_list: the compressed keys that each token attends to (3.7). */
void dsv4_step_select(const dsv4_step *step, const dsv4_layer *layer,
                      const dsv4_layer_cache *cache);

/* x -> sublayer: routed and shared experts (5). */
void dsv4_step_experts(const dsv4_step *step, const dsv4_layer *layer);

#endif
