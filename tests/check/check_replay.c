/*
 * check_replay.c - a GPU's attention as an engine runs it for days: captured once, replayed with other lists.
 *
 * Place: tests; needs a GPU. What it proves of plan_build and decode of dsv4/attn.h on this device:
 *   capture  both enter a graph on a side stream, which then has kernels only: a step allocates nothing and copies
 *            nothing; a thousand plain steps leave the free memory as it was
 *   replay   thousands of replays, before each of which lengths (and at times indices) change in device memory, end
 *            and agree with the CPU; the first inputs give their first bits again; nothing is written outside
 *            plan, workspace, out and lse
 *   fixed    with fixed_split a request alone and the same request in a batch have the same bits
 *   error    an error that an earlier call of the program left is not reported as a step's
 *   pool     slots below, across and above 4 GiB, and the last one, are found in one large cache
 * It does not prove speed, nor the edges of values and layouts: check_attn has those.
 *
 * usage: check_replay [--hip] [--short] [--replays N]
 *   --hip    on HIP, else on CUDA
 *   --short  small batches only, for a device that is none
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_kind.h"
#include "dsv4/cache.h"
#include "replay_device.h"

enum {
    BATCH = 50,         /* replays between waits */
    CHECK_EVERY = 250,  /* replays between comparisons */
    INDICES_EVERY = 16, /* replays between changes of indices */
    PLAIN_STEPS = 1000,
    DEFAULT_REPLAYS = 10000,
    SHORT_REQUESTS = 5,
    FIXED_DRAWS = 20,
    FIXED_REQUESTS = 3, /* that run alone */
    POOL_DRAWS = 8,
    POOL_WINDOW_PAGES = 2, /* of the small pool on the host */
    POOL_EXTRA_PAGES = 4,
    NAME_BYTES = 96
};

#define POOL_BYTES  ((int64_t)4608 << 20) /* 4.5 GiB */
#define SPARE_BYTES ((size_t)512 << 20)   /* free besides the pool */
#define FOUR_GIB    ((int64_t)1 << 32)

/* Everything of one check. */
typedef struct run {
    replay_case c;
    replay_device d;
    replay_step step;
    int32_t *lists;  /* the device's */
    int32_t *staged; /* [BATCH, n_lists], pinned */
    int n_staged;    /* since the last wait */
    uint16_t *out;   /* the results that came back, pinned */
    float *lse;
    replay_worst worst;
    char name[NAME_BYTES];
    char text[REPLAY_TEXT_BYTES];
} run;

typedef struct totals {
    int n_passed, n_failed;
} totals;

/* Of this run: main sets it. */
static const dsv4_gpu_runtime *gpu;

static const int32_t kernels[] = {DSV4_CUDA_KERNEL_AUTO, DSV4_CUDA_KERNEL_MMA};

/* HIP has one. */
static size_t count_kernels(void)
{
    return gpu->backend == DSV4_BACKEND_HIP ? 1 : sizeof kernels / sizeof kernels[0];
}

static const char *kernel_name(int32_t kernel)
{
    if (gpu->backend == DSV4_BACKEND_HIP) return "hip";
    return kernel == DSV4_CUDA_KERNEL_MMA ? "cuda mma" : "cuda";
}

/* Ends a check's line. `what` is printed when it was good. */
static void report(totals *t, const run *r, bool is_good, const char *what)
{
    if (is_good) {
        printf("%s: %s: ok\n", r->name, what);
        t->n_passed++;
    } else {
        printf("%s: FAILED: %s\n", r->name, r->text);
        t->n_failed++;
    }
    (void)fflush(stdout);
}

/* ---- one check's memory ---- */

static void *pinned_alloc(replay_device *d, int64_t n_bytes)
{
    void *memory = NULL;
    replay_note(d, gpu->alloc_host(&memory, (size_t)n_bytes));
    return memory;
}

/* Tensors of the case on the device but for its caches. */
static void place_tensors(run *r)
{
    replay_case *c = &r->c;
    dsv4_attn_params *p = &r->step.params;
    *p = c->params;
    r->lists = replay_device_copy(&r->d, c->lists, c->n_lists * 4);
    r->staged = pinned_alloc(&r->d, BATCH * c->n_lists * 4);
    r->out = pinned_alloc(&r->d, c->out_bytes);
    r->lse = pinned_alloc(&r->d, c->lse_bytes);
    p->q = replay_device_copy(&r->d, c->q, c->q_bytes);
    p->sink = replay_device_copy(&r->d, c->sink, c->sink_bytes);
    p->out = replay_device_alloc(&r->d, c->out_bytes, 0xff);
    p->lse = replay_device_alloc(&r->d, c->lse_bytes, 0xff);
    if (r->lists == NULL) return;
    p->window.lengths = r->lists;
    p->extra.lengths = r->lists + p->n_requests;
    p->window.indices = r->lists + c->indices_at[0];
    p->extra.indices = r->lists + c->indices_at[1];
}

static bool run_open(run *r, const replay_shape *shape, const char *check, uint64_t seed)
{
    memset(r, 0, sizeof *r);
    (void)snprintf(r->name, sizeof r->name, "%-7s %-8s %3d heads b %2d s_q %d%s", check,
                   shape->math == DSV4_ATTN_MATH_FP8 ? "fp8" : kernel_name(shape->cuda_kernel),
                   (int)shape->n_heads, (int)shape->n_requests, (int)shape->n_queries,
                   shape->join_queries == DSV4_JOIN_ALWAYS ? " joined" : "");
    replay_case_make(&r->c, shape, gpu->backend, seed);
    replay_device_open(&r->d, gpu, r->name);
    place_tensors(r);
    return replay_device_good(&r->d, r->text);
}

static bool place_caches(run *r)
{
    dsv4_attn_params *p = &r->step.params;
    p->window.cache = replay_device_copy(&r->d, r->c.cache[0], r->c.cache_bytes[0]);
    p->extra.cache = replay_device_copy(&r->d, r->c.cache[1], r->c.cache_bytes[1]);
    return replay_device_good(&r->d, r->text);
}

static void run_close(run *r)
{
    replay_step_free(&r->d, &r->step);
    if (r->staged != NULL) (void)gpu->release_host(r->staged);
    if (r->out != NULL) (void)gpu->release_host(r->out);
    if (r->lse != NULL) (void)gpu->release_host(r->lse);
    replay_device_close(&r->d);
    replay_case_free(&r->c);
}

/* ---- steps with lists ---- */

static bool run_wait(run *r)
{
    replay_device_wait(&r->d);
    r->n_staged = 0;
    return replay_device_good(&r->d, r->text);
}

/* Enqueues a copy of n_lists i32, the first of `lists`, to the device. */
static void enqueue_lists(run *r, const int32_t *lists, int64_t n_lists)
{
    if (r->n_staged == BATCH) (void)run_wait(r);
    int32_t *staged = r->staged + r->n_staged++ * r->c.n_lists;
    memcpy(staged, lists, (size_t)n_lists * 4);
    replay_note(&r->d, gpu->put_later(r->lists, staged, (size_t)n_lists * 4, r->d.stream));
}

/* NaN everywhere, so that what a step does not write is seen. */
static void enqueue_poison(run *r)
{
    const dsv4_attn_params *p = &r->step.params;
    replay_note(&r->d, gpu->fill_later(p->out, 0xff, (size_t)r->c.out_bytes, r->d.stream));
    replay_note(&r->d, gpu->fill_later(p->lse, 0xff, (size_t)r->c.lse_bytes, r->d.stream));
}

static bool fetch_results(run *r)
{
    const dsv4_attn_params *p = &r->step.params;
    replay_note(&r->d, gpu->get_later(r->out, p->out, (size_t)r->c.out_bytes, r->d.stream));
    replay_note(&r->d, gpu->get_later(r->lse, p->lse, (size_t)r->c.lse_bytes, r->d.stream));
    return run_wait(r);
}

/* Replays the step with these lists into poisoned outputs, and brings back the results. */
static bool replay_and_fetch(run *r, const int32_t *lists)
{
    enqueue_lists(r, lists, r->c.n_lists);
    enqueue_poison(r);
    replay_note(&r->d, gpu->exec_launch(r->step.exec, r->d.stream));
    return fetch_results(r);
}

/* ---- capture ---- */

/* Plain steps, after one that loads what the driver loads when it is first wanted. */
static bool run_plain_steps(run *r, int n_steps)
{
    size_t before = 0, after = 0, total = 0;
    if (!replay_step_enqueue(&r->d, &r->step, r->text) || !run_wait(r)) return false;
    replay_note(&r->d, gpu->free_bytes(&before, &total));
    for (int i = 0; i < n_steps; i++) {
        if (!replay_step_enqueue(&r->d, &r->step, r->text)) return false;
        if (i % BATCH == BATCH - 1 && !run_wait(r)) return false;
    }
    if (!run_wait(r)) return false;
    replay_note(&r->d, gpu->free_bytes(&after, &total));
    if (before == after) return replay_device_good(&r->d, r->text);
    (void)snprintf(r->text, sizeof r->text, "%zu bytes were free before %d steps, %zu after",
                   before, n_steps, after);
    return false;
}

/* ---- replay ---- */

/* The inputs and the results of a plain step. */
typedef struct first_step {
    int32_t *lists;
    uint16_t *out;
    float *lse;
} first_step;

static bool first_step_take(run *r, first_step *first)
{
    const replay_case *c = &r->c;
    first->lists = replay_host_alloc(c->n_lists * 4);
    first->out = replay_host_alloc(c->out_bytes);
    first->lse = replay_host_alloc(c->lse_bytes);
    memcpy(first->lists, c->lists, (size_t)c->n_lists * 4);
    enqueue_lists(r, c->lists, c->n_lists);
    enqueue_poison(r);
    if (!replay_step_enqueue(&r->d, &r->step, r->text) || !fetch_results(r)) return false;
    memcpy(first->out, r->out, (size_t)c->out_bytes);
    memcpy(first->lse, r->lse, (size_t)c->lse_bytes);
    return true;
}

static void first_step_free(first_step *first)
{
    free(first->lists);
    free(first->out);
    free(first->lse);
}

static bool has_first_bits(run *r, const first_step *first, const char *when)
{
    if (memcmp(r->out, first->out, (size_t)r->c.out_bytes) == 0 &&
        memcmp(r->lse, first->lse, (size_t)r->c.lse_bytes) == 0)
        return true;
    (void)snprintf(r->text, sizeof r->text, "%s: other bits than the plain step's", when);
    return false;
}

/* Replay i with new lists, compared when it is its turn. */
static bool replay_changed(run *r, int64_t i, int64_t n_replays)
{
    replay_case *c = &r->c;
    const bool is_checked = i % CHECK_EVERY == 0 || i == n_replays - 1;
    const bool has_indices = i % INDICES_EVERY == 0;
    replay_draw_lengths(c);
    if (has_indices) replay_draw_indices(c);
    enqueue_lists(r, c->lists, has_indices ? c->n_lists : c->n_lengths);
    if (is_checked) enqueue_poison(r);
    replay_note(&r->d, gpu->exec_launch(r->step.exec, r->d.stream));
    if (!is_checked) return replay_device_good(&r->d, r->text);
    char text[REPLAY_TEXT_BYTES];
    if (!fetch_results(r)) return false;
    if (replay_compare(c, r->out, r->lse, &r->worst, text)) return true;
    (void)snprintf(r->text, sizeof r->text, "replay %" PRId64 ": %.300s", i, text);
    return false;
}

static bool run_replays(run *r, int64_t n_replays, const first_step *first)
{
    char text[REPLAY_TEXT_BYTES];
    if (!replay_and_fetch(r, first->lists) || !has_first_bits(r, first, "first replay")) {
        return false;
    }
    if (!replay_compare(&r->c, r->out, r->lse, &r->worst, text)) {
        (void)snprintf(r->text, sizeof r->text, "first replay: %.300s", text);
        return false;
    }
    for (int64_t i = 1; i < n_replays; i++) {
        if (!replay_changed(r, i, n_replays)) return false;
    }
    return replay_and_fetch(r, first->lists) &&
           has_first_bits(r, first, "the first inputs again") &&
           replay_device_guards_hold(&r->d, r->text);
}

static void check_shape(totals *t, const replay_shape *shape, int64_t n_replays, uint64_t seed)
{
    run r;
    char what[NAME_BYTES];
    first_step first = {NULL, NULL, NULL};
    const int n_steps = n_replays < PLAIN_STEPS ? (int)n_replays : PLAIN_STEPS;
    bool is_good = run_open(&r, shape, "capture", seed) && place_caches(&r) &&
                   replay_step_make(&r.d, &r.step, r.text);
    if (is_good) replay_draw_lengths(&r.c);
    is_good = is_good && run_plain_steps(&r, n_steps) && replay_step_capture(&r.d, &r.step, r.text);
    (void)snprintf(what, sizeof what, "%zu nodes, all kernels; %d plain steps allocate nothing",
                   r.step.n_nodes, n_steps);
    report(t, &r, is_good, what);
    if (is_good) {
        memcpy(r.name, "replay ", 7);
        is_good = first_step_take(&r, &first) && run_replays(&r, n_replays, &first);
        (void)snprintf(what, sizeof what, "%" PRId64 " replays, worst out %.1e, lse %.0e",
                       n_replays, r.worst.out, r.worst.lse);
        report(t, &r, is_good, what);
    }
    first_step_free(&first);
    run_close(&r);
}

static bool has_fp8(void)
{
    return gpu->backend == DSV4_BACKEND_HIP ? device_has_hip_fp8() : device_is_hopper();
}

/* Batches and queries by turns; both kernels; what a step chooses for each differs. */
static void check_shapes(totals *t, int64_t n_replays, bool is_short)
{
    static const struct {
        int64_t n_heads, n_requests, n_queries;
    } shapes[] = {{8, 5, 1},  {8, 33, 2},  {24, 5, 2},  {24, 33, 1},
                  {64, 5, 1}, {64, 33, 2}, {128, 5, 2}, {128, 33, 1}};
    for (size_t k = 0; k < count_kernels(); k++) {
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            if (is_short && shapes[i].n_requests > SHORT_REQUESTS) continue;
            const replay_shape shape = {.cuda_kernel = kernels[k],
                                        .n_heads = shapes[i].n_heads,
                                        .n_requests = shapes[i].n_requests,
                                        .n_queries = shapes[i].n_queries,
                                        .n_pages = {16, 64}};
            check_shape(t, &shape, n_replays, 1000 * k + i);
        }
        const replay_shape joined = {.cuda_kernel = kernels[k],
                                     .join_queries = DSV4_JOIN_ALWAYS,
                                     .n_heads = 8,
                                     .n_requests = is_short ? SHORT_REQUESTS : 33,
                                     .n_queries = 2,
                                     .n_pages = {16, 64}};
        check_shape(t, &joined, n_replays, 8100 + k);
    }
    const replay_shape fp8 = {.math = DSV4_ATTN_MATH_FP8,
                              .n_heads = 64,
                              .n_requests = 33,
                              .n_queries = 2,
                              .n_pages = {16, 64}};
    if (has_fp8() && !is_short) check_shape(t, &fp8, n_replays, 8000);
}

/* ---- fixed split ---- */

/* One request of the batch as a step of its own, with its own outputs and memory. */
static bool make_alone(run *r, replay_step *alone, int64_t request)
{
    const dsv4_attn_params *batch = &r->step.params;
    dsv4_attn_params *p = &alone->params;
    *p = *batch;
    p->n_requests = 1;
    p->q = (const char *)batch->q + request * batch->q_request_stride_bytes;
    dsv4_attn_scope *scopes[2] = {&p->window, &p->extra};
    for (int i = 0; i < 2; i++) {
        scopes[i]->lengths += request;
        scopes[i]->indices += request * scopes[i]->indices_request_stride_bytes / 4;
    }
    p->out = replay_device_alloc(&r->d, p->out_request_stride_bytes, 0xff);
    p->lse = replay_device_alloc(&r->d, p->lse_request_stride_bytes, 0xff);
    return replay_step_make(&r->d, alone, r->text) && replay_step_enqueue(&r->d, alone, r->text) &&
           run_wait(r) && replay_step_capture(&r->d, alone, r->text);
}

/* Replays a request alone and compares it with the batch's results, which are at hand. */
static bool compare_alone(run *r, const replay_step *alone, int64_t request)
{
    const dsv4_attn_params *p = &alone->params;
    const size_t out_bytes = (size_t)p->out_request_stride_bytes;
    const size_t lse_bytes = (size_t)p->lse_request_stride_bytes;
    uint16_t *out = replay_host_alloc(p->out_request_stride_bytes);
    float *lse = replay_host_alloc(p->lse_request_stride_bytes);
    replay_note(&r->d, gpu->fill_later(p->out, 0xff, out_bytes, r->d.stream));
    replay_note(&r->d, gpu->fill_later(p->lse, 0xff, lse_bytes, r->d.stream));
    replay_note(&r->d, gpu->exec_launch(alone->exec, r->d.stream));
    bool is_good = run_wait(r);
    replay_note(&r->d, gpu->get(out, p->out, out_bytes));
    replay_note(&r->d, gpu->get(lse, p->lse, lse_bytes));
    is_good = is_good && replay_device_good(&r->d, r->text);
    if (is_good &&
        (memcmp(out, (const char *)r->out + (size_t)request * out_bytes, out_bytes) != 0 ||
         memcmp(lse, (const char *)r->lse + (size_t)request * lse_bytes, lse_bytes) != 0)) {
        (void)snprintf(r->text, sizeof r->text, "request %" PRId64 " has other bits in the batch",
                       request);
        is_good = false;
    }
    free(out);
    free(lse);
    return is_good;
}

static bool run_fixed(run *r, replay_step alone[FIXED_REQUESTS])
{
    bool is_good = replay_step_make(&r->d, &r->step, r->text) &&
                   replay_step_enqueue(&r->d, &r->step, r->text) && run_wait(r) &&
                   replay_step_capture(&r->d, &r->step, r->text);
    const int64_t last = r->c.params.n_requests - 1;
    for (int i = 0; is_good && i < FIXED_REQUESTS; i++) {
        is_good = make_alone(r, &alone[i], i * last / (FIXED_REQUESTS - 1));
    }
    for (int draw = 0; is_good && draw < FIXED_DRAWS; draw++) {
        if (draw > 0) replay_draw_lengths(&r->c); /* first they are whole */
        replay_draw_indices(&r->c);
        is_good = replay_and_fetch(r, r->c.lists) &&
                  replay_compare(&r->c, r->out, r->lse, &r->worst, r->text);
        for (int i = 0; is_good && i < FIXED_REQUESTS; i++) {
            is_good = compare_alone(r, &alone[i], i * last / (FIXED_REQUESTS - 1));
        }
    }
    return is_good && replay_device_guards_hold(&r->d, r->text);
}

static void check_fixed(totals *t)
{
    static const int64_t n_heads[] = {8, 64, 128};
    const size_t step = count_kernels() == 1 ? 2 : 1; /* of a pair only the first kernel is there */
    for (size_t i = 0; i < 2 * sizeof n_heads / sizeof n_heads[0]; i += step) {
        const replay_shape shape = {.cuda_kernel = kernels[i % 2],
                                    .fixed_split = 1,
                                    .join_queries = DSV4_JOIN_ALWAYS,
                                    .n_heads = n_heads[i / 2],
                                    /* with 64 heads and more: several parts a thread block */
                                    .n_requests = i / 2 == 0 ? 33 : 300,
                                    .n_queries = i / 2 < 2 ? 2 : 1,
                                    .n_pages = {16, 64}};
        run r;
        char what[NAME_BYTES];
        replay_step alone[FIXED_REQUESTS];
        memset(alone, 0, sizeof alone);
        bool is_good = run_open(&r, &shape, "fixed", 5000 + i) && place_caches(&r);
        is_good = is_good && run_fixed(&r, alone);
        (void)snprintf(what, sizeof what, "%d requests alone as in the batch, %d draws",
                       FIXED_REQUESTS, FIXED_DRAWS);
        report(t, &r, is_good, what);
        for (int j = 0; j < FIXED_REQUESTS; j++) replay_step_free(&r.d, &alone[j]);
        run_close(&r);
    }
}

/* ---- errors of others ---- */

static void check_left_error(totals *t)
{
    for (size_t k = 0; k < count_kernels(); k++) {
        const replay_shape shape = {.cuda_kernel = kernels[k],
                                    .n_heads = 64,
                                    .n_requests = 5,
                                    .n_queries = 1,
                                    .n_pages = {16, 64}};
        run r;
        bool is_good = run_open(&r, &shape, "error", 7000 + k) && place_caches(&r) &&
                       replay_step_make(&r.d, &r.step, r.text);
        (void)gpu->leave_error();
        is_good = is_good && replay_step_enqueue(&r.d, &r.step, r.text);
        (void)gpu->last_error(); /* may be gone: CUDA's cudaFuncSetAttribute forgets it */
        is_good = is_good && run_wait(&r);
        report(t, &r, is_good, "a step beside an error that was there before");
        run_close(&r);
    }
}

/* ---- a pool larger than 4 GiB ---- */

/*
 * Where row k of all n_rows of the small pools lies in the large one: the first 64 in the page across 4 GiB, the others
 * from the first slot to the last, far apart (none of them in that page).
 */
static int64_t pool_slot(int64_t k, int64_t n_rows, int64_t n_pages)
{
    const int64_t stride_bytes = dsv4_cache_page_stride_bytes(REPLAY_PAGE_ROWS);
    if (k < REPLAY_PAGE_ROWS) return FOUR_GIB / stride_bytes * REPLAY_PAGE_ROWS + k;
    return (n_pages * REPLAY_PAGE_ROWS - 1) * (k - REPLAY_PAGE_ROWS) /
           (n_rows - 1 - REPLAY_PAGE_ROWS);
}

static int64_t pool_slot_of(const replay_case *c, int which, int64_t slot, int64_t n_pages)
{
    return pool_slot(slot + (which == 0 ? 0 : c->n_slots[0]), c->n_slots[0] + c->n_slots[1],
                     n_pages);
}

/* Copies the rows of both small pools to their slots; all else is NaN. */
static void fill_pool(run *r, unsigned char *pool, int64_t n_pages)
{
    const replay_case *c = &r->c;
    const int64_t stride_bytes = dsv4_cache_page_stride_bytes(REPLAY_PAGE_ROWS);
    const int64_t scales = REPLAY_PAGE_ROWS * DSV4_CACHE_DATA_BYTES;
    replay_note(&r->d, gpu->fill(pool, 0xff, (size_t)(n_pages * stride_bytes)));
    for (int which = 0; which < 2; which++) {
        for (int64_t slot = 0; slot < c->n_slots[which]; slot++) {
            const int64_t to = pool_slot_of(c, which, slot, n_pages);
            const int64_t row = slot % REPLAY_PAGE_ROWS, to_row = to % REPLAY_PAGE_ROWS;
            const uint8_t *page = c->cache[which] + slot / REPLAY_PAGE_ROWS * stride_bytes;
            unsigned char *to_page = pool + to / REPLAY_PAGE_ROWS * stride_bytes;
            replay_note(&r->d, gpu->put(to_page + to_row * DSV4_CACHE_DATA_BYTES,
                                        page + row * DSV4_CACHE_DATA_BYTES, DSV4_CACHE_DATA_BYTES));
            replay_note(&r->d, gpu->put(to_page + scales + to_row * DSV4_CACHE_SCALE_BYTES,
                                        page + scales + row * DSV4_CACHE_SCALE_BYTES,
                                        DSV4_CACHE_SCALE_BYTES));
        }
    }
    replay_note(&r->d, gpu->wait());
}

/* The case's lists with the slots of the large pool; what names nothing names nothing there. */
static void translate_lists(const replay_case *c, int64_t n_pages, int32_t *lists)
{
    memcpy(lists, c->lists, (size_t)c->n_lists * 4);
    for (int which = 0; which < 2; which++) {
        int32_t *indices = lists + c->indices_at[which];
        for (int64_t i = 0; i < c->n_indices[which]; i++) {
            if (indices[i] < 0) continue;
            indices[i] = indices[i] < c->n_slots[which]
                             ? (int32_t)pool_slot_of(c, which, indices[i], n_pages)
                             : (int32_t)(n_pages * REPLAY_PAGE_ROWS);
        }
    }
}

static bool run_pool(run *r, unsigned char *pool, int64_t n_pages)
{
    dsv4_attn_scope *scopes[2] = {&r->step.params.window, &r->step.params.extra};
    fill_pool(r, pool, n_pages);
    for (int i = 0; i < 2; i++) {
        scopes[i]->cache = pool;
        scopes[i]->n_pages = n_pages;
    }
    int32_t *lists = replay_host_alloc(r->c.n_lists * 4);
    bool is_good = replay_step_make(&r->d, &r->step, r->text);
    for (int draw = 0; is_good && draw < POOL_DRAWS; draw++) {
        if (draw > 0) replay_draw_lengths(&r->c); /* first they are whole */
        replay_draw_indices(&r->c);
        translate_lists(&r->c, n_pages, lists);
        enqueue_lists(r, lists, r->c.n_lists);
        if (draw == 0) { /* what the driver loads, it loads before a capture */
            is_good = replay_step_enqueue(&r->d, &r->step, r->text) && run_wait(r) &&
                      replay_step_capture(&r->d, &r->step, r->text);
        }
        is_good = is_good && replay_and_fetch(r, lists) &&
                  replay_compare(&r->c, r->out, r->lse, &r->worst, r->text);
    }
    free(lists);
    return is_good && replay_device_guards_hold(&r->d, r->text);
}

static void check_pool(totals *t)
{
    const int64_t n_pages = POOL_BYTES / dsv4_cache_page_stride_bytes(REPLAY_PAGE_ROWS);
    for (size_t k = 0; k < count_kernels(); k++) {
        const replay_shape shape = {.cuda_kernel = kernels[k],
                                    .n_heads = 64,
                                    .n_requests = 5,
                                    .n_queries = 1,
                                    .n_pages = {POOL_WINDOW_PAGES, POOL_EXTRA_PAGES}};
        run r;
        char what[NAME_BYTES];
        size_t free_bytes = 0, total_bytes = 0;
        void *pool = NULL;
        bool is_good = run_open(&r, &shape, "pool", 9000 + k);
        if (is_good) replay_note(&r.d, gpu->free_bytes(&free_bytes, &total_bytes));
        if (is_good && free_bytes < (size_t)POOL_BYTES + SPARE_BYTES) {
            printf("%s: skipped: %zu bytes of device memory are free, %lld needed\n", r.name,
                   free_bytes, (long long)POOL_BYTES + (long long)SPARE_BYTES);
        } else {
            if (is_good) replay_note(&r.d, gpu->alloc(&pool, (size_t)POOL_BYTES));
            is_good = is_good && replay_device_good(&r.d, r.text) && run_pool(&r, pool, n_pages);
            (void)snprintf(what, sizeof what,
                           "%" PRId64 " pages, %d draws, worst out %.1e, lse %.0e", n_pages,
                           POOL_DRAWS, r.worst.out, r.worst.lse);
            report(t, &r, is_good, what);
        }
        if (pool != NULL) (void)gpu->release(pool);
        run_close(&r);
    }
}

/* ---- the program ---- */

typedef struct run_options {
    int32_t backend;
    bool is_short;
    int64_t n_replays;
} run_options;

static bool options_parse(int argc, char **argv, run_options *options)
{
    *options = (run_options){.backend = DSV4_BACKEND_CUDA, .n_replays = DEFAULT_REPLAYS};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--hip") == 0) {
            options->backend = DSV4_BACKEND_HIP;
        } else if (strcmp(argv[i], "--short") == 0) {
            options->is_short = true;
        } else if (strcmp(argv[i], "--replays") == 0 && i + 1 < argc) {
            char *end;
            options->n_replays = strtoll(argv[++i], &end, 10);
            if (*end != 0 || options->n_replays < 1 || options->n_replays > 100000000) return false;
        } else {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    run_options options;
    totals t = {0, 0};
    dsv4_error error;
    char device[2 * NAME_BYTES] = "";
    if (!options_parse(argc, argv, &options)) {
        fprintf(stderr, "usage: check_replay [--hip] [--short] [--replays N]\n");
        return 2;
    }
    if (dsv4_gpu_runtime_find(options.backend, &gpu, &error) != DSV4_OK) {
        fprintf(stderr, "check_replay: %s\n", error.text);
        return 2;
    }
    (void)gpu->device_text(device, sizeof device);
    printf("%s\n", device);
    check_shapes(&t, options.n_replays, options.is_short);
    if (!options.is_short) check_fixed(&t);
    check_left_error(&t);
    if (!options.is_short) check_pool(&t);
    printf("%d passed, %d failed\n", t.n_passed, t.n_failed);
    return t.n_failed == 0 && t.n_passed > 0 ? 0 : 1;
}
