/*
 * gpu_cuda.h - gpu.h for nvcc.
 *
 * Place: gpu; included by gpu.h. For kernels without matrix products: src/cuda has its own kernels but for the one that
 * joins lists, and the others are compiled to keep what gpu.h promises true of a second kind of machine.
 */
#ifndef DSV4_GPU_GPU_CUDA_H
#define DSV4_GPU_GPU_CUDA_H

#define GPU_WAVE 32

#if !defined(GPU_KERNEL)
#define GPU_KERNEL(name, n_threads)                                                                \
    extern "C" __global__ void __launch_bounds__(n_threads) name##_gpu
#endif
#define GPU_UNROLL      _Pragma("unroll")
#define GPU_DEVICE      __device__ static __forceinline__
#define GPU_DEVICE_CALL __device__ static __noinline__
#define GPU_CONSTANT    __constant__
#define GPU_ARGUMENTS
#define GPU_SHARED
#define GPU_SHARED_VARIABLE __shared__

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
    return __shfl_sync(0xffffffffu, value, 0);
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

GPU_DEVICE void gpu_release_device(void)
{
    __threadfence();
}

GPU_DEVICE void gpu_acquire_device(void)
{
    __threadfence();
}

GPU_DEVICE int32_t gpu_add_device(int32_t *counter, int32_t n)
{
    __threadfence();
    const int32_t before = atomicAdd(counter, n);
    __threadfence();
    return before;
}

GPU_DEVICE void gpu_add_shared(int32_t *counter, int32_t n)
{
    atomicAdd(counter, n);
}

GPU_DEVICE void gpu_min_shared(int32_t *smallest, int32_t value)
{
    atomicMin(smallest, value);
}

GPU_DEVICE int32_t gpu_compare_shared(int32_t *at, int32_t expected, int32_t value)
{
    return atomicCAS(at, expected, value);
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
    return gpu_load_as<gpu_u32x4>(from);
}

GPU_DEVICE gpu_u32x2 gpu_load8(const void *from)
{
    return gpu_load_as<gpu_u32x2>(from);
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
    return gpu_load_as<gpu_f32x4>(from);
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
    const gpu_u32x2 words = {{low, high}};
    *(gpu_u32x2 *)to = words;
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

#endif
