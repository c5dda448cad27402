/*
 * gpu_cuda.h - gpu.h for nvcc.
 *
 * Place: gpu; included by gpu.h. For kernels without matrix products; those with them are src/cuda's own. A source of
 * src/cuda includes a kernel and launches it: name##_gpu is a static function there.
 */
#ifndef DSV4_GPU_GPU_CUDA_H
#define DSV4_GPU_GPU_CUDA_H

#define GPU_WAVE 32

#define GPU_KERNEL(name, n_threads) __global__ static void __launch_bounds__(n_threads) name##_gpu
#define GPU_BY_VALUE                const __grid_constant__ /* read where they lie, also by a pointer */
#define GPU_UNROLL                  _Pragma("unroll")
#define GPU_EACH(i, first, n, step) if (const int64_t i = (first); i < (n))
#define GPU_DEVICE                  __device__ static __forceinline__
#define GPU_DEVICE_CALL             __device__ static __noinline__
#define GPU_CONSTANT                __constant__
#define GPU_ARGUMENTS
#define GPU_SHARED
#define GPU_SHARED_VARIABLE             __shared__
#define GPU_SHARED_ARRAY(type, name, n) extern __shared__ type name[]
#define GPU_HAS_CLUSTERS

#define _Static_assert static_assert

/* What vectors are to C compilers: indexed by [], and sums and quotients by element. */
template <typename T, int N> struct alignas(N * sizeof(T)) gpu_vector {
    T v[N];
    __device__ __forceinline__ T &operator[](int i)
    {
        return v[i];
    }
    __device__ __forceinline__ const T &operator[](int i) const
    {
        return v[i];
    }
};

template <typename T, int N>
__device__ __forceinline__ gpu_vector<T, N> operator+(gpu_vector<T, N> a, const gpu_vector<T, N> &b)
{
    for (int i = 0; i < N; i++) a[i] += b[i];
    return a;
}

template <typename T, int N>
__device__ __forceinline__ gpu_vector<T, N> operator/(gpu_vector<T, N> a, const gpu_vector<T, N> &b)
{
    for (int i = 0; i < N; i++) a[i] /= b[i];
    return a;
}

typedef gpu_vector<uint32_t, 2> gpu_u32x2;
typedef gpu_vector<uint32_t, 4> gpu_u32x4;
typedef gpu_vector<float, 4> gpu_f32x4;

GPU_DEVICE int gpu_thread(void)
{
    return (int)threadIdx.x;
}

GPU_DEVICE int gpu_block(void)
{
    return (int)blockIdx.x;
}

GPU_DEVICE int gpu_n_blocks(int n_threads)
{
    (void)n_threads;
    return (int)gridDim.x;
}

#define gpu_arguments(by_value)      (by_value)
#define gpu_arguments_again(pointer) (pointer)

GPU_DEVICE int gpu_uniform(int value)
{
    return value; /* there is nothing that the compiler makes of it */
}

GPU_DEVICE float gpu_as_f32(uint32_t bits)
{
    return __uint_as_float(bits);
}

GPU_DEVICE uint32_t gpu_as_u32(float value)
{
    return __float_as_uint(value);
}

/* ---- order ---- */

GPU_DEVICE void gpu_barrier(void)
{
    __syncthreads();
}

GPU_DEVICE void gpu_barrier_shared(void)
{
    __syncthreads();
}

GPU_DEVICE void gpu_wave_sync(void)
{
    __syncwarp();
}

GPU_DEVICE void gpu_add_shared(int32_t *counter, int32_t n)
{
    atomicAdd(counter, n);
}

GPU_DEVICE int32_t gpu_or_shared(int32_t *at, int32_t bits)
{
    return atomicOr(at, bits);
}

GPU_DEVICE int32_t gpu_compare_shared(int32_t *at, int32_t expected, int32_t value)
{
    return atomicCAS(at, expected, value);
}

/* ---- clusters, from sm_90 on; on other devices nothing calls them ---- */

GPU_DEVICE void gpu_cluster_barrier(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    __cluster_barrier_arrive();
    __cluster_barrier_wait();
#endif
}

/* Without an order of memory: nobody waits for stores to global memory. */
GPU_DEVICE void gpu_cluster_end(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    __cluster_barrier_arrive_relaxed();
    __cluster_barrier_wait();
#endif
}

GPU_DEVICE double gpu_cluster_load_f64(const double *shared, int block)
{
    double value = 0.0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .u32 there;\n mapa.shared::cluster.u32 there, %1, %2;\n"
                 "ld.shared::cluster.f64 %0, [there];\n}\n"
                 : "=d"(value)
                 : "r"((uint32_t)__cvta_generic_to_shared(shared)), "r"(block)
                 : "memory");
#else
    (void)shared;
    (void)block;
#endif
    return value;
}

/* ---- waves ---- */

GPU_DEVICE uint32_t gpu_shuffle(uint32_t value, int from_lane)
{
    return __shfl_sync(0xffffffffu, value, from_lane);
}

GPU_DEVICE uint32_t gpu_shuffle_xor(uint32_t value, int lane_mask)
{
    return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

GPU_DEVICE uint32_t gpu_shuffle_up(uint32_t value, int n)
{
    return __shfl_up_sync(0xffffffffu, value, n);
}

GPU_DEVICE gpu_matches gpu_match(int32_t value)
{
    const uint32_t same = __match_any_sync(0xffffffffu, value);
    const gpu_matches matches = {__popc(same), __popc(same & ((1u << threadIdx.x % 32) - 1u))};
    return matches;
}

GPU_DEVICE bool gpu_any(bool condition)
{
    return __any_sync(0xffffffffu, condition) != 0;
}

/* ---- memory ---- */

template <typename T> GPU_DEVICE T gpu_load_as(const void *from)
{
    return *(const T *)from;
}

GPU_DEVICE gpu_u32x4 gpu_load16(const void *from)
{
    const uint4 words = *(const uint4 *)from;
    return {{words.x, words.y, words.z, words.w}};
}

GPU_DEVICE gpu_u32x2 gpu_load8(const void *from)
{
    const uint2 words = *(const uint2 *)from;
    return {{words.x, words.y}};
}

GPU_DEVICE gpu_u32x2 gpu_load8_once(const void *from)
{
    const uint2 words = __ldcs((const uint2 *)from);
    return {{words.x, words.y}};
}

GPU_DEVICE uint32_t gpu_load4(const void *from)
{
    return gpu_load_as<uint32_t>(from);
}

GPU_DEVICE int32_t gpu_load_uniform(const void *from)
{
    return gpu_load_as<int32_t>(from);
}

GPU_DEVICE uint32_t gpu_load2(const void *from)
{
    return gpu_load_as<uint16_t>(from);
}

GPU_DEVICE uint32_t gpu_load1(const void *from)
{
    return gpu_load_as<uint8_t>(from);
}

GPU_DEVICE float gpu_load_f32(const void *from)
{
    return gpu_load_as<float>(from);
}

GPU_DEVICE gpu_f32x4 gpu_load_f32x4(const void *from)
{
    const float4 four = *(const float4 *)from;
    return {{four.x, four.y, four.z, four.w}};
}

GPU_DEVICE gpu_f32x4 gpu_load_f32x4_once(const void *from)
{
    const float4 four = __ldcs((const float4 *)from);
    return {{four.x, four.y, four.z, four.w}};
}

GPU_DEVICE void gpu_store_f32x4(void *to, gpu_f32x4 values)
{
    *(float4 *)to = make_float4(values[0], values[1], values[2], values[3]);
}

GPU_DEVICE void gpu_store16(void *to, gpu_u32x4 words)
{
    *(uint4 *)to = make_uint4(words[0], words[1], words[2], words[3]);
}

GPU_DEVICE void gpu_store8(void *to, uint32_t low, uint32_t high)
{
    *(uint2 *)to = make_uint2(low, high);
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

/* One rounding, whatever the compiler is told about contraction. */
GPU_DEVICE double gpu_fma_f64(double a, double b, double c)
{
    return __fma_rn(a, b, c);
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
    return __umulhi(a, b);
}

GPU_DEVICE uint32_t gpu_to_bf16_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
#define GPU_HAS_E4M3

/* Two e4m3, the first in the low byte: nearest even, saturating, NaN 0x7f. */
GPU_DEVICE uint32_t gpu_to_e4m3_pair(float low, float high)
{
    uint16_t pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;\n" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
}
#endif

#endif
