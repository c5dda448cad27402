/*
 * fiber_run.c - fibers in the place of a GPU's threads.
 *
 * Place: tests. A fiber has a stack of its own and gives control back where its wave or its block has to meet.
 */
#include "fiber_run.h"

#include <stdio.h>
#include <stdlib.h>

#include "fiber_switch.h"
#include "gpu/gpu.h"

enum {
    MAX_BLOCK_THREADS = 1024,
    MAX_CLUSTER_BLOCKS = 8,
    MAX_THREADS = 2048, /* of a cluster, too */
    LEAST_WAVE = 32,
    MOST_WAVE = 64,
    STACK_BYTES = 1 << 17,
    MAX_COPIES = 64,
    MAX_STORES = 64,
    NO_THREAD = -1,
    GUARD_BYTES = 256,
    GUARD_BYTE = 0xc9
};

typedef enum fiber_state { READY, AT_EXCHANGE, AT_BARRIER, AT_CLUSTER_BARRIER, ENDED } fiber_state;

typedef struct pending_copy {
    void *to;
    const void *from;
    size_t n_bytes;
} pending_copy;

typedef struct pending_store {
    void *to;
    unsigned char value[8];
    size_t n_bytes;
} pending_store;

typedef struct fiber {
    void *stack_top; /* saved stack pointer */
    unsigned char *stack;
    fiber_state state;
    const char *what; /* of the exchange it waits in */
    uint64_t n_exchanges;
    int n_copies;
    pending_copy copies[MAX_COPIES]; /* the oldest first */
    int n_stores;
    pending_store stores[MAX_STORES];
} fiber;

static fiber fibers[MAX_THREADS]; /* of the cluster's blocks, one after the other */
static void *runner_top;
static int current;
static int storing_thread,
    counting_thread; /* since the block's last barrier: one that has stored, that has counted */
static const fiber_kernel *current_kernel;
static const void *current_args;
static int n_block_threads;
static bool downwards_now;
static unsigned char exchanged[MAX_BLOCK_THREADS / LEAST_WAVE][2][MOST_WAVE]
                              [FIBER_MAX_EXCHANGE_BYTES];

/* Shared memory of files of clusters, which the linker gathers, and what blocks of the cluster have there. */
extern unsigned char __start_fiber_clusters[] __attribute__((visibility("hidden")));
extern unsigned char __stop_fiber_clusters[] __attribute__((visibility("hidden")));
static unsigned char *images[MAX_CLUSTER_BLOCKS];
static int block_in_cluster;

fiber_place fiber_here;
uint64_t fiber_exchange_number;
bool fiber_copies_at_once;

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
    current_kernel->run(current_args);
    if (fibers[current].n_copies != 0) fail("ends while copies are on their way", "");
    fiber_wait_stores();
    give_back(ENDED);
}

void fiber_barrier(void)
{
    give_back(AT_BARRIER);
}

void fiber_cluster_barrier(void)
{
    give_back(AT_CLUSTER_BARRIER);
}

static fiber *fibers_of(int block)
{
    return &fibers[block * n_block_threads];
}

const void *fiber_of_block(const void *own, int block)
{
    if (block < 0 || block >= current_kernel->cluster_blocks)
        fail("no such block in the cluster", "");
    if (block == block_in_cluster) return own;
    if (fibers_of(block)->state == ENDED) fail("reads memory of a block that has ended", "");
    const uintptr_t offset = (uintptr_t)own - (uintptr_t)__start_fiber_clusters;
    return images[block] + offset;
}

const unsigned char *fiber_exchange(const char *what, const void *own, size_t n_bytes)
{
    fiber *f = &fibers[current];
    const int n_lanes = current_kernel->wave_threads;
    const int wave = fiber_here.thread / n_lanes, lane = fiber_here.thread % n_lanes;
    unsigned char(*all)[FIBER_MAX_EXCHANGE_BYTES] = exchanged[wave][f->n_exchanges++ % 2];
    if (n_bytes > 0) memcpy(all[lane], own, n_bytes);
    f->what = what;
    give_back(AT_EXCHANGE);
    return all[0];
}

void fiber_copy_later(void *to, const void *from, size_t n_bytes)
{
    fiber *f = &fibers[current];
    if (f->n_copies == MAX_COPIES) fail("too many copies on their way", "");
    if (fiber_copies_at_once && n_bytes > 0) memcpy(to, from, n_bytes);
    f->copies[f->n_copies++] = (pending_copy){to, from, fiber_copies_at_once ? 0 : n_bytes};
}

void fiber_wait_copies(int most)
{
    fiber *f = &fibers[current];
    const int n_done = f->n_copies > most ? f->n_copies - most : 0;
    for (int i = 0; i < n_done; i++) {
        if (f->copies[i].n_bytes > 0)
            memcpy(f->copies[i].to, f->copies[i].from, f->copies[i].n_bytes);
    }
    f->n_copies -= n_done;
    memmove(f->copies, f->copies + n_done, (size_t)f->n_copies * sizeof f->copies[0]);
}

void fiber_store_device(void *to, const void *from, size_t n_bytes)
{
    fiber *f = &fibers[current];
    if (f->n_stores == MAX_STORES) fail("too many stores on their way", "");
    if (counting_thread != NO_THREAD && counting_thread != current)
        fail("stores for other blocks while another thread counts", "");
    pending_store *s = &f->stores[f->n_stores++];
    *s = (pending_store){.to = to, .n_bytes = n_bytes};
    memcpy(s->value, from, n_bytes);
    storing_thread = current;
}

void fiber_wait_stores(void)
{
    fiber *f = &fibers[current];
    for (int i = 0; i < f->n_stores; i++)
        memcpy(f->stores[i].to, f->stores[i].value, f->stores[i].n_bytes);
    f->n_stores = 0;
}

void fiber_count(void)
{
    if (storing_thread != NO_THREAD && storing_thread != current)
        fail("counts while another thread stores for other blocks", "");
    for (int i = 0; i < n_block_threads; i++) {
        if (fibers_of(block_in_cluster)[i].n_stores != 0)
            fail("counts while stores are on their way", "");
    }
    counting_thread = current;
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
    f->n_stores = 0;
}

static void resume(fiber *f)
{
    current = (int)(f - fibers);
    fiber_here.thread = current % n_block_threads;
    fiber_switch(&runner_top, f->stack_top);
}

/* Up to a barrier or its end. */
static void run_wave(fiber *lanes)
{
    const int n_lanes = current_kernel->wave_threads;
    for (;;) {
        for (int i = 0; i < n_lanes; i++) resume(&lanes[i]);
        for (int i = 1; i < n_lanes; i++) {
            if (lanes[i].state != lanes[0].state) fail("lanes of a wave part", "");
            if (lanes[i].state == AT_EXCHANGE && lanes[i].what != lanes[0].what &&
                strcmp(lanes[i].what, lanes[0].what) != 0)
                fail("lanes meet in other calls than ", lanes[0].what);
        }
        if (lanes[0].state != AT_EXCHANGE) return;
        fiber_exchange_number++;
    }
}

/* A stack that was too small has run into its guard. */
static void check_stack(const fiber *f)
{
    /* every byte is the one before it */
    if (f->stack[0] != GUARD_BYTE || memcmp(f->stack, f->stack + 1, GUARD_BYTES - 1) != 0)
        fail("a stack is full", "");
}

/* Up to a cluster barrier or its end, with its own shared memory where blocks share a cluster. */
static void run_block(int block)
{
    const size_t n_bytes = (size_t)(__stop_fiber_clusters - __start_fiber_clusters);
    const int n_waves = n_block_threads / current_kernel->wave_threads;
    fiber *own = fibers_of(block);
    block_in_cluster = block;
    if (current_kernel->cluster_blocks > 1) memcpy(__start_fiber_clusters, images[block], n_bytes);
    do {
        storing_thread = counting_thread = NO_THREAD;
        for (int i = 0; i < n_waves; i++)
            run_wave(&own[(downwards_now ? n_waves - 1 - i : i) * current_kernel->wave_threads]);
        for (int i = 1; i < n_waves; i++) {
            if (own[i * current_kernel->wave_threads].state != own[0].state)
                fail("waves of a block part", "");
        }
    } while (own[0].state == AT_BARRIER);
    if (current_kernel->cluster_blocks > 1) memcpy(images[block], __start_fiber_clusters, n_bytes);
}

/* Shared memory begins as anything. */
static void begin_cluster(void)
{
    const size_t n_bytes = (size_t)(__stop_fiber_clusters - __start_fiber_clusters);
    const int n_blocks = current_kernel->cluster_blocks;
    for (int i = 0; i < n_blocks * n_block_threads; i++) begin_fiber(&fibers[i]);
    for (int i = 0; i < n_blocks && n_blocks > 1; i++) {
        if (images[i] == NULL) images[i] = malloc(n_bytes);
        if (images[i] == NULL) fail("no memory for clusters", "");
        memset(images[i], GUARD_BYTE, n_bytes);
    }
}

static void run_cluster(int first_block)
{
    const int n_blocks = current_kernel->cluster_blocks;
    begin_cluster();
    do {
        for (int i = 0; i < n_blocks; i++) {
            const int block = downwards_now ? n_blocks - 1 - i : i;
            fiber_here.block = first_block + block;
            run_block(block);
        }
        for (int i = 1; i < n_blocks; i++) {
            if (fibers_of(i)->state != fibers[0].state) fail("blocks of a cluster part", "");
        }
    } while (fibers[0].state != ENDED);
    for (int i = 0; i < n_blocks * n_block_threads; i++) check_stack(&fibers[i]);
}

void fiber_run(const fiber_kernel *kernel, const void *args, int n_blocks, int n_threads,
               bool downwards)
{
    const int n_clusters = n_blocks / kernel->cluster_blocks;
    current_kernel = kernel;
    current_args = args;
    n_block_threads = n_threads;
    fiber_here.n_blocks = n_blocks;
    if (n_threads > MAX_BLOCK_THREADS || n_threads * kernel->cluster_blocks > MAX_THREADS)
        fail("too many threads", "");
    for (int i = 0; i < n_clusters; i++) {
        downwards_now = downwards != (i % 2 == 1);
        run_cluster((downwards ? n_clusters - 1 - i : i) * kernel->cluster_blocks);
    }
}
