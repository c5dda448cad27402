/*
 * sm90.cuh - Hopper's barriers, fences and memory instructions under short names.
 *
 * Place: cuda, sm_90a only. Nothing here knows about attention. Shared memory is addressed by 32-bit
 * addresses (shared_address).
 */
#ifndef DSV4_CUDA_SM90_CUH
#define DSV4_CUDA_SM90_CUH

#include <stdint.h>

#include "sm80.cuh"

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t n_arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(n_arrivals)
                 : "memory");
}

/* Lets other threads and the copy engine see barriers that this thread has initialized, after a barrier. */
__device__ __forceinline__ void barrier_init_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}

/* One arrival for a warp, when all its lanes have come here. */
__device__ __forceinline__ void barrier_arrive_warp(uint32_t barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

/* Waits until the barrier's phase of this parity has ended; parity 1 of a fresh barrier has. */
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{ .reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@!p bra again;\n}\n" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* Makes this thread's stores to shared memory visible to matrix instructions, after a barrier. */
__device__ __forceinline__ void fence_async_shared(void)
{
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

/* A barrier of n_threads threads of the block; id 0 is __syncthreads'. */
__device__ __forceinline__ void named_barrier(int id, int n_threads)
{
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(n_threads) : "memory");
}

/* The same, and tells every thread whether any of them said so. */
__device__ __forceinline__ bool named_barrier_any(int id, int n_threads, bool said)
{
    int any;
    asm volatile("{ .reg .pred p, q;\n setp.ne.b32 p, %3, 0;\n"
                 "bar.red.or.pred q, %1, %2, p;\n selp.b32 %0, 1, 0, q;\n}\n"
                 : "=r"(any)
                 : "r"(id), "r"(n_threads), "r"((int)said)
                 : "memory");
    return any != 0;
}

__device__ __forceinline__ void copy_async8(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;\n" ::"r"(to), "l"(from) : "memory");
}

/*
 * Brings n_bytes, a multiple of 16, to the second-level cache; pointer: aligned to 16 bytes. One request where
 * prefetch_l2 makes one of every line, and those stand in the way of loads.
 */
__device__ __forceinline__ void prefetch_bytes_l2(const void *pointer, uint32_t n_bytes)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(pointer), "r"(n_bytes));
}

/* Arrives when this thread's copy_async so far are done; one of the barrier's expected arrivals. */
__device__ __forceinline__ void copy_async_arrive(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(barrier)
                 : "memory");
}

/*
 * As store_matrix4, transposed: the 16 bytes of lane 8 * i + r receive column r of matrix i.
 */
__device__ __forceinline__ void store_matrix4_transposed(uint32_t address, uint32_t m0, uint32_t m1,
                                                         uint32_t m2, uint32_t m3)
{
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(address),
        "r"(m0), "r"(m1), "r"(m2), "r"(m3)
        : "memory");
}

/* Four e4m3 codes as f16, exact; pairs in their order. A NaN code becomes NaN. */
__device__ __forceinline__ void codes_to_f16(uint32_t codes, uint32_t &low_pair,
                                             uint32_t &high_pair)
{
    asm("{ .reg .b16 low, high;\n mov.b32 {low, high}, %2;\n"
        "cvt.rn.f16x2.e4m3x2 %0, low;\n cvt.rn.f16x2.e4m3x2 %1, high;\n}\n"
        : "=r"(low_pair), "=r"(high_pair)
        : "r"(codes));
}

__device__ __forceinline__ uint32_t multiply_f16x2(uint32_t a, uint32_t b)
{
    uint32_t product;
    asm("mul.rn.f16x2 %0, %1, %2;\n" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

/* Two f32 as a pair of f16, low half first, nearest even. */
__device__ __forceinline__ uint32_t to_f16_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ float low_f16_to_f32(uint32_t pair)
{
    float value;
    asm("{ .reg .b16 low, high;\n mov.b32 {low, high}, %1;\n cvt.f32.f16 %0, low;\n}\n"
        : "=f"(value)
        : "r"(pair));
    return value;
}

__device__ __forceinline__ float high_f16_to_f32(uint32_t pair)
{
    return low_f16_to_f32(pair >> 16);
}

/* The smallest of three, by halves. */
__device__ __forceinline__ uint32_t smallest_u16x2(uint32_t a, uint32_t b, uint32_t c)
{
    return __vimin3_u16x2(a, b, c);
}

/* The largest of a warp's numbers, for all of its lanes. */
__device__ __forceinline__ uint32_t largest_of_warp(uint32_t x)
{
    return __reduce_max_sync(0xffffffffu, x);
}

/* From now on each thread of the warpgroup has that many registers; the block's sum must not grow. */
template <int N_REGISTERS> __device__ __forceinline__ void registers_raise(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(N_REGISTERS));
}

template <int N_REGISTERS> __device__ __forceinline__ void registers_lower(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(N_REGISTERS));
}

#endif
