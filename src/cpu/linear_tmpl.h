/*
 * linear_tmpl.h - one level's kernel of linear_kernels.h, save how a step is loaded.
 *
 * Place: cpu; a template. Included once by each linear_<level>.c after one vec_*.h and these:
 *   LN_DIRECT_ROWS    up to so many rows of x (1, 2 or 4) weights go straight into products
 *   LN_TILE_ROWS      rows of x per register tile (2, 3 or 6), with 4 rows of W
 *   LN_STEP_COLUMNS   columns of a step, 64 or 128
 *   lanes             a vector of weights or packed x; LN_STEP_VECS of them are a step
 *   lanes_load(p), lanes_store(p, a)        aligned
 *   multiply_add(sums, w, x)                sums (a vf) plus the products, lane by lane
 *   load_step(kind, codes, scales, w)       a step of one row of W; kind is constant at most calls
 *   pack_step(kind, x, packed)              a step of x, columns in load_step's order
 * and, if LN_HAS_MODERATE_FP4, a faster way through FP4 for few rows of x with the same bits:
 *   are_moderate(packed, n_bytes)                 whether these columns of x may take it
 *   multiply_moderate_fp4(n_x, panel, x, sums)    false where it declines
 *
 * Many rows of x: the four rows of W are dequantized into a tile that all rows of x use. Few rows:
 * each step is used as it is dequantized. Both add the same vectors in the same order. A row's last
 * columns, where they do not fill a step, are copied and padded with zeros, in W and x.
 */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/compiler.h"
#include "linear_kernels.h"

enum {
    GROUP_ROWS = DSV4_LINEAR_GROUP_ROWS,
    STEP_COLUMNS = LN_STEP_COLUMNS,
    STEP_BYTES = LN_STEP_VECS * (int)sizeof(lanes),
    PANEL_STEPS = DSV4_LINEAR_PANEL_BYTES / STEP_BYTES,
    PANEL_COLUMNS = PANEL_STEPS * STEP_COLUMNS,
    /* Rows of packed x lie one cache line further apart, so that they do not share cache sets. */
    SLOT_BYTES = DSV4_LINEAR_PANEL_BYTES + 64,
    FP8_BLOCK = 128,
    FP4_GROUP = 32,
    MAX_STEP_CODE_BYTES = STEP_COLUMNS * 4
};

_Static_assert(PANEL_COLUMNS % FP8_BLOCK == 0, "a panel begins with a block of columns");

/* Steps of four rows of W that lie one after the other. */
typedef struct weight_run {
    const uint8_t *codes[GROUP_ROWS], *scales[GROUP_ROWS];
    int64_t n_steps;
} weight_run;

/* Four rows of W, one panel: whole steps where they are, then a copied one if there is a rest. */
typedef struct weight_panel {
    weight_run runs[2];
    int64_t ahead_bytes; /* from a row's codes to those worth prefetching */
    uint8_t codes[GROUP_ROWS][MAX_STEP_CODE_BYTES], scales[GROUP_ROWS][STEP_COLUMNS / FP4_GROUP];
} weight_panel;

typedef struct packed_rows {
    _Alignas(64) unsigned char slots[DSV4_LINEAR_MAX_ROWS][SLOT_BYTES];
} packed_rows;

/* Dequantized [n_steps * LN_STEP_VECS][4 rows] vectors. */
typedef struct weight_tile {
    _Alignas(64) unsigned char vectors[GROUP_ROWS * DSV4_LINEAR_PANEL_BYTES];
} weight_tile;

static inline int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- where weights lie ---- */

static DSV4_ALWAYS_INLINE int64_t code_bytes(int kind, int64_t n_columns)
{
    switch (kind) {
    case DSV4_LINEAR_FP8: return n_columns;
    case DSV4_LINEAR_FP4: return n_columns / 2;
    case DSV4_LINEAR_BF16: return n_columns * 2;
    default: return n_columns * 4;
    }
}

/* From a panel's first scale to the first one of a step. */
static DSV4_ALWAYS_INLINE int64_t scale_offset(int kind, int64_t step)
{
    if (kind == DSV4_LINEAR_FP8) return step / (FP8_BLOCK / STEP_COLUMNS);
    return kind == DSV4_LINEAR_FP4 ? step * (STEP_COLUMNS / FP4_GROUP) : 0;
}

/* The scale of row i, column `column`. Kinds without scales get some readable byte. */
static const uint8_t *locate_scale(const dsv4_linear *linear, int64_t i, int64_t column)
{
    if (linear->kind == DSV4_LINEAR_FP8) {
        int64_t n_blocks = linear->n_in / FP8_BLOCK + (linear->n_in % FP8_BLOCK != 0);
        return linear->scales + i / FP8_BLOCK * n_blocks + column / FP8_BLOCK;
    }
    if (linear->kind == DSV4_LINEAR_FP4) {
        return linear->scales + (i * linear->n_in + column) / FP4_GROUP;
    }
    return linear->weight;
}

static void copy_rest(const dsv4_linear *linear, int64_t n_rest, weight_panel *panel)
{
    const weight_run *whole = &panel->runs[0];
    int64_t n_scales = linear->kind == DSV4_LINEAR_FP4 ? n_rest / FP4_GROUP : 1;
    memset(panel->codes, 0, sizeof panel->codes);
    memset(panel->scales, 0, sizeof panel->scales);
    for (int r = 0; r < GROUP_ROWS; r++) {
        memcpy(panel->codes[r],
               whole->codes[r] + code_bytes(linear->kind, whole->n_steps * STEP_COLUMNS),
               (size_t)code_bytes(linear->kind, n_rest));
        memcpy(panel->scales[r], whole->scales[r] + scale_offset(linear->kind, whole->n_steps),
               (size_t)n_scales);
        panel->runs[1].codes[r] = panel->codes[r];
        panel->runs[1].scales[r] = panel->scales[r];
    }
    panel->runs[1].n_steps = 1;
}

/* Asks for the scales that row i's place in the worker's next task needs: little, but all at once there. */
static DSV4_ALWAYS_INLINE void prefetch_next_scales(const dsv4_linear_job *job, int64_t i)
{
    const dsv4_linear *linear = job->linear;
    int64_t row = i + job->next_rows, n_bytes = 0;
    if (linear->kind == DSV4_LINEAR_FP8) n_bytes = linear->n_in / FP8_BLOCK;
    if (linear->kind == DSV4_LINEAR_FP4) n_bytes = GROUP_ROWS * linear->n_in / FP4_GROUP;
    if (n_bytes == 0 || row + GROUP_ROWS > linear->n_out) return;
    const uint8_t *scales = locate_scale(linear, row, 0);
    for (int64_t at = 0; at < n_bytes; at += 64) DSV4_PREFETCH_L2(scales + at);
}

/*
 * Rows i .. i + 3 of those before `end`, columns of panel `index`. Rows past the last are the last once more.
 */
static void open_panel(const dsv4_linear_job *job, int64_t i, int64_t end, int64_t index,
                       weight_panel *panel)
{
    const dsv4_linear *linear = job->linear;
    int64_t column = index * PANEL_COLUMNS;
    int64_t n_columns = min_i64(linear->n_in - column, PANEL_COLUMNS);
    panel->runs[0].n_steps = n_columns / STEP_COLUMNS;
    panel->runs[1].n_steps = 0;
    for (int r = 0; r < GROUP_ROWS; r++) {
        int64_t row = min_i64(i + r, linear->n_out - 1);
        panel->runs[0].codes[r] =
            (const uint8_t *)linear->weight + code_bytes(linear->kind, row * linear->n_in + column);
        panel->runs[0].scales[r] = locate_scale(linear, row, column);
    }
    int64_t next = i + job->ahead_rows;
    if (next >= end) next += job->next_begin - end;
    bool has_next = next + GROUP_ROWS <= linear->n_out;
    panel->ahead_bytes = has_next ? code_bytes(linear->kind, (next - i) * linear->n_in) : 0;
    if (index == 0) prefetch_next_scales(job, i);
    if (n_columns % STEP_COLUMNS > 0) copy_rest(linear, n_columns % STEP_COLUMNS, panel);
}

static int64_t count_steps(const weight_panel *panel)
{
    return panel->runs[0].n_steps + panel->runs[1].n_steps;
}

/* A product without columns has one panel without steps, which gives zeros. */
static int64_t count_panels(const dsv4_linear *linear)
{
    if (linear->n_in == 0) return 1;
    return (linear->n_in - 1) / PANEL_COLUMNS + 1;
}

/* ---- rows of x ---- */

/* One row's columns of panel `index`. */
static void pack_row(const dsv4_linear_job *job, int64_t row, int64_t index, unsigned char *slot)
{
    int64_t column = index * PANEL_COLUMNS;
    int64_t n_columns = min_i64(job->linear->n_in - column, PANEL_COLUMNS);
    const float *x = job->x + row * job->x_stride + column;
    int kind = job->linear->kind;
    for (; n_columns >= STEP_COLUMNS; n_columns -= STEP_COLUMNS) {
        pack_step(kind, x, slot);
        x += STEP_COLUMNS;
        slot += STEP_BYTES;
    }
    if (n_columns > 0) {
        float rest[STEP_COLUMNS] = {0.0f};
        memcpy(rest, x, (size_t)n_columns * sizeof *rest);
        pack_step(kind, rest, slot);
    }
}

/* Of panel `index`. */
static int64_t packed_bytes(const dsv4_linear *linear, int64_t index)
{
    int64_t n_columns = min_i64(linear->n_in - index * PANEL_COLUMNS, PANEL_COLUMNS);
    return (n_columns + STEP_COLUMNS - 1) / STEP_COLUMNS * STEP_BYTES;
}

/* sums: four neighbours in a row of y, of which n exist. */
static void add_sums(__m128 sums, int64_t n, bool is_first, float *y)
{
    if (n >= GROUP_ROWS) {
        _mm_storeu_ps(y, is_first ? sums : _mm_add_ps(_mm_loadu_ps(y), sums));
        return;
    }
    float values[GROUP_ROWS];
    _mm_storeu_ps(values, sums);
    for (int64_t r = 0; r < n; r++) y[r] = is_first ? values[r] : y[r] + values[r];
}

/* FP8 rows of a group share their scales: naming one of them lets a step load what depends on it once. */
static DSV4_ALWAYS_INLINE int scale_row(int kind, int row)
{
    return kind == DSV4_LINEAR_FP8 ? 0 : row;
}

static DSV4_ALWAYS_INLINE void prefetch_step(int kind, const uint8_t *codes)
{
    DSV4_UNROLL for (int64_t i = 0; i < code_bytes(kind, STEP_COLUMNS); i += 64)
    {
        DSV4_PREFETCH_L2(codes + i);
    }
}

/* ---- few rows of x ---- */

#ifndef LN_HAS_MODERATE_FP4
static inline bool are_moderate(const unsigned char *packed, int64_t n_bytes)
{
    (void)packed, (void)n_bytes;
    return false;
}

static inline bool multiply_moderate_fp4(int64_t n_x, const weight_panel *panel,
                                         const unsigned char *x, __m128 *sums)
{
    (void)n_x, (void)panel, (void)x, (void)sums;
    return false;
}
#endif

/*
 * n_x rows of x (a constant at every call), packed SLOT_BYTES apart, times one panel. Loops over
 * rows have lengths that are constant before inlining too, or clang would not unroll them wholly.
 */
static DSV4_ALWAYS_INLINE void direct_tile(const int kind, const int n_x, const weight_panel *panel,
                                           const unsigned char *x, __m128 *sums)
{
    vf acc[LN_DIRECT_ROWS][GROUP_ROWS];
    DSV4_UNROLL for (int c = 0; c < LN_DIRECT_ROWS; c++)
    {
        DSV4_UNROLL for (int r = 0; r < GROUP_ROWS; r++) acc[c][r] = vf_zero();
    }
    for (int part = 0; part < 2; part++) {
        const weight_run *run = &panel->runs[part];
        int64_t ahead_bytes = part == 0 ? panel->ahead_bytes : 0;
        for (int64_t step = 0; step < run->n_steps; step++) {
            DSV4_UNROLL for (int r = 0; r < GROUP_ROWS; r++)
            {
                const uint8_t *codes = run->codes[r] + code_bytes(kind, step * STEP_COLUMNS);
                lanes w[LN_STEP_VECS];
                prefetch_step(kind, codes + ahead_bytes);
                load_step(kind, codes, run->scales[scale_row(kind, r)] + scale_offset(kind, step),
                          w);
                DSV4_UNROLL for (int v = 0; v < LN_STEP_VECS; v++)
                {
                    DSV4_UNROLL for (int c = 0; c < LN_DIRECT_ROWS; c++)
                    {
                        if (c >= n_x) continue;
                        lanes value = lanes_load(x + c * SLOT_BYTES + v * (int)sizeof(lanes));
                        acc[c][r] = multiply_add(acc[c][r], w[v], value);
                    }
                }
            }
            x += STEP_BYTES;
        }
    }
    DSV4_UNROLL for (int c = 0; c < LN_DIRECT_ROWS; c++)
    {
        if (c < n_x) sums[c] = vf_sum4(acc[c][0], acc[c][1], acc[c][2], acc[c][3]);
    }
}

static DSV4_ALWAYS_INLINE void direct_kind(const int kind, int64_t n_x, const weight_panel *panel,
                                           const unsigned char *x, __m128 *sums)
{
    switch (n_x) {
#if LN_DIRECT_ROWS >= 2
    case 2: direct_tile(kind, 2, panel, x, sums); break;
#endif
#if LN_DIRECT_ROWS >= 4
    case 3: direct_tile(kind, 3, panel, x, sums); break;
    case 4: direct_tile(kind, 4, panel, x, sums); break;
#endif
    default: direct_tile(kind, 1, panel, x, sums); break;
    }
}

static void direct_panel(int kind, int64_t n_x, const weight_panel *panel, const unsigned char *x,
                         __m128 *sums)
{
    switch (kind) {
    case DSV4_LINEAR_FP8: direct_kind(DSV4_LINEAR_FP8, n_x, panel, x, sums); break;
    case DSV4_LINEAR_FP4: direct_kind(DSV4_LINEAR_FP4, n_x, panel, x, sums); break;
    case DSV4_LINEAR_BF16: direct_kind(DSV4_LINEAR_BF16, n_x, panel, x, sums); break;
    default: direct_kind(DSV4_LINEAR_F32, n_x, panel, x, sums); break;
    }
}

/* Rows of W are walked whole, as far as packed x fits: memory is read in order. */
static void multiply_directly(const dsv4_linear_job *job, int64_t begin, int64_t end)
{
    packed_rows x;
    int64_t n_x = job->n_rows, n_panels = count_panels(job->linear);
    int64_t n_fit = DSV4_LINEAR_MAX_ROWS / n_x;
    for (int64_t first = 0; first < n_panels; first += n_fit) {
        int64_t last = min_i64(first + n_fit, n_panels);
        bool is_moderate = job->linear->kind == DSV4_LINEAR_FP4;
        for (int64_t slot = 0; slot < (last - first) * n_x; slot++) {
            pack_row(job, slot % n_x, first + slot / n_x, x.slots[slot]);
            is_moderate =
                is_moderate &&
                are_moderate(x.slots[slot], packed_bytes(job->linear, first + slot / n_x));
        }
        for (int64_t i = begin; i < end; i += GROUP_ROWS) {
            for (int64_t index = first; index < last; index++) {
                weight_panel panel;
                __m128 sums[LN_DIRECT_ROWS];
                open_panel(job, i, end, index, &panel);
                const unsigned char *slots = x.slots[(index - first) * n_x];
                if (!is_moderate || !multiply_moderate_fp4(n_x, &panel, slots, sums)) {
                    direct_panel(job->linear->kind, n_x, &panel, slots, sums);
                }
                for (int64_t c = 0; c < n_x; c++) {
                    add_sums(sums[c], end - i, index == 0, job->y + c * job->y_stride + i);
                }
            }
        }
    }
}

/* ---- many rows of x ---- */

static DSV4_ALWAYS_INLINE void fill_kind(const int kind, const weight_panel *panel,
                                         unsigned char *tile)
{
    for (int part = 0; part < 2; part++) {
        const weight_run *run = &panel->runs[part];
        int64_t ahead_bytes = part == 0 ? panel->ahead_bytes : 0;
        for (int64_t step = 0; step < run->n_steps; step++) {
            DSV4_UNROLL for (int r = 0; r < GROUP_ROWS; r++)
            {
                const uint8_t *codes = run->codes[r] + code_bytes(kind, step * STEP_COLUMNS);
                lanes w[LN_STEP_VECS];
                prefetch_step(kind, codes + ahead_bytes);
                load_step(kind, codes, run->scales[scale_row(kind, r)] + scale_offset(kind, step),
                          w);
                DSV4_UNROLL for (int v = 0; v < LN_STEP_VECS; v++)
                {
                    lanes_store(tile + (v * GROUP_ROWS + r) * (int)sizeof(lanes), w[v]);
                }
            }
            tile += GROUP_ROWS * STEP_BYTES;
        }
    }
}

static void fill_tile(int kind, const weight_panel *panel, weight_tile *tile)
{
    switch (kind) {
    case DSV4_LINEAR_FP8: fill_kind(DSV4_LINEAR_FP8, panel, tile->vectors); break;
    case DSV4_LINEAR_FP4: fill_kind(DSV4_LINEAR_FP4, panel, tile->vectors); break;
    case DSV4_LINEAR_BF16: fill_kind(DSV4_LINEAR_BF16, panel, tile->vectors); break;
    default: fill_kind(DSV4_LINEAR_F32, panel, tile->vectors); break;
    }
}

/* n_x (a constant at every call) rows of x times a tile of n_vecs vectors for each row of W. */
static DSV4_ALWAYS_INLINE void register_tile(const int n_x, int64_t n_vecs, const unsigned char *w,
                                             const unsigned char *x, __m128 *sums)
{
    const int lanes_bytes = (int)sizeof(lanes);
    vf acc[LN_TILE_ROWS][GROUP_ROWS];
    DSV4_UNROLL for (int c = 0; c < LN_TILE_ROWS; c++)
    {
        DSV4_UNROLL for (int r = 0; r < GROUP_ROWS; r++) acc[c][r] = vf_zero();
    }
    for (int64_t v = 0; v < n_vecs; v++) {
        /* The values of x stay in registers, one weight beside them: with the sums that fills 16.
         * */
        DSV4_UNROLL for (int r = 0; r < GROUP_ROWS; r++)
        {
            lanes weight = lanes_load(w + r * lanes_bytes);
            DSV4_UNROLL for (int c = 0; c < LN_TILE_ROWS; c++)
            {
                if (c >= n_x) continue;
                acc[c][r] = multiply_add(acc[c][r], weight, lanes_load(x + c * SLOT_BYTES));
            }
        }
        w += GROUP_ROWS * lanes_bytes;
        x += lanes_bytes;
    }
    DSV4_UNROLL for (int c = 0; c < LN_TILE_ROWS; c++)
    {
        if (c < n_x) sums[c] = vf_sum4(acc[c][0], acc[c][1], acc[c][2], acc[c][3]);
    }
}

static void tile_sums(int64_t n_x, int64_t n_vecs, const weight_tile *tile, const unsigned char *x,
                      __m128 *sums)
{
    const unsigned char *w = tile->vectors;
    switch (n_x) {
    case 2: register_tile(2, n_vecs, w, x, sums); break;
#if LN_TILE_ROWS >= 3
    case 3: register_tile(3, n_vecs, w, x, sums); break;
#endif
#if LN_TILE_ROWS >= 6
    case 4: register_tile(4, n_vecs, w, x, sums); break;
    case 5: register_tile(5, n_vecs, w, x, sums); break;
    case 6: register_tile(6, n_vecs, w, x, sums); break;
#endif
    default: register_tile(1, n_vecs, w, x, sums); break;
    }
}

/* All rows of x times one tile; tiles of x as even as they go. */
static void multiply_tile(const dsv4_linear_job *job, const packed_rows *x, const weight_tile *tile,
                          int64_t n_vecs, int64_t n_valid, bool is_first, float *y)
{
    int64_t n_tiles = (job->n_rows + LN_TILE_ROWS - 1) / LN_TILE_ROWS;
    for (int64_t row = 0; n_tiles > 0; n_tiles--) {
        int64_t n_x = (job->n_rows - row + n_tiles - 1) / n_tiles;
        __m128 sums[LN_TILE_ROWS];
        tile_sums(n_x, n_vecs, tile, x->slots[row], sums);
        for (int64_t c = 0; c < n_x; c++) {
            add_sums(sums[c], n_valid, is_first, y + (row + c) * job->y_stride);
        }
        row += n_x;
    }
}

static void multiply_by_tiles(const dsv4_linear_job *job, int64_t begin, int64_t end)
{
    packed_rows x;
    weight_tile tile;
    int64_t n_panels = count_panels(job->linear);
    for (int64_t index = 0; index < n_panels; index++) {
        for (int64_t row = 0; row < job->n_rows; row++) pack_row(job, row, index, x.slots[row]);
        for (int64_t i = begin; i < end; i += GROUP_ROWS) {
            weight_panel panel;
            open_panel(job, i, end, index, &panel);
            fill_tile(job->linear->kind, &panel, &tile);
            multiply_tile(job, &x, &tile, count_steps(&panel) * LN_STEP_VECS, end - i, index == 0,
                          job->y + i);
        }
    }
}

static void multiply(const dsv4_linear_job *job, int64_t begin, int64_t end)
{
    if (job->n_rows <= LN_DIRECT_ROWS) {
        multiply_directly(job, begin, end);
    } else {
        multiply_by_tiles(job, begin, end);
    }
}
