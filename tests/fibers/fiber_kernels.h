/*
 * fiber_kernels.h - src/gpu's kernels, compiled for fibers, by name.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_FIBER_KERNELS_H
#define DSV4_TESTS_FIBER_KERNELS_H

#include "fiber_run.h"

/*
 * A kernel of gpu/code_objects.h, or one that NVIDIA's devices alone have, for waves of 64 threads; those without matrix
 * products for 32, too, as NVIDIA's have them. NULL: there is none of that name.
 */
const fiber_kernel *fiber_kernel_find(const char *name, int wave_threads);

#endif
