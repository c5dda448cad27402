/*
 * fiber_run.h - runs a kernel that was compiled with gpu/gpu_fibers.h.
 *
 * Place: tests. A block's threads are fibers of the calling thread; one wave runs up to a barrier before the next one
 * starts, so that a barrier that is missing shows in every run with an order of waves in which reader comes first.
 * Orders alternate by block: upwards, downwards. Blocks run one after the other, too. Ends the program when lanes of a wave
 * or waves of a block do not meet, and when a thread ends while copies are on their way.
 */
#ifndef DSV4_TESTS_FIBER_RUN_H
#define DSV4_TESTS_FIBER_RUN_H

#include <stdbool.h>

/* kernel(args), in n_blocks blocks of n_threads; downwards: the last block first, and in it the last wave. */
void fiber_run(void (*kernel)(const void *args), const void *args, int n_blocks, int n_threads,
               bool downwards);

/* The same with a kernel that was compiled for waves of so many threads. */
void fiber_run_waves(void (*kernel)(const void *args), const void *args, int n_blocks,
                     int n_threads, bool downwards, int n_wave_threads);

#endif
