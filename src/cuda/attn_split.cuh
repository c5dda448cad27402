/*
 * attn_split.cuh - tasks of several parts: partial states, and their merge by all thread blocks that computed one.
 *
 * Place: cuda, any device from sm_80 on; used by the kernels of bf16 products, whose last N_TEAM_THREADS threads finish
 * parts (a TEAM: their number, and a barrier).
 *
 * A part leaves its state in the workspace, says that it has arrived, and waits for the others; then every thread block
 * merges its share of the task, always in the order of parts. Nobody relies on thread blocks that have not started: one
 * that has waited too long gives up and ends, and the part that arrives last then merges the whole task. A thread block
 * has one such part at most, its last, and a launch uses a slot of the workspace once: nothing of the memory that a merge
 * takes is needed again, and who ends need not wait for its own reads.
 */
#ifndef DSV4_CUDA_ATTN_SPLIT_CUH
#define DSV4_CUDA_ATTN_SPLIT_CUH

#include "attn_pieces.cuh"

enum {
    N_TEAM_THREADS = 256,
    N_TEAM_WARPS = N_TEAM_THREADS / 32,
    UNIT_PIECES = 32, /* of a head, 128 dimensions: a warp has them at once */
    HEAD_UNITS = HEAD_PIECES / UNIT_PIECES,
    LONGEST_WAIT_CYCLES = 1 << 18, /* about 0.15 ms */
};

enum arrival { ARRIVAL_ENDS, ARRIVAL_MERGES_SHARE, ARRIVAL_MERGES_ALL };

/* Sums of each warp; memory of queries or rows, which nobody needs any more. */
typedef float4 split_sums[N_TEAM_WARPS][UNIT_PIECES];

/* States of a task's parts: ref and sum [ATTN_MAX_GROUP] each, then values, [HEADS][DIM] or in an order of the kernel's. */
struct task_states {
    unsigned char *first;
    uint32_t state_bytes; /* at most 132 KB: a state's address is one product of 32 bits */
    int n_parts;

    __device__ __forceinline__ float *operator[](int number) const
    {
        return (float *)(first + (uint64_t)(uint32_t)number * state_bytes);
    }
};

__device__ __forceinline__ task_states find_states(const attn_args &a, const attn_part &p)
{
    return {a.states + p.first_slot * a.state_bytes, (uint32_t)a.state_bytes, p.part_of & 0xffff};
}

__device__ __forceinline__ float *own_state(const attn_args &a, const attn_part &p)
{
    return find_states(a, p)[p.part_of >> 16];
}

/* ---- arrival, by one thread ---- */

#define GAVE_UP ((uint64_t)1 << 32) /* arrived and gave_up are one number */

__device__ static int arrive(const attn_args &a, const attn_part &p)
{
    const uint32_t n_parts = p.part_of & 0xffff;
    uint64_t *state = (uint64_t *)&a.arrivals[p.first_slot].arrived;
    const uint64_t before = add_acquire_release(state, (uint64_t)1);
    if ((uint32_t)before == n_parts - 1)
        return before < GAVE_UP ? ARRIVAL_MERGES_SHARE : ARRIVAL_MERGES_ALL;
    const int64_t begin = clock64();
    for (;;) {
        const uint64_t now = load_acquire(state);
        if ((uint32_t)now == n_parts) return now < GAVE_UP ? ARRIVAL_MERGES_SHARE : ARRIVAL_ENDS;
        if (clock64() - begin > LONGEST_WAIT_CYCLES &&
            compare_exchange(state, now, now + GAVE_UP) == now)
            return ARRIVAL_ENDS;
    }
}

/* This part will not look again; the last to say so leaves the counters as they were before the call. */
__device__ __forceinline__ void end_arrivals(const attn_args &a, const attn_part &p)
{
    attn_arrivals *arrivals = &a.arrivals[p.first_slot];
    if (add_acquire_release(&arrivals->ended, (uint64_t)1) + 1 < (uint32_t)(p.part_of & 0xffff))
        return;
    arrivals->arrived = 0;
    arrivals->gave_up = 0;
    arrivals->ended = 0;
}

/* ---- merge ---- */

struct head_total {
    float ref, sum;
};

__device__ __forceinline__ head_total add_totals(head_total x, head_total y)
{
    const float ref = fmaxf(x.ref, y.ref);
    return {ref, x.sum * exp2f(x.ref - ref) + y.sum * exp2f(y.ref - ref)};
}

/* The reference is the same in both lanes, the sum but for its last bit. */
__device__ __forceinline__ head_total add_lane_totals(head_total total, int other)
{
    return add_totals(total, {__shfl_xor_sync(0xffffffffu, total.ref, other),
                              __shfl_xor_sync(0xffffffffu, total.sum, other)});
}

__device__ __forceinline__ head_total load_total(const float *state, int h)
{
    return {__ldcg(&state[h]), __ldcg(&state[ATTN_MAX_GROUP + h])};
}

/* Adds those of parts k, k + 32, k + 64 and k + 96, on their way at once. */
__device__ __forceinline__ head_total add_parts(const task_states &states, int h, int k,
                                                head_total total)
{
    head_total parts[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        parts[i] = load_total(states[min(k + i * 32, states.n_parts - 1)], h);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const head_total none = {FIRST_REF, 0.0f};
        total = add_totals(total, k + i * 32 < states.n_parts ? parts[i] : none);
    }
    return total;
}

/* Reference and sum of a head over all parts, for every lane of the warp. */
__device__ __forceinline__ head_total merge_totals(const task_states &states, int h)
{
    const int lane = threadIdx.x % 32;
    head_total total = load_total(states[min(lane, states.n_parts - 1)], h);
    if (lane >= states.n_parts) total = {FIRST_REF, 0.0f};
#pragma unroll 1
    for (int k = lane + 32; k < states.n_parts; k += 4 * 32) total = add_parts(states, h, k, total);
    float ref = total.ref;
#pragma unroll
    for (int other = 16; other > 0; other /= 2)
        ref = fmaxf(ref, __shfl_xor_sync(0xffffffffu, ref, other));
    float sum = total.sum * exp2f(total.ref - ref);
#pragma unroll
    for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
    return {ref, sum};
}

/* Of parts first, first + step, ...: references of a head and pieces of it, on their way at once. */
template <int UNITS, int PARTS> struct state_batch {
    float ref[PARTS];
    float4 v[PARTS][UNITS];
};

/* Without a branch between the loads: behind the last part, the last again. */
template <int UNITS, int PARTS>
__device__ __forceinline__ void load_batch(const task_states &states, int u, int first, int step,
                                           state_batch<UNITS, PARTS> &batch)
{
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        const float *state = states[min(first + i * step, states.n_parts - 1)];
        batch.ref[i] = __ldcg(&state[u / HEAD_UNITS]);
#pragma unroll
        for (int j = 0; j < UNITS; j++)
            batch.v[i][j] = __ldcg((const float4 *)(state + 2 * ATTN_MAX_GROUP) +
                                   (u + j) * UNIT_PIECES + threadIdx.x % 32);
    }
}

/* Four sums of each of UNITS units of one head, of parts first, first + step, ..., relative to the head's reference. */
template <int UNITS, int PARTS>
__device__ __forceinline__ head_total merge_parts(const task_states &states, int u, int first,
                                                  int step, float4 (&sums)[UNITS])
{
    const int n_parts = states.n_parts;
    state_batch<UNITS, PARTS> batch;
    load_batch(states, u, first, step, batch);
    const head_total total = merge_totals(states, u / HEAD_UNITS);
#pragma unroll
    for (int j = 0; j < UNITS; j++) sums[j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
    for (int begin = first; begin < n_parts; begin += PARTS * step) {
        if (begin > first) load_batch(states, u, begin, step, batch);
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const float weight =
                begin + i * step < n_parts ? exp2f(batch.ref[i] - total.ref) : 0.0f;
#pragma unroll
            for (int j = 0; j < UNITS; j++) {
                sums[j].x += weight * batch.v[i][j].x;
                sums[j].y += weight * batch.v[i][j].y;
                sums[j].z += weight * batch.v[i][j].z;
                sums[j].w += weight * batch.v[i][j].w;
            }
        }
    }
    return total;
}

/* first_head: the task's. */
template <int UNITS, class PART>
__device__ __forceinline__ void finish_units(const attn_args &a, const PART &p, int first_head,
                                             int u, const float4 (&sums)[UNITS], float sink,
                                             head_total total)
{
    const int head = first_head + u / HEAD_UNITS, lane = threadIdx.x % 32;
    const float inverse = inverse_sum(sink, total.ref, total.sum);
    if (u % HEAD_UNITS == 0 && lane == 0) write_lse(a, p, head, total.ref, total.sum);
#pragma unroll
    for (int j = 0; j < UNITS; j++) {
        finish_piece(a, p, head, ((u + j) % HEAD_UNITS * UNIT_PIECES + lane) * 4,
                     multiply_four(sums[j], inverse));
    }
}

/* Heads first .. end - 1 of the group, a warp a head at a time. sinks: of the group's heads. */
template <int PARTS, class PART>
__device__ __forceinline__ void merge_heads(const attn_args &a, const PART &p,
                                            const task_states &states, int first_head, int first,
                                            int end, const float *sinks, int warp)
{
#pragma unroll 1
    for (int h = first + warp; h < end; h += N_TEAM_WARPS) {
        float4 sums[HEAD_UNITS];
        const head_total total = merge_parts<HEAD_UNITS, PARTS>(states, h * HEAD_UNITS, 0, 1, sums);
        finish_units(a, p, first_head, h * HEAD_UNITS, sums, sinks[h], total);
    }
}

/* Units first .. end - 1, at most N_TEAM_WARPS: as many warps for each as there are, parts in turn. */
template <class TEAM, class PART>
__device__ __forceinline__ void merge_units(const attn_args &a, const PART &p,
                                            const task_states &states, int first_head, int first,
                                            int end, const float *sinks, split_sums &shared)
{
    const int warp = TEAM::thread() / 32, lane = threadIdx.x % 32;
    int shift = 3; /* log2 of warps a unit */
    static_assert(N_TEAM_WARPS == 1 << 3, "all, for one unit");
    while ((end - first) << shift > N_TEAM_WARPS) shift--;
    const int n_warps = 1 << shift, own = first + (warp >> shift), u = min(own, end - 1),
              turn = warp & (n_warps - 1);
    float4 sums[1];
    const head_total total = merge_parts<1, 8>(states, u, turn, n_warps, sums);
    shared[warp][lane] = sums[0];
    TEAM::sync();
    if (own >= end || turn != 0) return;
#pragma unroll 1
    for (int w = 1; w < n_warps; w++) {
        const float4 v = shared[warp + w][lane];
        sums[0] = make_float4(sums[0].x + v.x, sums[0].y + v.y, sums[0].z + v.z, sums[0].w + v.w);
    }
    finish_units(a, p, first_head, u, sums, sinks[u / HEAD_UNITS], total);
}

/* For states whose values are [HEADS][DIM]. */
template <int HEADS, class TEAM> struct unit_merge {
    /* The share of the task that part `number` merges: whole heads, if there are enough of them. */
    template <class PART>
    __device__ static __forceinline__ void merge(const attn_args &a, const PART &p,
                                                 const task_states &states, int number,
                                                 const float *sinks, split_sums &shared)
    {
        const int n_parts = states.n_parts, first_head = part_first_head(p, HEADS);
        const int n_heads = min(HEADS, count_heads(a, p) - first_head),
                  n_units = n_heads * HEAD_UNITS;
        if (n_units > n_parts * N_TEAM_WARPS) {
            const int first = n_heads * number / n_parts, end = n_heads * (number + 1) / n_parts;
            const int warp = TEAM::thread() / 32;
            if (HEADS <= 16 || n_parts == 2) {
                merge_heads<2>(a, p, states, first_head, first, end, sinks, warp);
            } else {
                merge_heads<4>(a, p, states, first_head, first, end, sinks, warp);
            }
        } else {
            const int first = n_units * number / n_parts, end = n_units * (number + 1) / n_parts;
            if (first < end) merge_units<TEAM>(a, p, states, first_head, first, end, sinks, shared);
        }
    }
};

/*
 * The part's state is in its slot; all threads of the team call it. arrival, shared: memory that the team has; sinks:
 * of the group's heads, written in front of the call. MERGE::merge merges a share.
 */
template <class MERGE, class TEAM, class PART>
__device__ static void finish_split(const attn_args &a, const PART &p, int &arrival,
                                    const float *sinks, split_sums &shared)
{
    TEAM::sync();
    if (TEAM::thread() == 0) arrival = arrive(a, p);
    TEAM::sync();
    if (arrival != ARRIVAL_ENDS) {
        const task_states states = find_states(a, p);
        const bool is_all = arrival == ARRIVAL_MERGES_ALL;
        const int first = is_all ? 0 : p.part_of >> 16, n = is_all ? states.n_parts : 1;
#pragma unroll 1
        for (int number = first; number < first + n; number++) {
            if (number > first) TEAM::sync(); /* all have read what is shared */
            MERGE::merge(a, p, states, number, sinks, shared);
        }
    }
    if (TEAM::thread() == 0) end_arrivals(a, p);
}

#endif
