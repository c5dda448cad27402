/*
 * keys_gpu.c - a case's image on the GPU and back.
 *
 * Place: tests. The device copy begins at a multiple of 4096 bytes as the image does, so that every tensor has the
 * alignment that the case gave it. The benchmark is in keys_gpu_bench.c.
 */
#include "keys_gpu.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

#include "base/error.h"

dsv4_status keys_gpu_find(dsv4_error *error)
{
    int n_devices = 0;
    cudaError_t status = cudaGetDeviceCount(&n_devices);
    if (status == cudaSuccess && n_devices > 0) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "no CUDA device: %s",
                          cudaGetErrorString(status));
}

bool keys_gpu_run(const keys_case *c, uint8_t *image, char text[KEYS_TEXT_BYTES])
{
    static void *memory; /* of the largest case so far, never given back */
    static size_t memory_bytes;
    dsv4_error error = {.status = DSV4_OK};
    cudaError_t status = cudaSuccess;
    if (memory_bytes < c->used_bytes) {
        if (memory != NULL) (void)cudaFree(memory);
        memory_bytes = c->capacity_bytes;
        status = cudaMalloc(&memory, memory_bytes);
    }
    if (status == cudaSuccess) {
        status = cudaMemcpy(memory, c->image, c->used_bytes, cudaMemcpyHostToDevice);
    }
    if (status == cudaSuccess) {
        (void)keys_case_call(c, memory, DSV4_BACKEND_CUDA, NULL, &error);
        status = cudaDeviceSynchronize();
    }
    if (status == cudaSuccess) {
        status = cudaMemcpy(image, memory, c->used_bytes, cudaMemcpyDeviceToHost);
    }
    if (status != cudaSuccess || error.status != DSV4_OK) {
        (void)snprintf(text, KEYS_TEXT_BYTES, "%.200s",
                       error.status != DSV4_OK ? error.text : cudaGetErrorString(status));
        return false;
    }
    return true;
}
