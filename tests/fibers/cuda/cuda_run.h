/*
 * cuda_run.h - runs a kernel of src/cuda on fibers: all thread blocks of a launch at once, on one thread of the CPU.
 *
 * Place: tests. A fiber gives control back where it has to wait: for lanes of its warp, at barriers, for matrix
 * products. Two orders of things that a device does in its own time: EAGER, copies and products happen where they are
 * asked for; LAZY, where they are waited for. Sums that a product in flight will change are NaN until then.
 *
 * Ends the program with status 3 and a line on stderr when a device would hang, or go wrong in its own time:
 *
 *   nothing goes on any more (a line for each kind of wait); a thread ends with copies or products in flight
 *   matrix units read what was stored (by store_*) without a fence for them, or what is overwritten while they may read it
 *   a product is asked for without a fence since the thread last waited for products, and may have touched registers
 *   sums are touched while products add to them; warps of a warpgroup ask for different products
 *   an mbarrier is two phases ahead of a thread that waits for it, or goes on past it (a thread waits for phases in their
 *   order); a thread arrives twice in a phase
 *   a copy begins at memory that is not aligned to its size; a bulk copy to the second-level cache, or its size, to 16
 *   threads meet at a named barrier with different counts; lanes of a warp in exchanges of different sizes
 *
 * Lanes run ahead of each other between the instructions in which a warp meets.
 */
#ifndef DSV4_TESTS_CUDA_RUN_H
#define DSV4_TESTS_CUDA_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CUDA_RUN_EXCHANGE_BYTES = 32,
    CUDA_RUN_FIRST_ADDRESS = 1024, /* of dynamic shared memory, as on a device */
};

struct cuda_run_index {
    uint32_t x;
};

/* Of the fiber that runs. */
extern cuda_run_index threadIdx, blockIdx, blockDim, gridDim;

/* Of the launches to come. seed: order of warps, and which of them are slow: run only when no other can go on. */
extern "C" void cuda_run_set(bool is_lazy, uint64_t seed);

void cuda_run(void (*kernel)(const void *args), const void *args, int n_blocks, int n_threads,
              size_t shared_bytes);

/* Of a warp: every lane's value, CUDA_RUN_EXCHANGE_BYTES apart, valid until the lane's next exchange. */
const unsigned char *cuda_run_exchange(const void *own, size_t n_bytes);

/* Of n_threads threads of the block: true if any of them said so. */
bool cuda_run_barrier(int id, int n_threads, bool said);

int64_t cuda_run_clock(void);
void cuda_run_yield(void);

/* ---- shared memory ---- */

unsigned char *cuda_run_shared(void);
uint32_t cuda_run_address(const void *pointer);
unsigned char *cuda_run_pointer(uint32_t address, size_t n_bytes);

/* Global memory, asked for ahead by a bulk copy: its address and size, and that its ends are memory. */
void cuda_run_prefetch(const void *pointer, size_t n_bytes);

/* Stored by this thread in the ordinary way; matrix units may read it behind cuda_run_fence. */
void cuda_run_stored(uint32_t address, size_t n_bytes);
void cuda_run_fence(void);

void cuda_run_barrier_init(uint32_t address, uint32_t n_arrivals);
void cuda_run_barrier_arrive(uint32_t address);
void cuda_run_barrier_wait(uint32_t address, uint32_t parity);

void cuda_run_copy(uint32_t to, const void *from, size_t n_bytes);
void cuda_run_copy_commit(void);
void cuda_run_copy_wait(size_t most);
/* An arrival at an mbarrier of its own, when the thread's copies so far are done. */
void cuda_run_copy_arrive(uint32_t barrier);

/* ---- matrix products of a warpgroup ---- */

struct cuda_run_product {
    int n;     /* columns */
    bool adds; /* or else the sums begin with it */
    bool a_in_registers, a_is_transposed, b_is_transposed;
    uint64_t a, b; /* descriptors (wgmma.cuh) */
    uint32_t a_registers[4];
};

/* But for registers. */
inline bool are_alike(const cuda_run_product &x, const cuda_run_product &y)
{
    return x.a == y.a && x.b == y.b && x.n == y.n && x.adds == y.adds &&
           x.a_in_registers == y.a_in_registers && x.a_is_transposed == y.a_is_transposed &&
           x.b_is_transposed == y.b_is_transposed;
}

/* d: n / 2 sums of the thread. */
void cuda_run_multiply(const cuda_run_product &product, float *d);
void cuda_run_multiply_fence(void);
void cuda_run_multiply_commit(void);
void cuda_run_multiply_wait(size_t most);

#endif
