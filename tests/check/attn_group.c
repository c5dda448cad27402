/*
 * attn_group.c - what the cases of each group are drawn from.
 *
 * Place: tests. A group starts from a random small spec and then fixes what it is about.
 */
#include "attn_group.h"

#include "attn_flashmla.h"
#include "attn_property.h"

#include <string.h>

#define COUNT(array) ((int64_t)(sizeof(array) / sizeof(array)[0]))

static int64_t pick(attn_rng *rng, const int64_t *values, int64_t n_values)
{
    return values[attn_rng_range(rng, 0, n_values - 1)];
}

static const int64_t page_sizes[] = {1, 2, 53, 61, 64, 69, 256};
static const int64_t head_counts[] = {1, 2, 3, 5, 8, 12, 16, 24, 32, 64, 96, 128};

static void scope_draw(attn_rng *rng, attn_scope_spec *scope, int64_t n_indices)
{
    scope->n_indices = n_indices;
    scope->n_slots = attn_rng_range(rng, 1, n_indices + 9);
    scope->page_rows = pick(rng, page_sizes, COUNT(page_sizes));
    scope->page_pad_bytes = attn_rng_chance(rng, 50) ? attn_rng_range(rng, 1, 700) : 0;
    scope->list = (attn_list)attn_rng_range(rng, ATTN_LIST_DISTINCT, ATTN_LIST_LAST);
    if (attn_rng_chance(rng, 60)) scope->list = ATTN_LIST_WILD;
    scope->lengths = (attn_lengths)attn_rng_range(rng, ATTN_LENGTHS_NONE, ATTN_LENGTHS_HALF_ZERO);
    if (attn_rng_chance(rng, 40)) scope->lengths = ATTN_LENGTHS_NONE;
    scope->shares_lists = attn_rng_chance(rng, 10);
}

/* Every switch at random; lists of at most max_indices. */
static void spec_draw(attn_rng *rng, attn_spec *spec, int64_t max_indices)
{
    spec->n_requests = attn_rng_range(rng, 1, 4);
    spec->n_queries = attn_rng_range(rng, 1, 4);
    spec->n_heads = pick(rng, head_counts, 7);
    spec->has_scope[0] = attn_rng_chance(rng, 95);
    spec->has_scope[1] = attn_rng_chance(rng, 60);
    for (int i = 0; i < 2; i++) {
        scope_draw(rng, &spec->scope[i], attn_rng_range(rng, 0, max_indices));
    }
    spec->has_lse = attn_rng_chance(rng, 85);
    spec->is_unaligned = attn_rng_chance(rng, 50);
    spec->names_nan = attn_rng_chance(rng, 15);
    spec->varies_length = attn_rng_chance(rng, 20);
    spec->softmax_scale = attn_rng_chance(rng, 60) ? 0.044194173824159216f
                                                   : (float)(0.001 + 0.09 * attn_rng_uniform(rng));
    spec->out_dtype = attn_rng_chance(rng, 50) ? DSV4_DTYPE_BF16 : DSV4_DTYPE_F32;
    spec->q_dtype = DSV4_DTYPE_BF16;
    spec->n_threads = (int32_t)attn_rng_range(rng, 0, 3);
    spec->values = attn_rng_chance(rng, 50) ? ATTN_VALUES_QUANT : ATTN_VALUES_CODES;
    spec->sink = (attn_sink)attn_rng_range(rng, ATTN_SINK_NONE, ATTN_SINK_BIG);
    spec->rope = attn_rng_chance(rng, 70) ? ATTN_ROPE_NONE
                                          : (attn_rope)attn_rng_range(rng, 1, ATTN_ROPE_OUTSIDE);
    spec->layout = (attn_layout)attn_rng_range(rng, ATTN_LAYOUT_DENSE, ATTN_LAYOUT_PERMUTED);
}

/* Few keys: nothing hides a fault in one of them. */
static void draw_corner(attn_rng *rng, int64_t index, attn_spec *spec)
{
    spec_draw(rng, spec, 3 + index % 30);
    if (index % 10 == 0) spec->scope[0].list = spec->scope[1].list = ATTN_LIST_INVALID;
    if (index % 10 == 1) spec->scope[0].lengths = ATTN_LENGTHS_ZERO;
    if (index % 10 == 2) spec->scope[1].lengths = ATTN_LENGTHS_ZERO;
    if (index % 10 == 3) spec->names_nan = true;
    if (index % 10 == 4) spec->softmax_scale = index % 20 == 4 ? 1e-6f : 1.0f;
}

/* Lists about the size of a block of keys, on both sides of it. */
static void draw_blocks(attn_rng *rng, int64_t index, attn_spec *spec)
{
    static const int64_t sizes[] = {1, 3, 17, 63, 64, 65, 127, 128, 129, 191, 193, 1000};
    spec_draw(rng, spec, 10);
    int which = attn_rng_chance(rng, 30) ? 1 : 0;
    spec->has_scope[which] = true;
    scope_draw(rng, &spec->scope[which], sizes[index % COUNT(sizes)]);
    if (attn_rng_chance(rng, 50)) spec->scope[which].list = ATTN_LIST_DISTINCT;
    if (attn_rng_chance(rng, 30)) spec->scope[which].list = ATTN_LIST_LAST;
    if (attn_rng_chance(rng, 50)) spec->scope[which].lengths = ATTN_LENGTHS_NONE;
}

static void draw_heads(attn_rng *rng, int64_t index, attn_spec *spec)
{
    spec_draw(rng, spec, 80);
    spec->n_heads =
        index < COUNT(head_counts) ? head_counts[index] : index % DSV4_ATTN_MAX_HEADS + 1;
    spec->sink = (attn_sink)attn_rng_range(rng, ATTN_SINK_FINITE, ATTN_SINK_MIXED);
    spec->names_nan = false;
}

/* Each kind of values, without what would hide numbers. */
static void draw_values(attn_rng *rng, int64_t index, attn_spec *spec)
{
    spec_draw(rng, spec, 100);
    spec->has_scope[0] = true;
    spec->values = (attn_values)(index % (ATTN_VALUES_SUBNORMAL + 1));
    spec->sink = attn_rng_chance(rng, 50) ? ATTN_SINK_NONE : ATTN_SINK_FINITE;
    spec->names_nan = false;
    spec->softmax_scale = 0.044194173824159216f;
}

static void draw_rope(attn_rng *rng, int64_t index, attn_spec *spec)
{
    spec_draw(rng, spec, 40);
    spec->rope = index % 2 == 0 ? ATTN_ROPE_INSIDE : ATTN_ROPE_OUTSIDE;
}

/*
 * A row of little weight may have values that are 2^20 times as large as another's, as tokens that only take up weight
 * make the others. Few keys: none hides another. Heads fill groups, since what values are rounded relative to may be
 * the same for all heads of one.
 */
static void draw_scales(attn_rng *rng, int64_t index, attn_spec *spec)
{
    static const int64_t heads[] = {32, 64, 96, 128};
    spec_draw(rng, spec, index % 4 == 3 ? 150 : 2 + index % 40);
    spec->n_heads = heads[index % COUNT(heads)];
    spec->has_scope[0] = true;
    spec->values = ATTN_VALUES_SCALES;
    spec->softmax_scale = 0.044194173824159216f;
    spec->names_nan = false;
}

/* One key, and blocks later many: what probabilities and values are relative to has to grow, for every group of heads. */
static void draw_growth(attn_rng *rng, int64_t index, attn_spec *spec)
{
    draw_scales(rng, index, spec);
    spec->n_requests = spec->n_queries = 1;
    for (int i = 0; i < 2; i++) {
        spec->has_scope[i] = true;
        scope_draw(rng, &spec->scope[i], i == 0 ? 64 * (1 + index % 4) : 64 + index % 150);
        spec->scope[i].list = i == 0 ? ATTN_LIST_LAST : ATTN_LIST_REPEAT;
        spec->scope[i].lengths = ATTN_LENGTHS_NONE;
    }
    spec->varies_length = false;
    if (index % 3 == 0) spec->values = ATTN_VALUES_PEAKY;
    if (index % 3 == 1) { /* the first key still counts */
        spec->values = ATTN_VALUES_CODES;
        spec->scope[1].n_indices = 2 + index;
    }
}

/* Many requests of every size, for the division of work. */
static void draw_bits(attn_rng *rng, int64_t index, attn_spec *spec)
{
    static const int64_t sizes[] = {20, 64, 130, 300, 700, 2100};
    spec_draw(rng, spec, sizes[index % COUNT(sizes)]);
    spec->n_requests = attn_rng_range(rng, 2, 6);
    spec->n_heads = pick(rng, head_counts, COUNT(head_counts));
    if (index % COUNT(sizes) >= 3) {
        spec->n_requests = attn_rng_range(rng, 1, 3);
        spec->n_queries = 1;
        spec->scope[0].n_indices = sizes[index % COUNT(sizes)];
        spec->scope[0].list = ATTN_LIST_REPEAT;
    }
    if (attn_rng_chance(rng, 50)) spec->scope[0].lengths = ATTN_LENGTHS_RANDOM;
}

/* Quantized output: often few keys, so that values and so scales differ, and everything that becomes zero or NaN. */
static void draw_fp8(attn_rng *rng, int64_t index, attn_spec *spec)
{
    draw_bits(rng, index, spec);
    if (index % 3 == 0) spec->scope[0].n_indices = attn_rng_range(rng, 0, 5);
    if (index % 6 == 0) spec->has_scope[1] = false;
    if (index % 5 == 1) spec->rope = ATTN_ROPE_OUTSIDE;
    if (index % 4 == 2) spec->values = (attn_values)(index / 4 % (ATTN_VALUES_SUBNORMAL + 1));
    if (index % 7 == 2) { /* what can be joined */
        spec->n_heads = 8;
        spec->n_queries = 2;
    }
    spec->out_dtype = DSV4_DTYPE_FP8;
}

/* Every layout and type of output, lists of one part and of several; at times what can be joined. */
static void draw_refused(attn_rng *rng, int64_t index, attn_spec *spec)
{
    draw_bits(rng, index, spec);
    if (index % 8 == 5) {
        spec->n_heads = 8;
        spec->n_queries = 2;
    }
    if (index % 3 == 2) spec->out_dtype = DSV4_DTYPE_FP8;
}

static void draw_merge(attn_rng *rng, int64_t index, attn_spec *spec)
{
    spec_draw(rng, spec, index % 5 == 0 ? 300 : 30);
    if (spec->rope == ATTN_ROPE_OUTSIDE) spec->rope = ATTN_ROPE_INSIDE;
    spec->has_lse = true;
}

/* A point of the grid that FlashMLA's own test sweeps. */
static void draw_grid(attn_rng *rng, int64_t index, attn_spec *spec)
{
    static const struct {
        int64_t n_slots, n_indices, page_rows;
    } points[] = {{512, 64, 2},    {512, 64, 64},   {512, 64, 69},    {1024, 576, 2},
                  {1024, 576, 61}, {2046, 2048, 2}, {2046, 2048, 64}, {2046, 2048, 576},
                  {512, 64, 61},   {650, 576, 53}};
    static const int64_t heads[] = {8, 64, 128};
    spec_draw(rng, spec, 0);
    for (int i = 0; i < 2; i++) {
        int64_t point = i == 0 ? index % COUNT(points) : attn_rng_range(rng, 0, COUNT(points) - 1);
        spec->has_scope[i] = i == 0 || index / COUNT(points) % 2 == 1;
        spec->scope[i].n_slots = points[point].n_slots;
        spec->scope[i].n_indices = points[point].n_indices;
        spec->scope[i].page_rows = points[point].page_rows;
        spec->scope[i].list = attn_rng_chance(rng, 10) ? ATTN_LIST_INVALID : ATTN_LIST_DISTINCT;
        spec->scope[i].lengths = (attn_lengths)pick(
            rng, (const int64_t[]){ATTN_LENGTHS_NONE, ATTN_LENGTHS_RANDOM, ATTN_LENGTHS_HALF_ZERO},
            3);
    }
    spec->n_requests = attn_rng_range(rng, 1, 5);
    spec->n_queries = attn_rng_chance(rng, 50) ? 1 : 3;
    spec->n_heads = pick(rng, heads, COUNT(heads));
    spec->varies_length = attn_rng_chance(rng, 60);
    spec->softmax_scale = 0.03235187f; /* 512^-0.55 */
    spec->sink = attn_rng_chance(rng, 75) ? ATTN_SINK_MIXED : ATTN_SINK_NONE;
    spec->values = ATTN_VALUES_QUANT;
    spec->names_nan = false;
    if (attn_rng_chance(rng, 50)) spec->layout = ATTN_LAYOUT_PERMUTED;
}

/* Its shapes as they are. */
static void draw_flashmla(attn_rng *rng, int64_t index, attn_spec *spec)
{
    spec_draw(rng, spec, 0);
    attn_flashmla_draw(rng, index, spec);
}

/* A few of its requests, for the scalar reference. */
static void draw_flashmla_few(attn_rng *rng, int64_t index, attn_spec *spec)
{
    draw_flashmla(rng, index, spec);
    if (spec->n_requests > 4) spec->n_requests = 4;
}

/*
 * Queries that name the same rows, as tokens one behind the other do: none, most, all; a row that is NaN to some. Of
 * every eight one has lists longer than what is matched at once.
 */
static void draw_queries(attn_rng *rng, int64_t index, attn_spec *spec)
{
    static const int64_t heads[] = {8, 16, 32}, queries[] = {2, 4, 3, 2, 1};
    static const int32_t neighbours[] = {90, 60, 100, 0};
    static const attn_list lists[] = {ATTN_LIST_DISTINCT, ATTN_LIST_WILD, ATTN_LIST_REPEAT};
    spec_draw(rng, spec, index % 2 == 0 ? 30 : 250);
    spec->n_heads = heads[index / 2 % COUNT(heads)];
    spec->n_queries = queries[index % COUNT(queries)];
    spec->is_unaligned = index / 4 % 4 == 3;
    if (index / 3 % 4 != 3) spec->layout = ATTN_LAYOUT_DENSE; /* others are hardly ever aligned */
    if (index % 4 < 2) spec->out_dtype = DSV4_DTYPE_BF16;
    if (index / 2 % 4 < 2) spec->n_requests = 1; /* whose lists are split on few thread blocks */
    spec->names_nan = index % 7 < 3 || index % 6 == 3;
    if (index % 8 == 7 || index % 6 == 3) { /* what every kernel that joins can join */
        spec->n_queries = 2;
        spec->n_heads = 8;
    }
    if (index % 8 == 7) {
        spec->n_requests = 1;
        spec->has_scope[0] = true;
        scope_draw(rng, &spec->scope[0], 2100);
        spec->scope[0].n_slots = 900;
        spec->scope[1].n_indices = 100;
    }
    for (int i = 0; i < 2; i++) {
        spec->scope[i].shares_lists = false;
        spec->scope[i].neighbours = neighbours[index / 2 % COUNT(neighbours)];
        spec->scope[i].list = lists[index / 5 % COUNT(lists)];
    }
}

/* Lists long enough to be cut into splits. */
static void draw_split(attn_rng *rng, int64_t index, attn_spec *spec)
{
    static const int64_t sizes[] = {2049, 5000, 4097, 3333};
    spec_draw(rng, spec, 200);
    int which = index / COUNT(sizes) % 2 == 0 ? 0 : 1;
    spec->has_scope[which] = true;
    scope_draw(rng, &spec->scope[which], sizes[index % COUNT(sizes)]);
    spec->scope[which].list = index % 3 == 0 ? ATTN_LIST_LAST : ATTN_LIST_REPEAT;
    spec->scope[which].n_slots = 800;
    spec->scope[which].lengths = attn_rng_chance(rng, 50) ? ATTN_LENGTHS_NONE : ATTN_LENGTHS_RANDOM;
    spec->scope[1 - which].n_indices = index % 2 == 0 ? 0 : 70;
    spec->n_requests = 1;
    spec->n_queries = attn_rng_range(rng, 1, 2);
    spec->n_threads = 1 + (int32_t)(index / 3 % 4); /* each for each kind of list */
    spec->varies_length = false;
    spec->names_nan = false;
}

static void draw_far(attn_rng *rng, int64_t index, attn_spec *spec)
{
    spec_draw(rng, spec, 5);
    spec->has_scope[0] = true;
    spec->n_heads = head_counts[index % 7];
}

static void draw_shared(attn_rng *rng, int64_t index, attn_spec *spec)
{
    draw_bits(rng, index, spec);
    spec->has_lse = true;
    spec->layout = ATTN_LAYOUT_DENSE;
    spec->n_threads = 1 + (int32_t)(index % 4);
}

/* Several blocks and splits with maxima of their own, from scores that are close to far apart. */
static void draw_official(attn_rng *rng, int64_t index, attn_spec *spec)
{
    static const int64_t sizes[] = {1, 5, 40, 64, 130, 200, 700, 2300};
    static const int64_t values[] = {ATTN_VALUES_QUANT, ATTN_VALUES_PEAKY, ATTN_VALUES_CODES,
                                     ATTN_VALUES_FLAT, ATTN_VALUES_EXTREME};
    const int64_t size = sizes[index % COUNT(sizes)], round = index / COUNT(sizes);
    int which = round % 3 == 2 ? 1 : 0;
    spec_draw(rng, spec, 100);
    spec->has_scope[which] = true;
    scope_draw(rng, &spec->scope[which], size);
    if (size > 200) {
        spec->n_queries = 1;
        spec->scope[which].list = ATTN_LIST_REPEAT;
        spec->scope[which].lengths = ATTN_LENGTHS_NONE;
        spec->varies_length = false;
    }
    spec->values = (attn_values)values[round % COUNT(values)];
    /* So far apart that most splits of a head hold nothing but zeros. */
    if (spec->values == ATTN_VALUES_PEAKY && round % 2 == 1) spec->softmax_scale = 1.0f;
    if (index % 4 != 3) spec->out_dtype = DSV4_DTYPE_F32;
}

/* The query, the window and the second scope in f32, in every combination but none. */
static void spec_make_f32(int64_t index, attn_spec *spec)
{
    const int64_t which = 1 + index % 7;
    if (which & 1) spec->q_dtype = DSV4_DTYPE_F32;
    for (int i = 0; i < 2; i++) {
        spec->scope[i].is_f32 = which & (2 << i);
        if (spec->scope[i].is_f32) spec->has_scope[i] = true;
    }
}

static void draw_f32(attn_rng *rng, int64_t index, attn_spec *spec)
{
    spec_draw(rng, spec, index % 3 == 0 ? 10 : 150);
    spec_make_f32(index, spec);
    if (index % 4 == 0) spec->values = (attn_values)(index / 4 % (ATTN_VALUES_SUBNORMAL + 1));
}

static void draw_f32_bits(attn_rng *rng, int64_t index, attn_spec *spec)
{
    draw_bits(rng, index, spec);
    spec_make_f32(index, spec);
}

enum {
    AUTO = DSV4_ATTN_MATH_AUTO,
    EXACT = DSV4_ATTN_MATH_EXACT,
    OFFICIAL = DSV4_ATTN_MATH_OFFICIAL
};

const char attn_group_flashmla[] = "flashmla";

const attn_group attn_groups[] = {
    {"corner", 400, 0, AUTO, 20000000, draw_corner, NULL, false},
    {"blocks", 72, 0, AUTO, 30000000, draw_blocks, NULL, false},
    {"heads", 36, 0, AUTO, 30000000, draw_heads, NULL, false},
    {"values", 90, 0, AUTO, 20000000, draw_values, NULL, false},
    {"rope", 30, 0, AUTO, 10000000, draw_rope, attn_check_rope, false},
    {"merge", 60, 4, AUTO, 10000000, draw_merge, attn_check_merge, false},
    {"bits", 36, 12, AUTO, 10000000, draw_bits, attn_check_bits, false},
    {"shared-plan", 8, 8, AUTO, 10000000, draw_shared, attn_check_shared_plan, false},
    {"split", 24, 4, AUTO, 60000000, draw_split, NULL, false},
    {"far", 7, 0, AUTO, 1000000, draw_far, attn_check_far, false},
    {"grid", 60, 0, AUTO, 100000000, draw_grid, NULL, false},
    {"official", 96, 0, OFFICIAL, 12000000, draw_official, NULL, false},
    {"official-bits", 18, 6, OFFICIAL, 5000000, draw_bits, attn_check_bits, false},
    {"f32", 84, 0, EXACT, 12000000, draw_f32, NULL, false},
    {"f32-bits", 21, 6, EXACT, 5000000, draw_f32_bits, attn_check_bits, false},
    {"fp8-output", 30, 6, AUTO, 5000000, draw_fp8, attn_check_bits, false},
    {"flashmla-few", 20, 0, AUTO, 100000000, draw_flashmla_few, NULL, true},
    /* A sample, spread over all: --cases 4476 is each once. */
    {attn_group_flashmla, 112, 0, AUTO, INT64_MAX, draw_flashmla, NULL, true},
    /* A GPU's alone. */
    {"refused", 24, 0, AUTO, 10000000, draw_refused, attn_check_refused, false},
    {"scales", 48, 0, AUTO, 30000000, draw_scales, NULL, false},
    {"growth", 24, 0, AUTO, 60000000, draw_growth, NULL, false},
    {"queries", 48, 0, AUTO, 40000000, draw_queries, NULL, false},
};
const int64_t attn_n_groups = COUNT(attn_groups);

static void spec_shrink(attn_spec *spec, int64_t max_macs)
{
    while (attn_spec_macs(spec) > max_macs) {
        if (spec->n_requests > 1) {
            spec->n_requests--;
        } else if (spec->n_queries > 1) {
            spec->n_queries--;
        } else if (spec->n_heads > 1) {
            spec->n_heads = (spec->n_heads + 1) / 2;
        } else {
            return;
        }
    }
}

void attn_group_draw(uint64_t id, attn_spec *spec)
{
    const attn_group *group = &attn_groups[id / ATTN_GROUP_CASES];
    attn_rng rng = {id * 2 + 1};
    memset(spec, 0, sizeof *spec);
    spec->id = id;
    group->draw(&rng, (int64_t)(id % ATTN_GROUP_CASES), spec);
    spec_shrink(spec, group->max_macs);
}
