/*
 * tokenizer_data.h - what an open tokenizer holds.
 *
 * Place: text; for tokenizer_read.c, which fills it, and tokenizer.c, which uses it. Nothing
 * changes after opening. All strings live in one block.
 */
#ifndef DSV4_TEXT_TOKENIZER_DATA_H
#define DSV4_TEXT_TOKENIZER_DATA_H

#include "text/bpe.h"
#include "text/pretok.h"
#include "text/tokenizer.h"

#define DSV4_TOKENIZER_MAX_IDS (1 << 20)

typedef struct dsv4_token {
    const char *bytes; /* NULL: no token has this id */
    size_t len_bytes;
    bool is_added;
    bool is_special;
} dsv4_token;

/* A token under its string in the file: in the byte alphabet unless it is an added one. */
typedef struct dsv4_token_name {
    const char *name; /* NUL-terminated, without a NUL inside */
    int32_t id;
} dsv4_token_name;

/* Added tokens that are looked for together, sorted by strcmp. */
typedef struct dsv4_added_group {
    dsv4_token_name *names; /* [n_names] */
    size_t n_names;
    bool begins[256]; /* bytes that a name begins with */
} dsv4_added_group;

/*
 * As in Hugging Face's library, those of "normalized": false are matched first, in the whole text.
 */
enum { DSV4_ADDED_PLAIN, DSV4_ADDED_NORMALIZED, DSV4_N_ADDED_GROUPS };

struct dsv4_tokenizer {
    dsv4_token *tokens; /* [n_ids] */
    int32_t n_ids;
    int32_t byte_ids[256];  /* -1: no token for this byte */
    dsv4_token_name *names; /* [n_names] all tokens, by strcmp */
    size_t n_names;
    dsv4_added_group added[DSV4_N_ADDED_GROUPS];
    dsv4_bpe_table merges;
    dsv4_pretok pretok;
    char *strings;
};

/* Fills a zeroed tokenizer; after a failure dsv4_tokenizer_close frees what it holds. */
dsv4_status dsv4_tokenizer_read(const char *path, const void *bytes, size_t len_bytes,
                                dsv4_tokenizer *tokenizer, dsv4_error *error);

#endif
