/*
 * attn_kernels.h - what one CPU level provides to the decode-attention driver.
 *
 * Place: cpu. The driver (attn_cpu.c) walks lists in blocks of up to 64 valid keys. For each block it
 * has the level dequantize the rows once into its own buffer, and then use them for all heads:
 *
 *   score_block -> softmax -> fold_state -> add_values
 *
 * A state is a softmax over some keys: max (log2 domain), sum and weight per head, and the values summed
 * relative to max. `sum` adds the exact probabilities (for the lse), `weight` those that multiplied the
 * values (for normalizing; they differ where probabilities are rounded). Folding part into acc:
 *
 *   max' = max(acc.max, part.max)  alpha = 2^(acc.max - max')  beta = 2^(part.max - max')
 *   sum' = sum * alpha + part.sum * beta     values' = fma(part.values, beta, values * alpha)
 *
 * A head's result depends on the keys in order and on its place in its group of 16 heads, never on how
 * the work was divided: the driver cuts heads only at multiples of 16. Kernels neither allocate nor fail. All buffers are 64-byte aligned; q, out and cache rows
 * may have any alignment. Kernels with bf16 math see bf16 queries and FP8 rows only.
 */
#ifndef DSV4_CPU_ATTN_KERNELS_H
#define DSV4_CPU_ATTN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define DSV4_ATTN_BLOCK_ROWS 64 /* keys per block */
#define DSV4_ATTN_HEAD_PAD   16 /* per-head arrays are padded to a multiple of this */
#define DSV4_ATTN_N_GROUPS   8  /* a row is 8 groups of 64 values: 7 scaled, 1 rotated */
#define DSV4_ATTN_GROUP_DIM  64

/* Where one cache row lies. */
typedef struct dsv4_attn_row {
    const uint8_t *data;   /* 448 e4m3 codes, then 64 bf16; or, where scales is NULL, 512 f32 */
    const uint8_t *scales; /* 7 ue8m0, one pad byte */
} dsv4_attn_row;

/*
 * Rows that will be needed next. Kernels prefetch a line of them now and then as they work: of a burst,
 * most would find no free miss buffer.
 */
typedef struct dsv4_attn_ahead {
    const dsv4_attn_row *rows;
    int32_t n_rows, at; /* rows[at .. n_rows - 1] are still to be prefetched ... */
    int32_t offset;     /* ... and this many bytes of rows[at] have been */
} dsv4_attn_ahead;

typedef struct dsv4_attn_state {
    float *values; /* [n_heads_pad, 512] dimensions in the level's own order */
    float *max;    /* [n_heads_pad] log2 domain, -inf before the first key */
    float *sum;    /* [n_heads_pad] */
    float *weight; /* [n_heads_pad] */
} dsv4_attn_state;

/* Where one query's result goes. */
typedef struct dsv4_attn_target {
    unsigned char *out; /* [n_heads, 512] out_dtype */
    int64_t out_head_stride_bytes;
    int32_t out_dtype;
    int32_t rotate; /* 0: no; 1: by `rope`; 2: the table row is missing, the 64 values become NaN */
    unsigned char *scales; /* [n_heads, 4] ue8m0, where out_dtype is FP8 */
    int64_t scales_head_stride_bytes;
    unsigned char *lse; /* [n_heads] f32, or NULL */
    int64_t lse_head_stride_bytes;
    const float *sink; /* [n_heads], or NULL */
    const float *rope; /* [64] cosines and sines, when rotate is 1 */
} dsv4_attn_target;

typedef struct dsv4_attn_kernels {
    int32_t level;       /* DSV4_CPU_LEVEL_* */
    int32_t math;        /* DSV4_ATTN_MATH_* */
    size_t q_head_bytes; /* packed query bytes per padded head */
    size_t kv_bytes;     /* buffer of one dequantized block */

    /* q [n_heads, 512] q_dtype -> packed. Padded heads become zero. */
    void (*pack_q)(const unsigned char *q, int32_t q_dtype, int64_t head_stride_bytes,
                   int32_t n_heads, void *packed);
    /* Dequantizes rows [n_rows], n_rows 1 .. 64, into kv, and scores [64, n_heads_pad] = q . k,
     * unscaled; scores past n_rows are unspecified. */
    void (*score_block)(const dsv4_attn_row *rows, int32_t n_rows, const void *packed_q,
                        int32_t n_heads, void *kv, float *scores);
    /* max [n_heads_pad] = the larger of it and the block's scores in the log2 domain. */
    void (*raise_max)(float scale_log2, int32_t n_heads, int32_t n_rows, const float *scores,
                      float *max);
    /* scores -> probabilities in place, in the form that add_values takes; part gets max, sum, weight.
     * With fixed_max [n_heads_pad] they are relative to it and rounded to bf16, and weight is sum. */
    void (*softmax)(float scale_log2, int32_t n_heads, int32_t n_rows, const float *fixed_max,
                    float *scores, const dsv4_attn_state *part);
    /* Folds max, sum and weight of part into acc; alpha, beta [n_heads_pad] are for the values. */
    void (*fold_state)(int32_t n_heads, const dsv4_attn_state *part, const dsv4_attn_state *acc,
                       float *alpha, float *beta);
    /* acc_values [n_heads, 512] = fma(probabilities . v, beta, acc_values * alpha); the first keys of a
     * state, alpha NULL: = probabilities . v, whatever acc_values was. */
    void (*add_values)(const float *probabilities, const void *kv, int32_t n_heads, int32_t n_rows,
                       const float *alpha, const float *beta, dsv4_attn_ahead *ahead,
                       float *acc_values);
    /* values [n_heads, 512], which may be acc_values, = fma(part_values, beta, acc_values * alpha);
     * alpha NULL: = part_values. */
    void (*fold_values)(int32_t n_heads, const float *part_values, const float *alpha,
                        const float *beta, const float *acc_values, float *values);
    /* Normalizes (adding the sink), rotates, stores out and lse. A state without keys gives 0, +inf.
     * May use up acc->values. */
    void (*finish)(int32_t n_heads, const dsv4_attn_state *acc, const dsv4_attn_target *target);
} dsv4_attn_kernels;

extern const dsv4_attn_kernels dsv4_attn_kernels_v2;
extern const dsv4_attn_kernels dsv4_attn_kernels_avx2;
extern const dsv4_attn_kernels dsv4_attn_kernels_avx512;
extern const dsv4_attn_kernels dsv4_attn_kernels_avx512bf16;

static inline int32_t dsv4_attn_pad_heads(int32_t n_heads)
{
    return (n_heads + DSV4_ATTN_HEAD_PAD - 1) / DSV4_ATTN_HEAD_PAD * DSV4_ATTN_HEAD_PAD;
}

#endif
