/*
 * fiber_run.c - fibers in the place of a GPU's threads.
 *
 * Place: tests. A fiber has a stack of its own and gives control back where its wave or its block has to meet. Switching
 * saves what the x86-64 calling convention preserves, and nothing else: setcontext would call the kernel twice.
 */
#include "fiber_run.h"

#include <stdio.h>
#include <stdlib.h>

#include "gpu/gpu.h"

enum {
    MAX_THREADS = 1024,
    STACK_BYTES = 1 << 17,
    MAX_COPIES = 64,
    GUARD_BYTES = 256,
    GUARD_BYTE = 0xc9
};

typedef enum fiber_state { READY, AT_EXCHANGE, AT_BARRIER, ENDED } fiber_state;

typedef struct pending_copy {
    void *to;
    const void *from;
    size_t n_bytes;
} pending_copy;

typedef struct fiber {
    void *stack_top; /* saved stack pointer */
    unsigned char *stack;
    fiber_state state;
    const char *what; /* of the exchange it waits in */
    uint64_t n_exchanges;
    int n_copies;
    pending_copy copies[MAX_COPIES]; /* the oldest first */
} fiber;

static fiber fibers[MAX_THREADS];
static void *runner_top;
static int current;
static void (*current_kernel)(const void *args);
static const void *current_args;
static int wave_threads; /* of the kernel that runs */
static unsigned char exchanged[2][MAX_THREADS][FIBER_MAX_EXCHANGE_BYTES];

fiber_place fiber_here;
uint64_t fiber_exchange_number;

/* Saves the caller's registers and stack pointer in *from and goes on where `to` was saved. */
void fiber_switch(void **from, void *to);
__asm__(".text\n.globl fiber_switch\n.hidden fiber_switch\n.type fiber_switch, @function\n"
        "fiber_switch:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\n"
        "ret\n.size fiber_switch, .-fiber_switch\n");

static _Noreturn void fail(const char *text, const char *detail)
{
    fprintf(stderr, "fibers: block %d thread %d: %s%s\n", fiber_here.block, fiber_here.thread, text,
            detail);
    exit(3);
}

static void give_back(fiber_state state)
{
    fibers[current].state = state;
    fiber_switch(&fibers[current].stack_top, runner_top);
}

static void run_kernel(void)
{
    current_kernel(current_args);
    if (fibers[current].n_copies != 0) fail("ends while copies are on their way", "");
    give_back(ENDED);
}

void fiber_barrier(void)
{
    give_back(AT_BARRIER);
}

const unsigned char *fiber_exchange(const char *what, const void *own, size_t n_bytes)
{
    fiber *f = &fibers[current];
    unsigned char(*all)[FIBER_MAX_EXCHANGE_BYTES] = exchanged[f->n_exchanges++ % 2];
    if (n_bytes > 0) memcpy(all[current], own, n_bytes);
    f->what = what;
    give_back(AT_EXCHANGE);
    return all[current / wave_threads * wave_threads];
}

void fiber_copy_later(void *to, const void *from, size_t n_bytes)
{
    fiber *f = &fibers[current];
    if (f->n_copies == MAX_COPIES) fail("too many copies on their way", "");
    f->copies[f->n_copies++] = (pending_copy){to, from, n_bytes};
}

void fiber_wait_copies(int most)
{
    fiber *f = &fibers[current];
    const int n_done = f->n_copies > most ? f->n_copies - most : 0;
    for (int i = 0; i < n_done; i++)
        memcpy(f->copies[i].to, f->copies[i].from, f->copies[i].n_bytes);
    f->n_copies -= n_done;
    memmove(f->copies, f->copies + n_done, (size_t)f->n_copies * sizeof f->copies[0]);
}

static void begin_fiber(fiber *f)
{
    if (f->stack == NULL) f->stack = aligned_alloc(GUARD_BYTES, STACK_BYTES);
    if (f->stack == NULL) fail("no memory for stacks", "");
    memset(f->stack, GUARD_BYTE, GUARD_BYTES);
    void **top = (void **)(void *)(f->stack + STACK_BYTES);
    *--top = NULL; /* where run_kernel would return to: keeps its stack aligned as behind a call */
    *--top = (void *)(uintptr_t)&run_kernel;
    for (int i = 0; i < 6; i++) *--top = NULL;
    f->stack_top = top;
    f->state = READY;
    f->n_exchanges = 0;
    f->n_copies = 0;
}

static void resume(int thread)
{
    current = thread;
    fiber_here.thread = thread;
    fiber_switch(&runner_top, fibers[thread].stack_top);
}

/* Up to a barrier or its end. */
static void run_wave(int wave)
{
    fiber *lanes = &fibers[wave * wave_threads];
    for (;;) {
        for (int i = 0; i < wave_threads; i++) resume(wave * wave_threads + i);
        for (int i = 1; i < wave_threads; i++) {
            if (lanes[i].state != lanes[0].state) fail("lanes of a wave part", "");
            if (lanes[i].state == AT_EXCHANGE && strcmp(lanes[i].what, lanes[0].what) != 0)
                fail("lanes meet in other calls than ", lanes[0].what);
        }
        if (lanes[0].state != AT_EXCHANGE) return;
        fiber_exchange_number++;
    }
}

/* A stack that was too small has run into its guard. */
static void check_stack(const fiber *f)
{
    for (int i = 0; i < GUARD_BYTES; i++) {
        if (f->stack[i] != GUARD_BYTE) fail("a stack is full", "");
    }
}

static void run_block(int n_waves, bool downwards)
{
    for (int i = 0; i < n_waves * wave_threads; i++) begin_fiber(&fibers[i]);
    for (;;) {
        for (int i = 0; i < n_waves; i++) run_wave(downwards ? n_waves - 1 - i : i);
        for (int i = 1; i < n_waves; i++) {
            if (fibers[i * wave_threads].state != fibers[0].state)
                fail("waves of a block part", "");
        }
        if (fibers[0].state == ENDED) break;
    }
    for (int i = 0; i < n_waves * wave_threads; i++) check_stack(&fibers[i]);
}

void fiber_run_waves(void (*kernel)(const void *args), const void *args, int n_blocks,
                     int n_threads, bool downwards, int n_wave_threads)
{
    current_kernel = kernel;
    current_args = args;
    wave_threads = n_wave_threads;
    fiber_here.n_blocks = n_blocks;
    for (int i = 0; i < n_blocks; i++) {
        fiber_here.block = downwards ? n_blocks - 1 - i : i;
        run_block(n_threads / wave_threads, downwards != (i % 2 == 1));
    }
}

void fiber_run(void (*kernel)(const void *args), const void *args, int n_blocks, int n_threads,
               bool downwards)
{
    fiber_run_waves(kernel, args, n_blocks, n_threads, downwards, GPU_WAVE);
}
