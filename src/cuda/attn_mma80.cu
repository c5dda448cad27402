/*
 * attn_mma80.cu - decode attention for any NVIDIA GPU from sm_80 on, with the matrix instruction that all of them have.
 *
 * Place: cuda. Plain and portable; attn_sm90*.cu are for speed. A thread block of four warps takes 16 heads of a query
 * and stays for all its parts (attn_device.h). Per step of 32 keys: rows arrive by asynchronous copies a step
 * ahead, are converted to bf16 in shared memory in their natural order, multiplied with the queries (a warp takes 8
 * keys), weighed relative to a reference per head (attn_sm90.cu), and multiplied again (a warp takes 128 dimensions).
 */
#include "attn_launch.h"
#include "attn_sm90_keys.cuh"

enum {
    GROUP = 16, /* heads */
    STEP = 32,  /* keys */
    N_MMA_THREADS = 128,
    N_MMA_WARPS = 4,
    PITCH = DIM + 8, /* values of a row in shared memory: rows fall into different banks */
    PROB_PITCH = STEP + 8,
    WARP_DIMS = DIM / N_MMA_WARPS,
    N_TILES = WARP_DIMS / 8,
};

struct mma_memory {
    alignas(16) uint16_t q[GROUP][PITCH];
    alignas(16) uint16_t keys[STEP][PITCH];
    alignas(16) uint16_t probs[GROUP][PROB_PITCH];
    alignas(16) unsigned char raw[2][STEP * ROW_BYTES];
    alignas(16) unsigned char scales[2][STEP * SCALE_BYTES];
    float bias[STEP];
    float ref[GROUP], rescale[GROUP];
    float warp_max[N_MMA_WARPS][GROUP], warp_sum[N_MMA_WARPS][GROUP];
    int is_last_arriver;
};

/* d [16, 8] f32 += a [16, 16] x b [16, 8], bf16. */
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, "
                 "%6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void load_matrix4(uint32_t (&m)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrix4_transposed(uint32_t (&m)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

/* a * b of bf16 pairs by the instruction that sm_80 has; adding -0 keeps every product. */
__device__ __forceinline__ uint32_t multiply_pair(uint32_t a, uint32_t b)
{
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
    return product;
}

/* ---- rows ---- */

/* What a thread of four for each row loads, and what it has loaded. */
struct step_loader {
    index_cursor cursor;
    int second_half; /* of the cursor's block: 0 or 1 */
    key_index next;
    bool is_valid[2]; /* by buffer */
};

/* next_index of half blocks: row of a step, 0 .. 31. */
__device__ __forceinline__ void next_step_index(const attn_args &a, step_loader &l)
{
    const int row = threadIdx.x / 4;
    if (l.second_half) l.cursor.block--; /* the same block again */
    l.next = next_index(a, l.cursor, row + (l.second_half ? STEP : 0));
    l.second_half ^= 1;
}

__device__ __forceinline__ void load_step(const attn_args &a, step_loader &l, int buffer,
                                          mma_memory &s)
{
    const int row = threadIdx.x / 4, quarter = threadIdx.x % 4;
    if (l.next.has_block) {
        const key_row from = locate_row(a, l.next);
        const uint32_t to = shared_address(s.raw[buffer]) + row * ROW_BYTES + quarter * 16;
        l.is_valid[buffer] = from.is_valid;
#pragma unroll
        for (int i = 0; i < ROW_BYTES / 64; i++)
            copy_async16(to + 64 * i, from.codes + 64 * i + quarter * 16);
        if (quarter == 0)
            copy_async8(shared_address(s.scales[buffer]) + row * SCALE_BYTES, from.scales);
        next_step_index(a, l);
    }
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* 16 codes to bf16 in their order. */
__device__ __forceinline__ void convert_sixteen(uint4 codes, uint32_t byte, uint32_t (&out)[8],
                                                uint32_t &largest)
{
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    const bool is_big = byte > BIG_SCALE;
    const uint32_t factor = min(byte, (uint32_t)BIG_SCALE) * 0x800080u + 120 * 0x800080u;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint32_t pair =
            __byte_perm(words[i / 2], 0, i % 2 == 0 ? 0x1404 : 0x3424); /* codes in high bytes */
        const uint32_t magnitude = (pair >> 4) & 0x07f007f0u;
        largest = __vmaxu2(largest, magnitude);
        out[i] = multiply_pair(magnitude | (pair & 0x80008000u), factor);
        if (is_big) out[i] = multiply_pair(out[i], second_factor(byte));
    }
}

/* A step's rows to s.keys and s.bias; thread `quarter` of a row. */
__device__ __forceinline__ void convert_step(const step_loader &l, int buffer, mma_memory &s)
{
    const int row = threadIdx.x / 4, quarter = threadIdx.x % 4;
    const unsigned char *raw = s.raw[buffer] + row * ROW_BYTES;
    const unsigned char *scales = s.scales[buffer] + row * SCALE_BYTES;
    uint32_t largest = 0;
#pragma unroll 1
    for (int g = 0; g < N_DIM_GROUPS - 1; g++) {
        uint32_t out[8];
        convert_sixteen(*(const uint4 *)(raw + 64 * g + 16 * quarter), scales[g], out, largest);
        uint4 *target = (uint4 *)&s.keys[row][64 * g + 16 * quarter];
        target[0] = make_uint4(out[0], out[1], out[2], out[3]);
        target[1] = make_uint4(out[4], out[5], out[6], out[7]);
    }
    const uint4 *rotated = (const uint4 *)(raw + 448 + 32 * quarter);
    uint4 *target = (uint4 *)&s.keys[row][448 + 16 * quarter];
    target[0] = rotated[0];
    target[1] = rotated[1];
    const bool is_nan = is_nan_row(largest);
    if (quarter == 0) s.bias[row] = is_nan ? NAN : (l.is_valid[buffer] ? 0.0f : -INFINITY);
}

/* ---- queries ---- */

__device__ static void load_mma_query(const attn_args &a, const attn_part &p, mma_memory &s)
{
    const char *q =
        a.q + p.request * a.q_request_stride_bytes + part_query(p) * a.q_query_stride_bytes;
    for (int i = threadIdx.x; i < GROUP * 32; i += N_MMA_THREADS) {
        const int head = part_first_head(p, GROUP) + i / 32;
        query_piece piece;
        piece.low = piece.high = make_uint4(0, 0, 0, 0);
        if (head < a.n_heads) {
            const char *source = q + head * a.q_head_stride_bytes + i % 32 * 32;
            if (a.q_is_aligned) {
                piece.low = __ldg((const uint4 *)source);
                piece.high = __ldg((const uint4 *)source + 1);
            } else {
                piece = load_unaligned_piece(source);
            }
        }
        uint4 *target = (uint4 *)&s.q[i / 32][i % 32 * 16];
        target[0] = piece.low;
        target[1] = piece.high;
    }
}

/* ---- a step ---- */

struct mma_state {
    float values[N_TILES][4]; /* heads lane / 4 and 8 on, this warp's dimensions */
    float sums[2];            /* of this warp's keys */
};

__device__ __forceinline__ void multiply_queries(float (&scores)[4], mma_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t q = shared_address(&s.q[lane % 16][lane / 16 * 8]);
    const uint32_t k = shared_address(&s.keys[8 * warp + lane % 8][lane / 8 * 8]);
    scores[0] = scores[1] = scores[2] = scores[3] = 0.0f;
#pragma unroll 4
    for (int d = 0; d < DIM; d += 32) { /* two steps of the matrix instruction */
        uint32_t a0[4], a1[4], b[4];
        load_matrix4(a0, q + d * 2);
        load_matrix4(a1, q + d * 2 + 32);
        load_matrix4(b, k + d * 2);
        mma_bf16(scores, a0, b[0], b[1]);
        mma_bf16(scores, a1, b[2], b[3]);
    }
}

__device__ __forceinline__ void weigh(const float (&scores)[4], float scale_log2,
                                      const mma_memory &s, float (&probs)[4])
{
    const int row = threadIdx.x % 32 / 4;
#pragma unroll
    for (int i = 0; i < 4; i++)
        probs[i] = exp2_fast(fmaf(scores[i], scale_log2, -s.ref[row + 8 * (i / 2)]));
}

/* New references from this step's scores; scales what was summed so far. All threads. */
__device__ static void move_mma_references(const float (&scores)[4], float scale_log2,
                                           mma_state &state, mma_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float m = fmaxf(scores[2 * r], scores[2 * r + 1]);
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
        if (lane % 4 == 0) s.warp_max[warp][lane / 4 + 8 * r] = m;
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        float m = s.warp_max[0][threadIdx.x];
        for (int w = 1; w < N_MMA_WARPS; w++) m = fmaxf(m, s.warp_max[w][threadIdx.x]);
        const float old = s.ref[threadIdx.x], now = fmaxf(old, m * scale_log2);
        s.ref[threadIdx.x] = now;
        s.rescale[threadIdx.x] = exp2_fast(old - now);
    }
    __syncthreads();
    const float factors[2] = {s.rescale[lane / 4], s.rescale[lane / 4 + 8]};
#pragma unroll
    for (int r = 0; r < 2; r++) state.sums[r] *= factors[r];
#pragma unroll
    for (int t = 0; t < N_TILES; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) state.values[t][i] *= factors[i / 2];
    }
}

__device__ __forceinline__ void add_step(mma_state &state, mma_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int k = 0; k < STEP; k += 16) {
        uint32_t probs[4];
        load_matrix4(probs, shared_address(&s.probs[lane % 16][k + lane / 16 * 8]));
#pragma unroll
        for (int t = 0; t < N_TILES; t += 2) { /* keys k .. k + 15, 16 dimensions */
            uint32_t v[4];
            load_matrix4_transposed(
                v,
                shared_address(&s.keys[k + lane % 16][warp * WARP_DIMS + 8 * t + lane / 16 * 8]));
            mma_bf16(state.values[t], probs, v[0], v[1]);
            mma_bf16(state.values[t + 1], probs, v[2], v[3]);
        }
    }
}

__device__ static void run_step(const attn_args &a, mma_state &state, mma_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = 8 * warp + 2 * (lane % 4);
    float scores[4], probs[4];
    multiply_queries(scores, s);
#pragma unroll
    for (int i = 0; i < 4; i++) scores[i] += s.bias[column + i % 2];
    weigh(scores, a.scale_log2, s, probs);
    const float total = (probs[0] + probs[1]) + (probs[2] + probs[3]);
    if (__syncthreads_or(!(total < LARGEST_SUM))) {
        move_mma_references(scores, a.scale_log2, state, s);
        weigh(scores, a.scale_log2, s, probs);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        state.sums[r] += probs[2 * r] + probs[2 * r + 1];
        *(uint32_t *)&s.probs[lane / 4 + 8 * r][column] = pack_bf16(probs[2 * r], probs[2 * r + 1]);
    }
    __syncthreads();
    add_step(state, s);
}

/* ---- the end of a part ---- */

/* Sums over all warps into s.warp_sum[0]. */
__device__ static void gather_sums(const mma_state &state, mma_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = state.sums[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == 0) s.warp_sum[warp][lane / 4 + 8 * r] = sum;
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        const int h = threadIdx.x;
        s.warp_sum[0][h] =
            (s.warp_sum[0][h] + s.warp_sum[1][h]) + (s.warp_sum[2][h] + s.warp_sum[3][h]);
    }
    __syncthreads();
}

/* As leave_state and merge_states of the Hopper kernels: true when this part has to finish the task. */
__device__ static bool merge_parts(const attn_args &a, const attn_part &p, mma_state &state,
                                   mma_memory &s)
{
    const int thread = threadIdx.x, lane = thread % 32, n_parts = p.part_of & 0xffff;
    unsigned char *states = a.states + (int64_t)p.first_slot * a.state_bytes;
    unsigned char *own = states + (p.part_of >> 16) * a.state_bytes;
    if (thread < GROUP) {
        ((float *)own)[thread] = s.ref[thread];
        ((float *)own)[ATTN_MAX_GROUP + thread] = s.warp_sum[0][thread];
    }
#pragma unroll
    for (int t = 0; t < N_TILES; t++) {
        ((float4 *)(own + ATTN_STATE_BYTES))[t * N_MMA_THREADS + thread] = make_float4(
            state.values[t][0], state.values[t][1], state.values[t][2], state.values[t][3]);
    }
    __syncthreads();
    if (thread == 0) {
        const bool is_last = add_acquire_release(&a.counters[p.first_slot], 1) == n_parts - 1;
        if (is_last) a.counters[p.first_slot] = 0;
        s.is_last_arriver = is_last;
    }
    __syncthreads();
    if (!s.is_last_arriver) return false;
    if (thread < GROUP) {
        float ref = FIRST_REF, sum = 0.0f;
        for (int k = 0; k < n_parts; k++) {
            ref = fmaxf(ref, __ldcg((const float *)(states + k * a.state_bytes) + thread));
        }
        for (int k = 0; k < n_parts; k++) {
            const float *heads = (const float *)(states + k * a.state_bytes);
            sum += __ldcg(&heads[ATTN_MAX_GROUP + thread]) * exp2f(__ldcg(&heads[thread]) - ref);
        }
        s.ref[thread] = ref;
        s.warp_sum[0][thread] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < N_TILES; t++) {
        for (int i = 0; i < 4; i++) state.values[t][i] = 0.0f;
    }
    for (int k = 0; k < n_parts; k++) {
        const float *heads = (const float *)(states + k * a.state_bytes);
        const float4 *values = (const float4 *)(states + k * a.state_bytes + ATTN_STATE_BYTES);
        float weights[2];
        for (int r = 0; r < 2; r++) {
            weights[r] = exp2f(__ldcg(&heads[lane / 4 + 8 * r]) - s.ref[lane / 4 + 8 * r]);
        }
#pragma unroll
        for (int t = 0; t < N_TILES; t++) {
            const float4 v = __ldcg(&values[t * N_MMA_THREADS + thread]);
            state.values[t][0] += weights[0] * v.x;
            state.values[t][1] += weights[0] * v.y;
            state.values[t][2] += weights[1] * v.z;
            state.values[t][3] += weights[1] * v.w;
        }
    }
    return true;
}

__device__ static float2 turn_of(const attn_args &a, const attn_part &p, int pair)
{
    const int32_t row = a.rope_rows[(int64_t)p.request * a.n_queries + part_query(p)];
    if (row < 0 || row >= a.n_rope_rows) return make_float2(NAN, NAN);
    const float *table = a.rope_table + (int64_t)row * 64;
    return make_float2(table[pair], table[32 + pair]);
}

__device__ static void finish_part(const attn_args &a, const attn_part &p, const mma_state &state,
                                   const mma_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int in_group = lane / 4 + 8 * r, head = part_first_head(p, GROUP) + in_group;
        if (head >= a.n_heads) continue;
        const float sum = s.warp_sum[0][in_group];
        const float sink = a.sink == NULL ? 0.0f : exp2f(a.sink[head] * LOG2_E - s.ref[in_group]);
        const float inverse = sum == 0.0f ? 0.0f : 1.0f / (sum + sink);
        if (a.lse != NULL && warp == 0 && lane % 4 == 0) {
            *(float *)(a.lse + p.request * a.lse_request_stride_bytes +
                       part_query(p) * a.lse_query_stride_bytes + head * a.lse_head_stride_bytes) =
                sum == 0.0f ? INFINITY : (s.ref[in_group] + log2f(sum)) * LN_2;
        }
        char *out = a.out + p.request * a.out_request_stride_bytes +
                    part_query(p) * a.out_query_stride_bytes + head * a.out_head_stride_bytes;
#pragma unroll
        for (int t = 0; t < N_TILES; t++) {
            const int dim = warp * WARP_DIMS + 8 * t + 2 * (lane % 4);
            float x = state.values[t][2 * r] * inverse, y = state.values[t][2 * r + 1] * inverse;
            if (a.rope_table != NULL && dim >= DIM - 64) {
                const float2 turn = turn_of(a, p, (dim - (DIM - 64)) / 2);
                const float turned = x * turn.x + y * turn.y;
                y = y * turn.x - x * turn.y;
                x = turned;
            }
            if (a.out_is_f32) {
                ((float *)out)[dim] = x;
                ((float *)out)[dim + 1] = y;
            } else {
                const uint32_t pair = pack_bf16(x, y);
                ((uint16_t *)out)[dim] = (uint16_t)pair;
                ((uint16_t *)out)[dim + 1] = (uint16_t)(pair >> 16);
            }
        }
    }
}

__global__ void __launch_bounds__(N_MMA_THREADS)
    attn_mma80_kernel(const __grid_constant__ attn_args a)
{
    extern __shared__ unsigned char memory[];
    mma_memory &s = *(mma_memory *)memory;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    step_loader l = {};
    int buffer = 0;
    l.cursor.n_ranks = n_ranks;
    next_step_index(a, l);
    load_step(a, l, 0, s);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const attn_part p = read_part(a, rank);
        mma_state state = {};
        if (threadIdx.x < GROUP) s.ref[threadIdx.x] = FIRST_REF;
        load_mma_query(a, p, s);
        for (int32_t step = 2 * p.first_block; step < 2 * p.end_block; step++) {
            load_step(a, l, 1 - buffer, s);
            asm volatile("cp.async.wait_group 1;\n" ::: "memory");
            __syncthreads(); /* rows are there; keys and probs of the step before were used up */
            convert_step(l, buffer, s);
            __syncthreads();
            run_step(a, state, s);
            buffer = 1 - buffer;
        }
        __syncthreads();
        gather_sums(state, s);
        const bool is_complete = p.first_slot < 0 || merge_parts(a, p, state, s);
        if (is_complete) finish_part(a, p, state, s);
        __syncthreads(); /* the next part resets ref */
    }
}

cudaError_t dsv4_attn_mma80_launch(const attn_args *args, int n_thread_blocks, cudaStream_t stream)
{
    cudaError_t status = cudaFuncSetAttribute(
        attn_mma80_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)sizeof(mma_memory));
    if (status != cudaSuccess) return status;
    attn_mma80_kernel<<<n_thread_blocks, N_MMA_THREADS, sizeof(mma_memory), stream>>>(*args);
    return cudaGetLastError();
}
