/*
 * random_model.h - a small checkpoint of random weights, written where a test wants it.
 *
 * Place: tests. Weights are such that logits are finite and that every layer, expert and stream matters
 * to them. The same request gives the same bytes.
 */
#ifndef DSV4_TESTS_RANDOM_MODEL_H
#define DSV4_TESTS_RANDOM_MODEL_H

#include <stdbool.h>

#include "dsv4/base.h"

typedef struct random_model {
    int64_t n_vocab;
    int32_t n_mtp_blocks; /* 0 or 1 */
    int32_t eos_id;
    int64_t max_positions;
    bool repeats; /* the head is zero: all logits are equal, and greedy decoding gives 0 for ever */
} random_model;

/* Writes config.json and model.safetensors into an existing directory. */
dsv4_status random_model_write(const char *dir, const random_model *model, dsv4_error *error);

#endif
