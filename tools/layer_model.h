/*
 * layer_model.h - a model of one layer in the shapes of a published one, with random weights in memory.
 *
 * Place: program, bench. Built without files: src/model asks for no more than a dsv4_weights, and only so
 * can experts share memory. There are several copies of everything in the layer but its experts, and
 * experts as many as the memory limit allows; the rest borrow the weights of those. Going through copies
 * and experts, a step finds its weights in memory and not in the processor's caches, as in a model of
 * many layers. The vocabulary is small and its embedding alone exists: a step without logits costs
 * nothing for the head but the mixing of its streams.
 */
#ifndef DSV4_TOOLS_LAYER_MODEL_H
#define DSV4_TOOLS_LAYER_MODEL_H

#include "model/weights.h"

enum { DSV4_LAYER_MAX_KINDS = 4, DSV4_LAYER_MAX_LINEARS = 20 };

/* A kind of layer that a published model has, and how many of it. */
typedef struct dsv4_layer_kind {
    const char *name; /* NULL: none */
    int32_t ratio;
    bool is_hashed;
    int64_t n_layers;
} dsv4_layer_kind;

typedef struct dsv4_layer_shape {
    const char *name;
    dsv4_layer_kind kinds[DSV4_LAYER_MAX_KINDS];
    int64_t cold_bytes; /* more than stays in a cache */
    dsv4_config config; /* sizes; one layer */
} dsv4_layer_shape;

/* flash, pro, tiny. */
enum { DSV4_N_LAYER_SHAPES = 3 };
extern const dsv4_layer_shape dsv4_layer_shapes[DSV4_N_LAYER_SHAPES];

typedef struct dsv4_layer_model {
    dsv4_weights weights; /* layers points at the copy that runs next */
    dsv4_layer *copies;   /* [n_copies] */
    dsv4_expert *experts; /* [n_copies, n_experts] */
    int64_t n_copies, n_held_experts;
    unsigned char *memory;
    size_t memory_bytes;
    int64_t next_copy;
} dsv4_layer_model;

/*
 * Fills a model of at most limit_bytes; close it also after a failure. Errors: OUT_OF_MEMORY;
 * INVALID_ARGUMENT when a layer with its active experts does not fit in the limit.
 */
dsv4_status dsv4_layer_model_open(const dsv4_layer_shape *shape, int64_t limit_bytes,
                                  dsv4_layer_model *model, dsv4_error *error);
void dsv4_layer_model_close(dsv4_layer_model *model);

/* Makes all copies layers of this kind. */
void dsv4_layer_model_set_kind(dsv4_layer_model *model, const dsv4_layer_kind *kind);

/* Lets the next step run on the next copy. */
void dsv4_layer_model_turn(dsv4_layer_model *model);

/*
 * Bytes of weights and cache rows that a step reads: one new token at `position` for each of n_tokens
 * sequences, choosing n_experts different experts together. Each matrix counts once.
 */
int64_t dsv4_layer_model_step_bytes(const dsv4_layer_model *model, int32_t numerics,
                                    int64_t n_tokens, int64_t position, int64_t n_experts);

/* Fills the memory of a matrix (and its scales) with random weights of about 1 / sqrt(n_in). */
void dsv4_layer_fill_linear(const dsv4_linear *linear, unsigned char *weight, uint8_t *scales,
                            uint64_t *random);

/* A matrix of a layer, for measuring it alone; n_groups > 1 for wo_a. */
typedef struct dsv4_layer_linear {
    const char *name;
    dsv4_linear linear; /* sizes and kind */
    int64_t n_groups;   /* row blocks, each with inputs of its own */
    bool x_is_bf16;     /* under the official numerics */
} dsv4_layer_linear;

/* The matrices of all kinds of layers in a shape; returns how many. */
int32_t dsv4_layer_linears(const dsv4_layer_shape *shape,
                           dsv4_layer_linear linears[static DSV4_LAYER_MAX_LINEARS]);

#endif
