/*
 * tokenizer.c - encoding with an open tokenizer, and its tables.
 *
 * Place: text. A text is cut four times, each time inside the pieces of the cut before: at added
 * tokens that are not normalized, at those that are, at bytes that are not UTF-8, and by the
 * pre-tokenizer. What is left are words for BPE.
 */
#include "text/tokenizer_data.h"

#include "base/error.h"
#include "io/file_error.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* One call of dsv4_tokenizer_encode. */
typedef struct encoder {
    const dsv4_tokenizer *tokenizer;
    dsv4_error *error;
    dsv4_pretok_scan scan;
    dsv4_bpe_word word;
    int32_t *ids; /* [max_ids] */
    size_t max_ids;
    size_t n_ids;
} encoder;

dsv4_status dsv4_tokenizer_open(const char *path, const void *bytes, size_t len_bytes,
                                dsv4_tokenizer **tokenizer, dsv4_error *error)
{
    *tokenizer = NULL;
    dsv4_tokenizer *result = calloc(1, sizeof *result);
    if (result == NULL) return dsv4_error_set_memory(path, error);
    dsv4_status status = dsv4_tokenizer_read(path, bytes, len_bytes, result, error);
    if (status != DSV4_OK) {
        dsv4_tokenizer_close(result);
        return status;
    }
    *tokenizer = result;
    return DSV4_OK;
}

void dsv4_tokenizer_close(dsv4_tokenizer *tokenizer)
{
    if (tokenizer == NULL) return;
    for (int i = 0; i < DSV4_N_ADDED_GROUPS; i++) free(tokenizer->added[i].names);
    dsv4_bpe_table_close(&tokenizer->merges);
    dsv4_pretok_close(&tokenizer->pretok);
    free(tokenizer->tokens);
    free(tokenizer->names);
    free(tokenizer->strings);
    free(tokenizer);
}

static void put_id(encoder *e, int32_t id)
{
    if (e->n_ids < e->max_ids) e->ids[e->n_ids] = id;
    e->n_ids++;
}

static dsv4_status byte_id(const encoder *e, char byte, int32_t *id)
{
    *id = e->tokenizer->byte_ids[(unsigned char)byte];
    if (*id >= 0) return DSV4_OK;
    return dsv4_error_set(e->error, DSV4_ERROR_UNSUPPORTED,
                          "text has byte 0x%02x outside of valid UTF-8, expected none: the "
                          "vocabulary has no token for it",
                          (unsigned)(unsigned char)byte);
}

static dsv4_status encode_word(encoder *e, const char *text, size_t len_bytes)
{
    if (!dsv4_bpe_word_reserve(&e->word, len_bytes)) {
        return dsv4_error_set(e->error, DSV4_ERROR_OUT_OF_MEMORY, "tokenizer: out of memory");
    }
    for (size_t i = 0; i < len_bytes; i++) {
        DSV4_TRY(byte_id(e, text[i], &e->word.symbols[i].id));
    }
    dsv4_bpe_word_merge(&e->word, &e->tokenizer->merges, len_bytes);
    for (uint32_t i = 0; i != DSV4_BPE_NO_SYMBOL; i = e->word.symbols[i].next) {
        put_id(e, e->word.symbols[i].id);
    }
    return DSV4_OK;
}

/* Text without added tokens. */
static dsv4_status encode_plain(encoder *e, const char *text, size_t len_bytes)
{
    size_t pos = 0;
    while (pos < len_bytes) {
        size_t n_valid = dsv4_utf8_valid_bytes(text + pos, len_bytes - pos);
        const char *piece = NULL;
        size_t piece_bytes = 0;
        dsv4_pretok_scan_start(&e->scan, text + pos, n_valid);
        do {
            DSV4_TRY(dsv4_pretok_scan_next(&e->scan, &piece, &piece_bytes, e->error));
            if (piece_bytes > 0) DSV4_TRY(encode_word(e, piece, piece_bytes));
        } while (piece_bytes > 0);
        pos += n_valid;
        if (pos < len_bytes) {
            int32_t id = -1;
            DSV4_TRY(byte_id(e, text[pos], &id));
            put_id(e, id);
            pos++;
        }
    }
    return DSV4_OK;
}

/*
 * In names [begin, end), which agree in their first n bytes, the first whose byte n is not below c.
 */
static size_t lower_bound(const dsv4_token_name *names, size_t begin, size_t end, size_t n, int c)
{
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        if ((unsigned char)names[middle].name[n] < c) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

/*
 * The longest name that text begins with, NULL when none does; narrows the sorted names byte by
 * byte.
 */
static const dsv4_token_name *longest_name(const dsv4_added_group *group, const char *text,
                                           size_t len_bytes)
{
    const dsv4_token_name *result = NULL;
    size_t begin = 0, end = group->n_names;
    for (size_t n = 0; n < len_bytes && text[n] != '\0'; n++) {
        int c = (unsigned char)text[n];
        begin = lower_bound(group->names, begin, end, n, c);
        end = lower_bound(group->names, begin, end, n, c + 1);
        if (begin == end) break;
        if (group->names[begin].name[n + 1] == '\0') result = &group->names[begin];
    }
    return result;
}

/*
 * The leftmost occurrence of a name, the longest there: its offset, and *found; len_bytes when
 * none.
 */
static size_t find_added(const dsv4_added_group *group, const char *text, size_t len_bytes,
                         const dsv4_token_name **found)
{
    for (size_t pos = 0; pos < len_bytes; pos++) {
        if (!group->begins[(unsigned char)text[pos]]) continue;
        *found = longest_name(group, text + pos, len_bytes - pos);
        if (*found != NULL) return pos;
    }
    *found = NULL;
    return len_bytes;
}

typedef dsv4_status encode_gap(encoder *e, const char *text, size_t len_bytes);

/* Ids of the group's tokens in the text, and of what lies between them by `gap`. */
static dsv4_status encode_added(encoder *e, const dsv4_added_group *group, encode_gap *gap,
                                const char *text, size_t len_bytes)
{
    size_t pos = 0;
    while (pos < len_bytes) {
        const dsv4_token_name *found = NULL;
        size_t n_before = find_added(group, text + pos, len_bytes - pos, &found);
        DSV4_TRY(gap(e, text + pos, n_before));
        pos += n_before;
        if (found != NULL) {
            put_id(e, found->id);
            pos += strlen(found->name);
        }
    }
    return DSV4_OK;
}

static dsv4_status encode_normalized(encoder *e, const char *text, size_t len_bytes)
{
    return encode_added(e, &e->tokenizer->added[DSV4_ADDED_NORMALIZED], encode_plain, text,
                        len_bytes);
}

dsv4_status dsv4_tokenizer_encode(const dsv4_tokenizer *tokenizer, const char *text,
                                  size_t len_bytes, bool parse_special, int32_t *ids,
                                  size_t max_ids, size_t *n_ids, dsv4_error *error)
{
    encoder e = {.tokenizer = tokenizer, .error = error, .ids = ids, .max_ids = max_ids};
    *n_ids = 0;
    if (len_bytes > INT32_MAX) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "text has %zu bytes, expected at most %d", len_bytes, INT32_MAX);
    }
    DSV4_TRY(dsv4_pretok_scan_open(&e.scan, &tokenizer->pretok, error));
    dsv4_status status = parse_special ? encode_added(&e, &tokenizer->added[DSV4_ADDED_PLAIN],
                                                      encode_normalized, text, len_bytes)
                                       : encode_plain(&e, text, len_bytes);
    dsv4_pretok_scan_close(&e.scan);
    dsv4_bpe_word_free(&e.word);
    if (status == DSV4_OK) *n_ids = e.n_ids;
    return status;
}

static const dsv4_token *token_of(const dsv4_tokenizer *tokenizer, int32_t id)
{
    return id < 0 || id >= tokenizer->n_ids ? NULL : &tokenizer->tokens[id];
}

const char *dsv4_tokenizer_token(const dsv4_tokenizer *tokenizer, int32_t id, size_t *len_bytes)
{
    const dsv4_token *token = token_of(tokenizer, id);
    *len_bytes = token == NULL ? 0 : token->len_bytes;
    return token == NULL ? NULL : token->bytes;
}

bool dsv4_tokenizer_is_special(const dsv4_tokenizer *tokenizer, int32_t id)
{
    const dsv4_token *token = token_of(tokenizer, id);
    return token != NULL && token->is_special;
}

int32_t dsv4_tokenizer_find(const dsv4_tokenizer *tokenizer, const char *token)
{
    size_t begin = 0, end = tokenizer->n_names;
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        int order = strcmp(tokenizer->names[middle].name, token);
        if (order == 0) return tokenizer->names[middle].id;
        if (order < 0) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return -1;
}

int32_t dsv4_tokenizer_n_ids(const dsv4_tokenizer *tokenizer)
{
    return tokenizer->n_ids;
}
