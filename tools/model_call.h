/*
 * model_call.h - opening a model as the command line asks for it.
 *
 * Place: program.
 */
#ifndef DSV4_TOOLS_MODEL_CALL_H
#define DSV4_TOOLS_MODEL_CALL_H

#include "dsv4/dsv4.h"

#include "options.h"

/* Fills in what --numerics, --isa and --threads say. */
void dsv4_model_call_options(const dsv4_options *options, dsv4_model_options *model_options);

/*
 * Opens the model of --model; on a terminal a bar shows while that takes time. A directory that this program
 * cannot run counts as a bad file.
 * Errors: those of dsv4_model_open; UNSUPPORTED (--isa) when this CPU lacks the level.
 */
dsv4_status dsv4_model_call_open(const dsv4_options *options,
                                 const dsv4_model_options *model_options, dsv4_model **model,
                                 dsv4_error *error);

/* Fills in what --temp, --top-k, --top-p, --min-p and --seed say. */
void dsv4_model_call_sampling(const dsv4_options *options, dsv4_sampling *sampling);

/*
 * Token ids of text, special tokens included, behind n_before free places.
 *   *ids  malloc'ed [n_before + ...]; *n_ids counts all of them
 */
dsv4_status dsv4_model_call_tokenize(const dsv4_model *model, const char *text, size_t len_bytes,
                                     size_t n_before, int32_t **ids, size_t *n_ids,
                                     dsv4_error *error);

#endif
