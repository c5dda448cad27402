/*
 * fiber_kernels.h - src/gpu's kernels, compiled for fibers, by name.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_FIBER_KERNELS_H
#define DSV4_TESTS_FIBER_KERNELS_H

/* What fiber_run takes; args: the kernel's struct. */
typedef void fiber_kernel(const void *args);

/* A kernel of gpu/code_objects.h; NULL: there is none of that name. */
fiber_kernel *fiber_kernel_find(const char *name);

#endif
