/*
 * tokenizer_read.c - tokenizer.json of Hugging Face `tokenizers` into an open tokenizer.
 *
 * Place: text, on Jansson. The file is hostile. Every key of it is known here or refused: what is
 * supported reads as tokenizer.h says, what would change the ids in another way is UNSUPPORTED by
 * name, and what breaks the format is BAD_FILE.
 */
#include "text/tokenizer_data.h"

#include "base/error.h"
#include "io/file_error.h"
#include "text/json_dump.h"
#include "text/utf8.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALPHABET_END 324 /* one more than the last character of the byte alphabet */

/* What the functions that read one file share. */
typedef struct reader {
    const char *path;
    dsv4_error *error;
    dsv4_tokenizer *tokenizer;
    json_t *vocab;
    json_t *added;                 /* NULL when the file has none */
    char *next_string;             /* free part of tokenizer->strings */
    int16_t byte_of[ALPHABET_END]; /* of a character of the byte alphabet; -1 for any other */
} reader;

/* Error texts. */

/* `status` with "<path>: <text>". */
static dsv4_status refuse(const reader *r, dsv4_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static dsv4_status refuse(const reader *r, dsv4_status status, const char *format, ...)
{
    char text[DSV4_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return dsv4_error_set(r->error, status, "%s: %s", dsv4_shorten(r->path).text, text);
}

static dsv4_status bad_value(const reader *r, const char *what, const json_t *value,
                             const char *expectation)
{
    return refuse(r, DSV4_ERROR_BAD_FILE, "%s is %s, expected %s", what,
                  dsv4_json_describe_member(value).text, expectation);
}

static dsv4_status unsupported_value(const reader *r, const char *what, const json_t *value,
                                     const char *expectation)
{
    return refuse(r, DSV4_ERROR_UNSUPPORTED, "%s is %s, expected %s", what,
                  dsv4_json_describe_member(value).text, expectation);
}

/* Settings: everything but vocabulary, merges and added tokens. */

/* Refuses a key of the object that is not in the NULL-terminated list. */
static dsv4_status check_keys(const reader *r, const char *what, json_t *object,
                              const char *const *known)
{
    const char *key = NULL;
    json_t *value = NULL;
    if (!json_is_object(object)) return bad_value(r, what, object, "an object");
    json_object_foreach(object, key, value)
    {
        size_t i = 0;
        while (known[i] != NULL && strcmp(known[i], key) != 0) i++;
        if (known[i] == NULL) {
            return refuse(r, DSV4_ERROR_UNSUPPORTED,
                          "%s has the key '%s', expected only keys that are known here", what,
                          dsv4_shorten(key).text);
        }
    }
    return DSV4_OK;
}

/* The object's "type" must be `expected`. */
static dsv4_status check_type(const reader *r, const char *what, const json_t *object,
                              const char *expected)
{
    char name[64], rule[64];
    const json_t *type = json_object_get(object, "type");
    (void)snprintf(name, sizeof name, "%s type", what);
    (void)snprintf(rule, sizeof rule, "'%s'", expected);
    if (!json_is_object(object)) return unsupported_value(r, what, object, "an object");
    if (!json_is_string(type)) return bad_value(r, name, type, "a string");
    if (strcmp(json_string_value(type), expected) != 0) {
        return unsupported_value(r, name, type, rule);
    }
    return DSV4_OK;
}

/* A switch of the object that must be off; absent is `default_value`. */
static dsv4_status check_off(const reader *r, const char *what, const json_t *object,
                             const char *key, bool default_value)
{
    char name[64];
    const json_t *value = json_object_get(object, key);
    (void)snprintf(name, sizeof name, "%s %s", what, key);
    if (value != NULL && !json_is_boolean(value)) return bad_value(r, name, value, "a boolean");
    if (value == NULL ? default_value : json_is_true(value)) {
        return unsupported_value(r, name, value, "false");
    }
    return DSV4_OK;
}

/* A key that must be absent or null. */
static dsv4_status check_null(const reader *r, const char *what, const json_t *value)
{
    if (value == NULL || json_is_null(value)) return DSV4_OK;
    return unsupported_value(r, what, value, "null");
}

/* null, or a sequence of nothing. */
static dsv4_status check_normalizer(const reader *r, const json_t *value)
{
    if (value == NULL || json_is_null(value)) return DSV4_OK;
    DSV4_TRY(check_type(r, "normalizer", value, "Sequence"));
    const json_t *list = json_object_get(value, "normalizers");
    if (!json_is_array(list)) return bad_value(r, "normalizers", list, "an array");
    if (json_array_size(list) == 0) return DSV4_OK;
    const json_t *first = json_array_get(list, 0);
    const json_t *type = json_object_get(first, "type");
    return unsupported_value(r, "normalizer", type == NULL ? first : type, "none");
}

/* Adds {"type": "Split", "pattern": {"Regex": ...}, "behavior": "Isolated", "invert": false}. */
static dsv4_status read_split(const reader *r, json_t *split)
{
    static const char *const keys[] = {"type", "pattern", "behavior", "invert", NULL};
    DSV4_TRY(check_keys(r, "Split", split, keys));
    DSV4_TRY(check_off(r, "Split", split, "invert", false));
    const json_t *behavior = json_object_get(split, "behavior");
    const json_t *pattern = json_object_get(split, "pattern");
    if (!json_is_string(behavior)) return bad_value(r, "Split behavior", behavior, "a string");
    if (strcmp(json_string_value(behavior), "Isolated") != 0) {
        return unsupported_value(r, "Split behavior", behavior, "'Isolated'");
    }
    if (json_object_get(pattern, "String") != NULL) {
        return unsupported_value(r, "Split pattern String", json_object_get(pattern, "String"),
                                 "a Regex");
    }
    const json_t *regex = json_object_get(pattern, "Regex");
    if (!json_is_string(regex)) return bad_value(r, "Split pattern Regex", regex, "a string");
    return dsv4_pretok_add_split(&r->tokenizer->pretok, r->path, json_string_value(regex),
                                 json_string_length(regex), r->error);
}

static dsv4_status check_byte_level(const reader *r, json_t *value)
{
    static const char *const keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex",
                                       NULL};
    DSV4_TRY(check_keys(r, "pre_tokenizer ByteLevel", value, keys));
    DSV4_TRY(check_off(r, "pre_tokenizer ByteLevel", value, "add_prefix_space", true));
    return check_off(r, "pre_tokenizer ByteLevel", value, "use_regex", true);
}

/* ByteLevel alone, or a Sequence of splits with ByteLevel at the end. */
static dsv4_status read_pre_tokenizer(const reader *r, json_t *value)
{
    const char *type = json_string_value(json_object_get(value, "type"));
    if (type != NULL && strcmp(type, "ByteLevel") == 0) return check_byte_level(r, value);
    DSV4_TRY(check_type(r, "pre_tokenizer", value, "Sequence"));
    json_t *list = json_object_get(value, "pretokenizers");
    if (!json_is_array(list)) return bad_value(r, "pretokenizers", list, "an array");
    size_t n = json_array_size(list);
    for (size_t i = 0; i + 1 < n; i++) {
        json_t *split = json_array_get(list, i);
        DSV4_TRY(check_type(r, "pre_tokenizer before the last", split, "Split"));
        DSV4_TRY(read_split(r, split));
    }
    json_t *last = n == 0 ? NULL : json_array_get(list, n - 1);
    DSV4_TRY(check_type(r, "last pre_tokenizer", last, "ByteLevel"));
    return check_byte_level(r, last);
}

static dsv4_status check_model(const reader *r, json_t *model)
{
    static const char *const keys[] = {"type",
                                       "dropout",
                                       "unk_token",
                                       "continuing_subword_prefix",
                                       "fuse_unk",
                                       "end_of_word_suffix",
                                       "byte_fallback",
                                       "ignore_merges",
                                       "vocab",
                                       "merges",
                                       NULL};
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    if (!json_is_object(model)) return bad_value(r, "model", model, "an object");
    DSV4_TRY(check_type(r, "model", model, "BPE"));
    DSV4_TRY(check_keys(r, "model", model, keys));
    DSV4_TRY(check_null(r, "model dropout", json_object_get(model, "dropout")));
    DSV4_TRY(check_null(r, "model unk_token", json_object_get(model, "unk_token")));
    for (size_t i = 0; i < sizeof affixes / sizeof affixes[0]; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        bool is_empty = json_is_string(affix) && json_string_length(affix) == 0;
        if (affix == NULL || json_is_null(affix) || is_empty) continue;
        return unsupported_value(r, affixes[i], affix, "null or empty");
    }
    DSV4_TRY(check_off(r, "model", model, "byte_fallback", false));
    return check_off(r, "model", model, "ignore_merges", false);
}

static dsv4_status check_settings(reader *r, json_t *root)
{
    static const char *const keys[] = {
        "version",       "truncation",     "padding", "added_tokens", "normalizer",
        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    DSV4_TRY(check_keys(r, "the file", root, keys));
    DSV4_TRY(check_null(r, "truncation", json_object_get(root, "truncation")));
    DSV4_TRY(check_null(r, "padding", json_object_get(root, "padding")));
    DSV4_TRY(check_normalizer(r, json_object_get(root, "normalizer")));
    DSV4_TRY(read_pre_tokenizer(r, json_object_get(root, "pre_tokenizer")));
    /* ByteLevel as a post-processor moves offsets, not ids */
    const json_t *post_processor = json_object_get(root, "post_processor");
    if (post_processor != NULL && !json_is_null(post_processor)) {
        DSV4_TRY(check_type(r, "post_processor", post_processor, "ByteLevel"));
    }
    DSV4_TRY(check_type(r, "decoder", json_object_get(root, "decoder"), "ByteLevel"));
    json_t *model = json_object_get(root, "model");
    DSV4_TRY(check_model(r, model));
    r->vocab = json_object_get(model, "vocab");
    r->added = json_object_get(root, "added_tokens");
    if (!json_is_object(r->vocab)) return bad_value(r, "model vocab", r->vocab, "an object");
    if (json_is_null(r->added)) r->added = NULL;
    if (r->added != NULL && !json_is_array(r->added)) {
        return bad_value(r, "added_tokens", r->added, "an array");
    }
    return DSV4_OK;
}

/* Vocabulary and added tokens. */

/*
 * The byte alphabet: bytes that print in Latin-1 stand for themselves, the others, in order, are
 * U+0100, U+0101, ...
 */
static void fill_alphabet(reader *r)
{
    int next = 256;
    for (int c = 0; c < ALPHABET_END; c++) r->byte_of[c] = -1;
    for (int byte = 0; byte < 256; byte++) {
        bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
        r->byte_of[prints ? byte : next++] = (int16_t)byte;
    }
    assert(next == ALPHABET_END);
}

static dsv4_status check_id(const reader *r, const char *name, const json_t *value, int32_t *id)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= DSV4_TOKENIZER_MAX_IDS) {
        return refuse(r, DSV4_ERROR_BAD_FILE,
                      "token '%s' has id %s, expected an integer from 0 to %d",
                      dsv4_shorten(name).text, dsv4_json_describe_member(value).text,
                      DSV4_TOKENIZER_MAX_IDS - 1);
    }
    *id = (int32_t)json_integer_value(value);
    return DSV4_OK;
}

static dsv4_status check_added(const reader *r, json_t *token)
{
    static const char *const keys[] = {"id",     "content",    "single_word", "lstrip",
                                       "rstrip", "normalized", "special",     NULL};
    DSV4_TRY(check_keys(r, "added token", token, keys));
    const json_t *content = json_object_get(token, "content");
    if (!json_is_string(content) || json_string_length(content) == 0) {
        return bad_value(r, "added token content", content, "a string that is not empty");
    }
    for (int i = 2; keys[i] != NULL; i++) {
        const json_t *value = json_object_get(token, keys[i]);
        if (!json_is_boolean(value)) {
            return refuse(r, DSV4_ERROR_BAD_FILE, "added token %s: %s is %s, expected a boolean",
                          dsv4_json_describe_member(content).text, keys[i],
                          dsv4_json_describe_member(value).text);
        }
        bool changes_ids = i < 5;
        if (changes_ids && json_is_true(value)) {
            return refuse(r, DSV4_ERROR_UNSUPPORTED, "added token %s: %s is true, expected false",
                          dsv4_json_describe_member(content).text, keys[i]);
        }
    }
    return DSV4_OK;
}

/*
 * Checks all ids and allocates for them. Names and bytes of a token take at most its length twice.
 */
static dsv4_status allocate_tokens(reader *r)
{
    dsv4_tokenizer *tokenizer = r->tokenizer;
    size_t n_names = json_object_size(r->vocab) + json_array_size(r->added), n_chars = 0;
    int32_t id = 0, max_id = -1;
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(r->vocab, key, value)
    {
        DSV4_TRY(check_id(r, key, value, &id));
        if (id > max_id) max_id = id;
        n_chars += strlen(key) + 1;
    }
    for (size_t i = 0; i < json_array_size(r->added); i++) {
        value = json_array_get(r->added, i);
        DSV4_TRY(check_added(r, value));
        key = json_string_value(json_object_get(value, "content"));
        DSV4_TRY(check_id(r, key, json_object_get(value, "id"), &id));
        if (id > max_id) max_id = id;
        n_chars += strlen(key) + 1;
    }
    tokenizer->n_ids = max_id + 1;
    tokenizer->tokens = calloc((size_t)max_id + 2, sizeof *tokenizer->tokens);
    tokenizer->names = calloc(n_names + 1, sizeof *tokenizer->names);
    tokenizer->strings = malloc(2 * n_chars + 1);
    bool is_complete =
        tokenizer->tokens != NULL && tokenizer->names != NULL && tokenizer->strings != NULL;
    for (int i = 0; i < DSV4_N_ADDED_GROUPS; i++) {
        dsv4_added_group *group = &tokenizer->added[i];
        group->names = calloc(json_array_size(r->added) + 1, sizeof *group->names);
        is_complete = is_complete && group->names != NULL;
    }
    r->next_string = tokenizer->strings;
    return is_complete ? DSV4_OK : dsv4_error_set_memory(r->path, r->error);
}

static char *copy_string(reader *r, const char *string)
{
    char *copy = r->next_string;
    size_t len_bytes = strlen(string) + 1;
    memcpy(copy, string, len_bytes);
    r->next_string += len_bytes;
    return copy;
}

/* The byte that the UTF-8 character at `text` stands for, -1 when none; *n_bytes is its length. */
static int decode_byte(const reader *r, const char *text, size_t *n_bytes)
{
    const unsigned char *c = (const unsigned char *)text;
    *n_bytes = dsv4_utf8_character_bytes(text, strlen(text));
    if (*n_bytes == 1) return r->byte_of[c[0]];
    if (*n_bytes != 2) return -1;
    int code_point = (c[0] & 0x1f) << 6 | (c[1] & 0x3f);
    return code_point < ALPHABET_END ? r->byte_of[code_point] : -1;
}

/* Sets bytes and length of the vocabulary entry `name`: itself when it leaves the byte alphabet. */
static void decode_name(reader *r, const char *name, dsv4_token *token)
{
    char *bytes = r->next_string;
    size_t len_bytes = 0, n = 0;
    for (const char *c = name; *c != '\0'; c += n) {
        int byte = decode_byte(r, c, &n);
        if (byte < 0) {
            token->bytes = name;
            token->len_bytes = strlen(name);
            return;
        }
        bytes[len_bytes++] = (char)byte;
    }
    r->next_string += len_bytes;
    token->bytes = bytes;
    token->len_bytes = len_bytes;
}

static dsv4_status read_vocab(reader *r)
{
    dsv4_tokenizer *tokenizer = r->tokenizer;
    const char *key = NULL;
    json_t *value = NULL;
    for (int i = 0; i < 256; i++) tokenizer->byte_ids[i] = -1;
    json_object_foreach(r->vocab, key, value)
    {
        int32_t id = (int32_t)json_integer_value(value);
        dsv4_token *token = &tokenizer->tokens[id];
        if (token->bytes != NULL) {
            return refuse(r, DSV4_ERROR_BAD_FILE,
                          "token '%s' has id %" PRId32 ", expected one that no other token has",
                          dsv4_shorten(key).text, id);
        }
        const char *name = copy_string(r, key);
        tokenizer->names[tokenizer->n_names++] = (dsv4_token_name){name, id};
        decode_name(r, name, token);
        size_t n_bytes = 0;
        int byte = *name == '\0' ? -1 : decode_byte(r, name, &n_bytes);
        if (byte >= 0 && name[n_bytes] == '\0') tokenizer->byte_ids[byte] = id;
    }
    /* other bytes are never part of valid UTF-8, and a vocabulary may do without them */
    for (int byte = 0; byte < 0xf5; byte++) {
        if (tokenizer->byte_ids[byte] < 0 && byte != 0xc0 && byte != 0xc1) {
            return refuse(r, DSV4_ERROR_BAD_FILE,
                          "model vocab has no token for byte 0x%02x, expected one for each byte "
                          "of UTF-8",
                          (unsigned)byte);
        }
    }
    return DSV4_OK;
}

static dsv4_status read_added_token(reader *r, json_t *object)
{
    dsv4_tokenizer *tokenizer = r->tokenizer;
    const char *content = json_string_value(json_object_get(object, "content"));
    int32_t id = (int32_t)json_integer_value(json_object_get(object, "id"));
    const json_t *vocab_id = json_object_get(r->vocab, content);
    dsv4_token *token = &tokenizer->tokens[id];
    bool is_other = vocab_id == NULL ? token->bytes != NULL : json_integer_value(vocab_id) != id;
    if (is_other || token->is_added) {
        return refuse(r, DSV4_ERROR_BAD_FILE,
                      "added token '%s' has id %" PRId32
                      ", expected the one of the vocabulary, or one that no other token has",
                      dsv4_shorten(content).text, id);
    }
    const char *name = copy_string(r, content);
    bool is_normalized = json_is_true(json_object_get(object, "normalized"));
    dsv4_added_group *group =
        &tokenizer->added[is_normalized ? DSV4_ADDED_NORMALIZED : DSV4_ADDED_PLAIN];
    *token = (dsv4_token){.bytes = name,
                          .len_bytes = strlen(name),
                          .is_added = true,
                          .is_special = json_is_true(json_object_get(object, "special"))};
    if (vocab_id == NULL) tokenizer->names[tokenizer->n_names++] = (dsv4_token_name){name, id};
    group->names[group->n_names++] = (dsv4_token_name){name, id};
    group->begins[(unsigned char)*name] = true;
    return DSV4_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const dsv4_token_name *)a)->name, ((const dsv4_token_name *)b)->name);
}

static dsv4_status read_added(reader *r)
{
    dsv4_tokenizer *tokenizer = r->tokenizer;
    for (size_t i = 0; i < json_array_size(r->added); i++) {
        DSV4_TRY(read_added_token(r, json_array_get(r->added, i)));
    }
    for (int i = 0; i < DSV4_N_ADDED_GROUPS; i++) {
        dsv4_added_group *group = &tokenizer->added[i];
        qsort(group->names, group->n_names, sizeof *group->names, compare_names);
    }
    qsort(tokenizer->names, tokenizer->n_names, sizeof *tokenizer->names, compare_names);
    for (size_t i = 1; i < tokenizer->n_names; i++) {
        if (compare_names(&tokenizer->names[i - 1], &tokenizer->names[i]) == 0) {
            return refuse(r, DSV4_ERROR_BAD_FILE,
                          "added token '%s' stands there twice, expected one id for each string",
                          dsv4_shorten(tokenizer->names[i].name).text);
        }
    }
    return DSV4_OK;
}

/* Merges. */

static dsv4_status bad_merge(const reader *r, size_t index, const json_t *merge,
                             const char *expectation)
{
    return refuse(r, DSV4_ERROR_BAD_FILE, "merge %zu is %s, expected %s", index,
                  dsv4_json_describe_member(merge).text, expectation);
}

/*
 * Puts the parts of "left right" or ["left", "right"] into *whole, the right one from *left_bytes
 * on.
 */
static dsv4_status join_parts(const reader *r, size_t index, const json_t *merge,
                              dsv4_text_buffer *whole, size_t *left_bytes)
{
    static const char rule[] = "two tokens, in an array or with one blank between";
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    whole->len_bytes = 0;
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *blank = strchr(text, ' ');
        if (blank == NULL || strchr(blank + 1, ' ') != NULL)
            return bad_merge(r, index, merge, rule);
        *left_bytes = (size_t)(blank - text);
        dsv4_text_buffer_append(whole, text, *left_bytes);
        dsv4_text_buffer_append_string(whole, blank + 1);
    } else {
        if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right)) {
            return bad_merge(r, index, merge, rule);
        }
        *left_bytes = json_string_length(left);
        dsv4_text_buffer_append_string(whole, json_string_value(left));
        dsv4_text_buffer_append_string(whole, json_string_value(right));
    }
    dsv4_text_buffer_append(whole, "", 1);
    return whole->failed ? dsv4_error_set_memory(r->path, r->error) : DSV4_OK;
}

static dsv4_status read_merge(const reader *r, size_t index, uint32_t rank, const json_t *merge,
                              dsv4_text_buffer *whole)
{
    size_t left_bytes = 0;
    DSV4_TRY(join_parts(r, index, merge, whole, &left_bytes));
    const json_t *whole_id = json_object_get(r->vocab, whole->bytes);
    const json_t *right_id = json_object_get(r->vocab, whole->bytes + left_bytes);
    whole->bytes[left_bytes] = '\0';
    const json_t *left_id = json_object_get(r->vocab, whole->bytes);
    if (left_id == NULL || right_id == NULL || whole_id == NULL) {
        return bad_merge(r, index, merge, "both parts and what they make to be in the vocabulary");
    }
    dsv4_bpe_table_put(&r->tokenizer->merges, (int32_t)json_integer_value(left_id),
                       (int32_t)json_integer_value(right_id), rank,
                       (int32_t)json_integer_value(whole_id));
    return DSV4_OK;
}

static dsv4_status read_merges(const reader *r, const json_t *merges)
{
    dsv4_text_buffer whole = {0};
    dsv4_status status = DSV4_OK;
    uint32_t rank = 0;
    if (!json_is_array(merges)) return bad_value(r, "model merges", merges, "an array");
    size_t n_merges = json_array_size(merges);
    if (n_merges > INT32_MAX) return bad_value(r, "model merges", merges, "fewer than 2^31");
    if (!dsv4_bpe_table_open(&r->tokenizer->merges, n_merges)) {
        return dsv4_error_set_memory(r->path, r->error);
    }
    for (size_t i = 0; i < n_merges && status == DSV4_OK; i++) {
        const json_t *merge = json_array_get(merges, i);
        const char *text = json_string_value(merge);
        /* a line that files of old begin with; Hugging Face's library passes over it anywhere */
        if (text != NULL && strncmp(text, "#version", 8) == 0) continue;
        status = read_merge(r, i, rank++, merge, &whole);
    }
    dsv4_text_buffer_free(&whole);
    return status;
}

static dsv4_status read_root(reader *r, json_t *root)
{
    DSV4_TRY(check_settings(r, root));
    fill_alphabet(r);
    DSV4_TRY(allocate_tokens(r));
    DSV4_TRY(read_vocab(r));
    DSV4_TRY(read_added(r));
    return read_merges(r, json_object_get(json_object_get(root, "model"), "merges"));
}

dsv4_status dsv4_tokenizer_read(const char *path, const void *bytes, size_t len_bytes,
                                dsv4_tokenizer *tokenizer, dsv4_error *error)
{
    reader r = {.path = path, .error = error, .tokenizer = tokenizer};
    json_t *root = NULL;
    DSV4_TRY(dsv4_json_parse(path, bytes, len_bytes, &root, error));
    dsv4_status status = read_root(&r, root);
    json_decref(root);
    return status;
}
