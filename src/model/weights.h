/*
 * weights.h - a checkpoint's tensors as the layers use them.
 *
 * Place: model. Large matrices are borrowed from the mapped directory; small vectors are borrowed where
 * they are aligned and copied where not. Immutable after opening.
 */
#ifndef DSV4_MODEL_WEIGHTS_H
#define DSV4_MODEL_WEIGHTS_H

#include "io/model_dir.h"
#include "ref/hyper.h"
#include "ref/linear.h"

typedef struct dsv4_compressor {
    dsv4_linear wkv, wgate; /* [n_halves * dim, hidden] */
    const float *ape;       /* [ratio, n_halves * dim] */
    const uint16_t *norm;   /* [dim] bf16 */
} dsv4_compressor;

typedef struct dsv4_expert {
    dsv4_linear w1, w2, w3; /* gate [F, hidden], down [hidden, F], up [F, hidden] */
} dsv4_expert;

typedef struct dsv4_layer {
    int32_t ratio; /* 0, 4, 128 */
    dsv4_hyper hyper_attn, hyper_ffn;
    const uint16_t *attn_norm, *ffn_norm; /* [hidden] bf16 */

    dsv4_linear wq_a, wq_b, wkv;
    dsv4_linear wo_a; /* all groups: rows g * o_lora_rank .. belong to group g */
    dsv4_linear wo_b;
    const uint16_t *q_norm, *kv_norm; /* [q_lora_rank], [512] bf16 */
    const float *sink;                /* [n_heads] */
    dsv4_compressor compressor;       /* ratio > 0 */

    dsv4_compressor index_compressor; /* ratio 4 */
    dsv4_linear index_wq_b, index_weights;

    dsv4_linear gate;
    const float *gate_bias;          /* [n_experts], NULL in hash layers */
    const unsigned char *hash_table; /* [vocab, n_active] of hash_table_bytes, else NULL */
    int32_t hash_table_bytes;        /* 4 or 8 per entry */
    dsv4_expert *experts;            /* [n_experts] */
    dsv4_expert shared;
} dsv4_layer;

/* Hidden streams to logits: the model's own, and the MTP block's. */
typedef struct dsv4_head {
    dsv4_hyper hyper;
    const uint16_t *norm; /* [hidden] bf16 */
} dsv4_head;

typedef struct dsv4_mtp {
    dsv4_linear e_proj, h_proj;
    const uint16_t *enorm, *hnorm; /* [hidden] bf16 */
    dsv4_head head;
} dsv4_mtp;

typedef struct dsv4_weights {
    dsv4_config config;
    dsv4_linear embed, unembed; /* [vocab, hidden] */
    dsv4_head head;
    dsv4_layer *layers; /* [n_layers + n_mtp_blocks]; the last is the MTP block's */
    dsv4_mtp mtp;       /* when n_mtp_blocks is 1 */
    void *owned;        /* what was copied */
} dsv4_weights;

/* dir must outlive the weights. Errors: OUT_OF_MEMORY, UNSUPPORTED, BAD_FILE. */
dsv4_status dsv4_weights_open(const dsv4_model_dir *dir, dsv4_weights *weights, dsv4_error *error);

/* Entry i of a hash layer's table: the expert of choice i % n_active for token i / n_active. */
int64_t dsv4_layer_hash_entry(const dsv4_layer *layer, int64_t i);

/* Accepts a zeroed structure. */
void dsv4_weights_close(dsv4_weights *weights);

#endif
