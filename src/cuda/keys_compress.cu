/*
 * keys_compress.cu - launches dsv4_keys_compress's kernels.
 *
 * Place: cuda. The kernels are src/gpu's.
 */
#include "keys_launch.h"
#include "launch.cuh"

#include "gpu/keys_compress_kernel.c"

enum { MAX_CLUSTER_TOKENS = 1024 /* with more there is work enough for one block each */ };

static cudaError_t launch_clusters(const keys_compress_args *args, cudaStream_t stream)
{
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = KEYS_CLUSTER_BLOCKS;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(args->n_tokens * KEYS_CLUSTER_BLOCKS));
    config.blockDim = dim3(KEYS_CLUSTER_THREADS);
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, dsv4_keys_compress_128_cluster_gpu, *args);
}

static cudaError_t launch_128(const keys_compress_args *args, cudaStream_t stream)
{
    const int shared_bytes = LONG_RUNS * LONG_LANES * (int)sizeof(run_sums);
    const cudaError_t status = cudaFuncSetAttribute(
        dsv4_keys_compress_128_gpu, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (status != cudaSuccess) return status;
    return launch_kernel(dsv4_keys_compress_128_gpu, (unsigned)args->n_tokens,
                         KEYS_COMPRESS_128_THREADS, shared_bytes, stream, *args);
}

cudaError_t dsv4_keys_compress_launch(const keys_compress_args *args, int ratio, int has_clusters,
                                      cudaStream_t stream)
{
    if (ratio == 4) {
        return launch_kernel(dsv4_keys_compress_4_gpu, (unsigned)args->n_tokens,
                             KEYS_COMPRESS_4_THREADS, 0, stream, *args);
    }
    if (has_clusters && args->n_tokens <= MAX_CLUSTER_TOKENS) return launch_clusters(args, stream);
    return launch_128(args, stream);
}
