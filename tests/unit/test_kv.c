/*
 * test_kv.c - page pools and sequences, without a model.
 *
 * The model of six layers has every kind of cache; pages are looked at through the tensors and page
 * tables that the model would use.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kv/sequence.h"
#include "test_ref.h"

enum { N_KINDS = DSV4_CACHE_N_KINDS, N_LAYERS = 5, MAX_SEQUENCES = 6, MAX_TOKENS = 4096 };

static const int64_t ratios[N_KINDS] = {1, 4, 128, 1, 1}; /* tokens per row */

static dsv4_config config_of_all_kinds(void)
{
    dsv4_config config = {.n_layers = N_LAYERS, .n_mtp_blocks = 1, .max_positions = MAX_TOKENS};
    const int32_t layer_ratios[N_LAYERS + 1] = {0, 4, 128, 4, 128, 0};
    memcpy(config.ratios, layer_ratios, sizeof layer_ratios);
    return config;
}

static dsv4_pool *new_pool(const dsv4_pool_options *options)
{
    dsv4_config config = config_of_all_kinds();
    dsv4_pool *pool;
    dsv4_error error;
    if (dsv4_pool_create(&config, options, &pool, &error) != DSV4_OK) fail_msg("%s", error.text);
    return pool;
}

static dsv4_pool_options usual_options(void)
{
    return (dsv4_pool_options){.numerics = DSV4_NUMERICS_OFFICIAL,
                               .n_tokens = 600,
                               .n_sequences = 2,
                               .step_tokens = 100,
                               .rewind_tokens = 10};
}

static dsv4_sequence *new_sequence(dsv4_pool *pool)
{
    dsv4_sequence *sequence;
    dsv4_error error;
    assert_int_equal(dsv4_sequence_create(pool, &sequence, &error), DSV4_OK);
    return sequence;
}

static dsv4_sequence *new_fork(const dsv4_sequence *sequence)
{
    dsv4_sequence *fork;
    dsv4_error error;
    assert_int_equal(dsv4_sequence_fork(sequence, &fork, &error), DSV4_OK);
    return fork;
}

static void must_reserve(dsv4_sequence *sequence, int64_t n_new)
{
    dsv4_error error;
    if (dsv4_sequence_reserve(sequence, n_new, &error) != DSV4_OK) fail_msg("%s", error.text);
}

static void grow(dsv4_sequence *sequence, int64_t n_new)
{
    static const int32_t tokens[MAX_TOKENS];
    must_reserve(sequence, n_new);
    dsv4_sequence_advance(sequence, tokens, n_new);
}

/* The page of a row, -1 when the sequence holds none. */
static int32_t page_of(const dsv4_pool *pool, const dsv4_sequence *sequence, int kind, int64_t row)
{
    dsv4_cache_view view = dsv4_sequence_view(sequence);
    int64_t i = row / dsv4_pool_cache(pool)->page_rows[kind];
    assert_true(i < view.n_pages[kind]);
    return view.pages[kind][i];
}

/* The tensors of a kind in a layer; NULL bases where it has none. */
static void tensors_of(const dsv4_pool *pool, int layer, int kind, dsv4_cache_tensor found[2])
{
    const dsv4_layer_cache *cache = &dsv4_pool_cache(pool)->layers[layer];
    int32_t ratio = config_of_all_kinds().ratios[layer];
    memset(found, 0, 2 * sizeof *found);
    if (kind == DSV4_CACHE_WINDOW) found[0] = cache->window;
    if (kind == dsv4_cache_compressed_kind(ratio)) {
        found[0] = cache->compressed;
        found[1] = cache->index_keys;
    }
    if (kind == dsv4_cache_state_kind(ratio)) {
        found[0] = cache->state;
        found[1] = cache->index_state;
    }
}

/* ---- pool ---- */

static void test_refuses_options_by_name(void **state)
{
    (void)state;
    dsv4_config config = config_of_all_kinds();
    const struct {
        const char *name;
        size_t offset;
        int64_t value;
    } cases[] = {
        {"n_tokens", offsetof(dsv4_pool_options, n_tokens), 0},
        {"n_tokens", offsetof(dsv4_pool_options, n_tokens), -1},
        {"n_tokens", offsetof(dsv4_pool_options, n_tokens), INT64_MAX},
        {"n_tokens", offsetof(dsv4_pool_options, n_tokens), INT32_MAX}, /* slots are 32-bit */
        {"n_sequences", offsetof(dsv4_pool_options, n_sequences), 0},
        {"step_tokens", offsetof(dsv4_pool_options, step_tokens), 0},
        {"step_tokens", offsetof(dsv4_pool_options, step_tokens), INT64_MAX},
        {"rewind_tokens", offsetof(dsv4_pool_options, rewind_tokens), -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dsv4_pool_options options = usual_options();
        options.rewind_tokens = INT32_MAX; /* nothing else bounds the pages */
        memcpy((char *)&options + cases[i].offset, &cases[i].value, sizeof cases[i].value);
        dsv4_pool *pool = NULL;
        dsv4_error error;
        assert_int_equal(dsv4_pool_create(&config, &options, &pool, &error),
                         DSV4_ERROR_INVALID_ARGUMENT);
        assert_null(pool);
        assert_non_null(strstr(error.text, cases[i].name));
    }
}

static void test_free_accepts_null(void **state)
{
    (void)state;
    dsv4_pool_free(NULL);
    dsv4_sequence_free(NULL);
}

/* Row bytes by the formats of specification 4.1, 4.2 and 3.6, without the library's functions. */
static int64_t page_bytes_of(const dsv4_pool *pool, int kind, int32_t numerics)
{
    int64_t rows = dsv4_pool_cache(pool)->page_rows[kind];
    int64_t keys =
        numerics == DSV4_NUMERICS_EXACT ? rows * 512 * 4 : (rows * 584 + 575) / 576 * 576;
    int64_t index_keys = rows * (numerics == DSV4_NUMERICS_EXACT ? 128 * 4 : 68);
    switch (kind) {
    case DSV4_CACHE_WINDOW: return 6 * keys;
    case DSV4_CACHE_C4: return 2 * (keys + index_keys);
    case DSV4_CACHE_C128: return 2 * keys;
    case DSV4_CACHE_S4: return 2 * rows * (2048 + 512) * 4;
    default: return 2 * rows * 1024 * 4;
    }
}

static void test_counts_bytes(void **state)
{
    (void)state;
    for (int32_t numerics = DSV4_NUMERICS_OFFICIAL; numerics <= DSV4_NUMERICS_EXACT; numerics++) {
        dsv4_pool_options options = usual_options();
        options.numerics = numerics;
        dsv4_pool *pool = new_pool(&options);
        const dsv4_cache *cache = dsv4_pool_cache(pool);
        int64_t all = 0, used = 0;
        assert_int_equal(dsv4_pool_used_bytes(pool), 0);
        for (int kind = 0; kind < N_KINDS; kind++) {
            int64_t page_bytes = page_bytes_of(pool, kind, numerics);
            all += cache->n_pages[kind] * page_bytes;
            assert_true(dsv4_pool_take(pool, kind) >= 0);
            used += page_bytes;
            assert_int_equal(dsv4_pool_used_bytes(pool), used);
        }
        assert_int_equal(dsv4_pool_bytes(pool), all);
        assert_int_equal(cache->numerics, numerics);
        dsv4_pool_free(pool);
    }
}

static void test_layers_have_their_tensors(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    dsv4_pool *pool = new_pool(&options);
    for (int layer = 0; layer <= N_LAYERS; layer++) {
        const dsv4_layer_cache *cache = &dsv4_pool_cache(pool)->layers[layer];
        int32_t ratio = config_of_all_kinds().ratios[layer];
        assert_non_null(cache->window.base);
        assert_int_equal(cache->compressed.base != NULL, ratio > 0);
        assert_int_equal(cache->state.base != NULL, ratio > 0);
        assert_int_equal(cache->index_keys.base != NULL, ratio == 4);
        assert_int_equal(cache->index_state.base != NULL, ratio == 4);
    }
    dsv4_pool_free(pool);
}

static void test_hands_out_each_page_once(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    dsv4_pool *pool = new_pool(&options);
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t n_pages = dsv4_pool_cache(pool)->n_pages[kind];
        bool *is_taken = calloc((size_t)n_pages, sizeof *is_taken);
        assert_non_null(is_taken);
        for (int round = 0; round < 2; round++) {
            memset(is_taken, 0, (size_t)n_pages * sizeof *is_taken);
            for (int64_t i = 0; i < n_pages; i++) {
                assert_int_equal(dsv4_pool_n_free(pool, kind), n_pages - i);
                int32_t page = dsv4_pool_take(pool, kind);
                assert_in_range(page, 0, n_pages - 1);
                assert_false(is_taken[page]);
                is_taken[page] = true;
            }
            assert_int_equal(dsv4_pool_take(pool, kind), -1);
            for (int32_t page = 0; page < n_pages; page++) dsv4_pool_drop(pool, kind, page);
        }
        free(is_taken);
    }
    assert_int_equal(dsv4_pool_used_bytes(pool), 0);
    dsv4_pool_free(pool);
}

static void test_counts_references(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    dsv4_pool *pool = new_pool(&options);
    int32_t page = dsv4_pool_take(pool, DSV4_CACHE_C4);
    int64_t n_free = dsv4_pool_n_free(pool, DSV4_CACHE_C4);
    assert_false(dsv4_pool_is_shared(pool, DSV4_CACHE_C4, page));
    dsv4_pool_share(pool, DSV4_CACHE_C4, page);
    dsv4_pool_share(pool, DSV4_CACHE_C4, page);
    assert_true(dsv4_pool_is_shared(pool, DSV4_CACHE_C4, page));
    dsv4_pool_drop(pool, DSV4_CACHE_C4, page);
    assert_true(dsv4_pool_is_shared(pool, DSV4_CACHE_C4, page));
    dsv4_pool_drop(pool, DSV4_CACHE_C4, page);
    assert_false(dsv4_pool_is_shared(pool, DSV4_CACHE_C4, page));
    assert_int_equal(dsv4_pool_n_free(pool, DSV4_CACHE_C4), n_free);
    dsv4_pool_drop(pool, DSV4_CACHE_C4, page);
    assert_int_equal(dsv4_pool_n_free(pool, DSV4_CACHE_C4), n_free + 1);
    dsv4_pool_free(pool);
}

/* Which page of a kind was copied to which; from -1: none. */
typedef struct page_copy {
    int32_t from, to;
} page_copy;

static const page_copy no_copies[N_KINDS] = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};

/* Fills every page of every tensor with a byte of its own. */
static void fill_pages(const dsv4_pool *pool)
{
    for (int i = 0; i < (N_LAYERS + 1) * N_KINDS * 2; i++) {
        int layer = i / 2 / N_KINDS, kind = i / 2 % N_KINDS, which = i % 2;
        dsv4_cache_tensor tensors[2];
        tensors_of(pool, layer, kind, tensors);
        if (tensors[which].base == NULL) continue;
        for (int32_t page = 0; page < dsv4_pool_cache(pool)->n_pages[kind]; page++) {
            int64_t len_bytes = tensors[which].page_stride_bytes;
            memset(tensors[which].base + page * len_bytes, (i * 7 + page) & 255, (size_t)len_bytes);
        }
    }
}

/* Every page holds what fill_pages wrote, but for those that were copied. */
static void assert_pages(const dsv4_pool *pool, const page_copy copies[N_KINDS])
{
    for (int i = 0; i < (N_LAYERS + 1) * N_KINDS * 2; i++) {
        int layer = i / 2 / N_KINDS, kind = i / 2 % N_KINDS, which = i % 2;
        dsv4_cache_tensor tensors[2];
        tensors_of(pool, layer, kind, tensors);
        if (tensors[which].base == NULL) continue;
        for (int32_t page = 0; page < dsv4_pool_cache(pool)->n_pages[kind]; page++) {
            int64_t len_bytes = tensors[which].page_stride_bytes;
            const unsigned char *base = tensors[which].base + page * len_bytes;
            bool is_copy = copies[kind].from >= 0 && page == copies[kind].to;
            int value = (i * 7 + (is_copy ? copies[kind].from : page)) & 255;
            for (int64_t at = 0; at < len_bytes; at++) {
                if (base[at] != value) fail_msg("kind %d, layer %d, page %d", kind, layer, page);
            }
        }
    }
}

static void test_copies_one_page_in_all_layers(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_KINDS; kind++) {
        dsv4_pool_options options = usual_options();
        dsv4_pool *pool = new_pool(&options);
        page_copy copies[N_KINDS];
        memcpy(copies, no_copies, sizeof copies);
        copies[kind] = (page_copy){1, (int32_t)dsv4_pool_cache(pool)->n_pages[kind] - 1};
        fill_pages(pool);
        assert_pages(pool, no_copies);
        dsv4_pool_copy(pool, kind, copies[kind].from, copies[kind].to);
        assert_pages(pool, copies);
        dsv4_pool_free(pool);
    }
}

/* ---- sequences ---- */

/* First row of a kind that a token at position n reads (specification 3.4, 3.6). */
static int64_t first_read_row(int kind, int64_t n)
{
    int64_t row = 0;
    if (kind == DSV4_CACHE_WINDOW) row = n - 127;
    if (kind == DSV4_CACHE_S4) row = 4 * (n / 4 - 1);
    if (kind == DSV4_CACHE_S128) row = 128 * (n / 128);
    return row < 0 ? 0 : row;
}

/* Every row that the step of n_new tokens reads or writes has a page. */
static void assert_ready(const dsv4_pool *pool, const dsv4_sequence *sequence, int64_t n_new)
{
    int64_t n = dsv4_sequence_n_tokens(sequence);
    for (int kind = 0; kind < N_KINDS; kind++) {
        for (int64_t row = first_read_row(kind, n); row < (n + n_new) / ratios[kind]; row++) {
            assert_true(page_of(pool, sequence, kind, row) >= 0);
        }
    }
}

static void test_reserves_what_a_step_needs(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    dsv4_pool *pool = new_pool(&options);
    dsv4_sequence *sequence = new_sequence(pool);
    uint64_t random = 1;
    while (dsv4_sequence_n_tokens(sequence) < 500) {
        int64_t n_new = 1 + random_next(&random) % 100;
        must_reserve(sequence, n_new);
        assert_ready(pool, sequence, n_new);
        int64_t used_bytes = dsv4_pool_used_bytes(pool);
        must_reserve(sequence, n_new); /* again takes nothing */
        assert_int_equal(dsv4_pool_used_bytes(pool), used_bytes);
        grow(sequence, n_new);
    }
    dsv4_sequence_free(sequence);
    assert_int_equal(dsv4_pool_used_bytes(pool), 0);
    dsv4_pool_free(pool);
}

/* A compressed row is written by the token that ends its group, and needs no page before. */
static void test_compressed_pages_come_with_groups(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    dsv4_pool *pool = new_pool(&options);
    dsv4_sequence *sequence = new_sequence(pool);
    for (int64_t n = 1; n <= 300; n++) {
        grow(sequence, 1);
        for (int kind = DSV4_CACHE_C4; kind <= DSV4_CACHE_C128; kind++) {
            int64_t n_rows = n / ratios[kind], page_rows = dsv4_pool_cache(pool)->page_rows[kind];
            dsv4_cache_view view = dsv4_sequence_view(sequence);
            for (int64_t i = 0; i < view.n_pages[kind]; i++) {
                assert_int_equal(view.pages[kind][i] >= 0, i * page_rows < n_rows);
            }
        }
    }
    dsv4_sequence_free(sequence);
    dsv4_pool_free(pool);
}

static void test_remembers_tokens(void **state)
{
    (void)state;
    const int32_t tokens[] = {7, 1, 9, 3, 5};
    dsv4_pool_options options = usual_options();
    dsv4_pool *pool = new_pool(&options);
    dsv4_sequence *sequence = new_sequence(pool);
    assert_int_equal(dsv4_sequence_n_tokens(sequence), 0);
    must_reserve(sequence, 3);
    dsv4_sequence_advance(sequence, tokens, 3);
    must_reserve(sequence, 2);
    dsv4_sequence_advance(sequence, tokens + 3, 2);
    assert_int_equal(dsv4_sequence_n_tokens(sequence), 5);
    assert_memory_equal(dsv4_sequence_tokens(sequence), tokens, sizeof tokens);
    dsv4_sequence *fork = new_fork(sequence);
    assert_int_equal(dsv4_sequence_n_tokens(fork), 5);
    assert_memory_equal(dsv4_sequence_tokens(fork), tokens, sizeof tokens);
    dsv4_sequence_free(fork);
    dsv4_sequence_free(sequence);
    dsv4_pool_free(pool);
}

static void test_gives_old_pages_back(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    options.n_tokens = MAX_TOKENS;
    dsv4_pool *pool = new_pool(&options);
    dsv4_sequence *sequence = new_sequence(pool);
    for (int64_t n = 0; n + 40 <= MAX_TOKENS; n += 40) {
        grow(sequence, 40);
        assert_ready(pool, sequence, 0);
        for (int kind = 0; kind < N_KINDS; kind++) {
            if (ratios[kind] > 1) continue;
            int64_t page_rows = dsv4_pool_cache(pool)->page_rows[kind];
            int64_t n_held = dsv4_pool_cache(pool)->n_pages[kind] - dsv4_pool_n_free(pool, kind);
            /* At most a window or a group, the rewind, and two pages that are part full. */
            assert_true(n_held <= (127 + 10) / page_rows + 2);
        }
    }
    dsv4_sequence_free(sequence);
    assert_int_equal(dsv4_pool_used_bytes(pool), 0);
    dsv4_pool_free(pool);
}

static void test_refuses_large_steps(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    dsv4_pool *pool = new_pool(&options);
    dsv4_sequence *sequence = new_sequence(pool);
    const int64_t sizes[] = {101, -1, INT64_MAX, INT64_MIN};
    for (int i = 0; i < 4; i++) {
        dsv4_error error;
        assert_int_equal(dsv4_sequence_reserve(sequence, sizes[i], &error),
                         DSV4_ERROR_INVALID_ARGUMENT);
        assert_non_null(strstr(error.text, "step_tokens"));
        assert_int_equal(dsv4_pool_used_bytes(pool), 0);
    }
    must_reserve(sequence, 0);
    must_reserve(sequence, 100);
    dsv4_sequence_free(sequence);
    dsv4_pool_free(pool);
}

static void test_refuses_to_outgrow_the_pool(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    dsv4_pool *pool = new_pool(&options);
    dsv4_sequence *sequence = new_sequence(pool);
    for (int i = 0; i < 6; i++) grow(sequence, 99);
    int64_t used_bytes = dsv4_pool_used_bytes(pool);
    dsv4_error error;
    assert_int_equal(dsv4_sequence_reserve(sequence, 7, &error), DSV4_ERROR_OUT_OF_MEMORY);
    assert_non_null(strstr(error.text, "594"));
    assert_non_null(strstr(error.text, "600"));
    assert_int_equal(dsv4_pool_used_bytes(pool), used_bytes);
    grow(sequence, 6);
    dsv4_sequence_free(sequence);
    dsv4_pool_free(pool);
}

/* However large the pool: a server's page tables must not grow with it. */
static void test_a_sequence_ends_with_the_positions(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    options.n_tokens = 3 * MAX_TOKENS;
    options.step_tokens = MAX_TOKENS;
    dsv4_pool *pool = new_pool(&options);
    dsv4_sequence *sequence = new_sequence(pool);
    dsv4_error error;
    grow(sequence, MAX_TOKENS - 1);
    assert_int_equal(dsv4_sequence_reserve(sequence, 2, &error), DSV4_ERROR_OUT_OF_MEMORY);
    assert_non_null(strstr(error.text, "4096"));
    grow(sequence, 1);
    dsv4_cache_view view = dsv4_sequence_view(sequence);
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t page_tokens = dsv4_pool_cache(pool)->page_rows[kind] * ratios[kind];
        assert_true(view.n_pages[kind] <= MAX_TOKENS / page_tokens + 2);
    }
    dsv4_sequence_free(sequence);
    dsv4_pool_free(pool);
}

/* Too few pages of one kind: none of the others is taken either. */
static void test_a_full_pool_changes_nothing(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_KINDS; kind++) {
        dsv4_pool_options options = usual_options();
        options.step_tokens = 300;
        dsv4_pool *pool = new_pool(&options);
        dsv4_sequence *sequence = new_sequence(pool);
        grow(sequence, 3);
        int32_t taken[MAX_TOKENS];
        int64_t n_taken = 0, n_free[N_KINDS];
        while (dsv4_pool_n_free(pool, kind) > 0) taken[n_taken++] = dsv4_pool_take(pool, kind);
        for (int k = 0; k < N_KINDS; k++) n_free[k] = dsv4_pool_n_free(pool, k);
        dsv4_error error;
        assert_int_equal(dsv4_sequence_reserve(sequence, 300, &error), DSV4_ERROR_OUT_OF_MEMORY);
        assert_non_null(strstr(error.text, "full"));
        for (int k = 0; k < N_KINDS; k++) {
            assert_int_equal(dsv4_pool_n_free(pool, k), n_free[k]);
            assert_int_equal(page_of(pool, sequence, k, 299 / ratios[k]), -1);
        }
        while (n_taken > 0) dsv4_pool_drop(pool, kind, taken[--n_taken]);
        grow(sequence, 300);
        dsv4_sequence_free(sequence);
        assert_int_equal(dsv4_pool_used_bytes(pool), 0);
        dsv4_pool_free(pool);
    }
}

/* ---- forks ---- */

static void test_a_fork_shares_until_it_writes(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    dsv4_pool *pool = new_pool(&options);
    dsv4_sequence *parent = new_sequence(pool);
    grow(parent, 100);
    grow(parent, 41);
    fill_pages(pool);
    int64_t used_bytes = dsv4_pool_used_bytes(pool);
    dsv4_sequence *fork = new_fork(parent);
    assert_int_equal(dsv4_pool_used_bytes(pool), used_bytes);
    int32_t before[N_KINDS];
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t last = 141 / ratios[kind] - 1;
        before[kind] = page_of(pool, parent, kind, last);
        assert_int_equal(page_of(pool, fork, kind, last), before[kind]);
    }
    page_copy copies[N_KINDS];
    grow(fork, 4); /* rows 141 .. 144, and compressed row 35 */
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t last = 141 / ratios[kind] - 1;
        assert_int_equal(page_of(pool, parent, kind, last), before[kind]);
        int32_t own = page_of(pool, fork, kind, last);
        assert_int_equal(own == before[kind], kind == DSV4_CACHE_C128); /* which nobody wrote */
        copies[kind] = (page_copy){before[kind], own};
    }
    assert_pages(pool, copies);
    grow(parent, 4); /* the last holder writes in place */
    for (int kind = 0; kind < N_KINDS; kind++) {
        assert_int_equal(page_of(pool, parent, kind, 141 / ratios[kind] - 1), before[kind]);
    }
    dsv4_sequence_free(parent);
    assert_ready(pool, fork, 0);
    dsv4_sequence_free(fork);
    assert_int_equal(dsv4_pool_used_bytes(pool), 0);
    dsv4_pool_free(pool);
}

/* ---- rewinds ---- */

static void test_rewinds_within_what_is_promised(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    dsv4_pool *pool = new_pool(&options);
    for (int64_t length = 1; length <= 420; length++) {
        for (int64_t back = 0; back <= 10 && back <= length; back++) {
            dsv4_sequence *sequence = new_sequence(pool);
            for (int64_t n = 0; n < length;) {
                int64_t n_new = length - n < 100 ? length - n : 100;
                grow(sequence, n_new);
                n += n_new;
            }
            assert_int_equal(dsv4_sequence_rewind(sequence, length - back), length - back);
            assert_int_equal(dsv4_sequence_n_tokens(sequence), length - back);
            assert_ready(pool, sequence, 0);
            dsv4_sequence_free(sequence);
        }
    }
    assert_int_equal(dsv4_pool_used_bytes(pool), 0);
    dsv4_pool_free(pool);
}

static void test_rewinds_further_start_again(void **state)
{
    (void)state;
    int32_t tokens[400];
    for (int32_t i = 0; i < 400; i++) tokens[i] = 3 * i;
    dsv4_pool_options options = usual_options();
    options.step_tokens = 400;
    dsv4_pool *pool = new_pool(&options);
    dsv4_sequence *sequence = new_sequence(pool);
    must_reserve(sequence, 400);
    dsv4_sequence_advance(sequence, tokens, 400);
    assert_int_equal(dsv4_sequence_rewind(sequence, 150), 0);
    assert_int_equal(dsv4_sequence_n_tokens(sequence), 0);
    assert_int_equal(dsv4_pool_used_bytes(pool), 0);
    assert_memory_equal(dsv4_sequence_tokens(sequence), tokens, 150 * sizeof *tokens);
    grow(sequence, 150);
    assert_int_equal(dsv4_sequence_rewind(sequence, 0), 0);
    assert_int_equal(dsv4_pool_used_bytes(pool), 0);
    dsv4_sequence_free(sequence);
    dsv4_pool_free(pool);
}

static void test_a_rewind_returns_pages(void **state)
{
    (void)state;
    dsv4_pool_options options = usual_options();
    options.rewind_tokens = 600;
    dsv4_pool *pool = new_pool(&options);
    dsv4_sequence *sequence = new_sequence(pool), *fresh = new_sequence(pool);
    for (int i = 0; i < 4; i++) grow(sequence, 100);
    int64_t used_bytes = dsv4_pool_used_bytes(pool);
    assert_int_equal(dsv4_sequence_rewind(sequence, 130), 130);
    int64_t rewound_bytes = dsv4_pool_used_bytes(pool);
    assert_true(rewound_bytes < used_bytes);
    grow(fresh, 100);
    grow(fresh, 30);
    assert_int_equal(dsv4_pool_used_bytes(pool), 2 * rewound_bytes);
    must_reserve(sequence, 100); /* reserved and not advanced: a rewind returns that too */
    assert_int_equal(dsv4_sequence_rewind(sequence, 130), 130);
    assert_int_equal(dsv4_pool_used_bytes(pool), 2 * rewound_bytes);
    dsv4_sequence_free(fresh);
    dsv4_sequence_free(sequence);
    dsv4_pool_free(pool);
}

/* ---- everything at random ---- */

typedef struct herd {
    dsv4_pool *pool;
    dsv4_sequence *sequences[MAX_SEQUENCES];
    int64_t longest[MAX_SEQUENCES]; /* each has been since it was computed from 0 */
    int64_t n_sequences;
} herd;

static int64_t total_tokens(const herd *h)
{
    int64_t n = 0;
    for (int64_t i = 0; i < h->n_sequences; i++) n += dsv4_sequence_n_tokens(h->sequences[i]);
    return n;
}

/* Pages that tables name are exactly those that are not free, and are counted as shared if they are. */
static void assert_consistent(const herd *h)
{
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t n_pages = dsv4_pool_cache(h->pool)->n_pages[kind], n_held = 0;
        int32_t counts[MAX_TOKENS] = {0};
        assert_true(n_pages <= MAX_TOKENS);
        for (int64_t i = 0; i < h->n_sequences; i++) {
            dsv4_cache_view view = dsv4_sequence_view(h->sequences[i]);
            for (int64_t j = 0; j < view.n_pages[kind]; j++) {
                if (view.pages[kind][j] >= 0) counts[view.pages[kind][j]]++;
            }
        }
        for (int32_t page = 0; page < n_pages; page++) {
            n_held += counts[page] > 0;
            if (counts[page] == 0) continue;
            assert_int_equal(dsv4_pool_is_shared(h->pool, kind, page), counts[page] > 1);
        }
        assert_int_equal(dsv4_pool_n_free(h->pool, kind), n_pages - n_held);
    }
}

static void assert_writes_own_pages(const herd *h, const dsv4_sequence *sequence, int64_t n_new)
{
    int64_t n = dsv4_sequence_n_tokens(sequence);
    for (int kind = 0; kind < N_KINDS; kind++) {
        for (int64_t row = n / ratios[kind]; row < (n + n_new) / ratios[kind]; row++) {
            int32_t page = page_of(h->pool, sequence, kind, row);
            assert_false(dsv4_pool_is_shared(h->pool, kind, page));
        }
    }
}

static void remove_sequence(herd *h, int64_t i)
{
    dsv4_sequence_free(h->sequences[i]);
    h->n_sequences--;
    h->sequences[i] = h->sequences[h->n_sequences];
    h->longest[i] = h->longest[h->n_sequences];
}

/* Rewinding is promised from the longest that a sequence has been: what that dropped is gone. */
static void rewind_sequence(herd *h, int64_t i, int64_t back, int64_t rewind_tokens)
{
    int64_t n = dsv4_sequence_n_tokens(h->sequences[i]);
    if (back > n) back = n;
    int64_t n_computed = dsv4_sequence_rewind(h->sequences[i], n - back);
    bool is_promised = h->longest[i] - (n - back) <= rewind_tokens;
    assert_true(n_computed == n - back || (n_computed == 0 && !is_promised));
    assert_int_equal(dsv4_sequence_n_tokens(h->sequences[i]), n_computed);
    if (n_computed == 0) h->longest[i] = 0;
    assert_ready(h->pool, h->sequences[i], 0);
}

static int64_t random_below(uint64_t *random, int64_t n)
{
    return random_next(random) % n;
}

/* One random operation that the options allow; then it must succeed. */
static void act(herd *h, const dsv4_pool_options *options, uint64_t *random)
{
    int64_t dice = random_below(random, 100), left = options->n_tokens - total_tokens(h);
    bool has_room = h->n_sequences < options->n_sequences;
    if (h->n_sequences == 0 || (dice < 8 && has_room)) {
        h->longest[h->n_sequences] = 0;
        h->sequences[h->n_sequences++] = new_sequence(h->pool);
        return;
    }
    int64_t i = random_below(random, h->n_sequences);
    dsv4_sequence *sequence = h->sequences[i];
    int64_t n = dsv4_sequence_n_tokens(sequence);
    if (dice < 18 && has_room && n <= left) {
        h->longest[h->n_sequences] = h->longest[i];
        h->sequences[h->n_sequences++] = new_fork(sequence);
    } else if (dice < 22) {
        remove_sequence(h, i);
    } else if (dice < 40) {
        int64_t back = random_below(random, 2 * options->rewind_tokens + 2);
        rewind_sequence(h, i, back, options->rewind_tokens);
    } else {
        int64_t n_new = 1 + random_below(random, options->step_tokens);
        if (n_new > left) n_new = left;
        must_reserve(sequence, n_new);
        assert_ready(h->pool, sequence, n_new);
        assert_writes_own_pages(h, sequence, n_new);
        if (dice < 90) {
            grow(sequence, n_new);
            if (n + n_new > h->longest[i]) h->longest[i] = n + n_new;
        } else { /* the step fails, and its pages go back */
            rewind_sequence(h, i, 0, options->rewind_tokens);
        }
    }
}

/* As many tokens and sequences as the options say always fit, whatever happened before. */
static void test_random_histories(void **state)
{
    (void)state;
    uint64_t random = 5;
    for (int history = 0; history < 200; history++) {
        dsv4_pool_options options = {.numerics = DSV4_NUMERICS_OFFICIAL,
                                     .n_tokens = 20 + random_next(&random) % 1000,
                                     .n_sequences = 1 + random_next(&random) % MAX_SEQUENCES,
                                     .step_tokens = 1 + random_next(&random) % 200,
                                     .rewind_tokens = random_next(&random) % 40};
        herd h = {.pool = new_pool(&options)};
        for (int i = 0; i < 150; i++) {
            act(&h, &options, &random);
            assert_consistent(&h);
        }
        while (h.n_sequences > 0) remove_sequence(&h, 0);
        assert_int_equal(dsv4_pool_used_bytes(h.pool), 0);
        dsv4_pool_free(h.pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses_options_by_name),
        cmocka_unit_test(test_free_accepts_null),
        cmocka_unit_test(test_counts_bytes),
        cmocka_unit_test(test_layers_have_their_tensors),
        cmocka_unit_test(test_hands_out_each_page_once),
        cmocka_unit_test(test_counts_references),
        cmocka_unit_test(test_copies_one_page_in_all_layers),
        cmocka_unit_test(test_reserves_what_a_step_needs),
        cmocka_unit_test(test_compressed_pages_come_with_groups),
        cmocka_unit_test(test_remembers_tokens),
        cmocka_unit_test(test_gives_old_pages_back),
        cmocka_unit_test(test_refuses_large_steps),
        cmocka_unit_test(test_refuses_to_outgrow_the_pool),
        cmocka_unit_test(test_a_sequence_ends_with_the_positions),
        cmocka_unit_test(test_a_full_pool_changes_nothing),
        cmocka_unit_test(test_a_fork_shares_until_it_writes),
        cmocka_unit_test(test_rewinds_within_what_is_promised),
        cmocka_unit_test(test_rewinds_further_start_again),
        cmocka_unit_test(test_a_rewind_returns_pages),
        cmocka_unit_test(test_random_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
