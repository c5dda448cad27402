/*
 * sm80.cuh - memory and matrix instructions that every NVIDIA GPU from sm_80 on has, under short names.
 *
 * Place: cuda. Nothing here knows about attention. Shared memory is addressed by 32-bit addresses (shared_address).
 */
#ifndef DSV4_CUDA_SM80_CUH
#define DSV4_CUDA_SM80_CUH

#include <stdint.h>

/* The dynamic shared memory of a thread block, aligned for matrices. */
__device__ __forceinline__ unsigned char *dynamic_memory(void)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    return memory;
}

__device__ __forceinline__ uint32_t shared_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

/* 16 bytes from global to shared memory, past the first-level cache. */
__device__ __forceinline__ void copy_async16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ void copy_async4(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ void copy_async_commit(void)
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Waits until at most N of this thread's committed groups are on their way. */
template <int N> __device__ __forceinline__ void copy_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

__device__ __forceinline__ void prefetch_l2(const void *pointer)
{
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(pointer));
}

__device__ __forceinline__ void store_shared4(uint32_t address, uint32_t v)
{
    asm volatile("st.shared.u32 [%0], %1;\n" ::"r"(address), "r"(v) : "memory");
}

/* Not volatile, so that it can be moved ahead of arithmetic; only for memory that a wait in front protects. */
__device__ __forceinline__ uint4 load_shared16(uint32_t address)
{
    uint4 v;
    asm("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "r"(address)
        : "memory");
    return v;
}

/*
 * Four 8x8 matrices of 2-byte values: lane 8 * i + r gives the address of the 16 bytes of row r of matrix i; lane l
 * gets of each row l / 4, columns 2 * (l % 4) and the next.
 */
__device__ __forceinline__ void load_matrix4(uint32_t (&m)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

/* The same, transposed: lane l gets column l / 4, rows 2 * (l % 4) and the next. */
__device__ __forceinline__ void load_matrix4_transposed(uint32_t (&m)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

/*
 * The way back of load_matrix4: lane 8 * i + r gives the address of 16 bytes that receive row r of matrix i; lane l
 * holds of each row l / 4, columns 2 * (l % 4) and the next.
 */
__device__ __forceinline__ void store_matrix4(uint32_t address, uint32_t m0, uint32_t m1,
                                              uint32_t m2, uint32_t m3)
{
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(address),
        "r"(m0), "r"(m1), "r"(m2), "r"(m3)
        : "memory");
#else
    const uint32_t m[4] = {m0, m1, m2, m3}, lane = threadIdx.x % 32;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t row = __shfl_sync(0xffffffffu, address, 8 * i + lane / 4);
        store_shared4(row + lane % 4 * 4, m[i]);
    }
#endif
}

/* d [16, 8] f32 += a [16, 16] x b [16, 8], bf16. */
__device__ __forceinline__ void mma_bf16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, "
                 "%6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Two f32 as a pair of bf16, low half first, nearest even. */
__device__ __forceinline__ uint32_t to_bf16_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, uint32_t b)
{
    uint32_t product;
#if __CUDA_ARCH__ >= 900
    asm("mul.rn.bf16x2 %0, %1, %2;\n" : "=r"(product) : "r"(a), "r"(b));
#else
    asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
#endif
    return product;
}

/* The largest of three, by halves. */
__device__ __forceinline__ uint32_t largest_u16x2(uint32_t a, uint32_t b, uint32_t c)
{
    return __vimax3_u16x2(a, b, c);
}

__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* Adds in global memory and returns what was there; orders what this thread knew before and reads after. */
__device__ __forceinline__ uint64_t add_acquire_release(uint64_t *pointer, uint64_t value)
{
    uint64_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], %2;\n"
                 : "=l"(before)
                 : "l"(pointer), "l"(value)
                 : "memory");
    return before;
}

__device__ __forceinline__ int32_t add_acquire_release(int32_t *pointer, int32_t value)
{
    int32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;\n"
                 : "=r"(before)
                 : "l"(pointer), "r"(value)
                 : "memory");
    return before;
}

/* The same for a number that takes the place of `expected`, if that is there. */
__device__ __forceinline__ uint64_t compare_exchange(uint64_t *pointer, uint64_t expected,
                                                     uint64_t value)
{
    uint64_t before;
    asm volatile("atom.acq_rel.gpu.global.cas.b64 %0, [%1], %2, %3;\n"
                 : "=l"(before)
                 : "l"(pointer), "l"(expected), "l"(value)
                 : "memory");
    return before;
}

__device__ __forceinline__ uint64_t load_acquire(const uint64_t *pointer)
{
    uint64_t value;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];\n" : "=l"(value) : "l"(pointer) : "memory");
    return value;
}

#endif
