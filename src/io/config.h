/*
 * config.h - the architecture of a DeepSeek-V4 checkpoint, from its config.json.
 *
 * Place: io. Parsing is strict: a key that would change the mathematics and that this project does not
 * know, a value outside what it implements, another architecture (DeepSeek-V3, V3.2, V4.1, DSpark drafts)
 * are refused by name. Keys without influence on results (dropout, initializer_range, use_cache,
 * transformers_version, ...) are listed in config.c and ignored. Source: specification, section 1.
 */
#ifndef DSV4_IO_CONFIG_H
#define DSV4_IO_CONFIG_H

#include "dsv4/base.h"

#define DSV4_CONFIG_MAX_LAYERS 256
#define DSV4_HEAD_DIM          512 /* head_dim, the only value there is */
#define DSV4_ROPE_DIM          64  /* qk_rope_head_dim */
#define DSV4_INDEX_DIM         128 /* index_head_dim */
#define DSV4_N_STREAMS         4   /* hc_mult */
#define DSV4_WINDOW            128 /* sliding_window */

/* Storage of the routed experts' weights. */
enum { DSV4_EXPERT_FP4 = 1, DSV4_EXPERT_FP8 = 2 };

typedef struct dsv4_config {
    int64_t vocab_size, hidden_size, n_layers, n_heads;
    int64_t q_lora_rank, o_lora_rank, n_o_groups;
    int32_t ratios[DSV4_CONFIG_MAX_LAYERS +
                   1]; /* 0, 4 or 128 per layer; [n_layers] is the MTP block's */
    int64_t n_index_heads, index_topk;
    int64_t n_experts, n_active_experts, expert_dim, n_hash_layers;
    int32_t expert_dtype; /* DSV4_EXPERT_* */
    float routed_scale, swiglu_limit;
    int32_t n_sinkhorn_iters;
    float hc_eps, norm_eps;
    double rope_theta;          /* layers of ratio 0 and the MTP block, without YaRN */
    double compress_rope_theta; /* layers of ratio 4 and 128, with YaRN */
    double yarn_factor, yarn_beta_fast, yarn_beta_slow;
    int64_t yarn_original_positions;
    int64_t max_positions;
    int64_t n_mtp_blocks; /* 0 or 1 */
    int32_t bos_id, eos_id;
} dsv4_config;

/*
 * Parses config.json from memory; `path` is for error texts.
 * Errors: BAD_FILE (broken JSON, wrong type, value out of range: key, value, expectation), UNSUPPORTED
 * (another architecture or an unknown key, by name), OUT_OF_MEMORY.
 */
dsv4_status dsv4_config_parse(const char *path, const void *bytes, size_t len_bytes,
                              dsv4_config *config, dsv4_error *error);

#endif
