/*
 * cuda_run.cpp - fibers in the place of an NVIDIA GPU's threads.
 *
 * Place: tests. Invariant: a fiber that is not READY has said what it waits for, and runs again only when that is there.
 * Stacks stay from launch to launch; the lowest page of each is a guard.
 */
#include "cuda_run.h"

#include "../fiber_switch.h"

#include <algorithm>
#include <deque>
#include <map>
#include <math.h>
#include <memory>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

enum {
    WARP = 32,
    WARPGROUP = 128,
    STACK_BYTES = 1 << 17,
    GUARD_BYTES = 1 << 12,
    N_NAMED = 16,
    CLOCK_STEP = 1 << 14,
    SLOW_TURNS = 24, /* that the same warps are slow */
    PRODUCT_M = 64,
    PRODUCT_K = 16,
    PRODUCT_MAX_N = 256,
    POISON = 0x7fbadbad,
};

namespace
{

enum wait_kind { READY, LATER, EXCHANGE, NAMED, BARRIER, PRODUCTS, ENDED };
const char *const wait_names[] = {"ready",           "others to go on", "lanes of its warp",
                                  "a named barrier", "an mbarrier",     "other warps' products",
                                  "nothing"};

struct pending_copy {
    uint32_t to;
    const void *from;
    size_t n_bytes;
    uint64_t number; /* of the thread's copies */
};

/* An arrival at an mbarrier that comes when the thread's first n_copies copies are done. */
struct late_arrival {
    uint32_t address;
    uint64_t n_copies;
};

/* Sums that products in flight will change. */
struct accumulator {
    float *d;
    std::vector<float> kept;
    int n_pending;
};

struct product {
    cuda_run_product what;
    int n_threads = 0;
    bool is_done = false;
    uint64_t operands; /* a number made of what lay in shared memory when it was asked for */
    std::shared_ptr<accumulator> sums[WARPGROUP];
    uint32_t a_registers[WARPGROUP][4];
};

/* What a thread had to do with an mbarrier: phases, counted from 0. */
struct barrier_use {
    bool has_waited = false;
    int64_t waited, arrived = -1;
};

struct fiber {
    void *top;
    int block, thread;
    wait_kind waits;
    uint64_t target;  /* of what it waits for */
    uint32_t address; /* or number */
    uint64_t n_exchanges;
    std::map<uint32_t, barrier_use> uses;         /* of mbarriers, by their addresses */
    std::deque<std::vector<pending_copy>> copies; /* committed groups */
    std::vector<pending_copy> copies_open;
    uint64_t n_copies, n_copied;
    std::deque<late_arrival> late;
    std::vector<std::pair<uint32_t, size_t>> stored; /* not fenced */
    std::vector<std::shared_ptr<accumulator>> sums;
    std::deque<uint64_t> product_groups; /* products before the end of each group in flight */
    uint64_t n_products;
    bool has_product_fence; /* since it last waited for products */
};

struct warp {
    uint64_t n_arrived = 0;
    size_t n_bytes; /* of the exchange that some lanes have come to */
    unsigned char slots[2][WARP][CUDA_RUN_EXCHANGE_BYTES];
};

struct memory_barrier {
    uint32_t expected, pending;
    int64_t phase; /* so many have ended */
};

struct named {
    int n_threads = 0, n_arrived = 0; /* of the threads that meet now */
    uint64_t n_met = 0;
    bool said[2] = {};
};

struct block {
    unsigned char *shared;
    std::vector<uint16_t> writers; /* of bytes that matrix units may not read yet: thread + 1 */
    std::vector<warp> warps;
    std::map<uint32_t, memory_barrier> barriers;
    named names[N_NAMED];
    std::vector<std::deque<product>> products; /* of each warpgroup */
    std::vector<uint64_t> n_gone;              /* products that were taken out in front */
};

bool runs_lazily;
uint64_t order_seed;
unsigned char *stacks;
size_t n_stacks;
std::vector<fiber> fibers;
std::vector<block> blocks;
size_t shared_bytes;
fiber *current;
void *runner_top;
int64_t now;
void (*current_kernel)(const void *);
const void *current_args;

/* Not by exit: what is on the stacks of fibers stays there. */
[[noreturn]] void end_program(void)
{
    fflush(NULL);
    _exit(3);
}

[[noreturn]] void fail(const char *text)
{
    fprintf(stderr, "cuda on fibers: block %d thread %d: %s\n", current->block, current->thread,
            text);
    end_program();
}

block &own_block(void)
{
    return blocks[(size_t)current->block];
}

bool is_ready(const fiber &f)
{
    const block &b = blocks[(size_t)f.block];
    switch (f.waits) {
    case READY:
    case LATER: return true;
    case EXCHANGE: return b.warps[(size_t)f.thread / WARP].n_arrived >= f.target;
    case NAMED: return b.names[f.address].n_met >= f.target;
    case BARRIER: return (uint64_t)(b.barriers.at(f.address).phase & 1) != f.target;
    case PRODUCTS: {
        const size_t group = (size_t)f.thread / WARPGROUP;
        for (uint64_t i = b.n_gone[group]; i < f.target; i++) {
            const size_t at = (size_t)(i - b.n_gone[group]);
            if (at >= b.products[group].size() || b.products[group][at].n_threads < WARPGROUP)
                return false;
        }
        return true;
    }
    default: return false;
    }
}

/* Returns when is_ready; at once if it is, but for READY and LATER: others go on first. */
void wait_for(wait_kind kind, uint64_t target, uint32_t address)
{
    current->waits = kind;
    current->target = target;
    current->address = address;
    if (kind != READY && kind != LATER && is_ready(*current)) {
        current->waits = READY;
        return;
    }
    fiber_switch(&current->top, runner_top);
    current->waits = READY;
}

void run_fiber(void)
{
    current_kernel(current_args);
    bool has_copies = !current->copies_open.empty() || !current->late.empty();
    for (const auto &group : current->copies) has_copies |= !group.empty();
    if (has_copies) fail("ends while copies are on their way");
    if (!current->sums.empty()) fail("ends while products are in flight");
    current->waits = ENDED;
    fiber_switch(&current->top, runner_top);
}

void resume(fiber &f)
{
    current = &f;
    threadIdx.x = (uint32_t)f.thread;
    blockIdx.x = (uint32_t)f.block;
    fiber_switch(&runner_top, f.top);
}

void begin_fiber(fiber &f, unsigned char *stack)
{
    void **top = (void **)(void *)(stack + STACK_BYTES);
    *--top = NULL;
    *--top = (void *)(uintptr_t)&run_fiber;
    for (int i = 0; i < 6; i++) *--top = NULL;
    f.top = top;
    f.waits = READY;
}

void provide_stacks(size_t n)
{
    if (n <= n_stacks) return;
    if (n_stacks > 0) (void)munmap(stacks, n_stacks * STACK_BYTES);
    n_stacks = n;
    stacks = (unsigned char *)mmap(NULL, n * STACK_BYTES, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) abort();
    for (size_t i = 0; i < n; i++)
        if (mprotect(stacks + i * STACK_BYTES, GUARD_BYTES, PROT_NONE) != 0) abort();
}

void begin_block(block &b, int n_threads)
{
    b.shared = (unsigned char *)aligned_alloc(1024, (shared_bytes + 1023) / 1024 * 1024);
    if (b.shared == NULL) abort();
    for (size_t i = 0; i < shared_bytes; i++) b.shared[i] = (unsigned char)(0xff - i % 7);
    b.writers.assign(shared_bytes, 0);
    b.warps.resize((size_t)n_threads / WARP);
    b.products.resize((size_t)n_threads / WARPGROUP + 1);
    b.n_gone.assign(b.products.size(), 0);
}

[[noreturn]] void fail_stuck(void)
{
    std::map<std::string, int> counts;
    for (const fiber &f : fibers) {
        if (f.waits == ENDED) continue;
        char text[120];
        snprintf(text, sizeof text, "block %d warp %d waits for %s %u (%llu)", f.block,
                 f.thread / WARP, wait_names[f.waits], f.address, (unsigned long long)f.target);
        counts[text]++;
    }
    fprintf(stderr, "cuda on fibers: nothing goes on:\n");
    for (const auto &line : counts)
        fprintf(stderr, "  %s: %d threads\n", line.first.c_str(), line.second);
    end_program();
}

uint64_t next_random(uint64_t &state)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

/* ---- products ---- */

/* Of element (row, k) of an operand: row counts M or N. */
uint32_t element_address(uint64_t matrix, bool is_transposed, uint32_t row, uint32_t k)
{
    const uint32_t start = (uint32_t)(matrix & 0x3fff) << 4;
    const uint32_t leading = (uint32_t)(matrix >> 16 & 0x3fff) << 4;
    const uint32_t stride = (uint32_t)(matrix >> 32 & 0x3fff) << 4;
    const uint32_t at =
        is_transposed ? start + row / 64 * leading + k / 8 * stride + k % 8 * 128 + row % 64 * 2
                      : start + row / 8 * stride + row % 8 * 128 + k * 2;
    return at ^ ((at >> 7 & 7) << 4);
}

/* The 16 bytes of eight rows, or eight k, that begin here. */
const unsigned char *find_eight(const block &b, uint64_t matrix, bool is_transposed, uint32_t row,
                                uint32_t k)
{
    static const uint16_t none[16] = {};
    const uint32_t at = element_address(matrix, is_transposed, row, k) - CUDA_RUN_FIRST_ADDRESS;
    if (at + 16 > shared_bytes) fail("a matrix outside of shared memory");
    if (memcmp(&b.writers[at], none, sizeof none) != 0) fail("a matrix was stored without a fence");
    return b.shared + at;
}

/* [n_rows][PRODUCT_K] of two bytes. */
void read_operand(const block &b, uint64_t matrix, bool is_transposed, uint32_t n_rows,
                  uint16_t (*to)[PRODUCT_K])
{
    if (!is_transposed) {
        for (uint32_t row = 0; row < n_rows; row++) {
            for (uint32_t k = 0; k < PRODUCT_K; k += 8)
                memcpy(&to[row][k], find_eight(b, matrix, false, row, k), 16);
        }
        return;
    }
    for (uint32_t k = 0; k < PRODUCT_K; k++) {
        for (uint32_t row = 0; row < n_rows; row += 8) {
            uint16_t eight[8];
            memcpy(eight, find_eight(b, matrix, true, row, k), 16);
            for (uint32_t i = 0; i < 8; i++) to[row + i][k] = eight[i];
        }
    }
}

uint64_t mix_words(uint64_t number, const uint16_t (*rows)[PRODUCT_K], size_t n_rows)
{
    for (size_t row = 0; row < n_rows; row++) {
        for (int k = 0; k < PRODUCT_K; k += 4) {
            uint64_t four;
            memcpy(&four, &rows[row][k], 8);
            number = (number ^ four) * 0x9e3779b97f4a7c15u;
            number ^= number >> 29;
        }
    }
    return number;
}

/* Both operands of a product. */
struct operand_pair {
    uint16_t a[PRODUCT_M][PRODUCT_K], b[PRODUCT_MAX_N][PRODUCT_K];
};

/* Reads what lies in shared memory. -> a number made of that */
uint64_t read_operands(const block &b, const product &p, operand_pair &pair)
{
    const size_t n = (size_t)p.what.n;
    uint64_t number = 0;
    if (!p.what.a_in_registers) {
        read_operand(b, p.what.a, p.what.a_is_transposed, PRODUCT_M, pair.a);
        number = mix_words(number, pair.a, PRODUCT_M);
    }
    read_operand(b, p.what.b, p.what.b_is_transposed, (uint32_t)n, pair.b);
    return mix_words(number, pair.b, n);
}

/* The left operand, where it is in the registers of the warpgroup. */
void gather_registers(const product &p, uint16_t (*to)[PRODUCT_K])
{
    for (uint32_t i = 0; i < PRODUCT_M; i++) {
        for (uint32_t k = 0; k < PRODUCT_K; k++) {
            const uint32_t thread = i / 16 * WARP + i % 8 * 4 + k % 8 / 2;
            const uint32_t word = p.a_registers[thread][i % 16 / 8 + 2 * (k / 8)];
            to[i][k] = (uint16_t)(word >> 16 * (k % 2));
        }
    }
}

float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

typedef float product_sums[PRODUCT_M][PRODUCT_MAX_N];

void multiply_pair(const operand_pair &pair, size_t n, product_sums &sums)
{
    static float right[PRODUCT_K][PRODUCT_MAX_N];
    for (size_t j = 0; j < n; j++) {
        for (size_t k = 0; k < PRODUCT_K; k++)
            right[k][j] = from_bits((uint32_t)pair.b[j][k] << 16);
    }
    for (size_t i = 0; i < PRODUCT_M; i++) {
        for (size_t j = 0; j < n; j++) sums[i][j] = 0.0f;
        for (size_t k = 0; k < PRODUCT_K; k++) {
            const float left = from_bits((uint32_t)pair.a[i][k] << 16);
            for (size_t j = 0; j < n; j++) sums[i][j] += left * right[k][j];
        }
    }
}

/* Adds what belongs to a thread of the warpgroup; behind the last product in flight, its registers have their sums. */
void add_sums(accumulator &a, int thread, bool adds, const product_sums &sums)
{
    const uint32_t poison = POISON;
    for (size_t i = 0; i < a.kept.size(); i++) {
        const size_t row = (size_t)(thread / WARP * 16 + thread % WARP / 4) + 8 * (i / 2 % 2);
        const float sum = sums[row][8 * (i / 4) + 2 * (size_t)(thread % 4) + i % 2];
        if (memcmp(&a.d[i], &poison, 4) != 0)
            fail("sums were touched while a product adds to them");
        a.kept[i] = adds ? a.kept[i] + sum : sum;
    }
    if (--a.n_pending == 0) memcpy(a.d, a.kept.data(), a.kept.size() * sizeof(float));
}

void finish_product(const block &b, product &p)
{
    static operand_pair pair;
    static product_sums sums;
    if (read_operands(b, p, pair) != p.operands)
        fail("a matrix was overwritten while a product reads it");
    if (p.what.a_in_registers) gather_registers(p, pair.a);
    multiply_pair(pair, (size_t)p.what.n, sums);
    for (int thread = 0; thread < WARPGROUP; thread++) {
        add_sums(*p.sums[thread], thread, p.what.adds, sums);
        p.sums[thread].reset();
    }
    p.is_done = true;
}

/* All of a warpgroup's products in front of number `end`. */
void finish_products(block &b, size_t group, uint64_t end)
{
    while (!b.products[group].empty() && b.n_gone[group] < end) {
        product &p = b.products[group].front();
        if (!p.is_done) finish_product(b, p);
        b.products[group].pop_front();
        b.n_gone[group]++;
    }
}

void drop_finished_sums(fiber &f)
{
    std::vector<std::shared_ptr<accumulator>> left;
    for (const auto &a : f.sums)
        if (a->n_pending > 0) left.push_back(a);
    f.sums.swap(left);
}

/* The thread's n sums at d, from now on poison until their products are done. */
std::shared_ptr<accumulator> take_sums(float *d, size_t n)
{
    const uint32_t poison = POISON;
    std::shared_ptr<accumulator> sums;
    for (const auto &a : current->sums)
        if (a->d == d) sums = a;
    if (sums == NULL) {
        sums = std::make_shared<accumulator>();
        sums->d = d;
        sums->n_pending = 0;
        current->sums.push_back(sums);
    }
    if (sums->n_pending++ > 0) return sums;
    sums->kept.assign(d, d + n);
    for (size_t i = 0; i < n; i++) memcpy(&d[i], &poison, 4);
    return sums;
}

/* Warps of each block that run only when no other can go on: a warpgroup, a warp, or none. */
struct slow_warps {
    size_t begin, end;
};

slow_warps choose_slow(uint64_t &random, size_t n_block_warps)
{
    enum { GROUP_WARPS = WARPGROUP / WARP };
    const size_t kind = (size_t)(next_random(random) >> 32) % 8;
    const size_t warp = (size_t)(next_random(random) >> 32) % n_block_warps;
    if (kind < 2) return {0, 0};
    if (kind < 4) return {warp, warp + 1};
    return {warp / GROUP_WARPS * GROUP_WARPS, warp / GROUP_WARPS * GROUP_WARPS + GROUP_WARPS};
}

enum pace { STANDS, LOOKS_AGAIN, GOES_ON };

/* Every lane that can, up to its next wait. */
pace run_warp(size_t w)
{
    pace result = STANDS;
    for (size_t lane = 0; lane < WARP; lane++) {
        fiber &f = fibers[w * WARP + lane];
        if (f.waits == ENDED || !is_ready(f)) continue;
        resume(f);
        result = std::max(result, f.waits == READY ? LOOKS_AGAIN : GOES_ON);
    }
    return result;
}

void arrive(memory_barrier &b)
{
    if (--b.pending > 0) return;
    b.pending = b.expected;
    b.phase++;
}

void do_copy(const pending_copy &c)
{
    memcpy(cuda_run_pointer(c.to, c.n_bytes), c.from, c.n_bytes);
    cuda_run_stored(c.to, c.n_bytes);
    current->n_copied = c.number + 1;
}

void do_copies_before(uint64_t end, const std::vector<pending_copy> &copies)
{
    for (const pending_copy &c : copies)
        if (c.number >= current->n_copied && c.number < end) do_copy(c);
}

void arrive_behind_copies(void)
{
    std::deque<late_arrival> &late = current->late;
    for (; !late.empty() && late.front().n_copies <= current->n_copied; late.pop_front())
        arrive(own_block().barriers.at(late.front().address));
}

/* Of one fiber that has some, as late as it may be: nothing else goes on. */
bool finish_late_copies(void)
{
    for (fiber &f : fibers) {
        if (f.late.empty()) continue;
        current = &f;
        const uint64_t end = f.late.back().n_copies;
        for (const auto &group : f.copies) do_copies_before(end, group);
        do_copies_before(end, f.copies_open);
        arrive_behind_copies();
        return true;
    }
    return false;
}

bool have_ended(void)
{
    for (const fiber &f : fibers)
        if (f.waits != ENDED) return false;
    return true;
}

/* One warp after the other, in turns that differ, until all have ended. */
void run_warps(size_t n_warps)
{
    const size_t n_block_warps = n_warps / blocks.size();
    uint64_t random = order_seed;
    slow_warps slow = {0, 0};
    bool runs_slow = false;
    for (int n_left = 0;; n_left -= slow.begin == slow.end || runs_slow) {
        if (n_left == 0) {
            slow = choose_slow(random, n_block_warps);
            n_left = SLOW_TURNS;
        }
        const size_t first = (size_t)(next_random(random) % n_warps);
        const bool is_downwards = next_random(random) % 2 == 0;
        pace all = STANDS;
        for (size_t i = 0; i < n_warps; i++) {
            const size_t w = (first + (is_downwards ? n_warps - i : i)) % n_warps;
            const size_t in_block = w % n_block_warps;
            if (in_block >= slow.begin && in_block < slow.end && !runs_slow) continue;
            all = std::max(all, run_warp(w));
        }
        if (all == STANDS && runs_slow && !finish_late_copies()) {
            if (have_ended()) return;
            fail_stuck();
        }
        runs_slow = all != GOES_ON;
    }
}

/* ---- mbarriers ---- */

memory_barrier &find_barrier(uint32_t address)
{
    const auto found = own_block().barriers.find(address);
    if (found == own_block().barriers.end()) fail("an mbarrier that was not initialized");
    return found->second;
}

/* The phase that a thread means by a parity: one that it has not waited past. 1 of a fresh mbarrier: -1. */
int64_t meant_phase(const memory_barrier &b, const barrier_use &use, uint32_t parity)
{
    if (!use.has_waited) return parity == 0 ? 0 : -1;
    if ((use.waited & 1) != (int64_t)parity) return use.waited + 1;
    return b.phase > use.waited + 1 ? use.waited + 2 : use.waited; /* it may leave phases out */
}

} // namespace

cuda_run_index threadIdx, blockIdx, blockDim, gridDim;

void cuda_run_set(bool is_lazy, uint64_t seed)
{
    runs_lazily = is_lazy;
    order_seed = seed * 0x9e3779b97f4a7c15u + 1;
}

void cuda_run(void (*kernel)(const void *), const void *args, int n_blocks, int n_threads,
              size_t n_shared_bytes)
{
    const size_t n_fibers = (size_t)n_blocks * (size_t)n_threads;
    provide_stacks(n_fibers);
    current_kernel = kernel;
    current_args = args;
    shared_bytes = n_shared_bytes;
    blockDim.x = (uint32_t)n_threads;
    gridDim.x = (uint32_t)n_blocks;
    now = 0;
    fibers.assign(n_fibers, fiber());
    blocks.assign((size_t)n_blocks, block());
    for (block &b : blocks) begin_block(b, n_threads);
    for (size_t i = 0; i < n_fibers; i++) {
        fibers[i].block = (int)(i / (size_t)n_threads);
        fibers[i].thread = (int)(i % (size_t)n_threads);
        begin_fiber(fibers[i], stacks + i * STACK_BYTES);
    }
    run_warps(n_fibers / WARP);
    for (block &b : blocks) free(b.shared);
}

const unsigned char *cuda_run_exchange(const void *own, size_t n_bytes)
{
    warp &w = own_block().warps[(size_t)current->thread / WARP];
    const uint64_t number = current->n_exchanges++;
    unsigned char(*slots)[CUDA_RUN_EXCHANGE_BYTES] = w.slots[number % 2];
    if (w.n_arrived % WARP == 0) w.n_bytes = n_bytes;
    if (w.n_bytes != n_bytes) fail("lanes of a warp meet in different instructions");
    if (n_bytes > 0) memcpy(slots[current->thread % WARP], own, n_bytes);
    w.n_arrived++;
    wait_for(EXCHANGE, WARP * (number + 1), 0);
    return slots[0];
}

bool cuda_run_barrier(int id, int n_threads, bool said)
{
    named &b = own_block().names[id];
    const uint64_t number = b.n_met;
    if (b.n_arrived == 0) {
        b.n_threads = n_threads;
        b.said[number % 2] = false;
    }
    if (b.n_threads != n_threads) fail("threads meet at a named barrier with different counts");
    b.said[number % 2] |= said;
    if (++b.n_arrived == n_threads) {
        b.n_arrived = 0;
        b.n_met++;
    }
    wait_for(NAMED, number + 1, (uint32_t)id);
    return b.said[number % 2];
}

int64_t cuda_run_clock(void)
{
    return now += CLOCK_STEP;
}

void cuda_run_yield(void)
{
    wait_for(READY, 0, 0);
}

unsigned char *cuda_run_shared(void)
{
    return own_block().shared;
}

uint32_t cuda_run_address(const void *pointer)
{
    return (uint32_t)((const unsigned char *)pointer - own_block().shared) + CUDA_RUN_FIRST_ADDRESS;
}

unsigned char *cuda_run_pointer(uint32_t address, size_t n_bytes)
{
    if (address < CUDA_RUN_FIRST_ADDRESS || address % n_bytes != 0 ||
        address - CUDA_RUN_FIRST_ADDRESS + n_bytes > shared_bytes)
        fail("an address outside of shared memory, or not aligned");
    return own_block().shared + (address - CUDA_RUN_FIRST_ADDRESS);
}

void cuda_run_prefetch(const void *pointer, size_t n_bytes)
{
    const volatile unsigned char *bytes = (const volatile unsigned char *)pointer;
    if ((uintptr_t)pointer % 16 != 0 || n_bytes == 0 || n_bytes % 16 != 0)
        fail("a bulk copy to the cache of no multiple of 16 bytes");
    (void)bytes[0];
    (void)bytes[n_bytes - 1];
}

void cuda_run_stored(uint32_t address, size_t n_bytes)
{
    const uint32_t at = address - CUDA_RUN_FIRST_ADDRESS;
    for (size_t i = 0; i < n_bytes; i++)
        own_block().writers[at + i] = (uint16_t)(current->thread + 1);
    current->stored.push_back({at, n_bytes});
}

void cuda_run_fence(void)
{
    for (const auto &range : current->stored) {
        for (size_t i = 0; i < range.second; i++) {
            uint16_t &writer = own_block().writers[range.first + i];
            if (writer == current->thread + 1) writer = 0;
        }
    }
    current->stored.clear();
}

void cuda_run_barrier_init(uint32_t address, uint32_t n_arrivals)
{
    (void)cuda_run_pointer(address, 8);
    if (!own_block().barriers.insert({address, {n_arrivals, n_arrivals, 0}}).second)
        fail("an mbarrier is initialized twice");
}

void cuda_run_barrier_arrive(uint32_t address)
{
    memory_barrier &b = find_barrier(address);
    barrier_use &use = current->uses[address];
    if (use.arrived == b.phase) fail("a thread arrives twice in a phase of an mbarrier");
    use.arrived = b.phase;
    arrive(b);
    wait_for(LATER, 0, 0);
}

void cuda_run_barrier_wait(uint32_t address, uint32_t parity)
{
    memory_barrier &b = find_barrier(address);
    barrier_use &use = current->uses[address];
    const int64_t phase = meant_phase(b, use, parity);
    use.has_waited = true;
    use.waited = phase;
    if (b.phase > phase + 1) fail("an mbarrier is two phases ahead of a thread that waits");
    wait_for(BARRIER, parity, address);
    if (b.phase != phase + 1) fail("an mbarrier went on past a thread that waits");
}

void cuda_run_copy(uint32_t to, const void *from, size_t n_bytes)
{
    const pending_copy c = {to, from, n_bytes, current->n_copies++};
    if ((uintptr_t)from % n_bytes != 0) fail("a copy from memory that is not aligned");
    if (!runs_lazily) do_copy(c);
    current->copies_open.push_back(c);
}

void cuda_run_copy_commit(void)
{
    current->copies.push_back(current->copies_open);
    current->copies_open.clear();
}

void cuda_run_copy_wait(size_t most)
{
    while (current->copies.size() > most) {
        do_copies_before(current->n_copies, current->copies.front());
        current->copies.pop_front();
    }
    arrive_behind_copies();
}

void cuda_run_copy_arrive(uint32_t address)
{
    (void)find_barrier(address);
    current->late.push_back({address, current->n_copies});
    arrive_behind_copies();
    wait_for(LATER, 0, 0);
}

void cuda_run_multiply(const cuda_run_product &what, float *d)
{
    block &b = own_block();
    const size_t group = (size_t)current->thread / WARPGROUP,
                 thread = (size_t)current->thread % WARPGROUP;
    const uint64_t number = current->n_products++;
    if (!current->has_product_fence)
        fail("a product is asked for without a fence for its registers");
    const std::shared_ptr<accumulator> sums = take_sums(d, (size_t)what.n / 2);
    while (b.n_gone[group] + b.products[group].size() <= number) b.products[group].emplace_back();
    product &p = b.products[group][(size_t)(number - b.n_gone[group])];
    if (p.n_threads > 0 && !are_alike(p.what, what))
        fail("threads of a warpgroup ask for different products");
    p.what = what;
    p.sums[thread] = sums;
    memcpy(p.a_registers[thread], what.a_registers, sizeof what.a_registers);
    if (++p.n_threads < WARPGROUP) return;
    static operand_pair pair;
    p.operands = read_operands(b, p, pair);
    if (!runs_lazily) finish_product(b, p);
}

void cuda_run_multiply_fence(void)
{
    current->has_product_fence = true;
}

void cuda_run_multiply_commit(void)
{
    current->product_groups.push_back(current->n_products);
}

void cuda_run_multiply_wait(size_t most)
{
    const size_t group = (size_t)current->thread / WARPGROUP;
    (void)cuda_run_exchange(NULL, 0); /* a warp waits together */
    if (runs_lazily) wait_for(LATER, 0, 0);
    while (current->product_groups.size() > most) {
        const uint64_t end = current->product_groups.front();
        wait_for(PRODUCTS, end, 0);
        finish_products(own_block(), group, end);
        current->product_groups.pop_front();
    }
    drop_finished_sums(*current);
    current->has_product_fence = false;
}
