/*
 * gpu.h - what kernels in plain C need of the machine that runs them.
 *
 * Place: gpu. Compiled without strict aliasing. A kernel is written once against the names below, and one of three headers gives them bodies:
 *
 *   gpu_amd.h     clang for amdgcn, C: what the library embeds (code_objects.h)
 *   gpu_cuda.h    nvcc, C++: kernels without matrix products, checked by a compilation
 *   gpu_fibers.h  any C compiler: a thread is a fiber (tests/fibers); tests only
 *
 * Names:
 *
 *   GPU_KERNEL(name, n_threads) (args by value)   a kernel of thread blocks of so many threads
 *   GPU_DEVICE                                    in front of any other function; always inlined
 *   GPU_DEVICE_CALL                               one that is called, to keep rare code out of hot loops
 *   GPU_SHARED                                    on pointers: to shared memory of the block
 *   GPU_UNROLL                                    in front of a loop of few rounds over registers
 *   GPU_CONSTANT                                  on constant tables
 *   GPU_ARGUMENTS                                 on what pointers to a kernel's arguments point to
 *   GPU_SHARED_VARIABLE type name;                in a kernel: shared memory, its contents unknown
 *   GPU_WAVE                                      threads of a wave: 64, or NVIDIA's 32
 *   GPU_SMALL                                     defined where a block has 64 KiB of shared memory: gfx942
 *   gpu_thread, gpu_lane, gpu_wave, gpu_block     numbers in the block, the wave, the block, the grid
 *   gpu_lane_again()                              the lane, and nothing computed of it before is kept for here
 *   gpu_n_blocks(n_threads)                       of the grid
 *   gpu_arguments(&args), gpu_arguments_again(a)  const GPU_ARGUMENTS pointer to a kernel's args; the same, as if never read
 *   gpu_scalar(x), gpu_scalar64(x)                a uniform x, in a register of the wave: what is chosen by lane from such
 *                                                 values is not loaded by lane
 *   gpu_arrive(&x)                                x has been loaded here, and not where it is used first
 *   gpu_uniform(x)                                x, which is the same in all lanes, as the compiler shall know
 *
 *   gpu_barrier()          all threads of the block; memory of both kinds written before is seen behind it
 *   gpu_barrier_shared()   the same, of shared memory only: loads on their way stay on their way
 *   gpu_wave_sync()        all lanes of a wave; shared memory written before is seen behind it
 *   gpu_shuffle, gpu_shuffle_xor, gpu_any         of a wave, called by all of its lanes
 *   gpu_add_shared         atomic, order free
 *   gpu_min_shared         the same
 *   gpu_compare_shared     atomic: `value` takes the place of `expected`, if that is there; says what was there
 *   gpu_release_device()   what this thread wrote may be read by any block that learns of it afterwards
 *   gpu_acquire_device()   what others released before is read from now on
 *   gpu_add_device         atomic, acquires and releases for all blocks of the device
 *
 *   gpu_load16, gpu_load8, gpu_load4, ...         of global memory, aligned to their size
 *   gpu_load_uniform                              of an address that is the same in all lanes, of memory that stays as it is
 *   gpu_exp2, gpu_log2, gpu_fma, gpu_max, gpu_multiply_high
 *   gpu_sqrt                                      rounded correctly, as divisions are
 */
#ifndef DSV4_GPU_GPU_H
#define DSV4_GPU_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__AMDGCN__)
#include "gpu_amd.h"
#elif defined(__CUDACC__)
#include "gpu_cuda.h"
#else
#include "gpu_fibers.h"
#endif

#define GPU_INFINITY __builtin_inff()
#define GPU_NAN      __builtin_nanf("")

GPU_DEVICE int gpu_lane(void)
{
    return gpu_thread() % GPU_WAVE;
}

GPU_DEVICE int gpu_wave(void)
{
    return gpu_uniform(gpu_thread() / GPU_WAVE);
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
