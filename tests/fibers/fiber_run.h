/*
 * fiber_run.h - runs a kernel that was compiled with gpu/gpu_fibers.h.
 *
 * Place: tests. A block's threads are fibers of the calling thread; one wave runs up to a barrier before the next one
 * starts, so that a barrier that is missing shows in every run with an order of waves in which reader comes first.
 * Orders alternate by block: upwards, downwards. Blocks run one after the other, too; those of a cluster up to a cluster
 * barrier. Ends the program when lanes of a wave, waves of a block or blocks of a cluster do not meet, when a thread ends
 * while copies are on their way, and when a block's shared memory is read after its end.
 */
#ifndef DSV4_TESTS_FIBER_RUN_H
#define DSV4_TESTS_FIBER_RUN_H

#include <stdbool.h>

/* A kernel, compiled for waves of that many threads, and the blocks of its clusters; 1: it knows of none. */
typedef struct fiber_kernel {
    void (*run)(const void *args); /* args: the kernel's struct */
    int wave_threads, cluster_blocks;
} fiber_kernel;

/*
 * When copies that a kernel will wait for happen: false, at the wait, so that one which is waited for too late is missing;
 * true, when they are asked for, so that one which is asked for too early is in the way.
 */
extern bool fiber_copies_at_once;

/* In n_blocks blocks of n_threads, whole clusters; downwards: the last block first, and in it the last wave. */
void fiber_run(const fiber_kernel *kernel, const void *args, int n_blocks, int n_threads,
               bool downwards);

#endif
