/*
 * attn_common_tmpl.h - the kernels of attn_kernels.h that are the same for every kind of product:
 * softmax of a block, folding of states, normalizing and storing.
 *
 * Place: cpu; a template. Included once by each attn_<level>.c after one vec_*.h and round_tmpl.h. Lanes are heads in the
 * softmax and the state, and values elsewhere.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attn_kernels.h"
#include "base/compiler.h"
#include "dsv4/attn.h"
#include "dsv4/cache.h"
#include "num/bf16.h"
#include "ref/attn_ref.h"

#define LN_2   0.693147180559945309f
#define LOG2_E 1.442695040888963407f

static inline int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/*
 * A prefetch that finds no free miss buffer is lost. So rows are asked for twice: line by line while the
 * values of the block before theirs are added (that work reads the caches only, and long enough), and
 * once more a few rows before they are dequantized. Scores prefetch nothing else: it slows their loads.
 */
enum { NEAR_ROWS = 4 };

static DSV4_ALWAYS_INLINE int32_t row_data_bytes(const dsv4_attn_row *row)
{
    return row->scales == NULL ? DSV4_ATTN_DIM * (int32_t)sizeof(float) : DSV4_CACHE_DATA_BYTES;
}

/* One cache line of the rows ahead, on its way into L2. */
static DSV4_ALWAYS_INLINE void prefetch_line(dsv4_attn_ahead *ahead)
{
    if (ahead->at >= ahead->n_rows) return;
    const dsv4_attn_row *row = &ahead->rows[ahead->at];
    if (ahead->offset < row_data_bytes(row)) {
        DSV4_PREFETCH_L2(row->data + ahead->offset);
        ahead->offset += 64;
    } else {
        if (row->scales != NULL) DSV4_PREFETCH_L2(row->scales);
        ahead->offset = 0;
        ahead->at++;
    }
}

/* What is still missing of the row NEAR_ROWS after `row`. */
static DSV4_ALWAYS_INLINE void prefetch_near(const dsv4_attn_row *rows, int32_t row, int32_t n_rows)
{
    if (row + NEAR_ROWS >= n_rows) return;
    const dsv4_attn_row *next = &rows[row + NEAR_ROWS];
    for (int32_t i = 0; i < row_data_bytes(next); i += 64) DSV4_PREFETCH_L2(next->data + i);
}

/* Largest score of one vector of heads, in the log2 domain. */
static vf max_vector(vf scale, int32_t n_rows, int32_t stride, const float *scores)
{
    vf largest = vf_load(scores);
    for (int32_t row = 1; row < n_rows; row++) {
        largest = vf_max(largest, vf_load(scores + row * stride));
    }
    return vf_mul(largest, scale);
}

static void raise_max(float scale_log2, int32_t n_heads, int32_t n_rows, const float *scores,
                      float *max)
{
    int32_t stride = dsv4_attn_pad_heads(n_heads);
    for (int32_t h = 0; h < n_heads; h += VF_LANES) {
        vf block = max_vector(vf_set1(scale_log2), n_rows, stride, scores + h);
        vf_store(max + h, vf_max(vf_load(max + h), block));
    }
}

/* One vector of heads: scores become probabilities relative to max; returns their sum. */
static vf softmax_vector(vf scale, vf max, int32_t n_rows, int32_t stride, float *scores)
{
    vf minus_max = vf_mul(max, vf_set1(-1.0f));
    vf total = vf_zero();
    for (int32_t row = 0; row < n_rows; row++) {
        vf p = vf_exp2(vf_fma(vf_load(scores + row * stride), scale, minus_max));
        vf_store(scores + row * stride, p);
        total = vf_add(total, p);
    }
    return total;
}

static void fold_state(int32_t n_heads, const dsv4_attn_state *part, const dsv4_attn_state *acc,
                       float *alpha, float *beta)
{
    for (int32_t h = 0; h < n_heads; h += VF_LANES) {
        vf acc_max = vf_load(acc->max + h), part_max = vf_load(part->max + h);
        vf max = vf_max(acc_max, part_max);
        vf minus_max = vf_mul(max, vf_set1(-1.0f));
        vf a = vf_exp2(vf_add(acc_max, minus_max));
        vf b = vf_exp2(vf_add(part_max, minus_max));
        vf sum = vf_fma(vf_load(part->sum + h), b, vf_mul(vf_load(acc->sum + h), a));
        vf weight = vf_fma(vf_load(part->weight + h), b, vf_mul(vf_load(acc->weight + h), a));
        vf_store(acc->max + h, max);
        vf_store(acc->sum + h, sum);
        vf_store(acc->weight + h, weight);
        vf_store(alpha + h, a);
        vf_store(beta + h, b);
    }
}

static void fold_values(int32_t n_heads, const float *part_values, const float *alpha,
                        const float *beta, const float *acc_values, float *values)
{
    for (int32_t h = 0; h < n_heads; h++) {
        const float *part = part_values + h * DSV4_ATTN_DIM, *acc = acc_values + h * DSV4_ATTN_DIM;
        float *to = values + h * DSV4_ATTN_DIM;
        if (alpha == NULL) {
            memcpy(to, part, DSV4_ATTN_DIM * sizeof *to);
            continue;
        }
        vf a = vf_set1(alpha[h]), b = vf_set1(beta[h]);
        for (int d = 0; d < DSV4_ATTN_DIM; d += VF_LANES) {
            vf_store(to + d, vf_fma(vf_load(part + d), b, vf_mul(vf_load(acc + d), a)));
        }
    }
}

/* values of head h, which it may change, into the target. */
static void store_head(float *values, const dsv4_attn_target *target, int32_t h)
{
    unsigned char *out = target->out + h * target->out_head_stride_bytes;
    float *tail = values + DSV4_ATTN_DIM - DSV4_ATTN_ROPE_DIM;
    if (target->rotate == 1) dsv4_attn_ref_rotate_back(tail, target->rope);
    if (target->rotate == 2) {
        for (int d = 0; d < DSV4_ATTN_ROPE_DIM; d++) tail[d] = NAN;
    }
    if (target->out_dtype == DSV4_DTYPE_F32) {
        memcpy(out, values, DSV4_ATTN_DIM * sizeof *values);
        return;
    }
    if (target->out_dtype == DSV4_DTYPE_FP8) {
        quantize_codes(values, DSV4_ATTN_DIM, out,
                       target->scales + h * target->scales_head_stride_bytes);
        return;
    }
    for (int d = 0; d < DSV4_ATTN_DIM; d += VF_LANES)
        vf_store_bf16(out + 2 * d, vf_load(values + d));
}

static void finish(int32_t n_heads, const dsv4_attn_state *acc, const dsv4_attn_target *target)
{
    for (int32_t h = 0; h < n_heads; h++) {
        float lse = INFINITY, values[DSV4_ATTN_DIM];
        if (acc->sum[h] != 0.0f) {
            lse = acc->max[h] * LN_2 + logf(acc->sum[h]);
            float total = acc->weight[h];
            if (target->sink != NULL) total += exp2f(target->sink[h] * LOG2_E - acc->max[h]);
            vf inverse = vf_set1(1.0f / total);
            for (int d = 0; d < DSV4_ATTN_DIM; d += VF_LANES) {
                vf_store(values + d, vf_mul(vf_load(acc->values + h * DSV4_ATTN_DIM + d), inverse));
            }
        } else {
            memset(values, 0, sizeof values);
        }
        store_head(values, target, h);
        if (target->lse != NULL) {
            memcpy(target->lse + h * target->lse_head_stride_bytes, &lse, sizeof lse);
        }
    }
}
