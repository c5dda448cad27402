/*
 * attn_sm90_values.cuh - the value warps: probabilities times values, output.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel.
 *
 * Groups of 64 heads have heads on the rows of the product and dimensions on its columns; smaller groups, for which
 * 64 rows would be mostly empty, the other way round. Either way the four threads of a row, or eight
 * neighbouring rows, hold dimensions in the order of attn_sm90_keys.cuh.
 */
#ifndef DSV4_CUDA_ATTN_SM90_VALUES_CUH
#define DSV4_CUDA_ATTN_SM90_VALUES_CUH

#include "attn_sm90_loads.cuh"
#include "attn_sm90_sums.cuh"

/*
 * Group i of a warpgroup's four: two of the first half of all groups and two of the second, so that half of a place is
 * free again when both warpgroups are half through a block.
 */
__device__ __forceinline__ int group_of(int warpgroup, int i)
{
    return i / 2 * 4 + warpgroup * 2 + i % 2;
}

/* Whose a thread's values are: 64 heads are on the rows of the product, fewer on its columns. */
template <int HEADS> struct own_heads : column_heads<HEADS> {
};

template <> struct own_heads<64> {
    static constexpr int n = 2;
    __device__ static constexpr int value(int own)
    {
        return 2 * own;
    }
    __device__ static constexpr int of(int i)
    {
        return i / 2 % 2;
    }
    __device__ static __forceinline__ int head(int i)
    {
        return 16 * (threadIdx.x / 32 % 4) + threadIdx.x % 32 / 4 + 8 * (i / 2 % 2);
    }
};

template <int HEADS>
__device__ __forceinline__ void scale_values(value_sums<HEADS> &sums,
                                             const float (&factors)[own_heads<HEADS>::n])
{
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i++) sums.v[i] *= factors[own_heads<HEADS>::of(i)];
}

/* Adds a block to groups FIRST and FIRST + 1 of the warpgroup's. probs, values: shared addresses. */
template <int HEADS, int FIRST>
__device__ __forceinline__ void add_block(value_sums<HEADS> &sums, uint32_t probs, uint32_t values,
                                          int warpgroup)
{
    const uint64_t p = wgmma_matrix(probs, 16);
    const uint64_t v = wgmma_matrix(values + group_of(warpgroup, FIRST) * GROUP_BYTES, GROUP_BYTES);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if constexpr (HEADS == 64) {
            wgmma_ss_tb(*(float(*)[64]) & sums.v[FIRST * 32], wgmma_move(p, k * 32),
                        wgmma_move(v, k * 2048), true);
        } else {
#pragma unroll
            for (int g = 0; g < 2; g++) {
                wgmma_ss_ta(*(float(*)[HEADS / 2]) & sums.v[(FIRST + g) * (HEADS / 2)],
                            wgmma_move(v, g * GROUP_BYTES + k * 2048), wgmma_move(p, k * 32), true);
            }
        }
    }
    wgmma_commit();
}

/* ---- output ---- */

/*
 * The dimension of this thread's value i. Heads on rows: thread c of four holds, of each group of 64 dimensions, the 16
 * that begin at 16c; columns 8t + 2c and the next of tile 2j are dimensions 1 and 3 of four, those of tile 2j + 1
 * dimensions 0 and 2. Dimensions on rows: the same, with rows 8t + 2c and the next. Of the rotated group it holds the
 * eight that begin at 8c, and eight 32 further on: tile 2j has dimensions 2j and the next of the first, tile 2j + 1 of
 * the others.
 */
template <int HEADS> __device__ __forceinline__ int dim_of(int half, int i)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int group = group_of(half, HEADS == 64 ? i / 32 : i / (HEADS / 2));
    const int tile = HEADS == 64 ? i / 4 % 8 : 2 * warp + i / 2 % 2;
    const int quarter = HEADS == 64 ? lane % 4 : lane / 8, odd = HEADS == 64 ? i % 2 : lane / 4 % 2;
    return 64 * group + (group == N_DIM_GROUPS - 1
                             ? 32 * (tile % 2) + 8 * quarter + 2 * (tile / 2) + odd
                             : 16 * quarter + 4 * (tile / 2) + 2 * odd + 1 - tile % 2);
}

template <int HEADS> struct value_layout : own_heads<HEADS> {
    __device__ static __forceinline__ int dim(int half, int i)
    {
        return dim_of<HEADS>(half, i);
    }
};

/* Turns the rotated group back by the query's position; `half` is 1. */
template <int HEADS, class PART>
__device__ static void turn_back(const attn_args &a, const PART &p, value_sums<HEADS> &sums)
{
    if constexpr (HEADS == 64) { /* a pair is a thread's two columns */
#pragma unroll
        for (int i = 96; i < 128; i += 2) {
            float2 turn =
                rope_pair(a, p, own_heads<64>::head(i), (dim_of<64>(1, i) - (DIM - 64)) / 2);
            float x = sums.v[i], y = sums.v[i + 1];
            sums.v[i] = x * turn.x + y * turn.y;
            sums.v[i + 1] = y * turn.x - x * turn.y;
        }
    } else {
        turn_rows_back<value_layout<HEADS>>(a, p, sums);
    }
}

/*
 * Pieces of a thread of 64 heads, four neighbouring dimensions each: piece j is of group i = j / 8, row j / 4 % 2 of
 * two, and the j % 4-th of the 16 dimensions, or of the two times eight, that the thread has there. A state has them in
 * the order of pieces, then of threads.
 */
enum { N_OWN_PIECES = 32 };

__device__ __forceinline__ bool is_rotated_piece(int half, int j)
{
    return half == 1 && j / 8 == 3;
}

__device__ __forceinline__ int piece_dim(int half, int j)
{
    const int quarter = threadIdx.x % 4, q = j % 4;
    return 64 * group_of(half, j / 8) + (is_rotated_piece(half, j)
                                             ? q / 2 * 32 + 8 * quarter + q % 2 * 4
                                             : 16 * quarter + 4 * q);
}

__device__ __forceinline__ float4 own_piece(const value_sums<64> &sums, int half, int j)
{
    const float *v = &sums.v[32 * (j / 8) + 2 * (j / 4 % 2)];
    const int q = j % 4;
    if (is_rotated_piece(half, j)) {
        const float *of = v + 4 * (q / 2) + 16 * (q % 2);
        return make_float4(of[0], of[1], of[8], of[9]);
    }
    return make_float4(v[8 * q + 4], v[8 * q], v[8 * q + 5], v[8 * q + 1]);
}

/* To a part's state. */
template <int HEADS>
__device__ __forceinline__ void leave_values(const value_sums<HEADS> &sums, int half, float *values)
{
    if constexpr (HEADS < 64) {
        leave_rows<value_layout<HEADS>>(sums, half, values);
    } else {
#pragma unroll
        for (int j = 0; j < N_OWN_PIECES; j++)
            ((float4 *)values)[j * N_VALUE_THREADS + value_team::thread()] =
                own_piece(sums, half, j);
    }
}

/* A merge of such states: a share is some of every thread's pieces. */
struct piece_merge {
    /* Of the two heads of four neighbouring lanes, over all parts. */
    __device__ static __forceinline__ void find_totals(const task_states &states,
                                                       head_total (&totals)[2])
    {
#pragma unroll
        for (int row = 0; row < 2; row++) totals[row] = {FIRST_REF, 0.0f};
#pragma unroll 1
        for (int k = threadIdx.x % 4; k < states.n_parts; k += 4) {
#pragma unroll
            for (int row = 0; row < 2; row++)
                totals[row] =
                    add_totals(totals[row], load_total(states[k], own_heads<64>::head(2 * row)));
        }
#pragma unroll
        for (int row = 0; row < 2; row++) {
#pragma unroll
            for (int other = 1; other < 4; other *= 2)
                totals[row] = add_lane_totals(totals[row], other);
        }
    }

    /* Adds N pieces from `first` on, of all parts; fewer than 8 are of one row. */
    template <int N>
    __device__ static __forceinline__ void add_pieces(const task_states &states, int first,
                                                      const head_total (&totals)[2],
                                                      float4 (&sums)[N])
    {
        const int thread = value_team::thread();
        const bool is_second = (first & 4) != 0;
        const int own = own_heads<64>::head(0) + (is_second ? 8 : 0);
        const float own_ref = is_second ? totals[1].ref : totals[0].ref;
#pragma unroll
        for (int j = 0; j < N; j++) sums[j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll(16 / N)
        for (int k = 0; k < states.n_parts; k++) {
            const float *state = states[k];
            const float4 *values =
                (const float4 *)(state + 2 * ATTN_MAX_GROUP) + first * N_VALUE_THREADS + thread;
            const float weight = exp2f(__ldcg(&state[own]) - own_ref);
            const float other = N >= 8 ? exp2f(__ldcg(&state[own + 8]) - totals[1].ref) : weight;
            float4 v[N];
#pragma unroll
            for (int j = 0; j < N; j++) v[j] = __ldcg(values + j * N_VALUE_THREADS);
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float w = j / 4 % 2 == 0 ? weight : other;
                sums[j].x += w * v[j].x;
                sums[j].y += w * v[j].y;
                sums[j].z += w * v[j].z;
                sums[j].w += w * v[j].w;
            }
        }
    }

    /* Two pieces are eight neighbouring dimensions. */
    template <int N, class PART>
    __device__ static __forceinline__ void finish_pieces(const attn_args &a, const PART &p,
                                                         int first, const float4 (&sums)[N],
                                                         const float (&inverse)[2])
    {
        const int half = value_team::thread() / WARPGROUP;
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            const bool is_second = ((first + j) & 4) != 0;
            const float by = is_second ? inverse[1] : inverse[0];
            const int head = part_first_head(p, 64) + own_heads<64>::head(0) + (is_second ? 8 : 0);
            if (head < count_heads(a, p))
                finish_two_pieces(a, p, head, piece_dim(half, first + j),
                                  multiply_four(sums[j], by), multiply_four(sums[j + 1], by));
        }
    }

    template <int N, class PART>
    __device__ static __forceinline__ void
    merge_pieces(const attn_args &a, const PART &p, const task_states &states, int number,
                 const head_total (&totals)[2], const float (&inverse)[2])
    {
#pragma unroll 1
        for (int first = N * number; first < N_OWN_PIECES; first += N * states.n_parts) {
            float4 sums[N];
            add_pieces<N>(states, first, totals, sums);
            finish_pieces<N>(a, p, first, sums, inverse);
        }
    }

    template <class PART>
    __device__ static __forceinline__ void merge(const attn_args &a, const PART &p,
                                                 const task_states &states, int number,
                                                 const float *sinks, split_sums &)
    {
        const int thread = value_team::thread();
        if (number >= N_OWN_PIECES) return;
        float inverse[2];
        head_total totals[2];
        find_totals(states, totals);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const int h = own_heads<64>::head(2 * row), head = part_first_head(p, 64) + h;
            inverse[row] = inverse_sum(sinks[h], totals[row].ref, totals[row].sum);
            if (number == 0 && thread < WARPGROUP && thread % 4 == 0 && head < count_heads(a, p))
                write_lse(a, p, head, totals[row].ref, totals[row].sum);
        }
        if (states.n_parts <= 4) {
            merge_pieces<8>(a, p, states, number, totals, inverse);
        } else if (states.n_parts <= 8) {
            merge_pieces<4>(a, p, states, number, totals, inverse);
        } else {
            merge_pieces<2>(a, p, states, number, totals, inverse);
        }
    }
};

static_assert(sizeof(split_sums) <= sizeof shared_memory<16>::q,
              "a merge uses the memory of queries");

template <int HEADS> struct value_merge : unit_merge<HEADS, value_team> {
};

template <> struct value_merge<64> : piece_merge {
};

/* ---- output of 64 heads: a thread has eight neighbouring dimensions at a time ---- */

/*
 * Writes 32 bytes of each lane so that an instruction fills whole sectors: lanes trade halves with their neighbours.
 * to: of this lane's 32 bytes.
 */
__device__ __forceinline__ void write_sectors(char *to, const uint32_t (&first)[4],
                                              const uint32_t (&second)[4], bool is_real)
{
    const bool is_odd = (threadIdx.x & 1) != 0;
    uint32_t other[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        other[i] = __shfl_xor_sync(0xffffffffu, is_odd ? first[i] : second[i], 1);
    if (!is_real) return;
    const uint4 low = is_odd ? make_uint4(other[0], other[1], other[2], other[3])
                             : make_uint4(first[0], first[1], first[2], first[3]);
    const uint4 high = is_odd ? make_uint4(second[0], second[1], second[2], second[3])
                              : make_uint4(other[0], other[1], other[2], other[3]);
    *(uint4 *)(to - 16 * is_odd) = low;
    *(uint4 *)(to - 16 * is_odd + 32) = high;
}

/* Times the inverse sums, to aligned bf16, from registers. */
template <class PART>
__device__ __forceinline__ void write_rows(const attn_args &a, const PART &p,
                                           const value_sums<64> &sums, const float (&inverse)[2],
                                           int half)
{
    const int lane = threadIdx.x % 4;
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const int head = part_first_head(p, 64) + own_heads<64>::head(2 * row);
        const bool is_real = head < count_heads(a, p);
        const float by = inverse[row];
        char *out = part_out(a, p, head) + head_of(a, p, head) * a.out_head_stride_bytes;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *v = &sums.v[32 * i + 2 * row];
            char *to = out + 128 * group_of(half, i);
            uint32_t pieces[2][4];
            if (half == 1 && i == 3) { /* rotated: eight dimensions, and eight 32 on */
#pragma unroll
                for (int k = 0; k < 8; k++)
                    pieces[k % 2][k / 2] = to_bf16_pair(v[4 * k] * by, v[4 * k + 1] * by);
                if (is_real) {
#pragma unroll
                    for (int k = 0; k < 2; k++)
                        *(uint4 *)(to + 64 * k + 16 * lane) =
                            make_uint4(pieces[k][0], pieces[k][1], pieces[k][2], pieces[k][3]);
                }
                continue;
            }
#pragma unroll
            for (int k = 0; k < 8; k++) /* dimensions 2k and 2k + 1 of the lane's 16 */
                pieces[k / 4][k % 4] =
                    to_bf16_pair(v[8 * (k / 2) + 4 + k % 2] * by, v[8 * (k / 2) + k % 2] * by);
            write_sectors(to + 32 * lane, pieces[0], pieces[1], is_real);
        }
    }
}

/* ---- output of fewer: through shared memory ---- */

/*
 * Where a warpgroup leaves its 256 dimensions of each head as bf16: rows of 512 bytes, each turned by some 16-byte
 * chunks so that threads meet in different banks.
 */
__device__ __forceinline__ uint32_t stage_address(uint32_t stage, int head, int byte)
{
    return stage + head * 512 + (byte + 16 * (head + head / 2)) % 512;
}

/* Some heads in the natural order of dimensions, out of the order of dim_of. */
template <int HEADS, int FIRST_HEAD>
__device__ __forceinline__ void stage_values(const value_sums<HEADS> &sums, int half,
                                             uint32_t stage)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int odd = lane / 4 % 2;
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i += 4) {
        const int group = i / (HEADS / 2), tile = i / 4 % (HEADS / 8);
        if (8 * tile < FIRST_HEAD || 8 * tile >= FIRST_HEAD + N_STAGED_HEADS) continue;
        const bool is_rotated = half == 1 && group == 3;
        /* of neighbouring threads one gets both rows of the first 32 dimensions, the other of the second */
        const int byte = is_rotated ? 64 * odd + 16 * (lane / 8) + 4 * warp
                                    : 32 * (lane / 8) + 8 * warp + 4 * odd;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float low = sums.v[i + 2 + e],
                  high = sums.v[i + e]; /* dimensions 0 and 1 of four, or 2 and 3 */
            if (is_rotated) {
                const float other = __shfl_xor_sync(0xffffffffu, odd ? high : low, 4);
                low = odd ? other : high;
                high = odd ? sums.v[i + 2 + e] : other;
            }
            store_shared4(stage_address(stage, own_heads<HEADS>::head(i + e) - FIRST_HEAD,
                                        128 * group + byte),
                          to_bf16_pair(low, high));
        }
    }
}

/* A warp takes a head's 512 bytes at a time. first_head: the first that is staged. */
template <class PART>
__device__ __forceinline__ void send_values(const attn_args &a, const PART &p, int first_head,
                                            int half, uint32_t stage)
{
    const int warp = threadIdx.x / 32 % 4, byte = threadIdx.x % 32 * 16;
#pragma unroll
    for (int i = 0; i < N_STAGED_HEADS; i += 4) {
        const int head = first_head + i + warp;
        if (head >= count_heads(a, p)) continue;
        *(uint4 *)(part_out(a, p, head) + head_of(a, p, head) * a.out_head_stride_bytes +
                   128 * group_of(half, byte / 128) + byte % 128) =
            load_shared16(stage_address(stage, i + warp, byte));
    }
}

/* ---- the end of a part ---- */

/* Begins to bring the sinks of a part's heads, a thread each: the one that is to read it. */
template <int HEADS, class PART>
__device__ __forceinline__ void ask_for_sink(const attn_args &a, const PART &p,
                                             shared_memory<HEADS> &s)
{
    const int h = value_team::thread();
    if (h >= HEADS) return;
    const int head = min(part_first_head(p, HEADS) + h, count_heads(a, p) - 1);
    if (a.sink == NULL) {
        s.sink[h] = -INFINITY;
    } else {
        copy_async4(shared_address(&s.sink[h]), &a.sink[head_of(a, p, head)]);
        copy_async_commit();
        copy_async_commit(); /* two more: all but the last two are waited for */
        copy_async_commit();
    }
}

/*
 * References and sums of the part behind n_parts_done others: of a split task's part to its state, else lse, and what
 * values are multiplied with.
 */
template <class PART, int HEADS>
__device__ __forceinline__ void finish_heads(const attn_args &a, uint32_t n_parts_done,
                                             shared_memory<HEADS> &s)
{
    const int h = value_team::thread();
    barrier_wait(shared_address(&s.part_full), n_parts_done & 1);
    const PART p = kept_part<PART>(s.part[(n_parts_done + 1) % 2]);
    if (h < HEADS) {
        copy_async_wait<2>(); /* the sink */
        const float ref = s.part_ref[h], sum = add_warps(s.part_sum, h);
        const int head = part_first_head(p, HEADS) + h;
        if (p.first_slot >= 0) {
            float *state = own_state(a, p);
            state[h] = ref;
            state[ATTN_MAX_GROUP + h] = sum;
        } else {
            s.inverse[h] = inverse_sum(s.sink[h], ref, sum);
            if (head < count_heads(a, p)) write_lse(a, p, head, ref, sum);
        }
    }
    if (p.first_slot < 0) value_team::sync();
}

/* Divides by the sums, writes out. */
template <int HEADS, class PART>
__device__ static void finish_values(const attn_args &a, const PART &p, value_sums<HEADS> &sums,
                                     int half, const shared_memory<HEADS> &s)
{
    typedef own_heads<HEADS> own;
    float inverse[own::n];
#pragma unroll
    for (int i = 0; i < own::n; i++) inverse[i] = s.inverse[own::head(own::value(i))];
    if (half == 1 && a.rope_table != NULL) turn_back<HEADS>(a, p, sums);
    if (a.out_is_f32 || !a.out_is_aligned) {
        scale_values<HEADS>(sums, inverse);
        write_values<value_layout<HEADS>>(a, p, sums, half);
        return;
    }
    if constexpr (HEADS == 64) {
        write_rows(a, p, sums, inverse, half);
    } else {
        scale_values<HEADS>(sums, inverse);
        const uint32_t stage = shared_address(s.staged[half]);
        const int first_head = part_first_head(p, HEADS);
        named_barrier(BARRIER_HALF + half, WARPGROUP); /* what was there before has been sent */
        stage_values<HEADS, 0>(sums, half, stage);
        named_barrier(BARRIER_HALF + half, WARPGROUP);
        send_values(a, p, first_head, half, stage);
        if constexpr (HEADS > N_STAGED_HEADS) {
            named_barrier(BARRIER_HALF + half, WARPGROUP);
            stage_values<HEADS, N_STAGED_HEADS>(sums, half, stage);
            named_barrier(BARRIER_HALF + half, WARPGROUP);
            send_values(a, p, first_head + N_STAGED_HEADS, half, stage);
        }
    }
}

/* To the reference that the key warps have set with this block. */
template <int HEADS>
__device__ __forceinline__ void rescale_values(value_sums<HEADS> &sums, const float *rescale)
{
    typedef own_heads<HEADS> own;
    float factors[own::n];
#pragma unroll
    for (int i = 0; i < own::n; i++) factors[i] = rescale[own::head(own::value(i))];
    scale_values<HEADS>(sums, factors);
}

/* Asks for what the end of a part needs; gives the number behind that of its last block. begin: its first one's. */
template <class PART, int HEADS>
__device__ __forceinline__ uint32_t begin_part(const attn_args &a, int32_t rank, uint32_t begin,
                                               shared_memory<HEADS> &s)
{
    const PART p = read_part<PART>(a, rank);
    ask_for_sink<HEADS>(a, p, s);
    return begin + (uint32_t)(p.end_block - p.first_block);
}

template <class PART, int HEADS>
__device__ static void run_values(const attn_args &a, shared_memory<HEADS> &s)
{
    const int half = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0) - N_STREAMS;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0, n_parts_done = 0;
    row_finder finder = begin_finding<PART, HEADS>(a, s);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        prefetch_query<PART, HEADS>(a, rank_of_round(round + 1), n_ranks);
        const uint32_t begin = b, end = begin_part<PART, HEADS>(a, rank, begin, s);
        /* behind its last block no rows are found: what the key warps ask for ahead has been */
        const bool is_last = rank_of_round(round + 1) >= n_ranks;
        /* cleared: products only add; if the first one did not, the compiler would keep the last part's till then */
        value_sums<HEADS> sums;
#pragma unroll
        for (int i = 0; i < 2 * HEADS; i++) sums.v[i] = 0.0f;
#pragma unroll 1
        for (; b < end; b++) {
            const int place = b % 2;
            barrier_wait(shared_address(&s.full[place]), b / 2 & 1);
            if (b > begin && s.needs_rescale[place]) rescale_values<HEADS>(sums, s.rescale[place]);
            const uint32_t probs = shared_address(s.probs[place % shared_memory<HEADS>::n_probs]);
            const uint32_t values = shared_address(s.values[place]);
            wgmma_fence();
            add_block<HEADS, 0>(sums, probs, values, half);
            add_block<HEADS, 2>(sums, probs, values, half);
            wgmma_wait<1>();
            barrier_arrive_warp(shared_address(&s.empty[place][0]));
            wgmma_wait<0>();
            /* first, so that a stream that has seen its place empty waits for the right probabilities */
            if (shared_memory<HEADS>::n_probs == 1)
                barrier_arrive_warp(shared_address(&s.probs_empty));
            barrier_arrive_warp(shared_address(&s.empty[place][1]));
            if (b + 1 < end || !is_last) find_rows<PART, HEADS>(a, finder, s);
        }
        finish_heads<PART, HEADS>(a, n_parts_done, s);
        const PART p = kept_part<PART>(s.part[(n_parts_done + 1) % 2]);
        if (p.first_slot >= 0) {
            leave_values<HEADS>(sums, half, own_state(a, p) + 2 * ATTN_MAX_GROUP);
            finish_split<value_merge<HEADS>, value_team>(a, p, s.arrival, s.sink,
                                                         *(split_sums *)s.q);
            break; /* no part comes behind a split task's */
        } else {
            finish_values<HEADS>(a, p, sums, half, s);
        }
        barrier_arrive(shared_address(&s.part_empty));
        n_parts_done++;
    }
    copy_async_wait<0>();
}

#endif
