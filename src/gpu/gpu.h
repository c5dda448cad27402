/*
 * gpu.h - what kernels in plain C need of the machine that runs them.
 *
 * Place: gpu. Compiled without strict aliasing. A kernel is written once against the names below, and one of three headers gives them bodies:
 *
 *   gpu_amd.h     clang for amdgcn, C: what the library embeds (code_objects.h)
 *   gpu_cuda.h    nvcc, C++: kernels without matrix products, included by a source of src/cuda that launches them
 *   gpu_fibers.h  any C compiler: a thread is a fiber (tests/fibers); tests only
 *
 * What differs by machine in a kernel is a constant that follows from GPU_WAVE, not a second text.
 *
 * Names:
 *
 *   GPU_KERNEL(name, n_threads) (GPU_BY_VALUE type args)   a kernel of thread blocks of so many threads
 *   GPU_DEVICE                                    in front of any other function; always inlined
 *   GPU_DEVICE_CALL                               one that is called, to keep rare code out of hot loops
 *   GPU_SHARED                                    on pointers: to shared memory of the block
 *   GPU_UNROLL                                    in front of a loop of few rounds over registers
 *   GPU_EACH(i, first, n, step)                   in front of a block: for int64_t i from first on, below n. On NVIDIA once: there
 *                                                 grids are as large as the work, and a loop costs registers
 *   GPU_CONSTANT                                  on constant tables
 *   GPU_ARGUMENTS                                 on what pointers to a kernel's arguments point to
 *   GPU_SHARED_VARIABLE type name;                in a kernel: shared memory, its contents unknown
 *   GPU_SHARED_ARRAY(type, name, n);              the same; NVIDIA's launch has to give it, so that it may be large
 *   GPU_WAVE                                      threads of a wave: 64, or NVIDIA's 32
 *   GPU_CLUSTERS                                  what a file defines in front of this one whose kernels may run in clusters:
 *                                                 blocks that are on the device together and read each other's shared memory
 *   GPU_HAS_CLUSTERS                              defined where there are any: a kernel of clusters is compiled
 *   GPU_SMALL                                     defined where a block has 64 KiB of shared memory: gfx942
 *   gpu_thread, gpu_lane, gpu_wave, gpu_block     numbers in the block, the wave, the block, the grid
 *   gpu_lane_again()                              the lane, and nothing computed of it before is kept for here
 *   gpu_n_blocks(n_threads)                       of the grid
 *   gpu_arguments(&args), gpu_arguments_again(a)  const GPU_ARGUMENTS pointer to a kernel's args; the same, as if never read
 *   gpu_scalar(x), gpu_scalar64(x)                a uniform x, in a register of the wave: what is chosen by lane from such
 *                                                 values is not loaded by lane
 *   gpu_in_lanes(x)                               a uniform x, in a register of the lanes all the same
 *   gpu_arrive(&x)                                x has been loaded here, and not where it is used first
 *   gpu_uniform(x)                                x, which is the same in all lanes, as the compiler shall know
 *
 *   gpu_barrier()          all threads of the block; memory of both kinds written before is seen behind it
 *   gpu_barrier_shared()   the same, of shared memory only: loads on their way stay on their way
 *   gpu_wave_sync()        all lanes of a wave; shared memory written before is seen behind it
 *   gpu_cluster_barrier()  all threads of the cluster; shared memory written before is seen behind it
 *   gpu_cluster_load_f64(x, block)                what this shared memory of that block of the cluster holds
 *   gpu_cluster_end()      all threads of the cluster: until all have come here, blocks and their shared memory stay
 *   gpu_shuffle, gpu_shuffle_xor, gpu_any         of a wave, called by all of its lanes
 *   gpu_shuffle_up(x, n)   of the lane n below; own where there is none
 *   gpu_match(x)           which lanes have the same x: their number, and how many of them are below
 *   gpu_add_shared         atomic, order free
 *   gpu_or_shared          atomic; says what was there
 *   gpu_compare_shared     atomic: `value` takes the place of `expected`, if that is there; says what was there. These two
 *                          are missing in gpu_amd.h, whose kernels join no lists
 *
 *   gpu_store8_device, gpu_store4_device          to where all blocks of the device read, behind no cache of fewer
 *   gpu_wait_stores()      until this thread's stores are there; behind a barrier, those of the block's threads are
 *   gpu_add_device         atomic for all blocks; orders nothing but through the value it returns
 *   gpu_load8_device, gpu_load4_device            from there. These six are missing in gpu_cuda.h, whose kernels have
 *                                                 nothing to say to other blocks
 *
 *   gpu_load16, gpu_load8, gpu_load4, ...         of global memory, aligned to their size
 *   gpu_load_f32x4_once, gpu_load8_once           the same, of what nobody reads a second time
 *   gpu_load_uniform                              of an address that is the same in all lanes, of memory that stays as it is
 *   gpu_exp2, gpu_log2, gpu_fma, gpu_fma_f64, gpu_max, gpu_multiply_high
 *   gpu_sqrt                                      rounded correctly, as divisions are
 *   gpu_to_bf16_pair(low, high)                   nearest even
 *   gpu_to_e4m3_pair(low, high)                   where GPU_HAS_E4M3 is defined (gpu_e4m3.h)
 */
#ifndef DSV4_GPU_GPU_H
#define DSV4_GPU_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct gpu_matches {
    int32_t n, n_below;
} gpu_matches;

#if defined(__AMDGCN__)
#include "gpu_amd.h"
#elif defined(__CUDACC__)
#include "gpu_cuda.h"
#else
#include "gpu_fibers.h"
#endif

#define GPU_INFINITY __builtin_inff()
#define GPU_NAN      __builtin_nanf("")

/* Unsigned, so that what is added to them can become a distance in an address. */
GPU_DEVICE int gpu_lane(void)
{
    return (int)((uint32_t)gpu_thread() % GPU_WAVE);
}

GPU_DEVICE int gpu_wave(void)
{
    return gpu_uniform((int)((uint32_t)gpu_thread() / GPU_WAVE));
}

GPU_DEVICE int32_t gpu_min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

GPU_DEVICE int32_t gpu_max_i32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

GPU_DEVICE float gpu_shuffle_xor_f32(float value, int lane_mask)
{
    return gpu_as_f32(gpu_shuffle_xor(gpu_as_u32(value), lane_mask));
}

/* e^x to about 2^-22 of itself: the error of x * log2(e) is put back in. */
GPU_DEVICE float gpu_exp(float x)
{
    const float product = x * 0x1.715476p+0f;
    if (!(product > -150.0f && product < 128.0f)) return gpu_exp2(product);
    const float error = gpu_fma(x, 0x1.715476p+0f, -product) + x * 0x1.4ae0cp-26f;
    return gpu_exp2(product) * (1.0f + error * 0x1.62e43p-1f);
}

/* Natural logarithm. */
GPU_DEVICE float gpu_log(float x)
{
    return gpu_log2(x) * 0x1.62e43p-1f;
}

#endif
