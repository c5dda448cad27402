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

#include "cuda/wgmma_matrix.cuh"

/* ---- sm80.cuh ---- */

inline unsigned char *dynamic_memory(void)
{
    return cuda_run_shared();
}
inline uint32_t shared_address(const void *pointer)
{
    return cuda_run_address(pointer);
}
inline void copy_async16(uint32_t to, const void *from)
{
    cuda_run_copy(to, from, 16);
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
inline uint4 load_shared16(uint32_t address)
{
    uint4 v;
    memcpy(&v, cuda_run_pointer(address, 16), 16);
    return v;
}
/* Every lane's address, in an instruction of the warp. */
struct lane_addresses {
    const unsigned char *all;
    explicit lane_addresses(uint32_t own) : all(cuda_run_exchange(&own, sizeof own))
    {
    }
    uint32_t of(uint32_t lane) const
    {
        uint32_t address;
        memcpy(&address, all + lane * CUDA_RUN_EXCHANGE_BYTES, sizeof address);
        return address;
    }
};

inline void load_matrix4(uint32_t (&m)[4], uint32_t address)
{
    const lane_addresses rows(address);
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t row = rows.of(8 * i + lane / 4);
        memcpy(&m[i], cuda_run_pointer(row, 16) + lane % 4 * 4, 4);
    }
}
inline void load_matrix4_transposed(uint32_t (&m)[4], uint32_t address)
{
    const lane_addresses rows(address);
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t i = 0; i < 4; i++) {
        uint16_t two[2];
        for (uint32_t k = 0; k < 2; k++) {
            const uint32_t row = rows.of(8 * i + 2 * (lane % 4) + k);
            memcpy(&two[k], cuda_run_pointer(row, 16) + lane / 4 * 2, 2);
        }
        m[i] = two[0] | (uint32_t)two[1] << 16;
    }
}
inline void store_matrix4(uint32_t address, uint32_t m0, uint32_t m1, uint32_t m2, uint32_t m3)
{
    const uint32_t m[4] = {m0, m1, m2, m3}, lane = threadIdx.x % 32;
    const lane_addresses rows(address);
    for (uint32_t i = 0; i < 4; i++) store_shared4(rows.of(8 * i + lane / 4) + lane % 4 * 4, m[i]);
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
inline void mma_bf16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                     uint32_t b1)
{
    const uint32_t own[6] = {a0, a1, a2, a3, b0, b1}, lane = threadIdx.x % 32;
    const unsigned char *all = cuda_run_exchange(own, sizeof own);
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t k = 0; k < 16; k += 2) {
            uint32_t a, b;
            memcpy(&a,
                   all + (lane / 4 * 4 + k % 8 / 2) * CUDA_RUN_EXCHANGE_BYTES +
                       (i / 2 + 2 * (k / 8)) * 4,
                   4);
            memcpy(&b,
                   all + ((lane % 4 * 2 + i % 2) * 4 + k % 8 / 2) * CUDA_RUN_EXCHANGE_BYTES +
                       (4 + k / 8) * 4,
                   4);
            d[i] += bf16_value(a & 0xffff) * bf16_value(b & 0xffff);
            d[i] += bf16_value(a >> 16) * bf16_value(b >> 16);
        }
    }
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
inline void copy_async8(uint32_t to, const void *from)
{
    cuda_run_copy(to, from, 8);
}
inline void copy_async_arrive(uint32_t barrier)
{
    cuda_run_copy_arrive(barrier);
}
inline void prefetch_bytes_l2(const void *pointer, uint32_t n_bytes)
{
    cuda_run_prefetch(pointer, n_bytes);
}
inline void store_matrix4_transposed(uint32_t address, uint32_t m0, uint32_t m1, uint32_t m2,
                                     uint32_t m3)
{
    const uint32_t m[4] = {m0, m1, m2, m3}, lane = threadIdx.x % 32;
    const lane_addresses columns(address);
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t k = 0; k < 2; k++) {
            const uint32_t to = columns.of(8 * i + 2 * (lane % 4) + k) + lane / 4 * 2;
            const uint16_t value = (uint16_t)(m[i] >> 16 * k);
            memcpy(cuda_run_pointer(to, 2), &value, 2);
            cuda_run_stored(to, 2);
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

inline void wgmma_fence(void)
{
    cuda_run_multiply_fence();
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

template <int N> inline void wgmma_begin(cuda_run_product product, float (&d)[N], int adds)
{
    product.n = 2 * N;
    product.adds = adds != 0;
    cuda_run_multiply(product, d);
}
/* Both operands in shared memory. */
inline cuda_run_product wgmma_product(uint64_t a, bool a_is_transposed, uint64_t b,
                                      bool b_is_transposed)
{
    cuda_run_product product = {};
    product.a = a;
    product.a_is_transposed = a_is_transposed;
    product.b = b;
    product.b_is_transposed = b_is_transposed;
    return product;
}
/* The first in registers. */
inline cuda_run_product wgmma_product(const uint32_t (&a)[4], uint64_t b)
{
    cuda_run_product product = wgmma_product(0, false, b, false);
    product.a_in_registers = true;
    memcpy(product.a_registers, a, sizeof a);
    return product;
}
template <int N> inline void wgmma_ss(float (&d)[N], uint64_t a, uint64_t b, int adds)
{
    wgmma_begin(wgmma_product(a, false, b, false), d, adds);
}
template <int N> inline void wgmma_ss_ta(float (&d)[N], uint64_t a, uint64_t b, int adds)
{
    wgmma_begin(wgmma_product(a, true, b, false), d, adds);
}
template <int N> inline void wgmma_ss_tb(float (&d)[N], uint64_t a, uint64_t b, int adds)
{
    wgmma_begin(wgmma_product(a, false, b, true), d, adds);
}
template <int N> inline void wgmma_rs(float (&d)[N], const uint32_t (&a)[4], uint64_t b, int adds)
{
    wgmma_begin(wgmma_product(a, b), d, adds);
}

#endif
