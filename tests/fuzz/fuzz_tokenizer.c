/*
 * fuzz_tokenizer.c - libFuzzer target of the tokenizer.
 *
 * Input: a tokenizer.json, a NUL, and a text. The JSON is patched over a small tokenizer with the
 * byte alphabet, so that a few bytes can change any part of a file that is accepted; an input that
 * begins with "=" is a whole file. A refusal must leave a text; with what is accepted, the
 * ids of the text must decode to it.
 */
#include "text/tokenizer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

static void require(int condition)
{
    if (!condition) abort();
}

/* The byte alphabet in order of bytes, as UTF-8. */
static void add_alphabet(json_t *vocab)
{
    unsigned next = 256;
    for (unsigned byte = 0; byte < 256; byte++) {
        bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
        unsigned c = prints ? byte : next++;
        char name[3] = {(char)c};
        if (c >= 0x80) {
            name[0] = (char)(0xc0 | c >> 6);
            name[1] = (char)(0x80 | (c & 0x3f));
        }
        (void)json_object_set_new(vocab, name, json_integer((json_int_t)byte));
    }
}

static const char base_text[] =
    "{\"added_tokens\":[{\"id\":300,\"content\":\"<think>\",\"single_word\":false,\"lstrip\":false,"
    "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
    "{\"Regex\":\"\\\\p{N}{1,3}\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":"
    "\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},\"decoder\":{\"type\":"
    "\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"ab\":256,\"abc\":257,\"Ġa\":258,"
    "\"12\":259},\"merges\":[[\"a\",\"b\"],\"ab c\",[\"Ġ\",\"a\"],[\"1\",\"2\"]]}}";

/* The small tokenizer with the patch's members, and those of its model, in place of its own. */
static char *patched_file(const char *patch, size_t len_bytes)
{
    json_t *file = json_loads(base_text, 0, NULL), *model = json_object_get(file, "model");
    json_t *changes = json_loadb(patch, len_bytes, 0, NULL);
    json_t *model_changes = json_object_get(changes, "model");
    add_alphabet(json_object_get(model, "vocab"));
    if (json_is_object(model_changes)) {
        json_t *vocab = json_object_get(model_changes, "vocab");
        if (json_is_object(vocab)) {
            (void)json_object_update(json_object_get(model, "vocab"), vocab);
            (void)json_object_del(model_changes, "vocab");
        }
        (void)json_object_update(model, model_changes);
        (void)json_object_del(changes, "model");
    }
    if (json_is_object(changes)) (void)json_object_update(file, changes);
    char *text = json_dumps(file, JSON_COMPACT);
    json_decref(changes);
    json_decref(file);
    return text;
}

static void check_text(const dsv4_tokenizer *tokenizer, const char *text, size_t len_bytes,
                       bool parse_special)
{
    size_t n_ids = 0, n_again = 0, pos = 0;
    dsv4_error error = {0};
    dsv4_status status =
        dsv4_tokenizer_encode(tokenizer, text, len_bytes, parse_special, NULL, 0, &n_ids, &error);
    if (status != DSV4_OK) {
        require(status == DSV4_ERROR_UNSUPPORTED && strstr(error.text, "expected") != NULL);
        return;
    }
    int32_t *ids = malloc(n_ids * sizeof *ids + 1);
    require(ids != NULL);
    require(dsv4_tokenizer_encode(tokenizer, text, len_bytes, parse_special, ids, n_ids, &n_again,
                                  NULL) == DSV4_OK);
    require(n_again == n_ids);
    for (size_t i = 0; i < n_ids; i++) {
        size_t n = 0;
        const char *token = dsv4_tokenizer_token(tokenizer, ids[i], &n);
        require(token != NULL && n <= len_bytes - pos && memcmp(token, text + pos, n) == 0);
        pos += n;
    }
    require(pos == len_bytes);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
    if (len_bytes == 0) return 0;
    const char *json = (const char *)bytes;
    const char *nul = memchr(bytes, '\0', len_bytes), *end = json + len_bytes;
    size_t json_bytes = nul == NULL ? len_bytes : (size_t)(nul - json);
    bool is_whole = *json == '=';
    char *file = is_whole ? NULL : patched_file(json, json_bytes);
    dsv4_tokenizer *tokenizer = NULL;
    dsv4_error error = {0};
    dsv4_status status =
        is_whole ? dsv4_tokenizer_open("fuzz", json + 1, json_bytes - 1, &tokenizer, &error)
                 : dsv4_tokenizer_open("fuzz", file, strlen(file), &tokenizer, &error);
    if (status == DSV4_OK && nul != NULL) {
        check_text(tokenizer, nul + 1, (size_t)(end - nul - 1), false);
        check_text(tokenizer, nul + 1, (size_t)(end - nul - 1), true);
    }
    if (status != DSV4_OK) {
        require(tokenizer == NULL && error.status == status);
        require(strstr(error.text, "expected") != NULL);
    }
    dsv4_tokenizer_close(tokenizer);
    free(file);
    return 0;
}
