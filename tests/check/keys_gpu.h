/*
 * keys_gpu.h - a case on the GPU, and the GPU's benchmark.
 *
 * Place: tests. The benchmark is CUDA's; keys_gpu_none.c stands for it in builds without.
 */
#ifndef DSV4_TESTS_KEYS_GPU_H
#define DSV4_TESTS_KEYS_GPU_H

#include "keys_case.h"

/* The device that keys_gpu_run takes, CUDA's or HIP's. Errors: UNSUPPORTED. */
dsv4_status keys_gpu_find(int32_t backend, dsv4_error *error);

/* Computes the case on a copy of its image in device memory, and copies that to image [used_bytes]. */
bool keys_gpu_run(const keys_case *c, uint8_t *image, char text[KEYS_TEXT_BYTES]);

/* Prints times at the shapes of V4 Flash and Pro. Returns the exit status. */
int keys_gpu_bench(void);

#endif
