/*
 * cuda_runtime.h - CUDA's language and runtime on fibers, in the place of the toolkit's header.
 *
 * Place: tests. What a kernel of src/cuda needs to be compiled by a C++ compiler for the CPU and run by cuda_run.h: a
 * thread is a fiber. Instructions that src/cuda has under names of its own are in device_on_fibers.h.
 */
#ifndef DSV4_TESTS_CUDA_RUNTIME_H
#define DSV4_TESTS_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cuda_run.h"

#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __launch_bounds__(...)

struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) int2 {
    int32_t x, y;
};
struct alignas(16) int4 {
    int32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

inline uint2 make_uint2(uint32_t x, uint32_t y)
{
    return {x, y};
}
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return {x, y, z, w};
}
inline float2 make_float2(float x, float y)
{
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

inline int min(int a, int b)
{
    return a < b ? a : b;
}
inline uint32_t min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

inline uint32_t __float_as_uint(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline uint32_t __umulhi(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)a * b >> 32);
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector)
{
    const uint64_t all = (uint64_t)y << 32 | x;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++)
        result |= (uint32_t)(all >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}
inline uint32_t __vcmpgtu4(uint32_t a, uint32_t b)
{
    uint32_t result = 0;
    for (int i = 0; i < 32; i += 8)
        if ((a >> i & 0xff) > (b >> i & 0xff)) result |= 0xffu << i;
    return result;
}
template <typename T> inline T __ldg(const T *pointer)
{
    return *pointer;
}
template <typename T> inline T __ldcg(const T *pointer)
{
    return *pointer;
}

/* ---- of a warp, called by all of its lanes ---- */

template <typename T> inline T __shfl_sync(uint32_t, T value, int lane)
{
    T result;
    memcpy(&result, cuda_run_exchange(&value, sizeof value) + lane * CUDA_RUN_EXCHANGE_BYTES,
           sizeof value);
    return result;
}
template <typename T> inline T __shfl_xor_sync(uint32_t mask, T value, int bits)
{
    return __shfl_sync(mask, value, (int)(threadIdx.x % 32) ^ bits);
}
inline uint32_t __ballot_sync(uint32_t, bool is)
{
    const unsigned char *all = cuda_run_exchange(&is, sizeof is);
    uint32_t result = 0;
    for (int i = 0; i < 32; i++) result |= (uint32_t)(all[i * CUDA_RUN_EXCHANGE_BYTES] != 0) << i;
    return result;
}
inline bool __any_sync(uint32_t mask, bool is)
{
    return __ballot_sync(mask, is) != 0;
}
inline void __syncwarp(void)
{
    (void)cuda_run_exchange(NULL, 0);
}
inline void __syncthreads(void)
{
    (void)cuda_run_barrier(0, (int)blockDim.x, false);
}
inline bool __syncthreads_or(bool is)
{
    return cuda_run_barrier(0, (int)blockDim.x, is);
}
/* Ends every wait that looks at the clock, after some looks. */
inline int64_t clock64(void)
{
    return cuda_run_clock();
}

/* ---- runtime ---- */

struct dim3 {
    uint32_t x, y, z;
    dim3(uint32_t of_x = 1) : x(of_x), y(1), z(1)
    {
    }
};
typedef void *cudaStream_t;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
};

template <typename K> inline cudaError_t cudaFuncSetAttribute(K *, cudaFuncAttribute, int)
{
    return cudaSuccess;
}
template <typename A>
inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(A),
                                      const A &args)
{
    struct call {
        void (*kernel)(A);
        const A *args;
        static void run(const void *self)
        {
            const call *c = (const call *)self;
            c->kernel(*c->args);
        }
    } c = {kernel, &args};
    cuda_run(call::run, &c, (int)config->gridDim.x, (int)config->blockDim.x,
             config->dynamicSmemBytes);
    return cudaSuccess;
}

#endif
