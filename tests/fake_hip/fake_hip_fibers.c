/*
 * fake_hip_fibers.c - the stand-in for AMD's runtime with kernels: a launch runs src/gpu's own, compiled for fibers
 * (tests/fibers), on the memory that the "device" shares with the host.
 *
 * Place: tests. With few compute units, since every thread of every block is a fiber, but more than one so that lists
 * are cut.
 */
#include "fake_hip_state.h"

#include "fibers/fiber_kernels.h"
#include "fibers/fiber_run.h"

static bool run(const char *kernel, const void *args, int n_blocks, int n_threads)
{
    static bool downwards;
    const fiber_kernel *found = fiber_kernel_find(kernel, 64);
    if (found == NULL) return false;
    fiber_run(found, args, n_blocks, n_threads, downwards);
    /* waves in another order each time, copies early or late: bits must not depend on it */
    downwards = !downwards;
    fiber_copies_at_once = downwards;
    return true;
}

fake_hip_runner *const fake_hip_default_runner = run;
const int fake_hip_default_units = 8;
