/*
 * attn_plan.cu - the plan of a step, built on the device so that a captured graph follows its lengths.
 *
 * Place: cuda. One thread block. Requests are ordered by the number of their key blocks, longest first. As
 * many tasks as fill whole rounds of all thread blocks stay whole; the rest, fewer than thread blocks, are
 * cut into parts of at most `step` blocks, the step that ends soonest by the cost of a partial state. So
 * there are never more partial states than thread blocks. Nothing here changes results but the cut.
 */
#include "attn_launch.h"
#include "launch.cuh"

enum { N_BINS = 1024, N_WARPS = ATTN_PLAN_THREADS / 32 };

typedef struct plan_shared {
    int32_t bins[N_BINS]; /* requests of each length, then where the next of that length goes */
    int32_t warp_sums[N_WARPS];
    float costs[N_WARPS];
    int32_t steps[N_WARPS];
    int32_t step;
    int32_t n_tail_parts;
} plan_shared;

typedef struct list_lengths {
    int32_t window;
    int32_t total;
} list_lengths;

__device__ static int32_t count_entries(const int32_t *lengths, int32_t request, int32_t n_indices)
{
    if (lengths == NULL) return n_indices;
    int32_t n = lengths[request];
    return n < 0 ? 0 : (n < n_indices ? n : n_indices);
}

__device__ static list_lengths read_lengths(const attn_plan_args &a, int32_t request)
{
    list_lengths l;
    l.window = count_entries(a.window_lengths, request, a.window_n_indices);
    l.total = l.window + count_entries(a.extra_lengths, request, a.extra_n_indices);
    return l;
}

__device__ static int32_t count_blocks(int32_t total_len)
{
    return (total_len + ATTN_BLOCK_KEYS - 1) / ATTN_BLOCK_KEYS;
}

__device__ static int32_t bin_of(int32_t n_blocks)
{
    return N_BINS - 1 - min(n_blocks, N_BINS - 1);
}

/* Inclusive sum over the block's threads. */
__device__ static int32_t scan_block(int32_t value, int32_t *warp_sums)
{
    int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int32_t step = 1; step < 32; step *= 2) {
        int32_t other = __shfl_up_sync(0xffffffffu, value, step);
        if (lane >= step) value += other;
    }
    __syncthreads();
    if (lane == 31) warp_sums[warp] = value;
    __syncthreads();
    if (warp == 0) {
        int32_t sum = warp_sums[lane];
        for (int32_t step = 1; step < 32; step *= 2) {
            int32_t other = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step) sum += other;
        }
        warp_sums[lane] = sum;
    }
    __syncthreads();
    return warp == 0 ? value : value + warp_sums[warp - 1];
}

/* order [n_requests]: requests, longest first, those of one length as they come: a plan built again is the same. */
__device__ static void sort_requests(const attn_plan_args &a, plan_shared &s, int32_t *order)
{
    s.bins[threadIdx.x] = 0;
    __syncthreads();
    for (int32_t r = threadIdx.x; r < a.n_requests; r += ATTN_PLAN_THREADS) {
        atomicAdd(&s.bins[bin_of(count_blocks(read_lengths(a, r).total))], 1);
    }
    __syncthreads();
    int32_t count = s.bins[threadIdx.x];
    int32_t begin = scan_block(count, s.warp_sums) - count;
    s.bins[threadIdx.x] = begin;
    __syncthreads();
    for (int32_t first = 0; first < a.n_requests; first += ATTN_PLAN_THREADS) {
        int32_t r = first + threadIdx.x;
        int32_t bin = r < a.n_requests ? bin_of(count_blocks(read_lengths(a, r).total)) : -1;
        int32_t n_turns = min((a.n_requests - first + 31) / 32, (int32_t)N_WARPS);
        for (int32_t turn = 0; turn < n_turns;
             turn++) { /* one warp after the other: a stable order */
            if (threadIdx.x / 32 == turn) {
                uint32_t same = __match_any_sync(0xffffffffu, bin);
                int32_t before = __popc(same & ((1u << threadIdx.x % 32) - 1u));
                if (bin >= 0) order[s.bins[bin] + before] = r;
                __syncwarp();
                if (bin >= 0 && before == 0) s.bins[bin] += __popc(same);
            }
            __syncthreads();
        }
    }
}

__device__ static void write_part(const attn_plan_args &a, attn_part *part, int32_t task,
                                  const int32_t *order, int32_t number, int32_t n_parts,
                                  int32_t first_slot)
{
    int32_t tasks_per_request = a.n_queries * a.n_groups;
    int32_t in_request = task % tasks_per_request, request = order[task / tasks_per_request];
    list_lengths l = read_lengths(a, request);
    int64_t n_blocks = count_blocks(l.total);
    attn_part p;
    p.request = request;
    p.query_group = (in_request / a.n_groups) << 8 | in_request % a.n_groups;
    p.first_block = (int32_t)(n_blocks * number / n_parts);
    p.end_block = (int32_t)(n_blocks * (number + 1) / n_parts);
    p.part_of = number << 16 | n_parts;
    p.first_slot = n_parts > 1 ? first_slot : -1;
    p.window_len = l.window;
    p.total_len = l.total;
    *part = p;
}

/* 1, 2, 3, ... 8, then about a third more each time. */
__device__ static int32_t candidate_step(int32_t i)
{
    return i < 8 ? i + 1 : (int32_t)(8.0f * exp2f((float)(i - 7) * 0.5f) + 0.5f);
}

/* In the time of a block. */
__device__ static float part_cost(const attn_plan_args &a, int32_t n_blocks, int32_t n_parts)
{
    float blocks = (float)max(n_blocks, a.n_streams);
    return n_parts > a.n_alone ? a.busy_part + blocks * a.busy_block : blocks;
}

/* Each warp tries a step on the tail's tasks, at most one round of thread blocks. */
__device__ static void choose_step(const attn_plan_args &a, plan_shared &s, const int32_t *order,
                                   int32_t first_task, int32_t n_tail)
{
    int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int32_t tasks_per_request = a.n_queries * a.n_groups, step = candidate_step(warp);
    int32_t n_parts = 0, longest = 0;
    for (int32_t i = lane; i < n_tail; i += 32) {
        int32_t request = order[(first_task + i) / tasks_per_request];
        int32_t n_blocks = count_blocks(read_lengths(a, request).total);
        n_parts += max((n_blocks + step - 1) / step, 1);
        longest = max(longest, n_blocks);
    }
    for (int32_t other = 16; other > 0; other /= 2) {
        n_parts += __shfl_xor_sync(0xffffffffu, n_parts, other);
        longest = max(longest, __shfl_xor_sync(0xffffffffu, longest, other));
    }
    if (lane == 0) {
        int32_t parts = (longest + step - 1) / step;
        bool fits = n_parts <= a.n_thread_blocks && a.may_split;
        s.costs[warp] = fits ? part_cost(a, min(step, longest), n_parts) +
                                   (parts > 1 ? a.split_fixed + a.split * (float)parts : 0.0f)
                             : 3e38f;
        s.steps[warp] = step;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        int32_t best = 0;
        for (int32_t i = 1; i < N_WARPS; i++) {
            if (s.costs[i] < s.costs[best]) best = i;
        }
        s.step = s.costs[best] < part_cost(a, longest, n_tail) ? s.steps[best] : INT32_MAX;
    }
    __syncthreads();
}

__device__ static void write_tail(const attn_plan_args &a, plan_shared &s, const int32_t *order,
                                  attn_part *parts, int32_t first_task, int32_t n_tail)
{
    int32_t tasks_per_request = a.n_queries * a.n_groups, i = threadIdx.x, n_parts = 0;
    if (i < n_tail) {
        int32_t n_blocks =
            count_blocks(read_lengths(a, order[(first_task + i) / tasks_per_request]).total);
        n_parts = max(s.step == INT32_MAX ? 1 : (n_blocks + s.step - 1) / s.step, 1);
    }
    int32_t end = scan_block(n_parts, s.warp_sums), begin = end - n_parts;
    for (int32_t k = 0; k < n_parts; k++) {
        write_part(a, &parts[first_task + begin + k], first_task + i, order, k, n_parts, begin);
    }
    if (i == ATTN_PLAN_THREADS - 1) s.n_tail_parts = end;
    __syncthreads();
}

__global__ static void __launch_bounds__(ATTN_PLAN_THREADS)
    attn_plan_kernel(const __grid_constant__ attn_plan_args a)
{
    __shared__ plan_shared s;
    attn_plan_head *head = (attn_plan_head *)a.plan;
    attn_part *parts = (attn_part *)(a.plan + sizeof(attn_plan_head));
    int32_t n_tasks = a.n_requests * a.n_queries * a.n_groups;
    int32_t n_tail = n_tasks % a.n_thread_blocks, n_whole = n_tasks - n_tail;
    int32_t *order = (int32_t *)(parts + n_tasks + a.n_thread_blocks);

    sort_requests(a, s, order);
    for (int32_t task = threadIdx.x; task < n_whole; task += ATTN_PLAN_THREADS) {
        write_part(a, &parts[task], task, order, 0, 1, -1);
    }
    choose_step(a, s, order, n_whole, n_tail);
    write_tail(a, s, order, parts, n_whole, n_tail);
    if (threadIdx.x == 0) {
        head->n_parts = n_whole + s.n_tail_parts;
        head->fingerprint = a.fingerprint;
    }
}

cudaError_t dsv4_attn_plan_launch(const attn_plan_args *args, cudaStream_t stream)
{
    return launch_kernel(attn_plan_kernel, 1, ATTN_PLAN_THREADS, 0, stream, *args);
}
