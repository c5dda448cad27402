/*
 * tensor_names.h - the tensors that a configuration asks for, and the names they go by.
 *
 * Place: io. The table of specification 7.1 as data: official names, element types, shapes. Names
 * of Hugging Face transformers and of mirrors map to the official ones.
 */
#ifndef DSV4_IO_TENSOR_NAMES_H
#define DSV4_IO_TENSOR_NAMES_H

#include "config.h"

#include <stdbool.h>

/* Room for every name that means an official tensor, with its NUL. */
#define DSV4_TENSOR_NAME_BYTES 96

typedef struct dsv4_tensor_rule {
    const char *name;  /* official; valid during the visit only */
    int32_t dtypes[2]; /* DSV4_SAFETENSORS_*: the published one, and another one of equal meaning
                          or the same again */
    int32_t rank;      /* 1 or 2 */
    int64_t shape[2];
} dsv4_tensor_rule;

/* Anything but DSV4_OK ends the visits and is returned. */
typedef dsv4_status dsv4_tensor_visit(void *context, const dsv4_tensor_rule *rule);

/* Visits every tensor of `config` once, in the order of the network. */
dsv4_status dsv4_tensor_rules_visit(const dsv4_config *config, dsv4_tensor_visit *visit,
                                    void *context);

/*
 * The official name of the tensor that a file calls `name`: without "model.", with the modules'
 * official names. A name of no tensor becomes another one of no tensor. False when there is no room
 * for it, in which case it names no tensor either.
 */
bool dsv4_tensor_official_name(const char *name, char official[DSV4_TENSOR_NAME_BYTES]);

/* Questions about official names that no rule has. */

/* The MTP block's copy of the embedding or the head, which nobody needs. */
bool dsv4_tensor_is_mtp_copy(const char *official);

/* What a surplus tensor belongs to, where that is known: a text for "... of <text>"; else NULL. */
const char *dsv4_tensor_foreign_owner(const char *official);

#endif
