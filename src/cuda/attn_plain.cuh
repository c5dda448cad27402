/*
 * attn_plain.cuh - parts for which f16 has no room: f32 products and sums, without matrix units, straight from the cache.
 *
 * Place: cuda, sm_90a only; used by the kernels with row warps (attn_blocks.cuh), which say what such rows are. All threads
 * of a team compute the whole part again, PLAIN_HEADS heads at a time. A thousand times slower than the other way, and of
 * no consequence: no model makes such rows.
 */
#ifndef DSV4_CUDA_ATTN_PLAIN_CUH
#define DSV4_CUDA_ATTN_PLAIN_CUH

#include "attn_split.cuh"
#include "sm90.cuh"

enum {
    PLAIN_HEADS = 16,                          /* at a time */
    PLAIN_KEYS = 32,                           /* a lane finds a row */
    PLAIN_STEP = N_TEAM_THREADS / PLAIN_HEADS, /* between the keys of a thread's scores */
    PLAIN_SCORES = PLAIN_KEYS / PLAIN_STEP,
};
static_assert(2 * (int)N_TEAM_THREADS == (int)DIM, "a thread has two dimensions");

/* Shared memory that the team has. */
struct plain_memory {
    alignas(16) float weights[PLAIN_KEYS][PLAIN_HEADS]; /* scores at first */
    float factors[PLAIN_HEADS], ref[PLAIN_HEADS], sum[PLAIN_HEADS];
};

struct plain_sums {
    float x[PLAIN_HEADS], y[PLAIN_HEADS]; /* of dimensions 2 * thread and the next */
};

__device__ __forceinline__ float plain_scale(uint32_t byte)
{
    if (byte == 255) return NAN;
    return __uint_as_float(byte == 0 ? 0x00400000u : byte << 23);
}

/* Dimensions dim and dim + 1 of a row. */
__device__ __forceinline__ float2 plain_pair(const unsigned char *codes,
                                             const unsigned char *scales, int dim)
{
    if (dim >= DIM - GROUP_DIMS) {
        const uint32_t pair = *(const uint32_t *)(codes + 2 * dim - (DIM - GROUP_DIMS));
        return make_float2(low_to_f32(pair), high_to_f32(pair));
    }
    uint32_t pair, none;
    codes_to_f16(*(const uint16_t *)(codes + dim), pair, none);
    const float scale = plain_scale(scales[dim / GROUP_DIMS]);
    return make_float2(low_f16_to_f32(pair) * scale, high_f16_to_f32(pair) * scale);
}

/* A lane's row of the PLAIN_KEYS from lists.entry on, and who names it. */
template <class PART>
__device__ __forceinline__ key_row plain_row(const attn_args &a, const list_cursor &lists,
                                             uint32_t &named)
{
    bool is_extra;
    const int32_t *source;
    const bool is_listed = find_listed(lists, threadIdx.x % 32, source, is_extra);
    const uint32_t slot = is_listed ? (uint32_t)*source : 0;
    if constexpr (is_joined<PART>) {
        return locate_joined(a, slot, is_extra, is_listed, named);
    } else {
        const key_row row = locate_row(a, slot, is_extra, is_listed);
        named = row.is_valid;
        return row;
    }
}

/* Scores of the keys at hand, in powers of two: a thread has one head, and keys PLAIN_STEP apart. */
template <class PART>
__device__ __forceinline__ void plain_scores(const attn_args &a, const PART &p, int first_head,
                                             const key_row &own, uint32_t own_named, int thread,
                                             plain_memory &m)
{
    const int h = thread % PLAIN_HEADS, head = first_head + h;
    const bool is_real = head < count_heads(a, p);
    const uint16_t *q = (const uint16_t *)(is_real ? a.q + p.request * a.q_request_stride_bytes +
                                                         part_query(p) * a.q_query_stride_bytes +
                                                         query_bytes(a, p, head)
                                                   : (const char *)zero_row());
    const unsigned char *codes[PLAIN_SCORES], *scales[PLAIN_SCORES];
    uint32_t named[PLAIN_SCORES];
    float scores[PLAIN_SCORES];
#pragma unroll
    for (int i = 0; i < PLAIN_SCORES; i++) {
        const int key = thread / PLAIN_HEADS + PLAIN_STEP * i;
        codes[i] = (const unsigned char *)__shfl_sync(0xffffffffu, (uint64_t)own.codes, key);
        scales[i] = (const unsigned char *)__shfl_sync(0xffffffffu, (uint64_t)own.scales, key);
        named[i] = __shfl_sync(0xffffffffu, own_named, key);
        scores[i] = 0.0f;
    }
#pragma unroll 1
    for (int dim = 0; dim < DIM; dim += 2) {
        const float x = low_to_f32(q[dim]), y = low_to_f32(q[dim + 1]);
#pragma unroll
        for (int i = 0; i < PLAIN_SCORES; i++) {
            const float2 v = plain_pair(codes[i], scales[i], dim);
            scores[i] = fmaf(x, v.x, fmaf(y, v.y, scores[i]));
        }
    }
    const int query = is_joined<PART> ? query_of(a, p, head) : 0;
#pragma unroll
    for (int i = 0; i < PLAIN_SCORES; i++) {
        const bool counts = is_real && (named[i] >> query & 1) != 0;
        m.weights[thread / PLAIN_HEADS + PLAIN_STEP * i][h] =
            counts ? scores[i] * a.scale_log2 : -INFINITY;
    }
}

/* From scores to weights, by a thread for each head: relative to its reference, which grows. */
__device__ __forceinline__ void plain_weights(int h, plain_memory &m)
{
    float largest = m.ref[h];
#pragma unroll 1
    for (int k = 0; k < PLAIN_KEYS; k++) largest = fmaxf(largest, m.weights[k][h]);
    const float factor = exp2f(m.ref[h] - largest);
    float sum = m.sum[h] * factor;
#pragma unroll 1
    for (int k = 0; k < PLAIN_KEYS; k++) {
        const float weight = exp2f(m.weights[k][h] - largest);
        m.weights[k][h] = weight;
        sum += weight;
    }
    m.factors[h] = factor;
    m.ref[h] = largest;
    m.sum[h] = sum;
}

/* Adds the keys at hand; a weight of 0 takes nothing, of values that are not finite either. */
__device__ __forceinline__ void plain_add(const key_row &own, int thread, const plain_memory &m,
                                          plain_sums &sums)
{
#pragma unroll
    for (int h = 0; h < PLAIN_HEADS; h++) {
        sums.x[h] *= m.factors[h];
        sums.y[h] *= m.factors[h];
    }
#pragma unroll 1
    for (int k = 0; k < PLAIN_KEYS; k++) {
        const unsigned char *codes =
            (const unsigned char *)__shfl_sync(0xffffffffu, (uint64_t)own.codes, k);
        const unsigned char *scales =
            (const unsigned char *)__shfl_sync(0xffffffffu, (uint64_t)own.scales, k);
        const float2 v = plain_pair(codes, scales, 2 * thread);
#pragma unroll
        for (int h = 0; h < PLAIN_HEADS; h++) {
            const float weight = m.weights[k][h];
            if (weight == 0.0f) continue;
            sums.x[h] = fmaf(weight, v.x, sums.x[h]);
            sums.y[h] = fmaf(weight, v.y, sums.y[h]);
        }
    }
}

/* PLAIN_HEADS heads: sums in registers, references and sums of weights in m. */
template <class TEAM, class PART>
__device__ __forceinline__ void plain_heads(const attn_args &a, const PART &p, int first_head,
                                            plain_memory &m, plain_sums &sums)
{
    const int thread = TEAM::thread();
    list_cursor lists = {};
    find_lists<PART>(a, p, lists);
#pragma unroll
    for (int h = 0; h < PLAIN_HEADS; h++) sums.x[h] = sums.y[h] = 0.0f;
    TEAM::sync(); /* nobody needs what was there */
    if (thread < PLAIN_HEADS) {
        m.ref[thread] = FIRST_REF;
        m.sum[thread] = 0.0f;
    }
#pragma unroll 1
    for (; lists.entry < lists.end_entry; lists.entry += PLAIN_KEYS) {
        uint32_t named;
        const key_row row = plain_row<PART>(a, lists, named);
        plain_scores(a, p, first_head, row, named, thread, m);
        TEAM::sync();
        if (thread < PLAIN_HEADS) plain_weights(thread, m);
        TEAM::sync();
        plain_add(row, thread, m, sums);
        TEAM::sync();
    }
    TEAM::sync();
}

/* Two values of a head whose task is one part. */
template <class PART>
__device__ __forceinline__ void plain_write(const attn_args &a, const PART &p, int head, int dim,
                                            float x, float y)
{
    char *out = head_out(a, p, head);
    if (dim >= DIM - GROUP_DIMS && a.rope_table != NULL) {
        const float2 turn = find_turn(a, p, head, (dim - (DIM - GROUP_DIMS)) / 2);
        const float first = x * turn.x + y * turn.y;
        y = y * turn.x - x * turn.y;
        x = first;
    }
    if (a.out_is_f32) {
        ((float *)out)[dim] = x;
        ((float *)out)[dim + 1] = y;
    } else {
        const uint32_t pair = to_bf16_pair(x, y);
        ((uint16_t *)out)[dim] = (uint16_t)pair;
        ((uint16_t *)out)[dim + 1] = (uint16_t)(pair >> 16);
    }
}

/*
 * The whole part, by all threads of the team: to its state (STATE::at says where a value is) or to out and lse. The
 * team's own sums of it are of no use.
 */
template <int HEADS, class STATE, class TEAM, class PART>
__device__ __forceinline__ void finish_plain(const attn_args &a, const PART p, plain_memory &m)
{
    const int thread = TEAM::thread(), dim = 2 * thread;
#pragma unroll 1
    for (int first = 0; first < HEADS; first += PLAIN_HEADS) {
        const int first_head = part_first_head(p, HEADS) + first;
        plain_sums sums;
        plain_heads<TEAM>(a, p, first_head, m, sums);
        float *state = p.first_slot >= 0 ? own_state(a, p) : NULL;
        if (thread < PLAIN_HEADS && state != NULL) {
            state[first + thread] = m.ref[thread];
            state[ATTN_MAX_GROUP + first + thread] = m.sum[thread];
        } else if (thread < PLAIN_HEADS && first_head + thread < count_heads(a, p)) {
            write_lse(a, p, first_head + thread, m.ref[thread], m.sum[thread]);
        }
#pragma unroll
        for (int h = 0; h < PLAIN_HEADS; h++) {
            const int head = first_head + h;
            if (state != NULL) {
                float *values = state + 2 * ATTN_MAX_GROUP;
                values[STATE::at(first + h, dim)] = sums.x[h];
                values[STATE::at(first + h, dim + 1)] = sums.y[h];
            } else if (head < count_heads(a, p)) {
                const float inverse = inverse_sum(read_sink(a, p, head), m.ref[h], m.sum[h]);
                plain_write(a, p, head, dim, sums.x[h] * inverse, sums.y[h] * inverse);
            }
        }
    }
    TEAM::sync(); /* the memory is free */
}

#endif
