/*
 * attn_property.c - bit-exactness, merging, the rope epilogue, distant pages, shared plans.
 *
 * Place: tests.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include "attn_property.h"

#include "attn/attn_check.h"
#include "attn_fp8.h"
#include "attn_oracle.h"
#include "device_call.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"
#include "ref/quant.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- batches ---- */

/* A dense copy of some requests of a case, in some order, as a call of its own. */
typedef struct batch {
    dsv4_attn_params params;
    attn_outputs outputs;
    void *blocks[8];
    int32_t n_blocks;
} batch;

static void *batch_alloc(batch *b, int64_t n_bytes)
{
    b->blocks[b->n_blocks++] = attn_alloc(n_bytes);
    return b->blocks[b->n_blocks - 1];
}

static void batch_free(batch *b)
{
    for (int32_t i = 0; i < b->n_blocks; i++) free(b->blocks[i]);
    attn_outputs_free(&b->outputs);
}

static void batch_copy_q(batch *b, const dsv4_attn_params *from, const int64_t *ids)
{
    int64_t n_rows = b->params.n_requests * from->n_queries * from->n_heads;
    const int64_t head_bytes = DSV4_ATTN_DIM * (from->q_dtype == DSV4_DTYPE_F32 ? 4 : 2);
    uint8_t *q = batch_alloc(b, n_rows * head_bytes);
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t head = i % from->n_heads, query = i / from->n_heads % from->n_queries;
        int64_t request = ids[i / from->n_heads / from->n_queries];
        memcpy(q + i * head_bytes,
               (const uint8_t *)from->q + request * from->q_request_stride_bytes +
                   query * from->q_query_stride_bytes + head * from->q_head_stride_bytes,
               (size_t)head_bytes);
    }
    b->params.q = q;
}

static void batch_copy_scope(batch *b, const dsv4_attn_scope *from, dsv4_attn_scope *to,
                             const int64_t *ids)
{
    int64_t n_requests = b->params.n_requests, n_queries = b->params.n_queries;
    if (from->n_pages == 0) return;
    to->page_stride_bytes = from->page_stride_bytes; /* of the pool, which is not copied */
    if (from->lengths) {
        int32_t *lengths = batch_alloc(b, n_requests * 4);
        for (int64_t i = 0; i < n_requests; i++) lengths[i] = from->lengths[ids[i]];
        to->lengths = lengths;
    }
    if (from->n_indices == 0) return;
    int32_t *lists = batch_alloc(b, n_requests * n_queries * from->n_indices * 4);
    for (int64_t i = 0; i < n_requests * n_queries; i++) {
        memcpy(lists + i * from->n_indices,
               (const uint8_t *)from->indices +
                   ids[i / n_queries] * from->indices_request_stride_bytes +
                   i % n_queries * from->indices_query_stride_bytes,
               (size_t)from->n_indices * 4);
    }
    to->indices = lists;
}

/* ids [n_requests]: which request of the case each one is. */
static void batch_make(batch *b, const attn_case *c, const int64_t *ids, int64_t n_requests)
{
    attn_rng rng = {c->spec.id};
    const dsv4_attn_params *from = &c->params;
    memset(b, 0, sizeof *b);
    b->params = *from;
    b->params.n_requests = n_requests;
    dsv4_attn_params_set_dense(&b->params);
    batch_copy_q(b, from, ids);
    batch_copy_scope(b, &from->window, &b->params.window, ids);
    batch_copy_scope(b, &from->extra, &b->params.extra, ids);
    if (from->rope_table) {
        int32_t *rows = batch_alloc(b, n_requests * from->n_queries * 4);
        for (int64_t i = 0; i < n_requests * from->n_queries; i++) {
            rows[i] =
                from->rope_rows[ids[i / from->n_queries] * from->n_queries + i % from->n_queries];
        }
        b->params.rope_rows = rows;
    }
    attn_outputs_make(&b->outputs, &rng, ATTN_LAYOUT_DENSE, false, &b->params);
    if (!from->lse) b->params.lse = NULL;
}

/* Runs the requests `ids` as a batch; each must come out as it did in `base`. */
static bool batch_check(const attn_case *c, const attn_config *config, const int64_t *ids,
                        int64_t n_requests, const attn_result *base, const char *what, char *text)
{
    batch b;
    attn_result result;
    batch_make(&b, c, ids, n_requests);
    bool is_good = attn_run(&b.params, config, &b.outputs, &result, text);
    int64_t n_heads = c->params.n_queries * c->params.n_heads;
    size_t out_bytes = (size_t)(n_heads * c->outputs.out.row_bytes);
    for (int64_t i = 0; is_good && i < n_requests; i++) {
        is_good = memcmp(result.out + i * n_heads * c->outputs.out.row_bytes,
                         base->out + ids[i] * n_heads * c->outputs.out.row_bytes, out_bytes) == 0;
        if (is_good && base->scales) {
            is_good = memcmp(result.scales + i * n_heads * 4, base->scales + ids[i] * n_heads * 4,
                             (size_t)n_heads * 4) == 0;
        }
        if (is_good && base->lse) {
            is_good = memcmp(result.lse + i * n_heads, base->lse + ids[i] * n_heads,
                             (size_t)n_heads * 4) == 0;
        }
        if (!is_good) {
            snprintf(text, ATTN_TEXT_BYTES, "%s: request %lld has other bits", what,
                     (long long)ids[i]);
        }
    }
    attn_result_free(&result);
    batch_free(&b);
    return is_good;
}

/* ---- bits ---- */

static bool check_batches(const attn_case *c, const attn_config *config, attn_rng *rng,
                          const attn_result *base, char *text)
{
    enum { MAX_BATCH = 12 };
    int64_t ids[MAX_BATCH];
    int64_t n_requests = c->params.n_requests < MAX_BATCH ? c->params.n_requests : MAX_BATCH;
    for (int64_t i = 0; i < n_requests; i++) {
        ids[0] = i;
        if (!batch_check(c, config, ids, 1, base, "alone", text)) return false;
    }
    for (int64_t i = 0; i < n_requests; i++) ids[i] = n_requests - 1 - i;
    if (!batch_check(c, config, ids, n_requests, base, "reversed", text)) return false;
    for (int64_t i = 0; i < MAX_BATCH; i++) ids[i] = attn_rng_range(rng, 0, n_requests - 1);
    return batch_check(c, config, ids, MAX_BATCH, base, "among others", text);
}

static bool check_threads(attn_case *c, const attn_config *config, const attn_result *base,
                          char *text)
{
    static const int32_t n_threads[] = {1, 2, 3, 7, 0};
    bool is_good = true;
    const int32_t asked = c->params.n_threads;
    for (int i = 0; is_good && i < 5; i++) {
        attn_result result;
        c->params.n_threads = n_threads[i];
        is_good = attn_run_case(c, config, &result, text);
        if (is_good && !attn_result_equal(base, &result)) {
            snprintf(text, ATTN_TEXT_BYTES, "%d threads give other bits", n_threads[i]);
            is_good = false;
        }
        attn_result_free(&result);
    }
    c->params.n_threads = asked;
    return is_good;
}

/*
 * One plan, two decodes; the plan is built from params whose tensors, but for the lengths, are
 * elsewhere: a plan depends on shapes and lengths alone.
 */
static bool check_one_plan(attn_case *c, const attn_config *config, const attn_result *base,
                           char *text)
{
    static const uint8_t nowhere[64];
    attn_memory memory;
    if (attn_config_on_gpu(config)) return true; /* attn_run makes it there */
    dsv4_attn_params params = c->params;
    params.backend = config->backend;
    params.math = config->math;
    params.cpu_level = config->cpu_level;
    dsv4_attn_params planned = params;
    planned.q = nowhere;
    planned.window.cache = planned.extra.cache = nowhere;
    planned.window.indices = planned.extra.indices = (const int32_t *)(const void *)nowhere;
    bool is_good = attn_memory_make(&memory, &planned, text);
    for (int i = 0; is_good && i < 2; i++) {
        attn_result result;
        is_good = attn_decode(&params, &memory, &c->outputs, &result, text);
        if (is_good && !attn_result_equal(base, &result)) {
            snprintf(text, ATTN_TEXT_BYTES, "use %d of a shared plan gives other bits", i + 1);
            is_good = false;
        }
        attn_result_free(&result);
    }
    attn_memory_free(&memory);
    return is_good;
}

/* Nearest even, NaN to NaN. */
static bool is_rounded(uint16_t bits, float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if (isnan(value)) return (bits & 0x7fff) > 0x7f80;
    return bits == (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
}

static bool values_are_rounded(const attn_result *base, const attn_result *wide, char *text)
{
    for (int64_t i = 0; i < wide->n_lse * DSV4_ATTN_DIM; i++) {
        uint16_t bits;
        memcpy(&bits, base->out + 2 * i, sizeof bits);
        float value = (float)attn_out_value(wide->out, DSV4_DTYPE_F32, i);
        if (is_rounded(bits, value)) continue;
        snprintf(text, ATTN_TEXT_BYTES, "out %lld: bf16 %04x is not f32 %a rounded", (long long)i,
                 bits, (double)value);
        return false;
    }
    return true;
}

/* Codes and scales of a head are those of its f32 values, and stand for what the model's quantizer makes of them. */
static bool head_is_quantized(const attn_result *base, const attn_result *wide, int64_t head,
                              char *text)
{
    float values[DSV4_ATTN_DIM];
    uint8_t codes[DSV4_ATTN_DIM], scales[4];
    const uint8_t *got = base->out + head * DSV4_ATTN_DIM, *got_scales = base->scales + head * 4;
    memcpy(values, wide->out + head * (int64_t)sizeof values, sizeof values);
    dsv4_quant_fp8_codes(values, DSV4_ATTN_DIM, DSV4_ATTN_OUT_GROUP, codes, scales);
    dsv4_quant_fp8(values, DSV4_ATTN_DIM, DSV4_ATTN_OUT_GROUP);
    for (int d = 0; d < DSV4_ATTN_DIM; d++) {
        int group = d / DSV4_ATTN_OUT_GROUP;
        float value = dsv4_e4m3_to_f32(got[d]) * dsv4_ue8m0_to_f32(got_scales[group]);
        bool is_same = isnan(values[d]) ? isnan(value) : value == values[d];
        /* Devices may drop the sign of a NaN. */
        bool is_same_code = got[d] == codes[d] || (isnan(values[d]) && (got[d] & 0x7f) == 0x7f);
        if (is_same && is_same_code && got_scales[group] == scales[group]) continue;
        snprintf(text, ATTN_TEXT_BYTES,
                 "head row %lld dim %d: code %02x scale %02x, expected %02x %02x", (long long)head,
                 d, got[d], got_scales[group], codes[d], scales[group]);
        return false;
    }
    return true;
}

static bool check_rounding(attn_case *c, const attn_config *config, const attn_result *base,
                           char *text)
{
    attn_result wide;
    if (c->spec.out_dtype == DSV4_DTYPE_F32) return true;
    bool is_good = attn_run_case_f32(c, config, &wide, text);
    if (is_good && c->spec.out_dtype == DSV4_DTYPE_BF16) {
        is_good = values_are_rounded(base, &wide, text);
    } else {
        for (int64_t i = 0; is_good && i < wide.n_lse; i++) {
            is_good = head_is_quantized(base, &wide, i, text);
        }
    }
    attn_result_free(&wide);
    return is_good;
}

bool attn_check_bits(attn_case *c, const attn_config *config, attn_worst *worst, char *text)
{
    (void)worst;
    attn_rng rng = {c->spec.id};
    attn_result base;
    bool is_good = attn_run_case(c, config, &base, text) && check_threads(c, config, &base, text) &&
                   check_one_plan(c, config, &base, text) &&
                   check_batches(c, config, &rng, &base, text) &&
                   check_rounding(c, config, &base, text);
    attn_result_free(&base);
    return is_good;
}

/* ---- rope ---- */

bool attn_check_rope(attn_case *c, const attn_config *config, attn_worst *worst, char *text)
{
    attn_result plain = {0}, rotated = {0};
    attn_answer answer = {0};
    const int32_t out_dtype = c->spec.out_dtype;
    const float *table = c->params.rope_table;
    c->params.rope_table = NULL;
    bool is_good = attn_run_case_f32(c, config, &plain, text);
    c->params.rope_table = table;
    is_good = is_good && attn_run_case_f32(c, config, &rotated, text);
    if (!is_good) goto done;

    attn_answer_from_result(&answer, &plain);
    for (int64_t i = 0; i < plain.n_lse; i++) {
        size_t head_bytes = DSV4_ATTN_DIM * 4, kept_bytes = 448 * 4;
        if (memcmp(plain.out + (size_t)i * head_bytes, rotated.out + (size_t)i * head_bytes,
                   kept_bytes) != 0) {
            snprintf(text, ATTN_TEXT_BYTES, "the epilogue changed dims before 448 of row %lld",
                     (long long)i);
            is_good = false;
            goto done;
        }
        attn_oracle_rotate(&c->params, c->params.rope_rows[i / c->params.n_heads],
                           answer.out + i * DSV4_ATTN_DIM);
    }
    /* Both sides come from one kernel, so only the rotation's own f32 rounding is left. */
    c->spec.out_dtype = DSV4_DTYPE_F32;
    is_good = attn_compare(c, DSV4_ATTN_MATH_EXACT, &rotated, &answer, 0, worst, text);
done:
    c->spec.out_dtype = out_dtype;
    attn_result_free(&plain);
    attn_result_free(&rotated);
    attn_answer_free(&answer);
    return is_good;
}

/* ---- pages far apart ---- */

static void *map_reserve(size_t n_bytes, char *text)
{
    void *memory =
        mmap(NULL, n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        snprintf(text, ATTN_TEXT_BYTES, "cannot reserve %zu bytes of address space", n_bytes);
        return NULL;
    }
    return memory;
}

/* Makes the pages of memory that hold these bytes readable and writable. */
static bool map_commit(uint8_t *bytes, size_t n_bytes)
{
    uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t before = (uintptr_t)bytes % page_bytes;
    return mprotect(bytes - before, n_bytes + before, PROT_READ | PROT_WRITE) == 0;
}

/* The scope's list is of slots in a small pool; `far` gets the same rows at these slots. */
static const int32_t far_slots[] = {5, (1 << 30) + 17, INT_MAX, INT_MAX - 64, 7340032};
enum { N_FAR = sizeof far_slots / sizeof far_slots[0], FAR_PAGE_ROWS = 1 << 16 };

static bool far_row_copy(uint8_t *far, int64_t stride_bytes, int32_t slot, const uint8_t *near,
                         int row)
{
    int64_t far_row = slot % FAR_PAGE_ROWS;
    uint8_t *page = far + slot / FAR_PAGE_ROWS * stride_bytes;
    uint8_t *data = page + far_row * DSV4_CACHE_DATA_BYTES;
    uint8_t *scales = page + (int64_t)FAR_PAGE_ROWS * DSV4_CACHE_DATA_BYTES + far_row * 8;
    if (!map_commit(data, DSV4_CACHE_DATA_BYTES) || !map_commit(scales, 8)) return false;
    memcpy(data, near + row * DSV4_CACHE_DATA_BYTES, DSV4_CACHE_DATA_BYTES);
    memcpy(scales, near + N_FAR * DSV4_CACHE_DATA_BYTES + row * 8, 8);
    return true;
}

bool attn_check_far(attn_case *c, const attn_config *config, attn_worst *worst, char *text)
{
    (void)worst;
    attn_rng rng = {c->spec.id};
    uint8_t near[N_FAR * DSV4_CACHE_RECORD_BYTES];
    int32_t near_slots[N_FAR];
    const int64_t stride_bytes = (int64_t)FAR_PAGE_ROWS * DSV4_CACHE_RECORD_BYTES + 64;
    const size_t n_bytes = (size_t)stride_bytes * ((size_t)1 << 31) / FAR_PAGE_ROWS;
    attn_result wanted = {0}, result = {0};
    dsv4_attn_scope *scope = &c->params.window;
    uint8_t *far = map_reserve(n_bytes, text);
    if (!far) return false;
    for (int i = 0; i < N_FAR; i++) {
        float values[DSV4_CACHE_DIM];
        for (int d = 0; d < DSV4_CACHE_DIM; d++) values[d] = attn_rng_normal(&rng);
        dsv4_cache_row_write(near, N_FAR, i, values);
        near_slots[i] = i;
    }
    bool is_good = true;
    for (int i = 0; is_good && i < N_FAR; i++) {
        is_good = far_row_copy(far, stride_bytes, far_slots[i], near, i);
    }
    if (!is_good) snprintf(text, ATTN_TEXT_BYTES, "mprotect refused");

    *scope = (dsv4_attn_scope){.cache = near,
                               .n_pages = 1,
                               .page_rows = N_FAR,
                               .page_stride_bytes = sizeof near,
                               .indices = near_slots,
                               .n_indices = N_FAR};
    is_good = is_good && attn_run_case(c, config, &wanted, text);
    scope->cache = far;
    scope->n_pages = (int64_t)1 << 32; /* slots past INT_MAX exist; no index can name them */
    scope->page_rows = FAR_PAGE_ROWS;
    scope->page_stride_bytes = stride_bytes;
    scope->indices = far_slots;
    is_good = is_good && attn_run_case(c, config, &result, text);
    if (is_good && !attn_result_equal(&wanted, &result)) {
        snprintf(text, ATTN_TEXT_BYTES, "rows at distant slots give other bits");
        is_good = false;
    }
    attn_result_free(&wanted);
    attn_result_free(&result);
    munmap(far, n_bytes);
    return is_good;
}

/* ---- one plan, several threads ---- */

typedef struct sharer {
    dsv4_attn_params params;
    const attn_memory *memory;
    void *workspace;
    dsv4_status status;
} sharer;

static void *sharer_run(void *argument)
{
    sharer *s = argument;
    s->status = dsv4_attn_decode(NULL, &s->params, s->memory->data[0], s->memory->n_bytes[0],
                                 s->workspace, s->memory->n_bytes[1], NULL);
    return NULL;
}

static bool sharers_run(const dsv4_attn_params *params, const attn_memory *memory, int64_t n_heads,
                        const attn_result *base, char *text)
{
    enum { N_SHARERS = 3 };
    pthread_t threads[N_SHARERS];
    sharer sharers[N_SHARERS];
    bool is_good = true;
    for (int i = 0; i < N_SHARERS; i++) {
        sharers[i] = (sharer){*params, memory, NULL, DSV4_OK};
        sharers[i].workspace = aligned_alloc(64, (memory->n_bytes[1] + 63) / 64 * 64);
        sharers[i].params.out = attn_alloc(n_heads * DSV4_ATTN_DIM * 4);
        sharers[i].params.lse = attn_alloc(n_heads * 4);
        if (!sharers[i].workspace ||
            pthread_create(&threads[i], NULL, sharer_run, &sharers[i]) != 0) {
            fprintf(stderr, "cannot start a thread\n");
            exit(2);
        }
    }
    for (int i = 0; i < N_SHARERS; i++) {
        pthread_join(threads[i], NULL);
        if (sharers[i].status != DSV4_OK ||
            memcmp(sharers[i].params.out, base->out, (size_t)base->out_bytes) != 0 ||
            memcmp(sharers[i].params.lse, base->lse, (size_t)n_heads * 4) != 0) {
            snprintf(text, ATTN_TEXT_BYTES, "thread %d of %d: status %d or other bits", i,
                     N_SHARERS, sharers[i].status);
            is_good = false;
        }
        free(sharers[i].workspace);
        free(sharers[i].params.out);
        free(sharers[i].params.lse);
    }
    return is_good;
}

bool attn_check_shared_plan(attn_case *c, const attn_config *config, attn_worst *worst, char *text)
{
    (void)worst;
    attn_memory memory = {0};
    attn_result base;
    int64_t n_heads = c->params.n_requests * c->params.n_queries * c->params.n_heads;
    bool is_good = attn_run_case_f32(c, config, &base, text);
    dsv4_attn_params params = c->params;
    params.backend = config->backend;
    params.math = config->math;
    params.cpu_level = config->cpu_level;
    params.out_dtype = DSV4_DTYPE_F32;
    params.out_head_stride_bytes = DSV4_ATTN_DIM * 4;
    params.out_query_stride_bytes = params.n_heads * params.out_head_stride_bytes;
    params.out_request_stride_bytes = params.n_queries * params.out_query_stride_bytes;
    params.lse_head_stride_bytes = 4;
    params.lse_query_stride_bytes = params.n_heads * 4;
    params.lse_request_stride_bytes = params.n_queries * params.n_heads * 4;
    is_good = is_good && attn_memory_make(&memory, &params, text) &&
              sharers_run(&params, &memory, n_heads, &base, text);
    attn_memory_free(&memory);
    attn_result_free(&base);
    return is_good;
}

/* ---- merge ---- */

enum { MAX_PARTS = 5 };

/* How list entries are dealt to parts; some parts may get nothing. */
typedef enum deal { DEAL_RANDOM, DEAL_SEGMENTS, DEAL_ONE_PART } deal;

static int32_t deal_part(deal kind, attn_rng *rng, int32_t n_parts, int64_t i, int64_t n_indices)
{
    switch (kind) {
    case DEAL_RANDOM: return (int32_t)attn_rng_range(rng, 0, n_parts - 1);
    case DEAL_SEGMENTS: return (int32_t)(i * n_parts / n_indices);
    case DEAL_ONE_PART: break;
    }
    return n_parts - 1;
}

/* Replaces the scope's lists in parts [n_parts] by those entries that each was dealt, else -1. */
static void scope_deal(batch parts[MAX_PARTS], int32_t n_parts, const dsv4_attn_params *from,
                       int which, deal kind, attn_rng *rng)
{
    const dsv4_attn_scope *scope = which == 0 ? &from->window : &from->extra;
    int64_t n_lists = from->n_requests * from->n_queries;
    if (scope->n_pages == 0 || scope->n_indices == 0) return;
    int32_t *lists[MAX_PARTS];
    for (int32_t part = 0; part < n_parts; part++) {
        dsv4_attn_scope *to = which == 0 ? &parts[part].params.window : &parts[part].params.extra;
        lists[part] = batch_alloc(&parts[part], n_lists * scope->n_indices * 4);
        memcpy(lists[part], to->indices, (size_t)(n_lists * scope->n_indices) * 4);
        to->indices = lists[part];
    }
    for (int64_t i = 0; i < n_lists * scope->n_indices; i++) {
        int32_t chosen = deal_part(kind, rng, n_parts, i % scope->n_indices, scope->n_indices);
        for (int32_t part = 0; part < n_parts; part++) {
            if (part != chosen) lists[part][i] = -1;
        }
    }
}

/* Decodes the parts into out_parts, lse_parts. A part without keys gets NaN for its output. */
static bool parts_decode(attn_case *c, const attn_config *config, attn_rng *rng, int32_t n_parts,
                         uint8_t *out_parts, float *lse_parts, char *text)
{
    batch parts[MAX_PARTS];
    int64_t ids[64];
    deal kind = (deal)attn_rng_range(rng, DEAL_RANDOM, DEAL_ONE_PART);
    bool is_good = true;
    for (int64_t i = 0; i < c->params.n_requests; i++) ids[i] = i;
    for (int32_t part = 0; part < n_parts; part++) {
        batch_make(&parts[part], c, ids, c->params.n_requests);
        parts[part].params.sink = NULL;
    }
    scope_deal(parts, n_parts, &c->params, 0, kind, rng);
    scope_deal(parts, n_parts, &c->params, 1, kind, rng);
    for (int32_t part = 0; part < n_parts; part++) {
        attn_result result;
        batch *b = &parts[part];
        is_good = is_good && attn_run(&b->params, config, &b->outputs, &result, text);
        for (int64_t i = 0; is_good && i < result.n_lse; i++) {
            if (result.lse[i] == INFINITY) {
                memset(result.out + i * c->outputs.out.row_bytes, 0xff,
                       (size_t)c->outputs.out.row_bytes);
            }
        }
        if (is_good) {
            memcpy(out_parts + part * result.out_bytes, result.out, (size_t)result.out_bytes);
            memcpy(lse_parts + part * result.n_lse, result.lse, (size_t)result.n_lse * 4);
            attn_result_free(&result);
        }
        batch_free(b);
    }
    return is_good;
}

/* Guarded dense tensors that a merge writes; on the device aligned as it wants them. */
static void merge_outputs_make(dsv4_attn_merge_params *params, attn_tensor *out, attn_tensor *lse)
{
    attn_rng rng = {1};
    const int64_t sizes[3] = {1, params->n_rows, params->n_heads};
    const int64_t value_bytes = attn_dtype_bytes(params->out_dtype);
    const bool is_unaligned = !dsv4_attn_on_gpu(params->backend);
    attn_tensor_make(out, &rng, ATTN_LAYOUT_DENSE, is_unaligned, sizes, DSV4_ATTN_DIM * value_bytes,
                     value_bytes);
    attn_tensor_make(lse, &rng, ATTN_LAYOUT_DENSE, true, sizes, 4, 4);
    params->out = out->data;
    params->lse = (float *)(void *)lse->data;
}

static bool merge_once(const dsv4_attn_merge_params *params, attn_tensor *out, attn_tensor *lse,
                       attn_result *result, char *text)
{
    const dsv4_device_span written[2] = {{out->block, (size_t)out->block_bytes},
                                         {lse->block, (size_t)lse->block_bytes}};
    dsv4_error error;
    int64_t n_heads = params->n_rows * params->n_heads;
    *result = (attn_result){.out = attn_alloc(n_heads * out->row_bytes),
                            .lse = attn_alloc(n_heads * 4),
                            .out_bytes = n_heads * out->row_bytes,
                            .n_lse = n_heads};
    attn_tensor_poison(out);
    attn_tensor_poison(lse);
    dsv4_status status = dsv4_attn_on_gpu(params->backend)
                             ? dsv4_device_call_merge(params, written, &error)
                             : dsv4_attn_merge(NULL, params, &error);
    if (status != DSV4_OK) {
        snprintf(text, ATTN_TEXT_BYTES, "merge: %s", error.text);
        return false;
    }
    if (!attn_tensor_collect(out, result->out) ||
        !attn_tensor_collect(lse, (uint8_t *)result->lse)) {
        snprintf(text, ATTN_TEXT_BYTES, "merge: not all written, or bytes around");
        return false;
    }
    return true;
}

/* Merges with each number of threads, all of which must agree; on the device, some times. */
static bool merge_run(dsv4_attn_merge_params *params, attn_result *result, char *text)
{
    static const int32_t n_threads[] = {2, 1, 3, 0};
    attn_tensor out, lse;
    bool is_good = true;
    merge_outputs_make(params, &out, &lse);
    memset(result, 0, sizeof *result);
    for (int i = 0; is_good && i < 4; i++) {
        attn_result again;
        params->n_threads = n_threads[i];
        is_good = merge_once(params, &out, &lse, &again, text);
        if (is_good && i > 0 && !attn_result_equal(result, &again)) {
            snprintf(text, ATTN_TEXT_BYTES, "merge: %d threads or run %d give other bits",
                     n_threads[i], i + 1);
            is_good = false;
        }
        attn_result_free(result);
        *result = again;
    }
    free(out.block);
    free(lse.block);
    return is_good;
}

/*
 * The device's merge of the very same parts against `wanted`, what the equation gives in double, and against the
 * host's merge in f32. Both sum in f32: only rounding is left.
 */
static bool merge_check_device(const attn_case *c, int32_t backend,
                               const dsv4_attn_merge_params *params, const attn_answer *wanted,
                               attn_worst *worst, char *text)
{
    dsv4_attn_merge_params device = *params, host = *params;
    attn_result merged = {0}, wide = {0};
    attn_answer answer = {0};
    device.backend = backend;
    host.out_dtype = DSV4_DTYPE_F32;
    bool is_good = merge_run(&device, &merged, text) &&
                   attn_compare(c, DSV4_ATTN_MATH_EXACT, &merged, wanted, 0, worst, text) &&
                   merge_run(&host, &wide, text);
    if (is_good) {
        attn_answer_from_result(&answer, &wide);
        is_good = attn_compare(c, DSV4_ATTN_MATH_EXACT, &merged, &answer, 0, worst, text);
    }
    if (!is_good) {
        const size_t len = strlen(text);
        snprintf(text + len, ATTN_TEXT_BYTES - len, " (merging on the device)");
    }
    attn_result_free(&merged);
    attn_result_free(&wide);
    attn_answer_free(&answer);
    return is_good;
}

static bool merge_compare(attn_case *c, const attn_config *config, dsv4_attn_merge_params *params,
                          attn_worst *worst, char *text)
{
    const attn_config reference = attn_config_ref;
    const bool rounds_queries = config->math == DSV4_ATTN_MATH_FP8;
    attn_fp8_kept kept;
    attn_result merged, whole = {0};
    attn_answer answer = {0}, merged_answer;
    attn_answer_make(&merged_answer, params->n_rows * params->n_heads);
    bool is_good = merge_run(params, &merged, text);
    if (is_good) {
        /* The equation of the merge on the very same parts: only f32 rounding is left. */
        attn_oracle_merge(params, merged_answer.out, merged_answer.lse);
        is_good = attn_compare(c, DSV4_ATTN_MATH_EXACT, &merged, &merged_answer, 0, worst, text);
    }
    if (is_good && attn_config_on_gpu(config)) {
        is_good = merge_check_device(c, config->backend, params, &merged_answer, worst, text);
    }
    if (rounds_queries) attn_fp8_queries_round(c, &kept);
    is_good = is_good && attn_run_case_f32(c, &reference, &whole, text);
    if (is_good) {
        /* The elements of bf16 parts are off by half an ulp, at most 2^-8 of each. */
        double part_error = params->part_dtype == DSV4_DTYPE_BF16 ? 0x1p-8 : 0.0;
        attn_answer_from_result(&answer, &whole);
        is_good = attn_compare(c, config->math, &merged, &answer, part_error, worst, text);
    }
    if (rounds_queries) attn_fp8_queries_restore(c, &kept);
    attn_result_free(&merged);
    attn_result_free(&whole);
    attn_answer_free(&answer);
    attn_answer_free(&merged_answer);
    return is_good;
}

bool attn_check_merge(attn_case *c, const attn_config *config, attn_worst *worst, char *text)
{
    attn_rng rng = {c->spec.id};
    const int32_t n_parts = (int32_t)attn_rng_range(&rng, 1, MAX_PARTS);
    const int64_t n_heads = c->params.n_requests * c->params.n_queries * c->params.n_heads;
    uint8_t *out_parts = attn_alloc(n_parts * n_heads * c->outputs.out.row_bytes);
    float *lse_parts = attn_alloc(n_parts * n_heads * 4);
    bool is_good = parts_decode(c, config, &rng, n_parts, out_parts, lse_parts, text);
    if (is_good) {
        const int32_t part_dtype = c->spec.out_dtype;
        dsv4_attn_merge_params params = {.size = sizeof params,
                                         .n_parts = n_parts,
                                         .n_rows = c->params.n_requests * c->params.n_queries,
                                         .n_heads = c->params.n_heads,
                                         .part_dtype = part_dtype,
                                         .out_parts = out_parts,
                                         .lse_parts = lse_parts,
                                         .sink = c->params.sink};
        params.out_dtype = attn_rng_chance(&rng, 50) ? DSV4_DTYPE_BF16 : DSV4_DTYPE_F32;
        c->spec.out_dtype = params.out_dtype; /* what the comparison is to expect */
        is_good = merge_compare(c, config, &params, worst, text);
        c->spec.out_dtype = part_dtype;
    }
    free(out_parts);
    free(lse_parts);
    return is_good;
}
