/*
 * attn_join_kernel.c - joins the lists of a request's queries, so that a row which several of them name is read once.
 *
 * Place: gpu; a kernel (gpu.h), in front of the decode kernel in every call: lists differ from layer to layer. A thread
 * block takes one scope of one request, in chunks of ATTN_JOIN_ENTRIES entries of all queries together; what is matched is
 * in the same chunk. A hash table in shared memory has, for each slot of the chunk, bits of the queries that name it. A thread
 * keeps the places of its own entries, so that nobody searches twice.
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
#include "attn_lengths.h"
#include "gpu.h"
#include "gpu_scan.h"

enum {
    TABLE_PLACES =
        2 * ATTN_JOIN_ENTRIES, /* at most half of them are taken: searches are short and end */
    FREE_PLACE = -1,
    OWN_ENTRIES = ATTN_JOIN_ENTRIES / ATTN_JOIN_THREADS, /* of a thread, at most */
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
_Static_assert((ATTN_JOIN_ENTRIES & (ATTN_JOIN_ENTRIES - 1)) == 0,
               "no chunk has more places than the table");
_Static_assert(ATTN_JOIN_SLOT_BITS + ATTN_JOIN_MAX_QUERIES == 32, "an entry is a slot and bits");
_Static_assert(ATTN_JOIN_MAX_QUERIES <= 4, "query_of");

typedef struct join_shared {
    int32_t table[TABLE_PLACES]; /* slots, and above them bits of the queries that name them */
    int32_t wave_sums[JOIN_WAVES];
    int32_t has_repeats; /* a query of the chunk names a slot twice */
    int32_t n_joined;    /* of the chunk, with ONE_PARTIAL for each that not all queries name */
} join_shared;

/* A chunk: so many entries of each query, those of one query behind the other's. */
typedef struct join_chunk {
    const char *list; /* entry `first` of the first query */
    int64_t query_stride_bytes;
    int32_t n_queries;
    int32_t n;         /* entries of a query */
    int32_t n_own;     /* entries of a thread */
    uint32_t n_places; /* of the table: a power of two, at least twice as many as entries */
    uint32_t n_slots;
} join_chunk;

/* A thread's entries of a chunk: neighbours, as the joined list will have them. */
typedef struct own_entries {
    int32_t slots[OWN_ENTRIES]; /* -1: no key */
    uint32_t places[OWN_ENTRIES];
} own_entries;

GPU_DEVICE int32_t query_of(int32_t entry, int32_t n)
{
    return (entry >= n) + (entry >= 2 * n) + (entry >= 3 * n);
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

GPU_DEVICE join_chunk make_chunk(const attn_scope_args *scope, int32_t request, int32_t n_queries,
                                 int32_t first, int32_t n)
{
    uint32_t n_places = 64;
    while (n_places < 2 * (uint32_t)(n_queries * n)) n_places *= 2;
    const join_chunk c = {scope->indices + request * scope->indices_request_stride_bytes +
                              (int64_t)first * 4,
                          scope->indices_query_stride_bytes,
                          n_queries,
                          n,
                          (n_queries * n + ATTN_JOIN_THREADS - 1) / ATTN_JOIN_THREADS,
                          n_places,
                          scope->n_slots};
    return c;
}

/* Entry e of the chunk; -1: it names no key. */
GPU_DEVICE int32_t load_slot(const join_chunk *c, int32_t e)
{
    const int32_t query = query_of(e, c->n);
    const uint32_t slot =
        gpu_load4(c->list + query * c->query_stride_bytes + (int64_t)(e - query * c->n) * 4);
    return slot < c->n_slots ? (int32_t)slot : -1;
}

GPU_DEVICE void load_chunk(const join_chunk *c, GPU_SHARED join_shared *s, own_entries *own)
{
    GPU_UNROLL
    for (int i = 0; i < OWN_ENTRIES; i++) {
        const int32_t e = gpu_thread() * c->n_own + i;
        own->slots[i] = i < c->n_own && e < c->n_queries * c->n ? load_slot(c, e) : -1;
    }
    for (uint32_t i = (uint32_t)gpu_thread(); i < c->n_places; i += ATTN_JOIN_THREADS)
        s->table[i] = FREE_PLACE;
    if (gpu_thread() == 0) s->has_repeats = 0;
    gpu_barrier_shared();
}

/* The place of a slot that a query names; notes that it does. */
GPU_DEVICE uint32_t take_place(const join_chunk *c, int32_t slot, int32_t query,
                               GPU_SHARED join_shared *s)
{
    const int32_t bit = (int32_t)(1u << (ATTN_JOIN_SLOT_BITS + query));
    uint32_t place = ((uint32_t)slot * 0x9e3779b1u >> 8) & (c->n_places - 1);
    for (;; place = (place + 1) & (c->n_places - 1)) {
        const int32_t other = gpu_compare_shared(&s->table[place], FREE_PLACE, slot | bit);
        if (other == FREE_PLACE) return place;
        if ((other & ATTN_JOIN_NAN_SLOT) == slot) break;
    }
    if ((gpu_or_shared(&s->table[place], bit) & bit) != 0) s->has_repeats = 1;
    return place;
}

GPU_DEVICE void fill_table(const join_chunk *c, GPU_SHARED join_shared *s, own_entries *own)
{
    GPU_UNROLL
    for (int i = 0; i < OWN_ENTRIES; i++) {
        own->places[i] = 0;
        if (own->slots[i] >= 0)
            own->places[i] =
                take_place(c, own->slots[i], query_of(gpu_thread() * c->n_own + i, c->n), s);
    }
    gpu_barrier_shared();
}

/* Whether the entry's query names its slot before: rare, and so looked for in all of the query's entries. */
GPU_DEVICE bool is_repeated(const join_chunk *c, int32_t e, int32_t slot)
{
    for (int32_t k = query_of(e, c->n) * c->n; k < e; k++)
        if (load_slot(c, k) == slot) return true;
    return false;
}

/* Bits of the queries for which a thread's entry stands in the joined list; 0: it names no key, or another stands for it. */
GPU_DEVICE uint32_t find_queries(const join_chunk *c, int i, const own_entries *own,
                                 const GPU_SHARED join_shared *s)
{
    const int32_t e = gpu_thread() * c->n_own + i;
    if (own->slots[i] < 0) return 0;
    const uint32_t own_bit = 1u << query_of(e, c->n);
    const uint32_t queries = (uint32_t)s->table[own->places[i]] >> ATTN_JOIN_SLOT_BITS;
    if (s->has_repeats != 0 && is_repeated(c, e, own->slots[i])) return own_bit;
    if ((queries & (own_bit - 1)) != 0) return 0;
    return queries == (1u << c->n_queries) - 1 ? (uint32_t)ATTN_JOIN_ALL : queries;
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
GPU_DEVICE int32_t write_chunk(const attn_scope_args *scope, const join_chunk *c, uint32_t *list,
                               const own_entries *own, GPU_SHARED join_shared *s)
{
    uint32_t queries[OWN_ENTRIES];
    int32_t n = 0; /* entries, and those that not all queries name */
    GPU_UNROLL
    for (int i = 0; i < OWN_ENTRIES; i++) {
        queries[i] = find_queries(c, i, own, s);
        n += queries[i] == 0 ? 0 : (queries[i] == ATTN_JOIN_ALL ? 1 : 1 + ONE_PARTIAL);
    }
    /* nobody searches the table behind it */
    const int32_t end = gpu_scan_block(n, s->wave_sums, JOIN_WAVES);
    int32_t at = (end - n) % ONE_PARTIAL, partial = (end - n) / ONE_PARTIAL;
    GPU_UNROLL
    for (int i = 0; i < OWN_ENTRIES; i++) {
        if (queries[i] == 0) continue;
        const uint32_t entry = (uint32_t)own->slots[i] | queries[i] << ATTN_JOIN_SLOT_BITS;
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
    uint32_t *joined = a.joined.lists + request * a.joined.request_pitch;
    uint32_t *list = joined + (which == 0 ? (int32_t)(sizeof(attn_joined_head) / sizeof *joined)
                                          : a.joined.first_extra);
    const gpu_u32x2 fingerprint = gpu_load8(a.plan + offsetof(attn_plan_head, fingerprint));
    const int32_t n_listed =
        gpu_count_listed(lengths, request, which == 0 ? a.n_indices[0] : a.n_indices[1]);
    if (fingerprint[0] != (uint32_t)a.fingerprint ||
        fingerprint[1] != (uint32_t)(a.fingerprint >> 32))
        return;
    const int32_t most = ATTN_JOIN_ENTRIES / a.n_queries;
    int32_t n_joined = 0;
    for (int32_t first = 0; first < n_listed; first += most) {
        const join_chunk c =
            make_chunk(&scope, request, a.n_queries, first, gpu_min_i32(most, n_listed - first));
        own_entries own;
        load_chunk(&c, &s, &own);
        fill_table(&c, &s, &own);
        n_joined += write_chunk(&scope, &c, list + n_joined, &own, &s);
    }
    if (gpu_thread() == 0) {
        gpu_store4((char *)joined + (which == 0 ? offsetof(attn_joined_head, n_window)
                                                : offsetof(attn_joined_head, n_extra)),
                   (uint32_t)n_joined);
    }
}
