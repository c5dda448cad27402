/*
 * gpu_amd.h - gpu.h for AMD's gfx942 and gfx950, clang for amdgcn without any device library.
 *
 * Place: gpu; included by gpu.h. Pointers of kernel arguments are generic; the loads and stores here say that they are
 * global, so that none is a flat access, which would wait for shared memory too.
 */
#ifndef DSV4_GPU_GPU_AMD_H
#define DSV4_GPU_GPU_AMD_H

#define GPU_WAVE 64

#if !defined(__gfx950__)
#define GPU_SMALL
#endif

/* Waves of a block for each SIMD, at least: a largest number would keep registers from further blocks. */
#define GPU_KERNEL(name, n_threads)                                                                \
    __attribute__((amdgpu_kernel, amdgpu_flat_work_group_size(n_threads, n_threads),               \
                   amdgpu_waves_per_eu((n_threads + 255) / 256),                                   \
                   visibility("protected"))) void name
#define GPU_BY_VALUE                    const
#define GPU_UNROLL                      _Pragma("unroll")
#define GPU_EACH(i, first, n, step)     for (int64_t i = (first); i < (n); i += (step))
#define GPU_DEVICE                      static inline __attribute__((always_inline, unused))
#define GPU_DEVICE_CALL                 static __attribute__((noinline))
#define GPU_GLOBAL                      __attribute__((address_space(1)))
#define GPU_SHARED                      __attribute__((address_space(3)))
#define GPU_CONSTANT                    __attribute__((address_space(4)))
#define GPU_ARGUMENTS                   GPU_CONSTANT
#define GPU_SHARED_VARIABLE             static __attribute__((address_space(3), loader_uninitialized))
#define GPU_SHARED_ARRAY(type, name, n) GPU_SHARED_VARIABLE type name[n]

typedef uint32_t gpu_u32x2 __attribute__((vector_size(8)));
typedef uint32_t gpu_u32x4 __attribute__((vector_size(16)));
typedef float gpu_f32x2 __attribute__((vector_size(8)));
typedef float gpu_f32x4 __attribute__((vector_size(16)));
typedef __bf16 gpu_bf16x2 __attribute__((vector_size(4)));

GPU_DEVICE int gpu_thread(void)
{
    return (int)__builtin_amdgcn_workitem_id_x();
}

GPU_DEVICE int gpu_block(void)
{
    return (int)__builtin_amdgcn_workgroup_id_x();
}

GPU_DEVICE int gpu_n_blocks(int n_threads)
{
    return (int)__builtin_amdgcn_grid_size_x() / n_threads;
}

/* A kernel's one argument begins its segment of arguments. */
#define gpu_arguments(by_value)                                                                    \
    ((void)(by_value),                                                                             \
     (const GPU_ARGUMENTS __typeof__(*(by_value)) *)__builtin_amdgcn_kernarg_segment_ptr())

/* The compiler no longer knows that it has read from there. */
#define gpu_arguments_again(pointer)                                                               \
    __extension__({                                                                                \
        __typeof__(pointer) again = pointer;                                                       \
        __asm__("" : "+s"(again));                                                                 \
        again;                                                                                     \
    })

GPU_DEVICE int gpu_lane_again(void)
{
    int lane = (int)__builtin_amdgcn_workitem_id_x() % GPU_WAVE;
    __asm__ volatile("" : "+v"(lane));
    return lane;
}

GPU_DEVICE int gpu_uniform(int value)
{
    return __builtin_amdgcn_readfirstlane(value);
}

GPU_DEVICE uint32_t gpu_scalar(uint32_t value)
{
    __asm__("" : "+s"(value));
    return value;
}

GPU_DEVICE uint64_t gpu_scalar64(uint64_t value)
{
    __asm__("" : "+s"(value));
    return value;
}

GPU_DEVICE float gpu_in_lanes(float value)
{
    __asm__("" : "+v"(value));
    return value;
}

GPU_DEVICE void gpu_arrive(gpu_u32x4 *value)
{
    __asm__ volatile("" : "+v"(*value));
}

GPU_DEVICE float gpu_as_f32(uint32_t bits)
{
    return __builtin_bit_cast(float, bits);
}

GPU_DEVICE uint32_t gpu_as_u32(float value)
{
    return __builtin_bit_cast(uint32_t, value);
}

/* ---- order ---- */

GPU_DEVICE void gpu_barrier(void)
{
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

GPU_DEVICE void gpu_barrier_shared(void)
{
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup", "local");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup", "local");
}

GPU_DEVICE void gpu_wave_sync(void)
{
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
    __builtin_amdgcn_wave_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}

/*
 * Chiplets have a second-level cache each, and a fence of this scope writes back or drops all of it. Accesses of single
 * words that are atomic at this scope pass the caches instead. Their order is made by hand: a store is done when it is no
 * longer counted.
 */
GPU_DEVICE void gpu_store8_device(void *to, uint32_t low, uint32_t high)
{
    __scoped_atomic_store_n((GPU_GLOBAL uint64_t *)to, low | (uint64_t)high << 32, __ATOMIC_RELAXED,
                            __MEMORY_SCOPE_DEVICE);
}

GPU_DEVICE void gpu_store4_device(void *to, uint32_t word)
{
    __scoped_atomic_store_n((GPU_GLOBAL uint32_t *)to, word, __ATOMIC_RELAXED,
                            __MEMORY_SCOPE_DEVICE);
}

GPU_DEVICE void gpu_wait_stores(void)
{
    __asm__ volatile("s_waitcnt vmcnt(0)" : : : "memory");
}

GPU_DEVICE int32_t gpu_add_device(int32_t *counter, int32_t n)
{
    return __scoped_atomic_fetch_add((GPU_GLOBAL int32_t *)counter, n, __ATOMIC_RELAXED,
                                     __MEMORY_SCOPE_DEVICE);
}

GPU_DEVICE gpu_u32x2 gpu_load8_device(const void *from)
{
    const uint64_t both = __scoped_atomic_load_n((const GPU_GLOBAL uint64_t *)from,
                                                 __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
    return (gpu_u32x2){(uint32_t)both, (uint32_t)(both >> 32)};
}

GPU_DEVICE uint32_t gpu_load4_device(const void *from)
{
    return __scoped_atomic_load_n((const GPU_GLOBAL uint32_t *)from, __ATOMIC_RELAXED,
                                  __MEMORY_SCOPE_DEVICE);
}

GPU_DEVICE void gpu_add_shared(GPU_SHARED int32_t *counter, int32_t n)
{
    (void)__scoped_atomic_fetch_add(counter, n, __ATOMIC_RELAXED, __MEMORY_SCOPE_WRKGRP);
}

/* A cluster is one block here. */
GPU_DEVICE void gpu_cluster_barrier(void)
{
    gpu_barrier_shared();
}

GPU_DEVICE void gpu_cluster_end(void)
{
}

GPU_DEVICE double gpu_cluster_load_f64(const GPU_SHARED double *shared, int block)
{
    (void)block;
    return *shared;
}

/* ---- waves ---- */

GPU_DEVICE uint32_t gpu_shuffle(uint32_t value, int from_lane)
{
    return (uint32_t)__builtin_amdgcn_ds_bpermute(from_lane << 2, (int)value);
}

GPU_DEVICE uint32_t gpu_shuffle_xor(uint32_t value, int lane_mask)
{
    return gpu_shuffle(value, ((int)__builtin_amdgcn_workitem_id_x() % GPU_WAVE) ^ lane_mask);
}

GPU_DEVICE uint32_t gpu_shuffle_up(uint32_t value, int n)
{
    const int lane = (int)__builtin_amdgcn_workitem_id_x() % GPU_WAVE;
    return gpu_shuffle(value, lane >= n ? lane - n : lane);
}

/* One value after the other: there are few. */
GPU_DEVICE gpu_matches gpu_match(int32_t value)
{
    gpu_matches matches = {0, 0};
    while (matches.n == 0) { /* lanes leave with their value */
        const int32_t first = __builtin_amdgcn_readfirstlane(value);
        if (value != first) continue;
        const uint64_t same = __builtin_amdgcn_ballot_w64(true);
        matches.n = __builtin_popcountll(same);
        matches.n_below = (int32_t)__builtin_amdgcn_mbcnt_hi(
            (uint32_t)(same >> 32), __builtin_amdgcn_mbcnt_lo((uint32_t)same, 0));
    }
    return matches;
}

GPU_DEVICE bool gpu_any(bool condition)
{
    return __builtin_amdgcn_ballot_w64(condition) != 0;
}

/* ---- memory ---- */

GPU_DEVICE gpu_u32x4 gpu_load16(const void *from)
{
    return *(const GPU_GLOBAL gpu_u32x4 *)from;
}

GPU_DEVICE gpu_u32x2 gpu_load8(const void *from)
{
    return *(const GPU_GLOBAL gpu_u32x2 *)from;
}

GPU_DEVICE gpu_u32x2 gpu_load8_once(const void *from)
{
    return __builtin_nontemporal_load((const GPU_GLOBAL gpu_u32x2 *)from);
}

GPU_DEVICE uint32_t gpu_load4(const void *from)
{
    return *(const GPU_GLOBAL uint32_t *)from;
}

GPU_DEVICE int32_t gpu_load_uniform(const void *from)
{
    return __builtin_amdgcn_readfirstlane(*(const GPU_CONSTANT int32_t *)from);
}

GPU_DEVICE uint32_t gpu_load2(const void *from)
{
    return *(const GPU_GLOBAL uint16_t *)from;
}

GPU_DEVICE uint32_t gpu_load1(const void *from)
{
    return *(const GPU_GLOBAL uint8_t *)from;
}

GPU_DEVICE float gpu_load_f32(const void *from)
{
    return *(const GPU_GLOBAL float *)from;
}

GPU_DEVICE gpu_f32x4 gpu_load_f32x4(const void *from)
{
    return *(const GPU_GLOBAL gpu_f32x4 *)from;
}

GPU_DEVICE gpu_f32x4 gpu_load_f32x4_once(const void *from)
{
    return __builtin_nontemporal_load((const GPU_GLOBAL gpu_f32x4 *)from);
}

GPU_DEVICE void gpu_store_f32x4(void *to, gpu_f32x4 values)
{
    *(GPU_GLOBAL gpu_f32x4 *)to = values;
}

GPU_DEVICE void gpu_store16(void *to, gpu_u32x4 words)
{
    *(GPU_GLOBAL gpu_u32x4 *)to = words;
}

GPU_DEVICE void gpu_store8(void *to, uint32_t low, uint32_t high)
{
    *(GPU_GLOBAL gpu_u32x2 *)to = (gpu_u32x2){low, high};
}

GPU_DEVICE void gpu_store4(void *to, uint32_t word)
{
    *(GPU_GLOBAL uint32_t *)to = word;
}

GPU_DEVICE void gpu_store2(void *to, uint32_t half)
{
    *(GPU_GLOBAL uint16_t *)to = (uint16_t)half;
}

GPU_DEVICE void gpu_store1(void *to, uint32_t byte)
{
    *(GPU_GLOBAL uint8_t *)to = (uint8_t)byte;
}

/* ---- numbers ---- */

GPU_DEVICE float gpu_exp2(float x)
{
    return __builtin_amdgcn_exp2f(x);
}

GPU_DEVICE float gpu_log2(float x)
{
    return __builtin_amdgcn_logf(x);
}

GPU_DEVICE float gpu_fma(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}

GPU_DEVICE double gpu_fma_f64(double a, double b, double c)
{
    return __builtin_fma(a, b, c);
}

/* The other one if one is NaN. */
GPU_DEVICE float gpu_max(float a, float b)
{
    return __builtin_fmaxf(a, b);
}

GPU_DEVICE float gpu_abs(float x)
{
    return __builtin_fabsf(x);
}

GPU_DEVICE float gpu_sqrt(float x)
{
    return __builtin_sqrtf(x); /* of no device library: a correct sequence of instructions */
}

GPU_DEVICE uint32_t gpu_multiply_high(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)a * b >> 32);
}

/* Two f32 as a pair of bf16, low half first, nearest even: one instruction of gfx950, a correct sequence on gfx942. */
GPU_DEVICE uint32_t gpu_to_bf16_pair(float low, float high)
{
    const gpu_f32x2 pair = {low, high};
    return __builtin_bit_cast(uint32_t, __builtin_convertvector(pair, gpu_bf16x2));
}

#endif
