/*
 * check_cuda_run.cpp - cuda_run.h notices the mistakes that it says it does.
 *
 * Place: tests. Small kernels, a mistake each, and the same without one; each runs in a process of its own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include "device_on_fibers.h"

namespace
{

enum { WARPGROUP = 128, SHARED_BYTES = 1 << 14, BARRIER = CUDA_RUN_FIRST_ADDRESS + (1 << 13) };

/* What a kernel does wrong; NOTHING: nothing. */
enum mistake {
    NOTHING,
    NO_FENCE,
    NO_PRODUCT_FENCE,
    OVERWRITES,
    TOUCHES,
    NO_WAIT,
    OTHER_PRODUCT,
    NO_COPY_WAIT,
    OUTSIDE,
    ARRIVES_TWICE,
    TOO_LATE,
    PASSED_BY,
    NEVER_ARRIVES,
    NOT_INITIALIZED,
    OTHER_COUNT,
    OTHER_INSTRUCTION,
    PREFETCHES_PART,
    COPIES_PART,
};

mistake current_mistake;

/* [64] rows of 128 bytes, ones. */
void store_ones(void)
{
    for (uint32_t i = threadIdx.x; i < 512; i += blockDim.x) {
        const uint32_t two = 0x3f803f80u;
        for (uint32_t k = 0; k < 16; k += 4)
            store_shared4(CUDA_RUN_FIRST_ADDRESS + 16 * i + k, two);
    }
    if (current_mistake != NO_FENCE) fence_async_shared();
    __syncthreads();
}

/* A product of a matrix with itself: 16 everywhere. */
void run_product(const void *)
{
    float sums[4];
    const uint32_t moved = current_mistake == OTHER_PRODUCT && threadIdx.x >= 64 ? 32 : 0;
    const uint64_t ones = wgmma_matrix(CUDA_RUN_FIRST_ADDRESS, 16);
    store_ones();
    if (current_mistake != NO_PRODUCT_FENCE) wgmma_fence();
    wgmma_ss(sums, ones, wgmma_move(ones, moved), false);
    wgmma_commit();
    __syncthreads();
    if (current_mistake == OVERWRITES && threadIdx.x == 5) {
        store_shared4(CUDA_RUN_FIRST_ADDRESS, 0);
        fence_async_shared();
    }
    if (current_mistake == TOUCHES && threadIdx.x == 5) sums[3] *= 2.0f;
    __syncthreads();
    if (current_mistake == NO_WAIT) return;
    wgmma_wait<0>();
    for (const float sum : sums)
        if (sum != 16.0f) exit(1);
}

/* One copies, all read. */
void run_copy(const void *)
{
    static const uint4 from = {1, 2, 3, 4};
    if (threadIdx.x == 0) {
        copy_async16(current_mistake == OUTSIDE ? SHARED_BYTES + CUDA_RUN_FIRST_ADDRESS
                                                : CUDA_RUN_FIRST_ADDRESS,
                     (const char *)&from + (current_mistake == COPIES_PART ? 4 : 0));
        copy_async_commit();
        if (current_mistake != NO_COPY_WAIT) copy_async_wait<0>();
    }
    __syncthreads();
    prefetch_bytes_l2(&from, current_mistake == PREFETCHES_PART ? 8 : 16);
    if (current_mistake == NOTHING && load_shared16(CUDA_RUN_FIRST_ADDRESS).w != 4) exit(1);
}

/* The first warp arrives, the second waits, three times. */
void run_mbarrier(const void *)
{
    if (threadIdx.x == 0 && current_mistake != NOT_INITIALIZED) barrier_init(BARRIER, 32);
    __syncthreads();
    for (uint32_t phase = 0; phase < 3; phase++) {
        if (threadIdx.x < 32) {
            __syncwarp();
            barrier_arrive(BARRIER);
            if (current_mistake == ARRIVES_TWICE && threadIdx.x == 0) barrier_arrive(BARRIER);
            if (current_mistake == NEVER_ARRIVES) break;
        } else {
            if (current_mistake == TOO_LATE) {
                for (int i = 0; i < 8; i++) __syncwarp();
            }
            barrier_wait(BARRIER, phase % 2);
        }
        if (current_mistake == PASSED_BY && threadIdx.x < 32) {
            __syncwarp();
            barrier_arrive(BARRIER);
        }
        if (current_mistake != TOO_LATE && current_mistake != NEVER_ARRIVES) __syncthreads();
    }
}

void run_meetings(const void *)
{
    const bool is_first = threadIdx.x < 32;
    if (current_mistake == OTHER_COUNT) named_barrier(1, is_first ? 64 : 96);
    if (current_mistake == OTHER_INSTRUCTION && threadIdx.x == 3) __syncwarp();
    if (__shfl_sync(0xffffffffu, threadIdx.x, 7) != threadIdx.x / 32 * 32 + 7) exit(1);
    named_barrier(1, 64);
}

struct trial {
    void (*kernel)(const void *);
    int n_threads;
    mistake what;
    bool is_only_lazy; /* noticed only where products happen when they are waited for */
    const char *text;  /* of the reason */
};

const trial trials[] = {
    {run_product, WARPGROUP, NOTHING, false, ""},
    {run_product, WARPGROUP, NO_FENCE, false, "stored without a fence"},
    {run_product, WARPGROUP, NO_PRODUCT_FENCE, false, "without a fence for its registers"},
    {run_product, WARPGROUP, OVERWRITES, true, "overwritten while a product reads it"},
    {run_product, WARPGROUP, TOUCHES, true, "sums were touched"},
    {run_product, WARPGROUP, NO_WAIT, false, "ends while products are in flight"},
    {run_product, WARPGROUP, OTHER_PRODUCT, false, "different products"},
    {run_copy, 64, NOTHING, false, ""},
    {run_copy, 64, NO_COPY_WAIT, false, "ends while copies are on their way"},
    {run_copy, 64, OUTSIDE, false, "an address outside"},
    {run_copy, 64, PREFETCHES_PART, false, "no multiple of 16"},
    {run_copy, 64, COPIES_PART, false, "a copy from memory that is not aligned"},
    {run_mbarrier, 64, NOTHING, false, ""},
    {run_mbarrier, 64, ARRIVES_TWICE, false, "arrives twice"},
    {run_mbarrier, 64, TOO_LATE, false, "two phases ahead"},
    {run_mbarrier, 64, PASSED_BY, false, "mbarrier"},
    {run_mbarrier, 64, NEVER_ARRIVES, false, "waits for an mbarrier"},
    {run_mbarrier, 64, NOT_INITIALIZED, false, "not initialized"},
    {run_meetings, 64, NOTHING, false, ""},
    {run_meetings, 64, OTHER_COUNT, false, "different counts"},
    {run_meetings, 64, OTHER_INSTRUCTION, false, "different instructions"},
};

/* -> exit status of a process that runs the kernel; what it wrote to stderr goes to text. */
int run_trial(const trial &t, bool is_lazy, uint64_t seed, std::string &text)
{
    int ends[2];
    if (pipe(ends) != 0) abort();
    fflush(stdout);
    const pid_t child = fork();
    if (child < 0) abort();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        current_mistake = t.what;
        cuda_run_set(is_lazy, seed);
        cuda_run(t.kernel, NULL, 1, t.n_threads, SHARED_BYTES);
        _exit(0);
    }
    close(ends[1]);
    char some[256];
    for (ssize_t n; (n = read(ends[0], some, sizeof some)) > 0;) text.append(some, (size_t)n);
    close(ends[0]);
    int status;
    if (waitpid(child, &status, 0) != child) abort();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

} // namespace

int main()
{
    int n_runs = 0, n_failed = 0;
    for (const trial &t : trials) {
        for (int i = 0; i < 6; i++) {
            const bool is_lazy = i % 2 == 1;
            const int expected = t.what == NOTHING ? 0 : 3;
            std::string text;
            if (t.is_only_lazy && !is_lazy) continue;
            const int status = run_trial(t, is_lazy, (uint64_t)i, text);
            n_runs++;
            if (status == expected && text.find(t.text) != std::string::npos) continue;
            n_failed++;
            printf("mistake %d, %s, seed %d: status %d, %s\n", t.what, is_lazy ? "lazy" : "eager",
                   i, status, text.c_str());
        }
    }
    printf("%d runs, %d failed\n", n_runs, n_failed);
    return n_failed > 0;
}
