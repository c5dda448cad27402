/*
 * launch.cuh - a kernel of one argument is enqueued, and what its own launch said comes back.
 *
 * Place: cuda.
 */
#ifndef DSV4_CUDA_LAUNCH_CUH
#define DSV4_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

/*
 * Not <<< >>> with cudaGetLastError behind it: that would also give an error which an earlier call of the caller's
 * program left. An error that has ended the context is given here too: nothing runs after it. A failure of
 * the launch itself stays the last error, as after any call of the runtime.
 */
template <typename A>
static cudaError_t launch_kernel(void (*kernel)(A), unsigned n_blocks, unsigned n_threads,
                                 size_t shared_bytes, cudaStream_t stream, const A &args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(n_blocks);
    config.blockDim = dim3(n_threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, args);
}

#endif
