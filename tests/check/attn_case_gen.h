/*
 * attn_case_gen.h - random decode calls: what a case asks for, and its memory.
 *
 * Place: tests. A spec is a list of switches drawn from a case number; a case is that spec made
 * real: tensors with hostile surroundings. Invariants of a case:
 *   - every input block ends where its last needed byte ends, and what follows cannot be read
 *     (attn_fence.h); what lies between strided rows is NaN, or names a slot that holds NaN;
 *   - slots that no list names are NaN bytes, in either format of rows;
 *   - the expectation of NaN in row_is_nan comes from the lists, not from any implementation.
 */
#ifndef DSV4_TESTS_ATTN_CASE_GEN_H
#define DSV4_TESTS_ATTN_CASE_GEN_H

#include "attn_fence.h"
#include "attn_rng.h"

#include "dsv4/attn.h"
#include "dsv4/cache.h"

#include <stdbool.h>

enum { ATTN_SCORE_GROUPS = 8 }; /* 7 scale groups and the rope tail, 64 dims each */

typedef enum attn_values {
    ATTN_VALUES_QUANT,     /* normal values through the cache's quantizer */
    ATTN_VALUES_CODES,     /* random code bytes, another scale for each group */
    ATTN_VALUES_FLAT,      /* scores next to 0 */
    ATTN_VALUES_PEAKY,     /* scores tens apart */
    ATTN_VALUES_EXTREME,   /* scale bytes at the ends and next to 2^7, where binary16 ends */
    ATTN_VALUES_SUBNORMAL, /* e4m3 codes below the normal range */
    ATTN_VALUES_CLAMPED,   /* q of size 1, keys of 1/10, in -1 .. 1: FlashMLA's */
    ATTN_VALUES_SCALES /* scales of rows far apart, in groups that scores hardly depend on; heads much alike */
} attn_values;

typedef enum attn_list {
    ATTN_LIST_DISTINCT, /* distinct slots, then -1 */
    ATTN_LIST_REPEAT,   /* slots drawn with replacement */
    ATTN_LIST_WILD,     /* a third names no key, in every way that exists */
    ATTN_LIST_INVALID,  /* nothing names a key */
    ATTN_LIST_ONE_SLOT, /* all entries the same */
    ATTN_LIST_LAST      /* only the last entry names a key */
} attn_list;

typedef enum attn_lengths {
    ATTN_LENGTHS_NONE,
    ATTN_LENGTHS_RANDOM,
    ATTN_LENGTHS_WILD, /* negative, 0, past the list */
    ATTN_LENGTHS_ZERO,
    ATTN_LENGTHS_HALF_ZERO
} attn_lengths;

typedef enum attn_sink {
    ATTN_SINK_NONE,
    ATTN_SINK_FINITE,
    ATTN_SINK_MIXED, /* a third each +inf, -inf, finite */
    ATTN_SINK_BIG    /* +-200: past what exp can hold */
} attn_sink;

typedef enum attn_rope { ATTN_ROPE_NONE, ATTN_ROPE_INSIDE, ATTN_ROPE_OUTSIDE } attn_rope;

typedef enum attn_layout {
    ATTN_LAYOUT_DENSE,
    ATTN_LAYOUT_PADDED,
    ATTN_LAYOUT_PERMUTED
} attn_layout;

typedef struct attn_scope_spec {
    int64_t n_slots; /* slots that lists draw from; 1 .. */
    int64_t page_rows;
    int64_t n_indices;
    int64_t page_pad_bytes;
    attn_list list;
    attn_lengths lengths;
    int32_t neighbours; /* percent of a query's entries that are those of the query before it */
    bool shares_lists;  /* stride 0 between the lists of a request's queries */
    bool is_f32;        /* rows of 512 f32 instead of FP8 records */
} attn_scope_spec;

typedef struct attn_spec {
    uint64_t id;
    int64_t n_requests;
    int64_t n_queries;
    int64_t n_heads;
    attn_scope_spec scope[2];
    bool has_scope[2]; /* window, extra */
    bool has_lse;
    bool is_unaligned; /* pointers one element past alignment, the cache at odd addresses */
    bool names_nan;
    bool varies_length; /* lists of a request end early in -1, as sequences of many lengths have */
    bool half_empty;    /* about half of the requests have lists of -1 alone, in both scopes */
    float softmax_scale;
    int32_t out_dtype;
    int32_t q_dtype;
    int32_t n_threads;
    attn_values values;
    attn_sink sink;
    attn_rope rope;
    attn_layout layout;
} attn_spec;

/* A written tensor [sizes[0], sizes[1], sizes[2], row_bytes] inside a poisoned block. */
typedef struct attn_tensor {
    uint8_t *block;
    int64_t block_bytes;
    uint8_t *data;
    int64_t sizes[3];
    int64_t strides[3]; /* bytes */
    int64_t row_bytes;
    int64_t element_bytes;
} attn_tensor;

/* What a decode writes. */
typedef struct attn_outputs {
    attn_tensor out;
    attn_tensor lse;
    attn_tensor scales; /* zeroed unless out_dtype is FP8 */
} attn_outputs;

enum { ATTN_CASE_MAX_BLOCKS = 16 };

typedef struct attn_case {
    attn_spec spec;
    dsv4_attn_params params; /* complete but for backend, math and level */
    attn_outputs outputs;
    bool *row_is_nan;                     /* [n_requests * n_queries] */
    double key_norm[ATTN_SCORE_GROUPS];   /* largest norm of each group over the named rows */
    double key_square[ATTN_SCORE_GROUPS]; /* sum of their squares */
    int64_t n_rows_named;
    int64_t n_keys_max;                       /* keys of the longest list pair */
    attn_fenced blocks[ATTN_CASE_MAX_BLOCKS]; /* all else that is freed with the case */
    int32_t n_blocks;
} attn_case;

/* Ends the program when memory is missing. */
void *attn_alloc(int64_t n_bytes);

/* One line with every switch, for a failure to print. */
void attn_spec_print(const attn_spec *spec);

/* Products and sums of one decode, about: requests * queries * heads * listed keys * 1024. */
int64_t attn_spec_macs(const attn_spec *spec);

/* Makes the case; rng is seeded from spec->id. Free with attn_case_free. */
void attn_case_make(attn_case *c, const attn_spec *spec);
void attn_case_free(attn_case *c);

/* Layout of a written tensor, drawn for `layout`; the block is allocated, not filled. */
void attn_tensor_make(attn_tensor *tensor, attn_rng *rng, attn_layout layout, bool is_unaligned,
                      const int64_t sizes[3], int64_t row_bytes, int64_t element_bytes);

/* Tensors for params' shapes and out_dtype; sets their pointers and strides in params. */
void attn_outputs_make(attn_outputs *outputs, attn_rng *rng, attn_layout layout, bool is_unaligned,
                       dsv4_attn_params *params);
void attn_outputs_free(attn_outputs *outputs);

/* Bytes of an element of DSV4_DTYPE_*. */
int64_t attn_dtype_bytes(int32_t dtype);

/*
 * Fills the whole block with signalling NaN, a value that no arithmetic produces; with 0xff where elements are bytes:
 * of codes the NaN that is negative, so that only their values tell whether all were written.
 */
void attn_tensor_poison(attn_tensor *tensor);

/*
 * Copies the rows to dense [sizes[0], sizes[1], sizes[2], row_bytes] and poisons them again. False
 * when an element was never written or a byte outside the rows was.
 */
bool attn_tensor_collect(attn_tensor *tensor, uint8_t *dense);

#endif
