/*
 * attn_join_kernel.c - joins the lists of a request's queries, so that a row which several of them name is read once.
 *
 * Place: gpu; a kernel (gpu.h), in front of the decode kernel in every call: lists differ from layer to layer. A thread
 * block takes one scope of one request, in chunks of ATTN_JOIN_ENTRIES entries of all queries together; what is matched is
 * in the same chunk. A hash table in shared memory has, for each slot and query, the first entry of the chunk that names it.
 *
 * The order is that of first appearance, one query's entries behind the other's, whatever threads do in which order: so the
 * sums of a decode are in one order too. A slot that a query names twice counts twice: the second mention is an entry of its
 * own. Entries that name no key are left out.
 *
 * Decode kernels multiply every row with a probability of every query, 0 for those that do not name it. That must
 * not make NaN of a value that is not finite, so that such a row, unless all queries name it, is replaced by
 * ATTN_JOIN_NAN_SLOT: NaN for those that do, nothing for the others.
 */
#include "attn_device.h"
#include "gpu.h"
#include "gpu_scan.h"

enum {
    /* at most half of them are taken: searches are short and end */
    TABLE_PLACES = 2 * ATTN_JOIN_ENTRIES,
    FREE_PLACE = -1,
    OWN_ENTRIES = ATTN_JOIN_ENTRIES / ATTN_JOIN_THREADS, /* of a thread */
    JOIN_WAVES = ATTN_JOIN_THREADS / GPU_WAVE,
    ONE_PARTIAL = 2 * ATTN_JOIN_ENTRIES, /* two counts in one number */
    CODE_BYTES = 448,
    ROTATED_BYTES = 128,
    ROW_DATA_BYTES = CODE_BYTES + ROTATED_BYTES,
    ROW_SCALE_BYTES = 8,
    SCALE_DIMS = 64, /* that share one */
    N_SCALES = CODE_BYTES / SCALE_DIMS,
    NAN_SCALE = 255,
    /* 2^(byte - 127) times a code whose exponent field is e is 2^(byte - 127 + e - 7) or more: infinite in bf16 from 2^128 on */
    INFINITE_EXPONENT = 128 + 127 + 7,
    SAFE_SCALE = INFINITE_EXPONENT - 15 - 1, /* up to here none is */
};

_Static_assert(ATTN_JOIN_THREADS / GPU_WAVE <= GPU_WAVE, "a wave adds sums of all");
_Static_assert((int)TABLE_PLACES >= 2 * (int)ATTN_JOIN_ENTRIES, "pairs of write_partial");

typedef struct join_shared {
    /* of the chunk's entries, one query's behind the other's; -1: no key */
    int32_t slots[ATTN_JOIN_ENTRIES];
    int32_t table[TABLE_PLACES]; /* entries */
    int32_t wave_sums[JOIN_WAVES];
    int32_t n_joined; /* of the chunk, with ONE_PARTIAL for each that not all queries name */
} join_shared;

/* A chunk: so many entries of each query. */
typedef struct join_chunk {
    int32_t n_queries;
    int32_t first, n; /* entries of a query's list */
} join_chunk;

GPU_DEVICE int32_t query_of(int32_t entry, int32_t n)
{
    return (entry >= n) + (entry >= 2 * n) + (entry >= 3 * n);
}

GPU_DEVICE int32_t place_of(int32_t slot)
{
    return (int32_t)((uint32_t)slot * 0x9e3779b1u >> 8) % TABLE_PLACES;
}

GPU_DEVICE int32_t next_place(int32_t place)
{
    return (place + 1) % TABLE_PLACES;
}

GPU_DEVICE int32_t count_listed(const int32_t *lengths, int32_t request, int32_t n_indices)
{
    if (lengths == NULL) return n_indices;
    const int32_t n = (int32_t)gpu_load4(lengths + request);
    return n < 0 ? 0 : gpu_min_i32(n, n_indices);
}

/* ---- rows that are not finite ---- */

GPU_DEVICE bool has_infinite_code(const unsigned char *codes, uint32_t scale)
{
    uint32_t largest = 0;
    for (int i = 0; i < SCALE_DIMS; i++) {
        const uint32_t exponent = gpu_load1(codes + i) >> 3 & 15;
        largest = exponent > largest ? exponent : largest;
    }
    return largest + scale >= INFINITE_EXPONENT;
}

/* Whether a decode kernel makes infinities or NaN of the row's values; NaN codes alone are finite to it. */
GPU_DEVICE bool is_finite_row(const attn_scope_args *scope, uint32_t slot)
{
    const uint32_t page = gpu_multiply_high(2 * slot, scope->divide_factor) >> scope->divide_shift;
    const uint32_t row = slot - page * scope->page_rows;
    const unsigned char *base = scope->cache + page * scope->page_stride_bytes;
    const unsigned char *codes = base + (int64_t)row * ROW_DATA_BYTES;
    const gpu_u32x2 scales =
        gpu_load8(base + scope->scale_plane_bytes + (int64_t)row * ROW_SCALE_BYTES);
    bool is_finite = true;
    for (int i = 0; i < ROTATED_BYTES; i += 16) {
        const gpu_u32x4 words = gpu_load16(codes + CODE_BYTES + i);
        for (int k = 0; k < 4; k++) {
            is_finite &= (words[k] & 0x7f80u) != 0x7f80u;
            is_finite &= (words[k] & 0x7f800000u) != 0x7f800000u;
        }
    }
    for (int i = 0; i < N_SCALES; i++) {
        const uint32_t scale = (i < 4 ? scales[0] : scales[1]) >> 8 * (i % 4) & 0xff;
        if (scale <= SAFE_SCALE) continue;
        is_finite &= scale != NAN_SCALE && !has_infinite_code(codes + SCALE_DIMS * i, scale);
    }
    return is_finite;
}

/* ---- a chunk ---- */

GPU_DEVICE void load_chunk(const attn_scope_args *scope, int32_t request, join_chunk c,
                           GPU_SHARED join_shared *s)
{
    const char *list = scope->indices + request * scope->indices_request_stride_bytes;
    for (int32_t i = gpu_thread(); i < TABLE_PLACES; i += ATTN_JOIN_THREADS)
        s->table[i] = FREE_PLACE;
    for (int32_t e = gpu_thread(); e < c.n_queries * c.n; e += ATTN_JOIN_THREADS) {
        const int32_t query = query_of(e, c.n), entry = c.first + e - query * c.n;
        const uint32_t slot =
            gpu_load4(list + query * scope->indices_query_stride_bytes + (int64_t)entry * 4);
        s->slots[e] = slot < scope->n_slots ? (int32_t)slot : -1;
    }
    gpu_barrier_shared();
}

/* A place of the table for each slot and query, with the first of its entries. */
GPU_DEVICE void fill_table(join_chunk c, GPU_SHARED join_shared *s)
{
    for (int32_t e = gpu_thread(); e < c.n_queries * c.n; e += ATTN_JOIN_THREADS) {
        const int32_t slot = s->slots[e], query = query_of(e, c.n);
        int32_t place = place_of(slot);
        while (slot >= 0) {
            const int32_t other = gpu_compare_shared(&s->table[place], FREE_PLACE, e);
            if (other == FREE_PLACE) break;
            if (s->slots[other] == slot && query_of(other, c.n) == query) {
                gpu_min_shared(&s->table[place], e);
                break;
            }
            place = next_place(place);
        }
    }
    gpu_barrier_shared();
}

/* Bits of the queries for which entry e of the chunk stands in the joined list; 0: it names no key, or another stands for it. */
GPU_DEVICE uint32_t find_queries(join_chunk c, int32_t e, const GPU_SHARED join_shared *s)
{
    const int32_t slot = s->slots[e], own = query_of(e, c.n);
    uint32_t queries = 0;
    if (slot < 0) return 0;
    for (int32_t place = place_of(slot); s->table[place] != FREE_PLACE; place = next_place(place)) {
        const int32_t other = s->table[place];
        if (s->slots[other] != slot) continue;
        const int32_t query = query_of(other, c.n);
        if (query == own && other != e) return 1u << own; /* named before by the same query */
        queries |= 1u << query;
    }
    if ((queries & ((1u << own) - 1)) != 0) return 0;
    return queries == (1u << c.n_queries) - 1 ? (uint32_t)ATTN_JOIN_ALL : queries;
}

/*
 * Looks at the rows that not all queries name, and writes their entries: pairs of the table, a place in the list and the
 * entry. Collected for that, so that no thread waits for one row behind the other while most have none.
 */
GPU_DEVICE void write_partial(const attn_scope_args *scope, uint32_t *list, int32_t n_partial,
                              const GPU_SHARED join_shared *s)
{
    for (int32_t i = gpu_thread(); i < n_partial; i += ATTN_JOIN_THREADS) {
        uint32_t entry = (uint32_t)s->table[2 * i + 1];
        if (!is_finite_row(scope, entry & ATTN_JOIN_NAN_SLOT)) entry |= ATTN_JOIN_NAN_SLOT;
        gpu_store4(list + s->table[2 * i], entry);
    }
}

/* Writes the chunk's joined entries to `list`; returns how many they are. */
GPU_DEVICE int32_t write_chunk(const attn_scope_args *scope, join_chunk c, uint32_t *list,
                               GPU_SHARED join_shared *s)
{
    uint32_t queries[OWN_ENTRIES];
    int32_t n = 0; /* entries, and those that not all queries name */
    GPU_UNROLL
    for (int i = 0; i < OWN_ENTRIES; i++) {
        const int32_t e = gpu_thread() * OWN_ENTRIES + i;
        queries[i] = e < c.n_queries * c.n ? find_queries(c, e, s) : 0;
        n += queries[i] == 0 ? 0 : (queries[i] == ATTN_JOIN_ALL ? 1 : 1 + ONE_PARTIAL);
    }
    /* nobody searches the table behind it */
    const int32_t end = gpu_scan_block(n, s->wave_sums, JOIN_WAVES);
    int32_t at = (end - n) % ONE_PARTIAL, partial = (end - n) / ONE_PARTIAL;
    GPU_UNROLL
    for (int i = 0; i < OWN_ENTRIES; i++) {
        if (queries[i] == 0) continue;
        const uint32_t slot = (uint32_t)s->slots[gpu_thread() * OWN_ENTRIES + i];
        const uint32_t entry = slot | queries[i] << ATTN_JOIN_SLOT_BITS;
        if (queries[i] == ATTN_JOIN_ALL) {
            gpu_store4(list + at, entry);
        } else {
            s->table[2 * partial] = at;
            s->table[2 * partial + 1] = (int32_t)entry;
            partial++;
        }
        at++;
    }
    if (gpu_thread() == ATTN_JOIN_THREADS - 1) s->n_joined = end;
    gpu_barrier_shared();
    const int32_t n_joined = s->n_joined;
    write_partial(scope, list, n_joined / ONE_PARTIAL, s);
    gpu_barrier_shared(); /* the next chunk's entries take the place of these */
    return n_joined % ONE_PARTIAL;
}

GPU_KERNEL(dsv4_attn_join, ATTN_JOIN_THREADS)(GPU_BY_VALUE attn_join_args a)
{
    GPU_SHARED_VARIABLE join_shared s;
    const int32_t request = gpu_block() / 2, which = gpu_block() % 2;
    const attn_scope_args scope = which == 0 ? a.scopes[0] : a.scopes[1];
    const int32_t *lengths = which == 0 ? a.lengths[0] : a.lengths[1];
    uint32_t *own = a.joined.lists + request * a.joined.request_pitch;
    uint32_t *list = own + (which == 0 ? (int32_t)(sizeof(attn_joined_head) / sizeof *own)
                                       : a.joined.first_extra);
    const gpu_u32x2 fingerprint = gpu_load8(a.plan + offsetof(attn_plan_head, fingerprint));
    if (fingerprint[0] != (uint32_t)a.fingerprint ||
        fingerprint[1] != (uint32_t)(a.fingerprint >> 32))
        return;
    const int32_t n_listed =
        count_listed(lengths, request, which == 0 ? a.n_indices[0] : a.n_indices[1]);
    const int32_t most = ATTN_JOIN_ENTRIES / a.n_queries;
    int32_t n_joined = 0;
    for (int32_t first = 0; first < n_listed; first += most) {
        const join_chunk c = {a.n_queries, first, gpu_min_i32(most, n_listed - first)};
        load_chunk(&scope, request, c, &s);
        fill_table(c, &s);
        n_joined += write_chunk(&scope, c, list + n_joined, &s);
    }
    if (gpu_thread() == 0) {
        gpu_store4((char *)own + (which == 0 ? offsetof(attn_joined_head, n_window)
                                             : offsetof(attn_joined_head, n_extra)),
                   (uint32_t)n_joined);
    }
}
