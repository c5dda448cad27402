/*
 * device_on_fibers.h - the instructions of sm80.cuh, sm90.cuh and wgmma.cuh on fibers.
 *
 * Place: tests; included before a source of src/cuda, whose own headers of these names it replaces.
 */
#ifndef DSV4_TESTS_DEVICE_ON_FIBERS_H
#define DSV4_TESTS_DEVICE_ON_FIBERS_H

#define DSV4_CUDA_SM80_CUH
#define DSV4_CUDA_SM90_CUH
#define DSV4_CUDA_WGMMA_CUH

#include <cuda_runtime.h>

/* ---- sm80.cuh ---- */

inline unsigned char *dynamic_memory(void)
{
    return cuda_run_shared();
}
inline uint32_t shared_address(const void *pointer)
{
    return cuda_run_address(pointer);
}
inline uint32_t uniform(uint32_t x)
{
    return __shfl_sync(0xffffffffu, x, 0);
}
inline void keep_order(void)
{
}
inline void copy_async16(uint32_t to, const void *from)
{
    cuda_run_copy(to, from, 16);
}
inline uint4 load_streamed16(const void *from)
{
    uint4 v;
    memcpy(&v, from, sizeof v);
    return v;
}
inline void copy_async4(uint32_t to, const void *from)
{
    cuda_run_copy(to, from, 4);
}
inline void copy_async_commit(void)
{
    cuda_run_copy_commit();
}
template <int N> inline void copy_async_wait(void)
{
    cuda_run_copy_wait(N);
}
inline void prefetch_l2(const void *)
{
}

inline void store_shared4(uint32_t address, uint32_t v)
{
    memcpy(cuda_run_pointer(address, 4), &v, 4);
    cuda_run_stored(address, 4);
}
inline void store_shared16(uint32_t address, uint4 v)
{
    memcpy(cuda_run_pointer(address, 16), &v, 16);
    cuda_run_stored(address, 16);
}
inline uint4 load_shared16(uint32_t address)
{
    uint4 v;
    memcpy(&v, cuda_run_pointer(address, 16), 16);
    return v;
}
inline void store_matrix4(uint32_t address, uint32_t m0, uint32_t m1, uint32_t m2, uint32_t m3)
{
    const uint32_t m[4] = {m0, m1, m2, m3}, lane = threadIdx.x % 32;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t row = __shfl_sync(0xffffffffu, address, (int)(8 * i + lane / 4));
        store_shared4(row + lane % 4 * 4, m[i]);
    }
}

inline uint32_t bf16_bits(float x)
{
    const uint32_t bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline float bf16_value(uint32_t bits)
{
    return __uint_as_float(bits << 16);
}
inline uint32_t to_bf16_pair(float low, float high)
{
    return bf16_bits(low) | bf16_bits(high) << 16;
}
inline uint32_t multiply_bf16x2(uint32_t a, uint32_t b)
{
    return to_bf16_pair(bf16_value(a & 0xffff) * bf16_value(b & 0xffff),
                        bf16_value(a >> 16) * bf16_value(b >> 16));
}
inline uint32_t largest_u16x2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t result = 0;
    for (int i = 0; i < 32; i += 16) {
        uint32_t x = a >> i & 0xffff;
        if ((b >> i & 0xffff) > x) x = b >> i & 0xffff;
        if ((c >> i & 0xffff) > x) x = c >> i & 0xffff;
        result |= x << i;
    }
    return result;
}
inline float exp2_fast(float x)
{
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

template <typename T> inline T add_acquire_release(T *pointer, T value)
{
    cuda_run_yield();
    const T before = *pointer;
    *pointer = before + value;
    return before;
}
inline uint64_t compare_exchange(uint64_t *pointer, uint64_t expected, uint64_t value)
{
    cuda_run_yield();
    const uint64_t before = *pointer;
    if (before == expected) *pointer = value;
    return before;
}
inline uint64_t load_acquire(const uint64_t *pointer)
{
    cuda_run_yield();
    return *pointer;
}

/* ---- sm90.cuh ---- */

inline void barrier_init(uint32_t barrier, uint32_t n_arrivals)
{
    cuda_run_barrier_init(barrier, n_arrivals);
}
inline void barrier_init_fence(void)
{
}
inline void barrier_arrive(uint32_t barrier)
{
    cuda_run_barrier_arrive(barrier);
}
inline void barrier_arrive_warp(uint32_t barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}
inline void barrier_wait(uint32_t barrier, uint32_t parity)
{
    cuda_run_barrier_wait(barrier, parity);
}
inline void fence_async_shared(void)
{
    cuda_run_fence();
}
inline void named_barrier(int id, int n_threads)
{
    (void)cuda_run_barrier(id, n_threads, false);
}
inline bool named_barrier_any(int id, int n_threads, bool said)
{
    return cuda_run_barrier(id, n_threads, said);
}
inline void prefetch_bytes_l2(const void *, uint32_t)
{
}

inline void store_matrix4_transposed(uint32_t address, uint32_t m0, uint32_t m1, uint32_t m2,
                                     uint32_t m3)
{
    const uint32_t m[4] = {m0, m1, m2, m3}, lane = threadIdx.x % 32;
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t k = 0; k < 2; k++) {
            const uint32_t column =
                __shfl_sync(0xffffffffu, address, (int)(8 * i + 2 * (lane % 4) + k));
            const uint16_t value = (uint16_t)(m[i] >> 16 * k);
            memcpy(cuda_run_pointer(column + lane / 4 * 2, 2), &value, 2);
            cuda_run_stored(column + lane / 4 * 2, 2);
        }
    }
}
template <int N> inline void registers_raise(void)
{
}
template <int N> inline void registers_lower(void)
{
}

/* ---- wgmma.cuh ---- */

inline uint64_t wgmma_matrix(uint32_t address, uint32_t leading_bytes)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(leading_bytes >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}
inline uint64_t wgmma_move(uint64_t matrix, uint32_t n_bytes)
{
    return (matrix & 0xffffffff00000000u) | (uint32_t)((uint32_t)matrix + (n_bytes >> 4));
}
inline void wgmma_fence(void)
{
}
inline void wgmma_commit(void)
{
    cuda_run_multiply_commit();
}
template <int N> inline void wgmma_settle(float (&)[N])
{
}
template <int N> inline void wgmma_wait(void)
{
    cuda_run_multiply_wait(N);
}

/* A product that adds; with adds == 0 it does so to zeros. */
template <int N> inline void wgmma_begin(cuda_run_product product, float (&d)[N], int adds)
{
    if (!adds) {
        for (int i = 0; i < N; i++) d[i] = 0.0f;
    }
    product.n = 2 * N;
    cuda_run_multiply(product, d);
}
template <int N> inline void wgmma_ss(float (&d)[N], uint64_t a, uint64_t b, int adds)
{
    wgmma_begin({0, false, false, false, a, b, {}}, d, adds);
}
template <int N> inline void wgmma_ss_ta(float (&d)[N], uint64_t a, uint64_t b, int adds)
{
    wgmma_begin({0, false, true, false, a, b, {}}, d, adds);
}
template <int N> inline void wgmma_ss_tb(float (&d)[N], uint64_t a, uint64_t b, int adds)
{
    wgmma_begin({0, false, false, true, a, b, {}}, d, adds);
}
template <int N> inline void wgmma_rs(float (&d)[N], const uint32_t (&a)[4], uint64_t b, int adds)
{
    wgmma_begin({0, true, false, false, 0, b, {a[0], a[1], a[2], a[3]}}, d, adds);
}
template <int N>
inline void wgmma_rs_tb(float (&d)[N], const uint32_t (&a)[4], uint64_t b, int adds)
{
    wgmma_begin({0, true, false, true, 0, b, {a[0], a[1], a[2], a[3]}}, d, adds);
}

#endif
