/*
 * tokenizer.h - byte-level BPE as tokenizer.json of Hugging Face `tokenizers` describes it.
 *
 * Place: text. Supports what DeepSeek's files use: model BPE (vocab, merges as pairs or strings,
 * ignore_merges false, no dropout, no unk), pre-tokenizers Split (Regex, isolated) and ByteLevel in a
 * Sequence, added tokens (special ones matched in the text before splitting, longest first), decoder
 * ByteLevel, no normalizer or one that does nothing. Anything else in the file is refused by name.
 * Regexes run on PCRE2 with UTF and UCP. Text that is not valid UTF-8: each bad byte is encoded by its
 * byte token alone.
 *
 * An open tokenizer is immutable; encode needs scratch of its own and may run in many threads.
 */
#ifndef DSV4_TEXT_TOKENIZER_H
#define DSV4_TEXT_TOKENIZER_H

#include <stdbool.h>

#include "dsv4/base.h"

typedef struct dsv4_tokenizer dsv4_tokenizer;

/* From tokenizer.json in memory; `path` is for error texts. */
dsv4_status dsv4_tokenizer_open(const char *path, const void *bytes, size_t len_bytes,
                                dsv4_tokenizer **tokenizer, dsv4_error *error);

/* Accepts NULL. */
void dsv4_tokenizer_close(dsv4_tokenizer *tokenizer);

/*
 * Token ids of text (any bytes). Nothing is added at the ends. With parse_special the added tokens'
 * strings in the text become their ids, else they are ordinary text.
 *   ids      at most max_ids are written; NULL with max_ids 0 to count
 *   *n_ids   how many there are, which may exceed max_ids
 */
dsv4_status dsv4_tokenizer_encode(const dsv4_tokenizer *tokenizer, const char *text,
                                  size_t len_bytes, bool parse_special, int32_t *ids,
                                  size_t max_ids, size_t *n_ids, dsv4_error *error);

/*
 * Bytes of one token (an added token's string, else the bytes that its text stands for); NULL with
 * *len_bytes 0 for an id that is none. The memory is the tokenizer's.
 */
const char *dsv4_tokenizer_token(const dsv4_tokenizer *tokenizer, int32_t id, size_t *len_bytes);

bool dsv4_tokenizer_is_special(const dsv4_tokenizer *tokenizer, int32_t id);

/* Id of an added token or vocabulary entry by its exact string; -1 when there is none. */
int32_t dsv4_tokenizer_find(const dsv4_tokenizer *tokenizer, const char *token);

/* One more than the largest id. */
int32_t dsv4_tokenizer_n_ids(const dsv4_tokenizer *tokenizer);

#endif
