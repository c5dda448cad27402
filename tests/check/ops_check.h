/*
 * ops_check.h - what the checks of the model's small operations share.
 *
 * Place: tests. A check draws one random case from its generator, runs one level and compares; inputs lie at
 * the end of their allocations, so that an address checker sees a read past them, outputs between guards.
 */
#ifndef DSV4_TESTS_OPS_CHECK_H
#define DSV4_TESTS_OPS_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "attn_rng.h"

enum { OPS_TEXT_BYTES = 300, OPS_MAX_BLOCKS = 64 };

/* Half a unit in the last place of f32 around 1: the bound of one rounding. */
#define OPS_U 0x1p-24

/* Memory of a case: an input, or an output [n] between guards. */
typedef struct ops_block {
    void *memory;
    float *output; /* NULL for inputs */
    int64_t n;
} ops_block;

typedef struct ops_run {
    attn_rng rng;
    int32_t level; /* 0: the reference */
    double worst;  /* largest error, as a part of its bound */
    char text[OPS_TEXT_BYTES];
    ops_block blocks[OPS_MAX_BLOCKS];
    int n_blocks;
} ops_run;

typedef bool ops_property(ops_run *run);

/* Memory that a case uses; all of it is freed with ops_free. */
float *ops_input(ops_run *run,
                 int64_t n); /* unwritten, of any alignment of 4, at its block's end */
unsigned char *ops_bytes(ops_run *run, int64_t n_bytes); /* likewise, of any alignment */
float *ops_output(ops_run *run, int64_t n);              /* poisoned, between guards */
void ops_free(ops_run *run);

/* False, with a text, when a guard of any output was written or an element of one was not. */
bool ops_guards_hold(ops_run *run);

/* Values around 1 times a power of two; with specials, some infinities, NaN and zeros. */
void ops_fill(ops_run *run, float *values, int64_t n, bool has_specials);

/* A length: mostly small and odd, sometimes a few thousand. */
int64_t ops_length(ops_run *run);

/* All bits equal, or both NaN. */
bool ops_same(ops_run *run, const char *what, const float *got, const float *want, int64_t n);

/* |got - want| <= bound, and both NaN or equal where want is not finite. */
bool ops_near(ops_run *run, const char *what, int64_t i, float got, double want, double bound);

/* Lanes of a level's vectors; 1 for the reference. */
int ops_lanes(int32_t level);

/* The groups: ops_rows.c and ops_indexer.c. */
ops_property ops_check_round, ops_check_quantize, ops_check_hadamard, ops_check_streams,
    ops_check_norm, ops_check_norm_bf16, ops_check_pool, ops_check_swiglu, ops_check_index_values,
    ops_check_index_specials, ops_check_index_bits;

/* Prints a table for every level that this machine has, or for one (> 0). Returns an exit code. */
int ops_bench_run(int32_t only_level);

#endif
