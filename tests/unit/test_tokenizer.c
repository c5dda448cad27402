/*
 * test_tokenizer.c - the tokenizer, against Hugging Face's library and on files built from a small
 * one.
 *
 * fixtures/tokenizer (tests/gen/make_tokenizer_fixtures.py) holds a trained tokenizer with V4's
 * pre-tokenizer and what the library makes of several thousand texts. Refusals are checked on the
 * same file with one value of it changed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/file_read.h"
#include "text/pretok.h"
#include "text/tokenizer.h"
#include "text/utf8.h"
#include "test_files.h"

#include <jansson.h>

#define FIXTURES     DSV4_TEST_FIXTURES "/tokenizer/"
#define MAX_CASE_IDS 4096

typedef struct fixture {
    dsv4_tokenizer *tokenizer;
    json_t *file; /* tokenizer.json */
} fixture;

static json_t *load_json(const char *path)
{
    json_error_t error;
    json_t *result = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (result == NULL) fail_msg("%s: %s", path, error.text);
    return result;
}

static dsv4_status open_json(const json_t *file, dsv4_tokenizer **tokenizer, dsv4_error *error)
{
    char *text = json_dumps(file, JSON_COMPACT);
    assert_non_null(text);
    dsv4_status status = dsv4_tokenizer_open("t.json", text, strlen(text), tokenizer, error);
    free(text);
    return status;
}

static int set_up(void **state)
{
    static fixture result;
    void *bytes = NULL;
    size_t len_bytes = 0;
    dsv4_error error = {0};
    if (dsv4_file_read(FIXTURES "tokenizer.json", 1 << 20, &bytes, &len_bytes, &error) != DSV4_OK ||
        dsv4_tokenizer_open("tokenizer.json", bytes, len_bytes, &result.tokenizer, &error) !=
            DSV4_OK) {
        print_error("%s\n", error.text);
        return -1;
    }
    free(bytes);
    result.file = load_json(FIXTURES "tokenizer.json");
    *state = &result;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    dsv4_tokenizer_close(f->tokenizer);
    json_decref(f->file);
    return 0;
}

/* Ids of a text, in an array of exactly n_ids: AddressSanitizer sees a write past its end. */
static int32_t *encode(const dsv4_tokenizer *tokenizer, const char *text, size_t len_bytes,
                       bool parse_special, size_t *n_ids)
{
    size_t n_again = 0;
    dsv4_error error = {0};
    if (dsv4_tokenizer_encode(tokenizer, text, len_bytes, parse_special, NULL, 0, n_ids, &error) !=
        DSV4_OK) {
        fail_msg("'%.*s': %s", (int)len_bytes, text, error.text);
    }
    int32_t *ids = malloc(*n_ids * sizeof *ids + 1);
    assert_non_null(ids);
    assert_int_equal(dsv4_tokenizer_encode(tokenizer, text, len_bytes, parse_special, ids, *n_ids,
                                           &n_again, NULL),
                     DSV4_OK);
    assert_int_equal(n_again, *n_ids);
    return ids;
}

static void assert_decodes(const dsv4_tokenizer *tokenizer, const int32_t *ids, size_t n_ids,
                           const char *text, size_t len_bytes)
{
    size_t pos = 0;
    for (size_t i = 0; i < n_ids; i++) {
        size_t n = 0;
        const char *bytes = dsv4_tokenizer_token(tokenizer, ids[i], &n);
        assert_non_null(bytes);
        assert_true(n <= len_bytes - pos);
        assert_memory_equal(bytes, text + pos, n);
        pos += n;
    }
    assert_int_equal(pos, len_bytes);
}

static void check_case(const dsv4_tokenizer *tokenizer, const json_t *text, const json_t *expected,
                       bool parse_special)
{
    size_t n_ids = 0;
    const char *bytes = json_string_value(text);
    size_t len_bytes = json_string_length(text);
    int32_t *ids = encode(tokenizer, bytes, len_bytes, parse_special, &n_ids);
    if (n_ids != json_array_size(expected)) {
        fail_msg("'%s': %zu ids, expected %zu", bytes, n_ids, json_array_size(expected));
    }
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] != json_integer_value(json_array_get(expected, i))) {
            fail_msg("'%s': ids[%zu] is %d, expected %d", bytes, i, ids[i],
                     (int)json_integer_value(json_array_get(expected, i)));
        }
    }
    assert_decodes(tokenizer, ids, n_ids, bytes, len_bytes);
    free(ids);
}

static void test_cases(void **state)
{
    const fixture *f = *state;
    json_t *cases = load_json(FIXTURES "encodings.json");
    size_t n_special = 0;
    assert_true(json_array_size(cases) > 5000);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *row = json_array_get(cases, i), *text = json_array_get(row, 0);
        check_case(f->tokenizer, text, json_array_get(row, 1), true);
        bool has_special = json_array_size(row) == 3;
        check_case(f->tokenizer, text, json_array_get(row, has_special ? 2 : 1), false);
        n_special += has_special;
    }
    assert_true(n_special > 500);
    json_decref(cases);
}

/* V4's pre-tokenizer from the fixture's own regexes. */
static dsv4_pretok open_pretok(const json_t *file)
{
    dsv4_pretok pretok = {0};
    const json_t *list = json_object_get(json_object_get(file, "pre_tokenizer"), "pretokenizers");
    for (size_t i = 0; i + 1 < json_array_size(list); i++) {
        const json_t *pattern = json_object_get(json_array_get(list, i), "pattern");
        const char *regex = json_string_value(json_object_get(pattern, "Regex"));
        assert_int_equal(dsv4_pretok_add_split(&pretok, "t", regex, strlen(regex), NULL), DSV4_OK);
    }
    assert_int_equal(pretok.n_splits, 3);
    return pretok;
}

static void test_pieces(void **state)
{
    const fixture *f = *state;
    json_t *rows = load_json(FIXTURES "pieces.json");
    dsv4_pretok pretok = open_pretok(f->file);
    dsv4_pretok_scan scan;
    assert_int_equal(dsv4_pretok_scan_open(&scan, &pretok, NULL), DSV4_OK);
    assert_true(json_array_size(rows) > 4000);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *text = json_array_get(json_array_get(rows, i), 0);
        const json_t *lengths = json_array_get(json_array_get(rows, i), 1);
        const char *expected = json_string_value(text), *piece = NULL;
        dsv4_pretok_scan_start(&scan, expected, json_string_length(text));
        for (size_t k = 0; k <= json_array_size(lengths); k++) {
            size_t n = 0;
            assert_int_equal(dsv4_pretok_scan_next(&scan, &piece, &n, NULL), DSV4_OK);
            if (n != (size_t)json_integer_value(json_array_get(lengths, k))) {
                fail_msg("'%s': piece %zu has %zu bytes", json_string_value(text), k, n);
            }
            if (n > 0) assert_ptr_equal(piece, expected);
            expected += n;
        }
        assert_ptr_equal(expected, json_string_value(text) + json_string_length(text));
    }
    dsv4_pretok_scan_close(&scan);
    dsv4_pretok_close(&pretok);
    json_decref(rows);
}

static size_t put_utf8(char *out, uint32_t c)
{
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char leads[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(leads[n] | c);
    return n;
}

/* How the pre-tokenizer cuts " " + c + "a", as classes.json says it. */
static char class_of(dsv4_pretok_scan *scan, uint32_t c)
{
    char text[8] = " ";
    const char *piece = NULL;
    size_t n_char = put_utf8(text + 1, c), lengths[4] = {0}, n_pieces = 0;
    text[1 + n_char] = 'a';
    dsv4_pretok_scan_start(scan, text, n_char + 2);
    do {
        assert_true(n_pieces < 4);
        assert_int_equal(dsv4_pretok_scan_next(scan, &piece, &lengths[n_pieces], NULL), DSV4_OK);
    } while (lengths[n_pieces++] > 0);
    if (n_pieces == 2) return 'w';
    if (n_pieces == 4) return 'n';
    return lengths[0] == 1 ? 's' : 'p';
}

/* All code points: PCRE2's tables and ours together are the library's. */
static void test_classes(void **state)
{
    const fixture *f = *state;
    json_t *rows = load_json(FIXTURES "classes.json");
    dsv4_pretok pretok = open_pretok(f->file);
    dsv4_pretok_scan scan;
    assert_int_equal(dsv4_pretok_scan_open(&scan, &pretok, NULL), DSV4_OK);
    size_t n_checked = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        uint32_t first = (uint32_t)json_integer_value(json_array_get(row, 0));
        uint32_t last = (uint32_t)json_integer_value(json_array_get(row, 1));
        char expected = *json_string_value(json_array_get(row, 2));
        for (uint32_t c = first; c <= last; c++, n_checked++) {
            char class = class_of(&scan, c);
            if (class != expected) fail_msg("U+%04X is '%c', expected '%c'", c, class, expected);
        }
    }
    assert_int_equal(n_checked, 0x110000 - 0x800);
    dsv4_pretok_scan_close(&scan);
    dsv4_pretok_close(&pretok);
    json_decref(rows);
}

static void test_any_bytes(void **state)
{
    const fixture *f = *state;
    uint64_t random = 88172645463325252u;
    char text[96];
    for (int i = 0; i < 20000; i++) {
        size_t len_bytes = (size_t)(i % 96), n_ids = 0;
        for (size_t k = 0; k < len_bytes; k++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            text[k] = (char)(i % 2 == 0          ? random
                             : (random & 1) != 0 ? 0xe0 | (random >> 8) % 16
                                                 : 0x80 | (random >> 8) % 64);
        }
        int32_t *ids = encode(f->tokenizer, text, len_bytes, i % 3 == 0, &n_ids);
        assert_decodes(f->tokenizer, ids, n_ids, text, len_bytes);
        free(ids);
    }
}

/* Each byte that is not UTF-8 is a token of its own, and nothing merges across it. */
static void test_bad_utf8(void **state)
{
    const fixture *f = *state;
    static const struct {
        const char *text;
        size_t n_ids;
    } cases[] = {{"\xff", 1},
                 {"\x80\x80", 2},
                 {"the\xff"
                  "the",
                  3},
                 {"\xe4\xb8", 2},
                 {"\xc0\x80", 2},
                 {"\xed\xa0\x80", 3},
                 {"\xf4\x90\x80\x80", 4},
                 {"\xe0\x9f\xbf", 3},
                 {"\xf0\x8f\xbf\xbf", 4},
                 {"\xf5\x80\x80\x80", 4}};
    size_t n_ids = 0;
    free(encode(f->tokenizer, "the", 3, true, &n_ids));
    assert_int_equal(n_ids, 1);
    for (size_t i = 0; i < LENGTH_OF(cases); i++) {
        size_t len_bytes = strlen(cases[i].text);
        int32_t *ids = encode(f->tokenizer, cases[i].text, len_bytes, true, &n_ids);
        if (n_ids != cases[i].n_ids) fail_msg("case %zu: %zu ids", i, n_ids);
        assert_decodes(f->tokenizer, ids, n_ids, cases[i].text, len_bytes);
        free(ids);
    }
}

static void test_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n_bytes;
    } cases[] = {{"", 0},
                 {"a", 1},
                 {"\x7f", 1},
                 {"\x80", 0},
                 {"\xc1\xbf", 0},
                 {"\xc2\x80", 2},
                 {"\xdf\xbf", 2},
                 {"\xdf\xc0", 0},
                 {"\xe0\x9f\xbf", 0},
                 {"\xe0\xa0\x80", 3},
                 {"\xed\x9f\xbf", 3},
                 {"\xed\xa0\x80", 0},
                 {"\xee\x80\x80", 3},
                 {"\xef\xbf", 0},
                 {"\xf0\x8f\xbf\xbf", 0},
                 {"\xf0\x90\x80\x80", 4},
                 {"\xf4\x8f\xbf\xbf", 4},
                 {"\xf4\x90\x80\x80", 0},
                 {"\xf5\x80\x80\x80", 0},
                 {"\xf1\x80\x80"
                  "a",
                  0}};
    for (size_t i = 0; i < LENGTH_OF(cases); i++) {
        size_t len_bytes = strlen(cases[i].text);
        if (dsv4_utf8_character_bytes(cases[i].text, len_bytes) != cases[i].n_bytes) {
            fail_msg("case %zu", i);
        }
    }
    assert_int_equal(dsv4_utf8_valid_bytes("aé\xe4\xb8", 5), 3);
}

static void test_limited_output(void **state)
{
    const fixture *f = *state;
    static const char text[] = "The quick brown fox, 12345!";
    size_t n_ids = 0, n_again = 0;
    int32_t *all = encode(f->tokenizer, text, sizeof text - 1, true, &n_ids);
    int32_t some[4] = {-7, -7, -7, -7};
    assert_int_equal(
        dsv4_tokenizer_encode(f->tokenizer, text, sizeof text - 1, true, some, 3, &n_again, NULL),
        DSV4_OK);
    assert_int_equal(n_again, n_ids);
    assert_memory_equal(some, all, 3 * sizeof *all);
    assert_int_equal(some[3], -7);
    assert_int_equal(dsv4_tokenizer_encode(f->tokenizer, NULL, 0, true, NULL, 0, &n_again, NULL),
                     DSV4_OK);
    assert_int_equal(n_again, 0);
    free(all);
}

static void test_tables(void **state)
{
    const fixture *f = *state;
    const dsv4_tokenizer *t = f->tokenizer;
    size_t n = 0;
    int32_t user = dsv4_tokenizer_find(t, "<｜User｜>"), think = dsv4_tokenizer_find(t, "<think>");
    assert_int_equal(dsv4_tokenizer_find(t, "<｜begin▁of▁sentence｜>"), 0);
    assert_true(user >= 2000 && think >= 2000);
    assert_string_equal(dsv4_tokenizer_token(t, user, &n), "<｜User｜>");
    assert_int_equal(n, strlen("<｜User｜>"));
    assert_false(dsv4_tokenizer_is_special(t, user));
    assert_true(dsv4_tokenizer_is_special(t, think));
    int32_t the = dsv4_tokenizer_find(t, "Ġthe");
    assert_true(the > 0);
    assert_false(dsv4_tokenizer_is_special(t, the));
    assert_memory_equal(dsv4_tokenizer_token(t, the, &n), " the", 4);
    assert_int_equal(n, 4);
    assert_int_equal(dsv4_tokenizer_find(t, " the"), -1);
    assert_int_equal(dsv4_tokenizer_find(t, ""), -1);
    assert_int_equal(dsv4_tokenizer_n_ids(t), 2021);
    static const int32_t none[] = {-1, 2021, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < LENGTH_OF(none); i++) {
        n = 1;
        assert_null(dsv4_tokenizer_token(t, none[i], &n));
        assert_int_equal(n, 0);
        assert_false(dsv4_tokenizer_is_special(t, none[i]));
    }
    dsv4_tokenizer_close(NULL);
}

/* A long word takes n log n steps: minutes, were it n^2. */
static void test_long_words(void **state)
{
    const fixture *f = *state;
    enum { N = 1 << 21 };
    char *text = malloc(N);
    assert_non_null(text);
    for (int i = 0; i < 3; i++) {
        size_t n_ids = 0;
        memset(text, " \na"[i], N);
        if (i == 0) text[N - 1] = 'x';
        int32_t *ids = encode(f->tokenizer, text, N, true, &n_ids);
        assert_decodes(f->tokenizer, ids, n_ids, text, N);
        free(ids);
    }
    free(text);
}

/* What one split makes of a text: its pieces with bars between them. */
static void assert_splits(const char *regex, const char *text, const char *expected)
{
    dsv4_pretok pretok = {0};
    dsv4_pretok_scan scan;
    dsv4_error error = {0};
    const char *piece = NULL;
    char result[64] = "";
    size_t n = 0;
    if (dsv4_pretok_add_split(&pretok, "t", regex, strlen(regex), &error) != DSV4_OK) {
        fail_msg("%s", error.text);
    }
    assert_int_equal(dsv4_pretok_scan_open(&scan, &pretok, NULL), DSV4_OK);
    dsv4_pretok_scan_start(&scan, text, strlen(text));
    do {
        assert_int_equal(dsv4_pretok_scan_next(&scan, &piece, &n, NULL), DSV4_OK);
        (void)snprintf(result + strlen(result), sizeof result - strlen(result), "%.*s|", (int)n,
                       piece);
    } while (n > 0);
    assert_string_equal(result, expected);
    dsv4_pretok_scan_close(&scan);
    dsv4_pretok_close(&pretok);
}

static void test_translation(void **state)
{
    (void)state;
    assert_splits("\\S+", "ab \tc", "ab| \t|c||");
    assert_splits("\\s+", "ab \u00a0c\u180e", "ab| \u00a0|c\u180e||");
    assert_splits("\\P{L}", "a12b", "a|1|2|b||");
    assert_splits("[^\\p{L}\\s]+", "a1\u0301 b🩷", "a|1\u0301| b|🩷||");
    assert_splits("[a-c-]+", "xab-cx", "x|ab-c|x||");
    assert_splits("[\\]\\-\\\\]", "a]-\\b", "a|]|-|\\|b||");
    assert_splits("(?:ab){2}", "ababab", "abab|ab||");
    assert_splits("(a|b)+?c|(?=b)b", "abcb", "abc|b||");
}

/* Past the limit of steps the scan fails by name. */
static void test_match_limit(void **state)
{
    (void)state;
    static const char regex[] = "(?:a|b|ab)+c";
    dsv4_pretok pretok = {0};
    dsv4_pretok_scan scan;
    dsv4_error error = {0};
    const char *piece = NULL;
    char text[2000];
    size_t n = 0;
    memset(text, 'b', sizeof text);
    for (size_t i = 0; i < sizeof text; i += 2) text[i] = 'a';
    memcpy(text + sizeof text - 2, "dc", 2);
    assert_int_equal(dsv4_pretok_add_split(&pretok, "t", regex, sizeof regex - 1, NULL), DSV4_OK);
    assert_int_equal(dsv4_pretok_scan_open(&scan, &pretok, NULL), DSV4_OK);
    dsv4_pretok_scan_start(&scan, text, sizeof text);
    assert_int_equal(dsv4_pretok_scan_next(&scan, &piece, &n, &error), DSV4_ERROR_UNSUPPORTED);
    assert_contains(error.text, "split 0");
    assert_contains(error.text, "match limit exceeded");
    dsv4_pretok_scan_close(&scan);
    dsv4_pretok_close(&pretok);
}

static void test_long_text(void **state)
{
    const fixture *f = *state;
    dsv4_error error = {0};
    size_t n_ids = 1;
    assert_int_equal(dsv4_tokenizer_encode(f->tokenizer, "", (size_t)INT32_MAX + 1, true, NULL, 0,
                                           &n_ids, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_contains(error.text, "2147483648 bytes");
    assert_int_equal(n_ids, 0);
}

/* Vocabularies without the 13 bytes that UTF-8 never has are accepted; a text with one is refused. */
static void test_absent_byte(void **state)
{
    const fixture *f = *state;
    json_t *file = json_deep_copy(f->file);
    dsv4_tokenizer *tokenizer = NULL;
    dsv4_error error = {0};
    size_t n_ids = 0;
    assert_int_equal(json_object_del(json_object_get(json_object_get(file, "model"), "vocab"), "ÿ"),
                     0);
    assert_int_equal(open_json(file, &tokenizer, NULL), DSV4_OK);
    assert_int_equal(dsv4_tokenizer_encode(tokenizer, "a\xff", 2, true, NULL, 0, &n_ids, &error),
                     DSV4_ERROR_UNSUPPORTED);
    assert_contains(error.text, "0xff");
    free(encode(tokenizer, "a", 1, true, &n_ids));
    assert_int_equal(n_ids, 1);
    dsv4_tokenizer_close(tokenizer);
    json_decref(file);
}

/* Two added tokens of the two groups that overlap: the one that is not normalized wins. */
static void test_added_groups(void **state)
{
    const fixture *f = *state;
    const dsv4_tokenizer *t = f->tokenizer;
    static const char text[] = "<|EOT|><";
    size_t n_ids = 0;
    int32_t *ids = encode(t, text, strlen(text), true, &n_ids);
    assert_int_equal(ids[n_ids - 1], dsv4_tokenizer_find(t, "EOT|><"));
    free(ids);
    ids = encode(t, "<|EOT|>", 7, true, &n_ids);
    assert_int_equal(n_ids, 1);
    assert_int_equal(ids[0], dsv4_tokenizer_find(t, "<|EOT|>"));
    free(ids);
}

/* Refusals. A path of keys and indices, and what to put there; NULL deletes. */
typedef struct refusal {
    const char *path;
    const char *value;
    dsv4_status status;
    const char *parts[2];
} refusal;

static json_t *child(json_t *parent, const char *key, size_t len)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%.*s", (int)len, key);
    return json_is_array(parent) ? json_array_get(parent, (size_t)atoi(name))
                                 : json_object_get(parent, name);
}

static void put_at(json_t *root, const char *path, const char *value)
{
    const char *last = strrchr(path, '/');
    json_t *parent = root;
    for (const char *key = path; last != NULL && key <= last; key += strcspn(key, "/") + 1) {
        parent = child(parent, key, strcspn(key, "/"));
        assert_non_null(parent);
    }
    const char *name = last == NULL ? path : last + 1;
    if (value == NULL) {
        assert_int_equal(json_object_del(parent, name), 0);
        return;
    }
    json_t *json = json_loads(value, JSON_DECODE_ANY, NULL);
    assert_non_null(json);
    assert_int_equal(json_is_array(parent) ? json_array_set_new(parent, (size_t)atoi(name), json)
                                           : json_object_set_new(parent, name, json),
                     0);
}

#define BAD DSV4_ERROR_BAD_FILE
#define UNS DSV4_ERROR_UNSUPPORTED
#define PRE "pre_tokenizer/pretokenizers/"
#define RE  PRE "0/pattern/Regex"

static const refusal refusals[] = {
    {"stray", "1", UNS, {"the key 'stray'"}},
    {"truncation", "{\"max_length\": 5}", UNS, {"truncation is an object", "null"}},
    {"padding", "{}", UNS, {"padding is an object", "null"}},
    {"normalizer", "{\"type\": \"NFC\"}", UNS, {"normalizer type is 'NFC'"}},
    {"normalizer",
     "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKC\"}]}",
     UNS,
     {"normalizer is 'NFKC'"}},
    {"normalizer", "{\"type\": \"Sequence\"}", BAD, {"normalizers is missing", "an array"}},
    {"normalizer", "{\"type\": 5}", BAD, {"normalizer type is 5", "a string"}},
    {"post_processor",
     "{\"type\": \"TemplateProcessing\"}",
     UNS,
     {"post_processor type is 'TemplateProcessing'", "'ByteLevel'"}},
    {"decoder", "null", UNS, {"decoder is null"}},
    {"decoder", NULL, UNS, {"decoder is missing"}},
    {"decoder", "{\"type\": \"WordPiece\"}", UNS, {"decoder type is 'WordPiece'"}},
    {"pre_tokenizer", "null", UNS, {"pre_tokenizer is null"}},
    {"pre_tokenizer", "{\"type\": \"Metaspace\"}", UNS, {"pre_tokenizer type is 'Metaspace'"}},
    {"pre_tokenizer", "{\"type\": \"Sequence\"}", BAD, {"pretokenizers is missing"}},
    {"pre_tokenizer/pretokenizers", "[]", UNS, {"last pre_tokenizer is missing"}},
    {PRE "3/type", "\"Split\"", UNS, {"last pre_tokenizer type is 'Split'", "'ByteLevel'"}},
    {PRE "3/add_prefix_space", "true", UNS, {"add_prefix_space is true", "false"}},
    {PRE "3/add_prefix_space", NULL, UNS, {"add_prefix_space is missing", "false"}},
    {PRE "3/use_regex", "true", UNS, {"use_regex is true"}},
    {PRE "3/use_regex", NULL, UNS, {"use_regex is missing", "false"}},
    {PRE "3/use_regex", "3", BAD, {"use_regex is 3", "a boolean"}},
    {PRE "3/stray", "3", UNS, {"the key 'stray'"}},
    {PRE "0/type", "\"Digits\"", UNS, {"type is 'Digits'", "'Split'"}},
    {PRE "0/behavior", "\"Removed\"", UNS, {"behavior is 'Removed'", "'Isolated'"}},
    {PRE "0/behavior", NULL, BAD, {"behavior is missing"}},
    {PRE "0/invert", "true", UNS, {"invert is true"}},
    {PRE "0/pattern", "{\"String\": \" \"}", UNS, {"Split pattern String", "a Regex"}},
    {PRE "0/pattern", "{}", BAD, {"Split pattern Regex is missing"}},
    {RE, "\"\"", UNS, {"regex of 0 bytes"}},
    {RE, "\"(a\"", BAD, {"'(a'", "parenthes"}},
    {RE, "\"*a\"", BAD, {"'*a'", "quantifier"}},
    {RE, "\"a*\"", BAD, {"can match nothing"}},
    {RE, "\"(?=a)\"", BAD, {"can match nothing"}},
    {RE, "\"a.\"", UNS, {"construct '.' at byte 1", "escaped"}},
    {RE, "\"^a\"", UNS, {"construct '^' at byte 0"}},
    {RE, "\"a$\"", UNS, {"construct '$'"}},
    {RE, "\"a]\"", UNS, {"construct ']'"}},
    {RE, "\"a}\"", UNS, {"construct '}'"}},
    {RE, "\"\\\\d\"", UNS, {"construct '\\d'"}},
    {RE, "\"a\\\\\"", UNS, {"construct '\\' at byte 1"}},
    {RE, "\"[\\\\S]\"", UNS, {"construct '\\S'"}},
    {RE, "\"\\\\p{Lu}\"", UNS, {"construct '\\p{Lu'"}},
    {RE, "\"\\\\p{C}\"", UNS, {"construct '\\p{C}'"}},
    {RE, "\"\\\\pL\"", UNS, {"construct '\\pL'"}},
    {RE, "\"[\\\\P{L}]\"", UNS, {"construct '\\P{L}'"}},
    {RE, "\"[]a]\"", UNS, {"not empty"}},
    {RE, "\"[^]\"", UNS, {"not empty"}},
    {RE, "\"[a\"", UNS, {"the ']' of a class"}},
    {RE, "\"[a\\\\]\"", UNS, {"the ']' of a class"}},
    {RE, "\"[a[b]]\"", UNS, {"no class inside a class"}},
    {RE, "\"[a&&b]\"", UNS, {"no intersection"}},
    {RE, "\"[\\\\s-a]\"", UNS, {"begins with a set"}},
    {RE, "\"[a-\\\\s]\"", UNS, {"ends with a set"}},
    {RE, "\"[z-a]\"", BAD, {"'[z-a]'", "range out of order"}},
    {RE, "\"a{\"", UNS, {"construct '{'", "{m,n}"}},
    {RE, "\"a{,3}\"", UNS, {"construct '{,3}'"}},
    {RE, "\"a{2}?\"", UNS, {"construct '?'", "second quantifier"}},
    {RE, "\"a{2}+\"", UNS, {"construct '+'", "second quantifier"}},
    {RE, "\"(*UTF)a\"", UNS, {"construct '(*'"}},
    {RE, "\"(?i)a\"", UNS, {"construct '(?i'"}},
    {RE, "\"(?<=b)a\"", UNS, {"construct '(?<'"}},
    {"model", "5", BAD, {"model is 5"}},
    {"model/type", "\"Unigram\"", UNS, {"model type is 'Unigram'", "'BPE'"}},
    {"model/type", NULL, BAD, {"model type is missing"}},
    {"model/stray", "1", UNS, {"model has the key 'stray'"}},
    {"model/dropout", "0.5", UNS, {"dropout is 0.5"}},
    {"model/unk_token", "\"<unk>\"", UNS, {"unk_token is '<unk>'"}},
    {"model/continuing_subword_prefix", "\"##\"", UNS, {"continuing_subword_prefix is '##'"}},
    {"model/continuing_subword_prefix", "true", UNS, {"continuing_subword_prefix is true"}},
    {"model/end_of_word_suffix", "\"@@\"", UNS, {"end_of_word_suffix is '@@'"}},
    {"model/byte_fallback", "true", UNS, {"byte_fallback is true"}},
    {"model/ignore_merges", "true", UNS, {"ignore_merges is true"}},
    {"model/vocab", "[]", BAD, {"model vocab is an array"}},
    {"model/vocab/a", NULL, BAD, {"no token for byte 0x61"}},
    {"model/vocab/a", "-1", BAD, {"token 'a' has id -1", "1048575"}},
    {"model/vocab/a", "1048576", BAD, {"token 'a' has id 1048576"}},
    {"model/vocab/a", "\"7\"", BAD, {"token 'a' has id '7'"}},
    {"model/vocab/a", "7", BAD, {"has id 7", "no other token"}},
    {"model/merges", "{}", BAD, {"model merges is an object"}},
    {"model/merges/0", "[\"a\"]", BAD, {"merge 0 is an array", "two tokens"}},
    {"model/merges/0", "[\"a\", 5]", BAD, {"merge 0", "two tokens"}},
    {"model/merges/0", "\"ab\"", BAD, {"merge 0 is 'ab'", "one blank"}},
    {"model/merges/0", "\"a b c\"", BAD, {"merge 0 is 'a b c'", "one blank"}},
    {"model/merges/1", "5", BAD, {"merge 1 is 5"}},
    {"model/merges/1", "\"a zzz\"", BAD, {"merge 1", "in the vocabulary"}},
    {"model/merges/1", "\"zzz a\"", BAD, {"merge 1", "in the vocabulary"}},
    {"model/merges/1", "[\"q\", \"z\"]", BAD, {"merge 1", "what they make"}},
    {"added_tokens", "{}", BAD, {"added_tokens is an object"}},
    {"added_tokens/0", "5", BAD, {"added token is 5"}},
    {"added_tokens/0/stray", "5", UNS, {"the key 'stray'"}},
    {"added_tokens/0/content", "\"\"", BAD, {"content is ''", "not empty"}},
    {"added_tokens/0/content", NULL, BAD, {"content is missing"}},
    {"added_tokens/0/special", NULL, BAD, {"special is missing", "a boolean"}},
    {"added_tokens/0/normalized", "0", BAD, {"normalized is 0", "a boolean"}},
    {"added_tokens/0/lstrip", "true", UNS, {"lstrip is true"}},
    {"added_tokens/0/rstrip", "true", UNS, {"rstrip is true"}},
    {"added_tokens/0/single_word", "true", UNS, {"single_word is true"}},
    {"added_tokens/0/id", "-5", BAD, {"has id -5"}},
    {"added_tokens/0/id", "1", BAD, {"begin▁of▁sentence", "has id 1"}},
    {"added_tokens/0/id", "1500", BAD, {"begin▁of▁sentence", "has id 1500"}},
    {"added_tokens/4/id", "2003", BAD, {"added token '<|EOT|>' has id 2003"}},
    {"added_tokens/4/id", "17", BAD, {"added token '<｜User｜>' has id 17"}},
    {"added_tokens/4/content", "\"<|EOT|>\"", BAD, {"<|EOT|>", "twice"}},
    {"added_tokens/1",
     "{\"id\":0,\"content\":\"<｜begin▁of▁sentence｜>\",\"single_word\":false,\"lstrip\":false,"
     "\"rstrip\":false,\"normalized\":false,\"special\":true}",
     BAD,
     {"<｜begin▁of▁sentence｜>", "has id 0"}},
    {"added_tokens/1/id", "0", BAD, {"<｜end▁of▁sentence｜>", "has id 0"}},
};

static void test_refusals(void **state)
{
    const fixture *f = *state;
    for (size_t i = 0; i < LENGTH_OF(refusals); i++) {
        dsv4_tokenizer *tokenizer = NULL;
        dsv4_error error = {0};
        json_t *file = json_deep_copy(f->file);
        put_at(file, refusals[i].path, refusals[i].value);
        dsv4_status status = open_json(file, &tokenizer, &error);
        if (status != refusals[i].status) {
            fail_msg("case %zu, %s: status %d, text '%s'", i, refusals[i].path, (int)status,
                     error.text);
        }
        assert_null(tokenizer);
        assert_contains(error.text, "t.json: ");
        assert_contains(error.text, "expected");
        assert_contains(error.text, refusals[i].parts[0]);
        assert_contains(error.text, refusals[i].parts[1]);
        json_decref(file);
    }
}

/* Changes that must not matter. */
static void test_accepted(void **state)
{
    const fixture *f = *state;
    static const struct {
        const char *path;
        const char *value;
    } changes[] = {
        {"normalizer", "{\"type\": \"Sequence\", \"normalizers\": []}"},
        {"post_processor", "{\"type\": \"ByteLevel\", \"trim_offsets\": false}"},
        {"model/dropout", NULL},
        {"model/continuing_subword_prefix", "\"\""},
        {"model/fuse_unk", "true"},
        {RE, "\"(?:\\\\p{N})(?!\\\\P{N}\\\\S\\\\s\\\\-)[\\\\p{N}x-z-]{0,2}|\\\\p{N}++\""},
    };
    for (size_t i = 0; i < LENGTH_OF(changes); i++) {
        dsv4_tokenizer *tokenizer = NULL;
        dsv4_error error = {0};
        size_t n_ids = 0, n_expected = 0;
        json_t *file = json_deep_copy(f->file);
        put_at(file, changes[i].path, changes[i].value);
        if (open_json(file, &tokenizer, &error) != DSV4_OK) fail_msg("%zu: %s", i, error.text);
        free(encode(f->tokenizer, "the text 12345", 14, true, &n_expected));
        free(encode(tokenizer, "the text 12345", 14, true, &n_ids));
        assert_int_equal(n_ids, n_expected);
        dsv4_tokenizer_close(tokenizer);
        json_decref(file);
    }
}

/* Merges as strings, the older form, give the same ids; so does a line that names a version. */
static void test_string_merges(void **state)
{
    const fixture *f = *state;
    json_t *file = json_deep_copy(f->file), *merges = json_array();
    const json_t *pairs = json_object_get(json_object_get(file, "model"), "merges");
    dsv4_tokenizer *tokenizer = NULL;
    (void)json_array_append_new(merges, json_string("#version: 0.2"));
    for (size_t i = 0; i < json_array_size(pairs); i++) {
        const json_t *pair = json_array_get(pairs, i);
        (void)json_array_append_new(
            merges, json_sprintf("%s %s", json_string_value(json_array_get(pair, 0)),
                                 json_string_value(json_array_get(pair, 1))));
    }
    (void)json_object_set_new(json_object_get(file, "model"), "merges", merges);
    assert_int_equal(open_json(file, &tokenizer, NULL), DSV4_OK);
    json_t *cases = load_json(FIXTURES "encodings.json");
    for (size_t i = 0; i < json_array_size(cases); i += 10) {
        const json_t *row = json_array_get(cases, i);
        check_case(tokenizer, json_array_get(row, 0), json_array_get(row, 1), true);
    }
    json_decref(cases);
    dsv4_tokenizer_close(tokenizer);
    json_decref(file);
}

static void test_broken_json(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "[]", "{", "{\"model\": 1, \"model\": 2}",
                                        "{\"a\": \"\xff\"}"};
    for (size_t i = 0; i < LENGTH_OF(texts); i++) {
        dsv4_tokenizer *tokenizer = NULL;
        dsv4_error error = {0};
        assert_int_equal(
            dsv4_tokenizer_open("t.json", texts[i], strlen(texts[i]), &tokenizer, &error),
            DSV4_ERROR_BAD_FILE);
        assert_null(tokenizer);
        assert_contains(error.text, "t.json");
    }
}

static void test_too_many_splits(void **state)
{
    const fixture *f = *state;
    json_t *file = json_deep_copy(f->file);
    json_t *list = json_object_get(json_object_get(file, "pre_tokenizer"), "pretokenizers");
    dsv4_tokenizer *tokenizer = NULL;
    dsv4_error error = {0};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(json_array_insert(list, 0, json_array_get(list, 0)), 0);
        dsv4_status status = open_json(file, &tokenizer, &error);
        assert_int_equal(status, i < 5 ? DSV4_OK : DSV4_ERROR_UNSUPPORTED);
        dsv4_tokenizer_close(tokenizer);
    }
    assert_contains(error.text, "more than 8 splits");
    json_decref(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_bad_utf8),
        cmocka_unit_test(test_limited_output),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_match_limit),
        cmocka_unit_test(test_translation),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_absent_byte),
        cmocka_unit_test(test_added_groups),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_string_merges),
        cmocka_unit_test(test_broken_json),
        cmocka_unit_test(test_too_many_splits),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
