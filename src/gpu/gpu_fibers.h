/*
 * gpu_fibers.h - gpu.h for tests: every thread of a block is a fiber of one CPU thread.
 *
 * Place: gpu; included by gpu.h. The runner is tests/fibers/fiber_run.c: it lets one wave run up to a barrier, then the
 * next one. Whatever all lanes of a wave do together is fiber_exchange: it returns when all of them have called it, so
 * that lanes which do not arrive together are noticed. Blocks run one after the other, those of a cluster up to a cluster
 * barrier. A wave has 64 threads, or as many as who includes a kernel says (tests/fibers/fiber_wave32.c).
 */
#ifndef DSV4_GPU_GPU_FIBERS_H
#define DSV4_GPU_GPU_FIBERS_H

#include <math.h>
#include <string.h>

#if !defined(GPU_WAVE)
#define GPU_WAVE 64
#endif
#define GPU_HAS_CLUSTERS

/* Named apart from the library's functions, which may have the name of their kernel. */
#if !defined(GPU_KERNEL)
#define GPU_KERNEL(name, n_threads) void name##_fiber
#endif
#define GPU_EACH(i, first, n, step) for (int64_t i = (first); i < (n); i += (step))
#define GPU_DEVICE                  static inline __attribute__((unused))
#define GPU_DEVICE_CALL             static __attribute__((unused))
#define GPU_BY_VALUE                const
#define GPU_UNROLL
#define GPU_CONSTANT
#define GPU_ARGUMENTS
#define GPU_SHARED
#define GPU_SHARED_ARRAY(type, name, n) GPU_SHARED_VARIABLE type name[n]

/* Blocks of a cluster have this memory each: the runner changes its contents when it changes the block. */
#if defined(GPU_CLUSTERS)
#define GPU_SHARED_VARIABLE static __attribute__((section("fiber_clusters")))
#else
#define GPU_SHARED_VARIABLE static
#endif

typedef uint32_t gpu_u32x2 __attribute__((vector_size(8)));
typedef uint32_t gpu_u32x4 __attribute__((vector_size(16)));
typedef float gpu_f32x4 __attribute__((vector_size(16)));

/* What the runner gives. */
typedef struct fiber_place {
    int thread, block, n_blocks;
} fiber_place;

enum { FIBER_MAX_EXCHANGE_BYTES = 96 };

extern fiber_place fiber_here;

/* All threads of the block, of the cluster. */
void fiber_barrier(void);
void fiber_cluster_barrier(void);

/* Where the cluster's block number `block` has what lies at `own`, shared memory of a file of clusters. */
const void *fiber_of_block(const void *own, int block);

/*
 * All lanes of the wave leave n_bytes each (at most FIBER_MAX_EXCHANGE_BYTES) under the name `what`. Returns those of
 * all lanes, FIBER_MAX_EXCHANGE_BYTES apart; they stay until this lane's next exchange but one.
 */
const unsigned char *fiber_exchange(const char *what, const void *own, size_t n_bytes);

/* Changes with every exchange that has ended; the same for all lanes behind one. */
extern uint64_t fiber_exchange_number;

/*
 * A copy, also one of 0 bytes, that has happened when this thread has waited until at most `most` of its copies are left:
 * then, or at once (fiber_copies_at_once).
 */
void fiber_copy_later(void *to, const void *from, size_t n_bytes);
void fiber_wait_copies(int most);

/*
 * A store of at most 8 bytes that happens when this thread waits for its stores, or ends. A thread that counts tells
 * other blocks of the stores before it: it must not do so between the same barriers as another thread stores, nor while a
 * store of the block is on its way.
 */
void fiber_store_device(void *to, const void *from, size_t n_bytes);
void fiber_wait_stores(void);
void fiber_count(void);

GPU_DEVICE int gpu_thread(void)
{
    return fiber_here.thread;
}

GPU_DEVICE int gpu_block(void)
{
    return fiber_here.block;
}

GPU_DEVICE int gpu_n_blocks(int n_threads)
{
    (void)n_threads;
    return fiber_here.n_blocks;
}

#define gpu_arguments(by_value)      (by_value)
#define gpu_arguments_again(pointer) (pointer)

GPU_DEVICE int gpu_lane_again(void)
{
    return fiber_here.thread % GPU_WAVE;
}

GPU_DEVICE int gpu_uniform(int value)
{
    return value;
}

GPU_DEVICE uint32_t gpu_scalar(uint32_t value)
{
    return value;
}

GPU_DEVICE uint64_t gpu_scalar64(uint64_t value)
{
    return value;
}

GPU_DEVICE float gpu_in_lanes(float value)
{
    return value;
}

GPU_DEVICE void gpu_arrive(gpu_u32x4 *value)
{
    (void)value;
}

GPU_DEVICE float gpu_as_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

GPU_DEVICE uint32_t gpu_as_u32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* ---- order ---- */

GPU_DEVICE void gpu_barrier(void)
{
    fiber_barrier();
}

GPU_DEVICE void gpu_barrier_shared(void)
{
    fiber_barrier();
}

GPU_DEVICE void gpu_wave_sync(void)
{
    (void)fiber_exchange("wave_sync", NULL, 0);
}

GPU_DEVICE void gpu_cluster_barrier(void)
{
    fiber_cluster_barrier();
}

GPU_DEVICE void gpu_cluster_end(void)
{
    fiber_cluster_barrier();
}

GPU_DEVICE double gpu_cluster_load_f64(const double *shared, int block)
{
    double value;
    memcpy(&value, fiber_of_block(shared, block), sizeof value);
    return value;
}

GPU_DEVICE void gpu_store8_device(void *to, uint32_t low, uint32_t high)
{
    const uint32_t words[2] = {low, high};
    fiber_store_device(to, words, sizeof words);
}

GPU_DEVICE void gpu_store4_device(void *to, uint32_t word)
{
    fiber_store_device(to, &word, sizeof word);
}

GPU_DEVICE void gpu_wait_stores(void)
{
    fiber_wait_stores();
}

GPU_DEVICE int32_t gpu_add_device(int32_t *counter, int32_t n)
{
    fiber_count();
    const int32_t before = *counter;
    *counter += n;
    return before;
}

GPU_DEVICE gpu_u32x2 gpu_load8_device(const void *from)
{
    return *(const gpu_u32x2 *)from;
}

GPU_DEVICE uint32_t gpu_load4_device(const void *from)
{
    return *(const uint32_t *)from;
}

GPU_DEVICE void gpu_add_shared(int32_t *counter, int32_t n)
{
    *counter += n;
}

GPU_DEVICE int32_t gpu_or_shared(int32_t *at, int32_t bits)
{
    const int32_t before = *at;
    *at = before | bits;
    return before;
}

GPU_DEVICE int32_t gpu_compare_shared(int32_t *at, int32_t expected, int32_t value)
{
    const int32_t before = *at;
    if (before == expected) *at = value;
    return before;
}

/* ---- waves ---- */

GPU_DEVICE uint32_t gpu_shuffle(uint32_t value, int from_lane)
{
    const unsigned char *all = fiber_exchange("shuffle", &value, sizeof value);
    uint32_t theirs;
    memcpy(&theirs, all + (size_t)(from_lane & (GPU_WAVE - 1)) * FIBER_MAX_EXCHANGE_BYTES,
           sizeof theirs);
    return theirs;
}

GPU_DEVICE uint32_t gpu_shuffle_xor(uint32_t value, int lane_mask)
{
    return gpu_shuffle(value, (fiber_here.thread % GPU_WAVE) ^ lane_mask);
}

GPU_DEVICE uint32_t gpu_shuffle_up(uint32_t value, int n)
{
    const int lane = fiber_here.thread % GPU_WAVE;
    return gpu_shuffle(value, lane >= n ? lane - n : lane);
}

GPU_DEVICE gpu_matches gpu_match(int32_t value)
{
    const unsigned char *all = fiber_exchange("match", &value, sizeof value);
    gpu_matches matches = {0, 0};
    for (int lane = 0; lane < GPU_WAVE; lane++) {
        int32_t theirs;
        memcpy(&theirs, all + (size_t)lane * FIBER_MAX_EXCHANGE_BYTES, sizeof theirs);
        matches.n += theirs == value;
        matches.n_below += theirs == value && lane < fiber_here.thread % GPU_WAVE;
    }
    return matches;
}

GPU_DEVICE bool gpu_any(bool condition)
{
    const unsigned char own = condition;
    const unsigned char *all = fiber_exchange("any", &own, 1);
    for (int lane = 0; lane < GPU_WAVE; lane++) {
        if (all[lane * FIBER_MAX_EXCHANGE_BYTES] != 0) return true;
    }
    return false;
}

/* ---- memory ---- */

GPU_DEVICE gpu_u32x4 gpu_load16(const void *from)
{
    return *(const gpu_u32x4 *)from;
}

GPU_DEVICE gpu_u32x2 gpu_load8(const void *from)
{
    return *(const gpu_u32x2 *)from;
}

GPU_DEVICE gpu_u32x2 gpu_load8_once(const void *from)
{
    return gpu_load8(from);
}

GPU_DEVICE uint32_t gpu_load4(const void *from)
{
    return *(const uint32_t *)from;
}

GPU_DEVICE int32_t gpu_load_uniform(const void *from)
{
    return *(const int32_t *)from;
}

GPU_DEVICE uint32_t gpu_load2(const void *from)
{
    return *(const uint16_t *)from;
}

GPU_DEVICE uint32_t gpu_load1(const void *from)
{
    return *(const uint8_t *)from;
}

GPU_DEVICE float gpu_load_f32(const void *from)
{
    return *(const float *)from;
}

GPU_DEVICE gpu_f32x4 gpu_load_f32x4(const void *from)
{
    return *(const gpu_f32x4 *)from;
}

GPU_DEVICE gpu_f32x4 gpu_load_f32x4_once(const void *from)
{
    return gpu_load_f32x4(from);
}

GPU_DEVICE void gpu_store_f32x4(void *to, gpu_f32x4 values)
{
    *(gpu_f32x4 *)to = values;
}

GPU_DEVICE void gpu_store16(void *to, gpu_u32x4 words)
{
    *(gpu_u32x4 *)to = words;
}

GPU_DEVICE void gpu_store8(void *to, uint32_t low, uint32_t high)
{
    *(gpu_u32x2 *)to = (gpu_u32x2){low, high};
}

GPU_DEVICE void gpu_store4(void *to, uint32_t word)
{
    *(uint32_t *)to = word;
}

GPU_DEVICE void gpu_store2(void *to, uint32_t half)
{
    *(uint16_t *)to = (uint16_t)half;
}

GPU_DEVICE void gpu_store1(void *to, uint32_t byte)
{
    *(uint8_t *)to = (uint8_t)byte;
}

/* ---- numbers ---- */

GPU_DEVICE float gpu_exp2(float x)
{
    return exp2f(x);
}

GPU_DEVICE float gpu_log2(float x)
{
    return log2f(x);
}

GPU_DEVICE float gpu_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}

/* Of products that are exact; fma is a call for processors without it. */
GPU_DEVICE double gpu_fma_f64(double a, double b, double c)
{
    return a * b + c;
}

GPU_DEVICE float gpu_max(float a, float b)
{
    return fmaxf(a, b);
}

GPU_DEVICE float gpu_abs(float x)
{
    return fabsf(x);
}

GPU_DEVICE float gpu_sqrt(float x)
{
    return sqrtf(x);
}

GPU_DEVICE uint32_t gpu_multiply_high(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)a * b >> 32);
}

GPU_DEVICE uint32_t gpu_round_bf16(float value)
{
    const uint32_t bits = gpu_as_u32(value);
    if (value != value) return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

GPU_DEVICE uint32_t gpu_to_bf16_pair(float low, float high)
{
    return gpu_round_bf16(low) | gpu_round_bf16(high) << 16;
}

#endif
