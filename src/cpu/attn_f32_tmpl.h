/*
 * attn_f32_tmpl.h - the kernels of attn_kernels.h with f32 products.
 *
 * Place: cpu; a template. Included once by each attn_<level>.c after one vec_*.h and
 * attn_common_tmpl.h.
 *
 * Scores: lanes are heads. The query is packed so that one vector holds one dimension of VF_LANES heads,
 * and each key value is broadcast. Values: lanes are dimensions, probabilities are broadcast. A block of
 * keys lies as [8 groups][64 rows][64 values], so that the slab that a value tile reads is contiguous.
 * A tail of few heads (VF_HAS_HALF) puts two dimensions of half as many heads in one vector.
 */
/* Rows that are dequantized, then scored, at a time. */
#define TILE_ROWS (2 * VF_TILE_KEYS)

/* Floats from one group of a block to the next, padded so that the groups of a row fall into different
 * cache sets. */
#define GROUP_FLOATS (DSV4_ATTN_BLOCK_ROWS * DSV4_ATTN_GROUP_DIM + 64)

/* How n_heads divide into head vectors; `half` tells that the last one is a half. */
typedef struct head_split {
    int32_t n_vecs;
    int32_t half;
} head_split;

static head_split split_heads(int32_t n_heads)
{
    int32_t rest = n_heads % VF_LANES;
    head_split split = {(n_heads + VF_LANES - 1) / VF_LANES, 0};
    if (VF_HAS_HALF && rest != 0 && rest <= VF_LANES / 2) split.half = 1;
    return split;
}

/* VF_LANES values of a query head, from dimension d on. */
static vf load_q(const unsigned char *head, int32_t q_dtype, int d)
{
    if (q_dtype == DSV4_DTYPE_F32) return vf_load((const float *)(const void *)(head + 4 * d));
    return vf_load_bf16(head + 2 * d);
}

/* One head vector: packed [512, VF_LANES]. */
static void pack_vector(const unsigned char *q, int32_t q_dtype, int64_t head_stride_bytes,
                        int32_t n_heads, float *packed)
{
    for (int d = 0; d < DSV4_ATTN_DIM; d += VF_LANES) {
        vf square[VF_LANES];
        for (int h = 0; h < VF_LANES; h++) {
            square[h] = h < n_heads ? load_q(q + h * head_stride_bytes, q_dtype, d) : vf_zero();
        }
        vf_transpose(square);
        for (int i = 0; i < VF_LANES; i++) vf_store(packed + (d + i) * VF_LANES, square[i]);
    }
}

/* A half vector: packed [256, VF_LANES / 2, 2]. */
static void pack_half(const unsigned char *q, int32_t q_dtype, int64_t head_stride_bytes,
                      int32_t n_heads, float *packed)
{
    memset(packed, 0, DSV4_ATTN_DIM * VF_LANES / 2 * sizeof *packed);
    for (int h = 0; h < n_heads; h++) {
        float values[VF_LANES];
        for (int d = 0; d < DSV4_ATTN_DIM; d++) {
            if (d % VF_LANES == 0) vf_store(values, load_q(q + h * head_stride_bytes, q_dtype, d));
            packed[d / 2 * VF_LANES + 2 * h + d % 2] = values[d % VF_LANES];
        }
    }
}

static void pack_q(const unsigned char *q, int32_t q_dtype, int64_t head_stride_bytes,
                   int32_t n_heads, void *packed)
{
    float *to = packed;
    head_split split = split_heads(n_heads);
    for (int32_t v = 0; v < split.n_vecs; v++) {
        const unsigned char *from = q + v * VF_LANES * head_stride_bytes;
        int32_t n_left = n_heads - v * VF_LANES;
        if (split.half && v == split.n_vecs - 1) {
            pack_half(from, q_dtype, head_stride_bytes, n_left, to);
        } else {
            pack_vector(from, q_dtype, head_stride_bytes, n_left, to);
        }
        to += DSV4_ATTN_DIM * VF_LANES;
    }
}

static void load_row(const dsv4_attn_row *row, float *kv)
{
    if (row->scales == NULL) {
        for (int g = 0; g < DSV4_ATTN_N_GROUPS; g++) {
            memcpy(kv + g * GROUP_FLOATS, row->data + 4 * DSV4_ATTN_GROUP_DIM * g,
                   DSV4_ATTN_GROUP_DIM * sizeof *kv);
        }
        return;
    }
    for (int g = 0; g < DSV4_ATTN_N_GROUPS - 1; g++) {
        vf_dequant_group(row->data + g * DSV4_ATTN_GROUP_DIM, row->scales[g],
                         kv + g * GROUP_FLOATS);
    }
    const uint8_t *tail = row->data + (DSV4_ATTN_N_GROUPS - 1) * DSV4_ATTN_GROUP_DIM;
    float *to = kv + (DSV4_ATTN_N_GROUPS - 1) * GROUP_FLOATS;
    for (int d = 0; d < DSV4_ATTN_GROUP_DIM; d += VF_LANES)
        vf_store(to + d, vf_load_bf16(tail + 2 * d));
}

/* The tile of a block of n_rows that begins at row `first`. Rows that do not exist become zero. */
static void load_tile(const dsv4_attn_row *rows, int32_t n_rows, int32_t first, float *kv)
{
    int32_t row = first;
    for (; row < min_i32(first + TILE_ROWS, n_rows); row++) {
        prefetch_near(rows, row, n_rows);
        load_row(&rows[row], kv);
        kv += DSV4_ATTN_GROUP_DIM;
    }
    for (; row < first + TILE_ROWS; row++) {
        for (int g = 0; g < DSV4_ATTN_N_GROUPS; g++) {
            memset(kv + g * GROUP_FLOATS, 0, DSV4_ATTN_GROUP_DIM * sizeof *kv);
        }
        kv += DSV4_ATTN_GROUP_DIM;
    }
}

/* n_keys keys by n_vecs head vectors; both are constants at every call. */
static DSV4_ALWAYS_INLINE void score_tile(const float *q, const float *kv, const int n_vecs,
                                          const int n_keys, int32_t stride, float *scores)
{
    vf acc[16];
    DSV4_UNROLL for (int i = 0; i < n_vecs * n_keys; i++) acc[i] = vf_zero();
    for (int g = 0; g < DSV4_ATTN_N_GROUPS; g++) {
        const float *keys = kv + g * GROUP_FLOATS;
        for (int d = 0; d < DSV4_ATTN_GROUP_DIM; d++) {
            vf q_vec[2];
            DSV4_UNROLL for (int v = 0; v < n_vecs; v++)
            {
                q_vec[v] = vf_load(q + v * DSV4_ATTN_DIM * VF_LANES);
            }
            q += VF_LANES;
            DSV4_UNROLL for (int k = 0; k < n_keys; k++)
            {
                vf key = vf_set1(keys[k * DSV4_ATTN_GROUP_DIM + d]);
                DSV4_UNROLL for (int v = 0; v < n_vecs; v++)
                {
                    acc[v * n_keys + k] = vf_fma(q_vec[v], key, acc[v * n_keys + k]);
                }
            }
        }
    }
    DSV4_UNROLL for (int k = 0; k < n_keys; k++)
    {
        DSV4_UNROLL for (int v = 0; v < n_vecs; v++)
        {
            vf_store(scores + k * stride + v * VF_LANES, acc[v * n_keys + k]);
        }
    }
}

#if VF_HAS_HALF
static void score_half_tile(const float *q, const float *kv, int32_t stride, float *scores)
{
    vf acc[TILE_ROWS];
    DSV4_UNROLL for (int k = 0; k < TILE_ROWS; k++) acc[k] = vf_zero();
    for (int g = 0; g < DSV4_ATTN_N_GROUPS; g++) {
        const float *keys = kv + g * GROUP_FLOATS;
        for (int d = 0; d < DSV4_ATTN_GROUP_DIM; d += 2) {
            vf q_vec = vf_load(q);
            q += VF_LANES;
            DSV4_UNROLL for (int k = 0; k < TILE_ROWS; k++)
            {
                acc[k] = vf_fma(q_vec, vf_set_pair(keys + k * DSV4_ATTN_GROUP_DIM + d), acc[k]);
            }
        }
    }
    DSV4_UNROLL for (int k = 0; k < TILE_ROWS; k++)
        vf_store(scores + k * stride, vf_pair_sums(acc[k]));
}
#endif

/* TILE_ROWS keys by all heads. */
static void score_rows(const float *q, const float *keys, int32_t n_heads, float *scores)
{
    head_split split = split_heads(n_heads);
    int32_t n_full = split.n_vecs - split.half, stride = dsv4_attn_pad_heads(n_heads), v = 0;
    const int32_t vector_floats = DSV4_ATTN_DIM * VF_LANES;
    for (; v + 2 <= n_full; v += 2) {
        const float *q_vec = q + v * vector_floats;
        score_tile(q_vec, keys, 2, VF_TILE_KEYS, stride, scores + v * VF_LANES);
        score_tile(q_vec, keys + VF_TILE_KEYS * DSV4_ATTN_GROUP_DIM, 2, VF_TILE_KEYS, stride,
                   scores + VF_TILE_KEYS * stride + v * VF_LANES);
    }
    if (v < n_full) {
        score_tile(q + v * vector_floats, keys, 1, TILE_ROWS, stride, scores + v * VF_LANES);
        v++;
    }
#if VF_HAS_HALF
    if (split.half) score_half_tile(q + v * vector_floats, keys, stride, scores + v * VF_LANES);
#endif
}

static void score_block(const dsv4_attn_row *rows, int32_t n_rows, const void *packed_q,
                        int32_t n_heads, void *kv, float *scores)
{
    int32_t stride = dsv4_attn_pad_heads(n_heads);
    for (int32_t row = 0; row < n_rows; row += TILE_ROWS) {
        float *keys = (float *)kv + row * DSV4_ATTN_GROUP_DIM;
        load_tile(rows, n_rows, row, keys);
        score_rows(packed_q, keys, n_heads, scores + row * stride);
    }
}

static void round_vector(int32_t n_rows, int32_t stride, float *scores)
{
    for (int32_t row = 0; row < n_rows; row++) {
        uint16_t bits[VF_LANES];
        vf_store_bf16(bits, vf_load(scores + row * stride));
        vf_store(scores + row * stride, vf_load_bf16(bits));
    }
}

static void softmax(float scale_log2, int32_t n_heads, int32_t n_rows, const float *fixed_max,
                    float *scores, const dsv4_attn_state *part)
{
    int32_t stride = dsv4_attn_pad_heads(n_heads);
    vf scale = vf_set1(scale_log2);
    for (int32_t h = 0; h < n_heads; h += VF_LANES) {
        vf max = fixed_max == NULL ? max_vector(scale, n_rows, stride, scores + h)
                                   : vf_load(fixed_max + h);
        vf sum = softmax_vector(scale, max, n_rows, stride, scores + h);
        if (fixed_max != NULL) round_vector(n_rows, stride, scores + h);
        vf_store(part->max + h, max);
        vf_store(part->sum + h, sum);
        vf_store(part->weight + h, sum);
    }
}

/* n_heads (a constant at every call) heads by VF_TILE_VECS vectors of one group. */
static DSV4_ALWAYS_INLINE void value_tile(const float *p, int32_t stride, const float *v_slab,
                                          const int n_heads, int32_t n_rows, const float *alpha,
                                          const float *beta, dsv4_attn_ahead *ahead, float *values)
{
    vf acc[4 * VF_TILE_VECS];
    DSV4_UNROLL for (int i = 0; i < n_heads * VF_TILE_VECS; i++) acc[i] = vf_zero();
    for (int32_t row = 0; row < n_rows; row++) {
        vf value[VF_TILE_VECS];
        prefetch_line(ahead);
        DSV4_UNROLL for (int i = 0; i < VF_TILE_VECS; i++) value[i] =
            vf_load(v_slab + i * VF_LANES);
        v_slab += DSV4_ATTN_GROUP_DIM;
        DSV4_UNROLL for (int h = 0; h < n_heads; h++)
        {
            vf weight = vf_set1(p[h]);
            DSV4_UNROLL for (int i = 0; i < VF_TILE_VECS; i++)
            {
                acc[h * VF_TILE_VECS + i] = vf_fma(weight, value[i], acc[h * VF_TILE_VECS + i]);
            }
        }
        p += stride;
    }
    DSV4_UNROLL for (int h = 0; h < n_heads; h++)
    {
        float *to = values + h * DSV4_ATTN_DIM;
        if (alpha == NULL) {
            DSV4_UNROLL for (int i = 0; i < VF_TILE_VECS; i++)
                vf_store(to + i * VF_LANES, acc[h * VF_TILE_VECS + i]);
            continue;
        }
        vf a = vf_set1(alpha[h]), b = vf_set1(beta[h]);
        DSV4_UNROLL for (int i = 0; i < VF_TILE_VECS; i++)
        {
            vf sum = vf_mul(vf_load(to + i * VF_LANES), a);
            vf_store(to + i * VF_LANES, vf_fma(acc[h * VF_TILE_VECS + i], b, sum));
        }
    }
}

static void add_values(const float *probabilities, const void *kv, int32_t n_heads, int32_t n_rows,
                       const float *alpha, const float *beta, dsv4_attn_ahead *ahead,
                       float *acc_values)
{
    int32_t stride = dsv4_attn_pad_heads(n_heads);
    for (int d = 0; d < DSV4_ATTN_DIM; d += VF_TILE_VECS * VF_LANES) {
        const float *slab =
            (const float *)kv + d / DSV4_ATTN_GROUP_DIM * GROUP_FLOATS + d % DSV4_ATTN_GROUP_DIM;
        float *to = acc_values + d;
        int32_t h = 0;
        for (; h + 4 <= n_heads; h += 4) {
            value_tile(probabilities + h, stride, slab, 4, n_rows, alpha == NULL ? NULL : alpha + h,
                       beta + h, ahead, to + h * DSV4_ATTN_DIM);
        }
        for (; h < n_heads; h++) {
            value_tile(probabilities + h, stride, slab, 1, n_rows, alpha == NULL ? NULL : alpha + h,
                       beta + h, ahead, to + h * DSV4_ATTN_DIM);
        }
    }
}

#define ATTN_F32_KERNELS(cpu_level)                                                                \
    {                                                                                              \
        .level = (cpu_level), .math = DSV4_ATTN_MATH_EXACT,                                        \
        .q_head_bytes = DSV4_ATTN_DIM * sizeof(float),                                             \
        .kv_bytes = DSV4_ATTN_N_GROUPS * GROUP_FLOATS * sizeof(float), .pack_q = pack_q,           \
        .score_block = score_block, .raise_max = raise_max, .softmax = softmax,                    \
        .fold_state = fold_state, .add_values = add_values, .fold_values = fold_values,            \
        .finish = finish                                                                           \
    }
