/*
 * keys_gpu.c - a case's image on the GPU and back.
 *
 * Place: tests. The device copy begins at a multiple of 256 bytes at least, as the image does, so that every tensor has
 * the alignment that the case gave it. The benchmark is in keys_gpu_bench.c.
 */
#include "keys_gpu.h"

#include <stdio.h>

#include "base/error.h"
#include "gpu_runtime.h"

static const dsv4_gpu_runtime *gpu;

dsv4_status keys_gpu_find(int32_t backend, dsv4_error *error)
{
    return dsv4_gpu_runtime_find(backend, &gpu, error);
}

bool keys_gpu_run(const keys_case *c, uint8_t *image, char text[KEYS_TEXT_BYTES])
{
    static void *memory; /* of the largest case so far, never given back */
    static size_t memory_bytes;
    dsv4_error error = {.status = DSV4_OK};
    int status = 0;
    if (memory_bytes < c->used_bytes) {
        if (memory != NULL) (void)gpu->release(memory);
        memory_bytes = c->capacity_bytes;
        status = gpu->alloc(&memory, memory_bytes);
    }
    if (status == 0) status = gpu->put(memory, c->image, c->used_bytes);
    if (status == 0) {
        (void)keys_case_call(c, memory, gpu->backend, NULL, &error);
        status = gpu->wait();
    }
    if (status == 0) status = gpu->get(image, memory, c->used_bytes);
    if (status != 0 || error.status != DSV4_OK) {
        (void)snprintf(text, KEYS_TEXT_BYTES, "%.200s",
                       error.status != DSV4_OK ? error.text : gpu->error_text(status));
        return false;
    }
    return true;
}
