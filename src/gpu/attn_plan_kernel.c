/*
 * attn_plan_kernel.c - the plan of a step, built on the device so that a captured graph follows its lengths.
 *
 * Place: gpu; a kernel (gpu.h) of one thread block. Requests are ordered by the number of their key blocks, longest
 * first. As many tasks as fill whole rounds of all thread blocks stay whole; the rest, fewer than thread blocks, are
 * cut into parts of at most `step` blocks, the step that ends soonest by the cost of a partial state. So
 * there are never more partial states than thread blocks. Nothing here changes results but the cut.
 */
#include "attn_device.h"
#include "attn_lengths.h"
#include "gpu.h"
#include "gpu_scan.h"

_Static_assert(ATTN_PLAN_THREADS / GPU_WAVE <= GPU_WAVE, "a wave adds sums of all");

enum {
    PLAN_BINS = ATTN_PLAN_THREADS, /* a thread each */
    PLAN_WAVES = ATTN_PLAN_THREADS / GPU_WAVE,
    PLAN_STEPS = 32, /* that are tried */
    SHORT_STEPS = 8, /* the first of them, in blocks */
    NO_STEP = INT32_MAX,
};

typedef struct plan_shared {
    int32_t bins[PLAN_BINS]; /* requests of each length, then where the next of that length goes */
    int32_t wave_sums[PLAN_WAVES];
    float costs[PLAN_STEPS];
    int32_t steps[PLAN_STEPS];
    int32_t step;
    int32_t n_tail_parts;
} plan_shared;

typedef struct list_lengths {
    int32_t window;
    int32_t total;
} list_lengths;

GPU_DEVICE list_lengths read_lengths(const attn_plan_args *a, int32_t request)
{
    list_lengths l;
    l.window = gpu_count_listed(a->window_lengths, request, a->window_n_indices);
    l.total = l.window + gpu_count_listed(a->extra_lengths, request, a->extra_n_indices);
    return l;
}

GPU_DEVICE int32_t count_blocks(int32_t total_len)
{
    return (total_len + ATTN_BLOCK_KEYS - 1) / ATTN_BLOCK_KEYS;
}

GPU_DEVICE int32_t bin_of(int32_t n_blocks)
{
    return PLAN_BINS - 1 - gpu_min_i32(n_blocks, PLAN_BINS - 1);
}

/* order [n_requests]: requests, longest first, those of one length as they come: a plan built again is the same. */
GPU_DEVICE void sort_requests(const attn_plan_args *a, GPU_SHARED plan_shared *s, int32_t *order)
{
    const int32_t thread = gpu_thread();
    s->bins[thread] = 0;
    gpu_barrier_shared();
    for (int32_t r = thread; r < a->n_requests; r += ATTN_PLAN_THREADS) {
        gpu_add_shared(&s->bins[bin_of(count_blocks(read_lengths(a, r).total))], 1);
    }
    gpu_barrier_shared();
    const int32_t count = s->bins[thread];
    const int32_t begin = gpu_scan_block(count, s->wave_sums, PLAN_WAVES) - count;
    s->bins[thread] = begin;
    gpu_barrier_shared();
    for (int32_t first = 0; first < a->n_requests; first += ATTN_PLAN_THREADS) {
        const int32_t r = first + thread;
        const int32_t bin = r < a->n_requests ? bin_of(count_blocks(read_lengths(a, r).total)) : -1;
        const int32_t n_turns =
            gpu_min_i32((a->n_requests - first + GPU_WAVE - 1) / GPU_WAVE, PLAN_WAVES);
        for (int32_t turn = 0; turn < n_turns; turn++) { /* one wave after the other: stable */
            if (gpu_wave() == turn) {
                const gpu_matches same = gpu_match(bin);
                if (bin >= 0) gpu_store4(order + s->bins[bin] + same.n_below, (uint32_t)r);
                gpu_wave_sync();
                if (bin >= 0 && same.n_below == 0) s->bins[bin] += same.n;
            }
            gpu_barrier_shared();
        }
    }
    gpu_barrier(); /* order is read by other threads */
}

GPU_DEVICE void write_part(const attn_plan_args *a, attn_part *part, int32_t task,
                           const int32_t *order, int32_t number, int32_t n_parts,
                           int32_t first_slot)
{
    const int32_t tasks_per_request = a->n_queries * a->n_groups;
    const int32_t in_request = task % tasks_per_request;
    const int32_t request = (int32_t)gpu_load4(order + task / tasks_per_request);
    const list_lengths l = read_lengths(a, request);
    const int64_t n_blocks = count_blocks(l.total);
    const gpu_u32x4 low = {
        (uint32_t)request, (uint32_t)((in_request / a->n_groups) << 8 | in_request % a->n_groups),
        (uint32_t)(n_blocks * number / n_parts), (uint32_t)(n_blocks * (number + 1) / n_parts)};
    const gpu_u32x4 high = {(uint32_t)(number << 16 | n_parts),
                            (uint32_t)(n_parts > 1 ? first_slot : -1), (uint32_t)l.window,
                            (uint32_t)l.total};
    gpu_store16(part, low);
    gpu_store16((char *)part + 16, high);
}

/*
 * 1, 2, ... 8 blocks, then what cuts the longest of the tail's tasks into 1, 2, ... 16 parts,
 * and about 1.4 times as many each time. What fills the device has to be among them: a list of
 * 130 blocks in three parts where there is room for four takes a third longer.
 */
GPU_DEVICE int32_t candidate_step(int32_t i, int32_t longest)
{
    const int32_t k = i - SHORT_STEPS;
    const int32_t n_parts =
        k < 16 ? k + 1 : (int32_t)(16.0f * gpu_exp2((float)(k - 15) * 0.5f) + 0.5f);
    return i < SHORT_STEPS ? i + 1 : gpu_max_i32((longest + n_parts - 1) / n_parts, 1);
}

/* In the time of a block. */
GPU_DEVICE float part_cost(const attn_plan_args *a, int32_t n_blocks, int32_t n_parts)
{
    const float blocks = (float)gpu_max_i32(n_blocks, a->n_streams);
    return n_parts > a->n_alone ? a->busy_part + blocks * a->busy_block : blocks;
}

/* Cost in blocks of cutting the tail's tasks, at most one round of thread blocks, by a step; a wave calls it. */
GPU_DEVICE float weigh_step(const attn_plan_args *a, const int32_t *order, int32_t first_task,
                            int32_t n_tail, int32_t step, int32_t *longest_task)
{
    const int32_t tasks_per_request = a->n_queries * a->n_groups;
    int32_t n_parts = 0, longest = 0;
    for (int32_t i = gpu_lane(); i < n_tail; i += GPU_WAVE) {
        const int32_t request = (int32_t)gpu_load4(order + (first_task + i) / tasks_per_request);
        const int32_t n_blocks = count_blocks(read_lengths(a, request).total);
        n_parts += gpu_max_i32((n_blocks + step - 1) / step, 1);
        longest = gpu_max_i32(longest, n_blocks);
    }
    for (int other = GPU_WAVE / 2; other > 0; other /= 2) {
        n_parts += (int32_t)gpu_shuffle_xor((uint32_t)n_parts, other);
        longest = gpu_max_i32(longest, (int32_t)gpu_shuffle_xor((uint32_t)longest, other));
    }
    *longest_task = longest;
    const int32_t parts = (longest + step - 1) / step;
    if (n_parts > a->n_thread_blocks || !a->may_split) return 3e38f;
    return part_cost(a, gpu_min_i32(step, longest), n_parts) +
           (parts > 1 ? a->split_fixed + a->split_share / (float)parts + a->split * (float)parts
                      : 0.0f);
}

/* The step that costs least, for all of the block. */
GPU_DEVICE void choose_step(const attn_plan_args *a, GPU_SHARED plan_shared *s,
                            const int32_t *order, int32_t first_task, int32_t n_tail)
{
    const int32_t tasks_per_request = a->n_queries * a->n_groups;
    int32_t longest = 0;
    if (n_tail > 0) { /* the first; of lists longer than all bins are for, any of them */
        const int32_t request = (int32_t)gpu_load4(order + first_task / tasks_per_request);
        longest = count_blocks(read_lengths(a, request).total);
    }
    const int32_t first_longest = longest;
    for (int turn = 0; turn < PLAN_STEPS / PLAN_WAVES; turn++) {
        const int i = turn * PLAN_WAVES + gpu_wave();
        const int32_t step = candidate_step(i, first_longest);
        const float cost = weigh_step(a, order, first_task, n_tail, step, &longest);
        if (gpu_lane() == 0) {
            s->costs[i] = cost;
            s->steps[i] = step;
        }
    }
    gpu_barrier_shared();
    if (gpu_thread() == 0) {
        int32_t best = 0;
        for (int32_t i = 1; i < PLAN_STEPS; i++) {
            if (s->costs[i] < s->costs[best]) best = i;
        }
        const bool gains = s->costs[best] < part_cost(a, longest, n_tail);
        s->step = gains ? s->steps[best] : NO_STEP;
    }
    gpu_barrier_shared();
}

GPU_DEVICE void write_tail(const attn_plan_args *a, GPU_SHARED plan_shared *s, const int32_t *order,
                           attn_part *parts, int32_t first_task, int32_t n_tail)
{
    const int32_t tasks_per_request = a->n_queries * a->n_groups, i = gpu_thread();
    int32_t n_parts = 0;
    if (i < n_tail) {
        const int32_t request = (int32_t)gpu_load4(order + (first_task + i) / tasks_per_request);
        const int32_t n_blocks = count_blocks(read_lengths(a, request).total);
        n_parts = gpu_max_i32(s->step == NO_STEP ? 1 : (n_blocks + s->step - 1) / s->step, 1);
    }
    const int32_t end = gpu_scan_block(n_parts, s->wave_sums, PLAN_WAVES), begin = end - n_parts;
    for (int32_t k = 0; k < n_parts; k++) {
        write_part(a, &parts[first_task + begin + k], first_task + i, order, k, n_parts, begin);
    }
    if (i == ATTN_PLAN_THREADS - 1) s->n_tail_parts = end;
    gpu_barrier_shared();
}

GPU_KERNEL(dsv4_attn_plan, ATTN_PLAN_THREADS)(GPU_BY_VALUE attn_plan_args a)
{
    GPU_SHARED_VARIABLE plan_shared s;
    attn_part *parts = (attn_part *)(a.plan + sizeof(attn_plan_head));
    const int32_t n_tasks = a.n_requests * a.n_queries * a.n_groups;
    const int32_t n_tail = n_tasks % a.n_thread_blocks, n_whole = n_tasks - n_tail;
    int32_t *order = (int32_t *)(parts + n_tasks + a.n_thread_blocks);

    sort_requests(&a, &s, order);
    for (int32_t task = gpu_thread(); task < n_whole; task += ATTN_PLAN_THREADS) {
        write_part(&a, &parts[task], task, order, 0, 1, -1);
    }
    choose_step(&a, &s, order, n_whole, n_tail);
    write_tail(&a, &s, order, parts, n_whole, n_tail);
    if (gpu_thread() == 0) {
        gpu_store4(a.plan + offsetof(attn_plan_head, n_parts),
                   (uint32_t)(n_whole + s.n_tail_parts));
        gpu_store8(a.plan + offsetof(attn_plan_head, fingerprint), (uint32_t)a.fingerprint,
                   (uint32_t)(a.fingerprint >> 32));
    }
}
