/*
 * test_safetensors.c - the safetensors reader, mostly on files built in memory.
 *
 * A built file is a heap block of exactly its length, so that AddressSanitizer sees a read past its
 * end. Every refusal is checked for the words that name the tensor, the value and the rule.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/safetensors.h"
#include "test_files.h"

#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>

typedef struct image {
    unsigned char *bytes;
    size_t len_bytes;
} image;

/* Length field, header, then data bytes 0, 1, 2, ... */
static image build_image(const char *header, size_t header_bytes, size_t data_bytes)
{
    image result = {.len_bytes = 8 + header_bytes + data_bytes};
    result.bytes = malloc(result.len_bytes);
    assert_non_null(result.bytes);
    for (int i = 0; i < 8; i++) result.bytes[i] = (unsigned char)(header_bytes >> (8 * i));
    memcpy(result.bytes + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) result.bytes[8 + header_bytes + i] = (unsigned char)i;
    return result;
}

static void assert_refused(const char *path, const void *bytes, size_t len_bytes,
                           const char *const parts[3])
{
    dsv4_safetensors *file = NULL;
    dsv4_error error = {0};
    dsv4_status status = dsv4_safetensors_open_memory(path, bytes, len_bytes, &file, &error);
    if (status == DSV4_OK) fail_msg("accepted, expected a text with '%s'", parts[0]);
    assert_int_equal(status, DSV4_ERROR_BAD_FILE);
    assert_int_equal(error.status, DSV4_ERROR_BAD_FILE);
    assert_null(file);
    assert_int_equal(strncmp(error.text, path, strlen(path)), 0);
    for (int i = 0; i < 3; i++) assert_contains(error.text, parts[i]);
}

static dsv4_safetensors *open_image(image from)
{
    dsv4_safetensors *file = NULL;
    dsv4_error error = {0};
    if (dsv4_safetensors_open_memory("x.st", from.bytes, from.len_bytes, &file, &error) !=
        DSV4_OK) {
        fail_msg("refused: %s", error.text);
    }
    assert_non_null(file);
    return file;
}

/* dtypes */

static const struct {
    int32_t dtype;
    const char *name;
    int64_t element_bytes;
} dtypes[] = {
    {DSV4_SAFETENSORS_BOOL, "BOOL", 1},       {DSV4_SAFETENSORS_U8, "U8", 1},
    {DSV4_SAFETENSORS_I8, "I8", 1},           {DSV4_SAFETENSORS_F8_E4M3, "F8_E4M3", 1},
    {DSV4_SAFETENSORS_F8_E8M0, "F8_E8M0", 1}, {DSV4_SAFETENSORS_F16, "F16", 2},
    {DSV4_SAFETENSORS_BF16, "BF16", 2},       {DSV4_SAFETENSORS_I16, "I16", 2},
    {DSV4_SAFETENSORS_I32, "I32", 4},         {DSV4_SAFETENSORS_F32, "F32", 4},
    {DSV4_SAFETENSORS_I64, "I64", 8},         {DSV4_SAFETENSORS_F64, "F64", 8},
};

static void test_dtype_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH_OF(dtypes); i++) {
        assert_string_equal(dsv4_safetensors_dtype_name(dtypes[i].dtype), dtypes[i].name);
        assert_int_equal(dsv4_safetensors_dtype_bytes(dtypes[i].dtype), dtypes[i].element_bytes);
    }
    const int32_t invalid[] = {INT32_MIN, -1, 0, DSV4_SAFETENSORS_F64 + 1, INT32_MAX};
    for (size_t i = 0; i < LENGTH_OF(invalid); i++) {
        assert_null(dsv4_safetensors_dtype_name(invalid[i]));
        assert_int_equal(dsv4_safetensors_dtype_bytes(invalid[i]), 0);
    }
}

static void test_every_dtype_is_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH_OF(dtypes); i++) {
        char header[128];
        int64_t len_bytes = 6 * dtypes[i].element_bytes;
        int header_bytes =
            snprintf(header, sizeof header,
                     "{\"t\":{\"dtype\":\"%s\",\"shape\":[3,2],\"data_offsets\":[0,%d]}}",
                     dtypes[i].name, (int)len_bytes);
        image from = build_image(header, (size_t)header_bytes, (size_t)len_bytes);
        dsv4_safetensors *file = open_image(from);
        const dsv4_tensor_view *view = dsv4_safetensors_tensor(file, 0);
        assert_int_equal(view->dtype, dtypes[i].dtype);
        assert_int_equal(view->len_bytes, len_bytes);
        dsv4_safetensors_close(file);
        free(from.bytes);
    }
}

/* Reading valid files */

/* Header order is not data order; an unaligned tensor; a scalar; empty tensors everywhere. */
static const char views_header[] =
    "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[3,11]},"
    "\"z2\":{\"dtype\":\"F64\",\"shape\":[4,0],\"data_offsets\":[3,3]},"
    "\"z1\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[3,3]},"
    "\"__metadata__\":{\"format\":\"pt\",\"empty\":\"\"},"
    "\"a\":{\"shape\":[3],\"data_offsets\":[0,3],\"dtype\":\"U8\"},"
    "\"last\":{\"dtype\":\"I64\",\"shape\":[0,1152921504606846975],\"data_offsets\":[13,13]},"
    "\"s\\u00e9\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[11,13]}}  \n ";

static void test_read_views(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t dtype, rank;
        int64_t shape[2], begin, len_bytes;
    } expected[] = {
        {"a", DSV4_SAFETENSORS_U8, 1, {3}, 0, 3},
        {"z2", DSV4_SAFETENSORS_F64, 2, {4, 0}, 3, 0},
        {"z1", DSV4_SAFETENSORS_U8, 1, {0}, 3, 0},
        {"b", DSV4_SAFETENSORS_F32, 2, {2, 1}, 3, 8},
        {"s\xc3\xa9", DSV4_SAFETENSORS_BF16, 0, {0}, 11, 2},
        {"last", DSV4_SAFETENSORS_I64, 2, {0, (INT64_C(1) << 60) - 1}, 13, 0},
    };
    image from = build_image(views_header, sizeof views_header - 1, 13);
    const unsigned char *data = from.bytes + 8 + sizeof views_header - 1;
    dsv4_safetensors *file = open_image(from);
    assert_int_equal(dsv4_safetensors_n_tensors(file), LENGTH_OF(expected));
    for (size_t i = 0; i < LENGTH_OF(expected); i++) {
        const dsv4_tensor_view *view = dsv4_safetensors_tensor(file, (int64_t)i);
        assert_string_equal(view->name, expected[i].name);
        assert_int_equal(view->dtype, expected[i].dtype);
        assert_int_equal(view->rank, expected[i].rank);
        for (int32_t k = 0; k < view->rank; k++) {
            assert_int_equal(view->shape[k], expected[i].shape[k]);
        }
        assert_ptr_equal(view->data, data + expected[i].begin);
        assert_int_equal(view->len_bytes, expected[i].len_bytes);
    }
    dsv4_safetensors_close(file);
    free(from.bytes);
}

static void test_look_up(void **state)
{
    (void)state;
    static const char *const present[] = {"a", "z2", "z1", "b", "s\xc3\xa9", "last"};
    static const char *const absent[] = {"", "A", "aa", "z", "zz", "z22", "las", "__metadata__"};
    image from = build_image(views_header, sizeof views_header - 1, 13);
    dsv4_safetensors *file = open_image(from);
    for (size_t i = 0; i < LENGTH_OF(present); i++) {
        const dsv4_tensor_view *view = dsv4_safetensors_find(file, present[i]);
        assert_ptr_equal(view, dsv4_safetensors_tensor(file, (int64_t)i));
    }
    for (size_t i = 0; i < LENGTH_OF(absent); i++) {
        assert_null(dsv4_safetensors_find(file, absent[i]));
    }
    assert_string_equal(dsv4_safetensors_metadata(file, "format"), "pt");
    assert_string_equal(dsv4_safetensors_metadata(file, "empty"), "");
    assert_null(dsv4_safetensors_metadata(file, "form"));
    assert_null(dsv4_safetensors_metadata(file, "a"));
    dsv4_safetensors_close(file);
    free(from.bytes);
}

/* Header order is opposite to data order; the last name is the first by strcmp. */
static void test_read_many(void **state)
{
    (void)state;
    enum { N_TENSORS = 100, N_METADATA = 40 };
    static char header[16384];
    char *end = header + sprintf(header, "{\"__metadata__\":{\"k00\":\"0\"");
    for (int i = 1; i < N_METADATA; i++) end += sprintf(end, ",\"k%02d\":\"%d\"", i, i);
    end += sprintf(end, "}");
    for (int i = N_TENSORS - 1; i >= 0; i--) {
        end += sprintf(end, ",\"t%02d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                       N_TENSORS - 1 - i, i, i + 1);
    }
    end += sprintf(end, "}");
    image from = build_image(header, (size_t)(end - header), N_TENSORS);
    dsv4_safetensors *file = open_image(from);
    assert_int_equal(dsv4_safetensors_n_tensors(file), N_TENSORS);
    for (int i = 0; i < N_TENSORS; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "t%02d", N_TENSORS - 1 - i);
        const dsv4_tensor_view *view = dsv4_safetensors_tensor(file, i);
        assert_string_equal(view->name, name);
        assert_int_equal(*(const unsigned char *)view->data, i);
        assert_ptr_equal(dsv4_safetensors_find(file, name), view);
    }
    for (int i = 0; i < N_METADATA; i++) {
        char key[16], value[16];
        (void)snprintf(key, sizeof key, "k%02d", i);
        (void)snprintf(value, sizeof value, "%d", i);
        assert_string_equal(dsv4_safetensors_metadata(file, key), value);
    }
    dsv4_safetensors_close(file);
    free(from.bytes);
}

static void test_read_without_tensors(void **state)
{
    (void)state;
    image from = build_image("{}", 2, 0);
    dsv4_safetensors *file = open_image(from);
    assert_int_equal(dsv4_safetensors_n_tensors(file), 0);
    assert_null(dsv4_safetensors_find(file, "a"));
    assert_null(dsv4_safetensors_metadata(file, "a"));
    dsv4_safetensors_close(file);
    free(from.bytes);
    dsv4_safetensors_close(NULL);
}

static void test_read_rank_8(void **state)
{
    (void)state;
    static const char header[] = "{\"t\":{\"dtype\":\"I16\",\"shape\":[1,2,1,1,3,1,1,2],"
                                 "\"data_offsets\":[0,24]}}";
    image from = build_image(header, sizeof header - 1, 24);
    dsv4_safetensors *file = open_image(from);
    assert_int_equal(dsv4_safetensors_tensor(file, 0)->rank, 8);
    assert_int_equal(dsv4_safetensors_tensor(file, 0)->shape[7], 2);
    dsv4_safetensors_close(file);
    free(from.bytes);
}

/* Refusals */

typedef struct refusal {
    const char *header;
    size_t data_bytes;
    const char *parts[3];
} refusal;

#define U8_3(begin, end) "{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[" begin "," end "]}"

static const refusal bad_json[] = {
    {"", 0, {"header begins with ''", "expected '{'"}},
    {" {}", 0, {"header begins with ' '", "expected '{'"}},
    {"[]", 0, {"header begins with '['", "expected '{'"}},
    {"{", 0, {"header byte 1", "after '{'", "JSON object"}},
    {"{}x", 0, {"header byte 3", "end of file expected"}},
    {"{\"a\":" U8_3("0", "3") ",\"a\":" U8_3("0", "3") "}", 3, {"\"a\"", "duplicate object key"}},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, {"__metadata__", "duplicate object key"}},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0, {"\"dtype\"", "duplicate object key"}},
    {"{\"a\\u0000b\":" U8_3("0", "3") "}", 3, {"NUL byte", "header byte"}},
    {"{\"a\":{\"dtype\":\"U8\\u0000\"}}", 3, {"\\u0000 is not allowed", "header byte"}},
    {"{\"\xff\":" U8_3("0", "3") "}", 3, {"0xff", "decode"}},
    {"{\"a\":" U8_3("0", "9223372036854775808") "}", 3, {"too big integer", "9223372036854775808"}},
};

static const refusal bad_entry[] = {
    {"{\"\":" U8_3("0", "3") "}", 3, {"tensor ''", "name is empty", "expected at least one"}},
    {"{\"a\":7}", 0, {"tensor 'a'", "entry is 7", "expected an object"}},
    {"{\"a\":null}", 0, {"tensor 'a'", "entry is null", "expected an object"}},
    {"{\"a\":{\"shape\":[],\"data_offsets\":[0,1]}}", 1, {"tensor 'a'", "has no dtype"}},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, {"tensor 'a'", "has no shape"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", 1, {"tensor 'a'", "has no data_offsets"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"strides\":[1]}}",
     1,
     {"tensor 'a'", "has a field 'strides'", "expected only"}},
    {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}",
     1,
     {"tensor 'a'", "dtype is 7", "expected a string"}},
    {"{\"a\":{\"dtype\":\"F8_E5M2\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     1,
     {"tensor 'a'", "dtype is 'F8_E5M2'", "expected BOOL"}},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4,
     {"tensor 'a'", "dtype is 'f32'", "or F64"}},
    {"{\"a\":{\"dtype\":\"\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4,
     {"tensor 'a'", "dtype is ''", "or F64"}},
};

static const refusal bad_shape[] = {
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":{},\"data_offsets\":[0,1]}}",
     1,
     {"tensor 'a'", "shape is an object", "expected an array"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}",
     1,
     {"tensor 'a'", "9 dimensions", "at most 8"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,-3],\"data_offsets\":[0,3]}}",
     3,
     {"tensor 'a'", "shape[1] is -3", "expected an integer >= 0"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3.0],\"data_offsets\":[0,3]}}",
     3,
     {"tensor 'a'", "shape[0] is 3,", "expected an integer"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2.5],\"data_offsets\":[0,3]}}",
     3,
     {"tensor 'a'", "shape[0] is 2.5", "expected an integer"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[\"3\"],\"data_offsets\":[0,3]}}",
     3,
     {"tensor 'a'", "shape[0] is '3'", "expected an integer"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[true],\"data_offsets\":[0,1]}}",
     1,
     {"tensor 'a'", "shape[0] is true", "expected an integer"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[false],\"data_offsets\":[0,0]}}",
     0,
     {"tensor 'a'", "shape[0] is false", "expected an integer"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[[3]],\"data_offsets\":[0,3]}}",
     3,
     {"tensor 'a'", "shape[0] is an array", "expected an integer"}},
    /* 2^64 bytes, which is 0 when it wraps */
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
     0,
     {"tensor 'a'", "2^63", "U8"}},
    /* 2^63 bytes */
    {"{\"a\":{\"dtype\":\"F16\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}",
     0,
     {"tensor 'a'", "2^63", "2 bytes of a F16"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}",
     0,
     {"tensor 'a'", "2^63", "U8"}},
    {"{\"a\":{\"dtype\":\"I64\",\"shape\":[0,1152921504606846976],\"data_offsets\":[0,0]}}",
     0,
     {"tensor 'a'", "2^63", "8 bytes of a I64"}},
};

static const refusal bad_offsets[] = {
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":1}}",
     1,
     {"tensor 'a'", "data_offsets is 1", "expected [begin, end]"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}",
     1,
     {"tensor 'a'", "an array of another length", "expected [begin, end]"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[]}}",
     1,
     {"tensor 'a'", "an array of another length", "expected [begin, end]"}},
    {"{\"a\":" U8_3("-1", "2") "}", 3, {"tensor 'a'", "data_offsets[0] is -1", "integer >= 0"}},
    {"{\"a\":" U8_3("0", "null") "}", 3, {"tensor 'a'", "data_offsets[1] is null", "integer"}},
    {"{\"a\":" U8_3("3", "0") "}", 3, {"tensor 'a'", "[3, 0]", "expected begin <= end <= 3"}},
    {"{\"a\":" U8_3("1", "4") "}", 3, {"tensor 'a'", "[1, 4]", "expected begin <= end <= 3"}},
    {"{\"a\":" U8_3("9223372036854775804", "9223372036854775807") "}",
     3,
     {"tensor 'a'", "[9223372036854775804, 9223372036854775807]", "end <= 3"}},
    {"{\"a\":" U8_3("9223372036854775807", "2") "}",
     3,
     {"tensor 'a'", "[9223372036854775807, 2]", "begin <= end"}},
    {"{\"a\":" U8_3("0", "2") "}", 3, {"tensor 'a'", "which is 2 bytes", "expected the 3"}},
    {"{\"a\":" U8_3("0", "4") "}", 4, {"tensor 'a'", "which is 4 bytes", "expected the 3"}},
    {"{\"a\":{\"dtype\":\"I64\",\"shape\":[1152921504606846975],\"data_offsets\":[0,4]}}",
     4,
     {"tensor 'a'", "which is 4 bytes", "expected the 9223372036854775800"}},
};

static const refusal bad_cover[] = {
    {"{\"a\":" U8_3("0", "3") ",\"b\":" U8_3("2", "5") "}",
     5,
     {"tensor 'b'", "begin at byte 2, expected 3", "overlap tensor 'a'"}},
    {"{\"b\":" U8_3("0", "3") ",\"a\":" U8_3("0", "3") "}",
     3,
     {"tensor 'a'", "begin at byte 0, expected 3", "overlap tensor 'b'"}},
    {"{\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]},\"a\":" U8_3("0", "3") "}",
     3,
     {"tensor 'z'", "begin at byte 1, expected 3", "overlap tensor 'a'"}},
    {"{\"a\":" U8_3("0", "3") ",\"b\":" U8_3("4", "7") "}",
     7,
     {"tensor 'b'", "begin at byte 4, expected 3", "hole"}},
    {"{\"a\":" U8_3("1", "4") "}", 4, {"tensor 'a'", "begin at byte 1, expected 0", "hole"}},
    {"{\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]},\"a\":" U8_3("0", "3") "}",
     4,
     {"tensor 'z'", "begin at byte 4, expected 3", "hole"}},
    {"{\"a\":" U8_3("0", "3") "}", 4, {"4 bytes after the header", "expected 3", "last tensor"}},
    {"{}", 1, {"1 bytes after the header", "expected 0", "without tensors"}},
};

static const refusal bad_metadata[] = {
    {"{\"__metadata__\":null}", 0, {"__metadata__ is null", "expected an object of strings"}},
    {"{\"__metadata__\":[]}", 0, {"__metadata__ is an array", "expected an object of strings"}},
    {"{\"__metadata__\":{\"k\":\"v\",\"n\":1.5}}", 0, {"'n' is 1.5", "expected a string"}},
    {"{\"__metadata__\":{\"k\":{}}}", 0, {"'k' is an object", "expected a string"}},
};

static void assert_all_refused(const refusal *refusals, size_t n_refusals)
{
    for (size_t i = 0; i < n_refusals; i++) {
        const refusal *r = &refusals[i];
        image from = build_image(r->header, strlen(r->header), r->data_bytes);
        assert_refused("dir/x.st", from.bytes, from.len_bytes, r->parts);
        /* an error structure is optional */
        dsv4_safetensors *file = NULL;
        assert_int_equal(dsv4_safetensors_open_memory("x", from.bytes, from.len_bytes, &file, NULL),
                         DSV4_ERROR_BAD_FILE);
        free(from.bytes);
    }
}

static void test_refuse_json(void **state)
{
    (void)state;
    assert_all_refused(bad_json, LENGTH_OF(bad_json));
}

static void test_refuse_entry(void **state)
{
    (void)state;
    assert_all_refused(bad_entry, LENGTH_OF(bad_entry));
}

static void test_refuse_shape(void **state)
{
    (void)state;
    assert_all_refused(bad_shape, LENGTH_OF(bad_shape));
}

static void test_refuse_offsets(void **state)
{
    (void)state;
    assert_all_refused(bad_offsets, LENGTH_OF(bad_offsets));
}

static void test_refuse_cover(void **state)
{
    (void)state;
    assert_all_refused(bad_cover, LENGTH_OF(bad_cover));
}

static void test_refuse_metadata(void **state)
{
    (void)state;
    assert_all_refused(bad_metadata, LENGTH_OF(bad_metadata));
}

static void test_refuse_header_length(void **state)
{
    (void)state;
    static const struct {
        uint64_t header_bytes;
        const char *parts[3];
    } lengths[] = {
        {UINT64_MAX, {"header length is 18446744073709551615", "at most 100000000"}},
        {INT64_MAX, {"header length is 9223372036854775807", "at most 100000000"}},
        {UINT64_MAX - 7, {"header length is 18446744073709551608", "at most 100000000"}},
        {100000001, {"header length is 100000001", "at most 100000000"}},
        {100000000, {"header length is 100000000", "at most the 2 bytes left"}},
        {3, {"header length is 3", "at most the 2 bytes left"}},
    };
    for (size_t i = 0; i < LENGTH_OF(lengths); i++) {
        image from = build_image("{}", 2, 0);
        for (int k = 0; k < 8; k++) {
            from.bytes[k] = (unsigned char)(lengths[i].header_bytes >> (8 * k));
        }
        assert_refused("x.st", from.bytes, from.len_bytes, lengths[i].parts);
        free(from.bytes);
    }
    static const char *const empty[3] = {"the file has 0 bytes", "expected at least 8"};
    static const char *const short_file[3] = {"the file has 7 bytes", "expected at least 8"};
    image seven = {malloc(7), 7};
    assert_non_null(seven.bytes);
    memset(seven.bytes, 0, 7);
    assert_refused("x.st", NULL, 0, empty);
    assert_refused("x.st", seven.bytes, seven.len_bytes, short_file);
    free(seven.bytes);
}

/* Jansson alone would skip a NUL byte after a number. */
static void test_refuse_nul_byte(void **state)
{
    (void)state;
    static const char header[] =
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3\0],\"data_offsets\":[0,3]}}";
    static const char *const parts[3] = {"header byte 29 is NUL", "expected JSON text"};
    image from = build_image(header, sizeof header - 1, 3);
    assert_refused("x.st", from.bytes, from.len_bytes, parts);
    free(from.bytes);
}

static void test_refuse_deep_json(void **state)
{
    (void)state;
    static char header[100000];
    memset(header, '[', sizeof header);
    memcpy(header, "{\"a\":", 5);
    image from = build_image(header, sizeof header, 0);
    static const char *const parts[3] = {"maximum parsing depth", "header byte"};
    assert_refused("x.st", from.bytes, from.len_bytes, parts);
    free(from.bytes);
}

/* The text keeps the ends of names and the rule; it holds no control characters and no half of a
 * UTF-8 character. */
static void test_refuse_long_hostile_names(void **state)
{
    (void)state;
    static char path[3000], header[4000];
    memset(path, 'p', sizeof path - 1);
    memcpy(path + sizeof path - 6, "/x.st", 5);
    char *end = header + sprintf(header, "{\"\\u001b[31m");
    for (int i = 0; i < 1000; i++) end += sprintf(end, "\xc3\xa9"); /* e with acute accent */
    sprintf(end, "\\n\x7f.weight\":{\"dtype\":7,\"shape\":[],\"data_offsets\":[0,1]}}");
    image from = build_image(header, strlen(header), 1);
    dsv4_safetensors *file = NULL;
    dsv4_error error = {0};
    assert_int_equal(dsv4_safetensors_open_memory(path, from.bytes, from.len_bytes, &file, &error),
                     DSV4_ERROR_BAD_FILE);
    assert_contains(error.text, "/x.st: tensor '...\xc3\xa9");
    assert_contains(error.text, "\xc3\xa9??.weight': dtype is 7, expected a string");
    assert_null(strpbrk(error.text, "\033\n\x7f"));
    free(from.bytes);

    /* a short name is quoted whole */
    static const char hostile[] = "{\"\\u001b[31m\":1}";
    static const char *const parts[3] = {"tensor '?[31m'"};
    from = build_image(hostile, sizeof hostile - 1, 0);
    assert_refused("x.st", from.bytes, from.len_bytes, parts);
    free(from.bytes);
}

/* Damage: every truncation is refused; no change of one byte may do harm. */

static const char small_header[] = "{\"__metadata__\":{\"k\":\"v\"},\"a\":" U8_3(
    "0", "3") ",\"b\":{\"dtype\":\"F32\","
              "\"shape\":[1,2],\"data_offsets\":[3,11]}}";

static void test_truncated_anywhere(void **state)
{
    (void)state;
    image whole = build_image(small_header, sizeof small_header - 1, 11);
    for (size_t len_bytes = 0; len_bytes < whole.len_bytes; len_bytes++) {
        unsigned char *cut = malloc(len_bytes + (len_bytes == 0));
        assert_non_null(cut);
        memcpy(cut, whole.bytes, len_bytes);
        static const char *const parts[3] = {"expected"};
        assert_refused("x.st", cut, len_bytes, parts);
        free(cut);
    }
    dsv4_safetensors_close(open_image(whole));
    free(whole.bytes);
}

/* Reads what an accepted file shows, so that a sanitizer sees a view out of bounds. */
static unsigned sum_tensors(const dsv4_safetensors *file)
{
    unsigned sum = 0;
    for (int64_t i = 0; i < dsv4_safetensors_n_tensors(file); i++) {
        const dsv4_tensor_view *view = dsv4_safetensors_tensor(file, i);
        const unsigned char *data = view->data;
        for (int64_t k = 0; k < view->len_bytes; k++) sum += data[k];
        assert_ptr_equal(dsv4_safetensors_find(file, view->name), view);
    }
    return sum;
}

static void test_every_byte_changed(void **state)
{
    (void)state;
    image whole = build_image(small_header, sizeof small_header - 1, 11);
    size_t data_begin = 8 + sizeof small_header - 1;
    int n_accepted = 0, n_refused = 0;
    for (size_t i = 0; i < whole.len_bytes; i++) {
        unsigned char original = whole.bytes[i];
        for (int value = 0; value < 256; value++) {
            whole.bytes[i] = (unsigned char)value;
            dsv4_safetensors *file = NULL;
            dsv4_error error = {0};
            dsv4_status status =
                dsv4_safetensors_open_memory("x.st", whole.bytes, whole.len_bytes, &file, &error);
            if (status == DSV4_OK) {
                unsigned expected = 55; /* 0 + 1 + ... + 10 */
                if (i >= data_begin) expected += (unsigned)value - original;
                assert_int_equal(sum_tensors(file), expected);
                n_accepted++;
            } else {
                assert_int_equal(status, DSV4_ERROR_BAD_FILE);
                assert_contains(error.text, "expected");
                assert_true(i < data_begin);
                n_refused++;
            }
            dsv4_safetensors_close(file);
        }
        whole.bytes[i] = original;
    }
    /* any data, most letters of a name; but no other change */
    assert_in_range(n_accepted, 11 * 256, 14 * 256);
    assert_true(n_refused > n_accepted);
    free(whole.bytes);
}

/* Files */

/* Whether a file of this name in the current directory is mapped into the process. */
static bool is_mapped(const char *name)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    char line[8192], ending[64];
    (void)snprintf(ending, sizeof ending, "/%s\n", name);
    bool found = false;
    while (fgets(line, sizeof line, maps) != NULL) found |= strstr(line, ending) != NULL;
    (void)fclose(maps);
    return found;
}

/* Grows when a file is left open. */
static int lowest_free_descriptor(void)
{
    int fd = open(".", O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    return fd;
}

static void test_open_file(void **state)
{
    (void)state;
    int free_before = lowest_free_descriptor();
    image from = build_image(small_header, sizeof small_header - 1, 11);
    write_bytes("x.st", from.bytes, from.len_bytes);
    free(from.bytes);
    dsv4_safetensors *file = NULL;
    dsv4_error error = {0};
    assert_int_equal(dsv4_safetensors_open("x.st", &file, &error), DSV4_OK);
    assert_int_equal(sum_tensors(file), 55);
    assert_true(is_mapped("x.st"));
    dsv4_safetensors_close(file);
    assert_false(is_mapped("x.st"));
    assert_int_equal(lowest_free_descriptor(), free_before);
}

static void assert_open_fails(const char *path, dsv4_status expected, const char *reason)
{
    dsv4_safetensors *file = NULL;
    dsv4_error error = {0};
    assert_int_equal(dsv4_safetensors_open(path, &file, &error), expected);
    assert_int_equal(error.status, expected);
    assert_null(file);
    assert_int_equal(strncmp(error.text, path, strlen(path)), 0);
    assert_contains(error.text, reason);
    assert_int_equal(dsv4_safetensors_open(path, &file, NULL), expected);
}

static void test_open_file_fails(void **state)
{
    (void)state;
    write_bytes("empty.st", "", 0);
    write_bytes("bad.st", "\2\0\0\0\0\0\0\0[]", 10);
    assert_int_equal(mkdir("folder", 0700), 0);
    assert_int_equal(mkfifo("pipe", 0600), 0);
    assert_open_fails("empty.st", DSV4_ERROR_BAD_FILE, "has 0 bytes, expected at least 8");
    assert_open_fails("bad.st", DSV4_ERROR_BAD_FILE, "begins with '[', expected '{'");
    assert_false(is_mapped("bad.st"));
    assert_open_fails("absent.st", DSV4_ERROR_IO, "cannot open: No such file");
    assert_open_fails("folder", DSV4_ERROR_IO, "expected a regular file");
    assert_open_fails("pipe", DSV4_ERROR_IO, "expected a regular file");

    assert_int_equal(chmod("empty.st", 0), 0);
    bool is_root = geteuid() == 0; /* who may open anything */
    if (is_root) assert_int_equal(seteuid(65534), 0);
    assert_open_fails("empty.st", DSV4_ERROR_IO, "cannot open: Permission denied");
    if (is_root) assert_int_equal(seteuid(0), 0);
}

/* Memory: the allocation that Jansson does `n_left` allocations from now fails. */

static int n_left;

static void *failing_malloc(size_t len_bytes)
{
    return n_left-- == 0 ? NULL : malloc(len_bytes);
}

/* Jansson does not tell every failed allocation from bad JSON; but it must fail, and once it does
 * not run out, succeed. */
static void test_out_of_memory(void **state)
{
    (void)state;
    image from = build_image(small_header, sizeof small_header - 1, 11);
    int n_out_of_memory = 0, n_bad_file = 0, n_read = 0;
    json_set_alloc_funcs(failing_malloc, free);
    for (int i = 0; i < 200; i++) {
        dsv4_safetensors *file = NULL;
        dsv4_error error = {0};
        n_left = i;
        dsv4_status status =
            dsv4_safetensors_open_memory("x.st", from.bytes, from.len_bytes, &file, &error);
        if (status == DSV4_OK) {
            assert_true(n_left >= 0);
            assert_int_equal(sum_tensors(file), 55);
            n_read++;
        } else if (status == DSV4_ERROR_OUT_OF_MEMORY) {
            assert_string_equal(error.text, "x.st: out of memory");
            n_out_of_memory++;
        } else {
            assert_int_equal(status, DSV4_ERROR_BAD_FILE);
            n_bad_file++;
        }
        dsv4_safetensors_close(file);
    }
    json_set_alloc_funcs(malloc, free);
    assert_true(n_out_of_memory > n_bad_file);
    assert_in_range(n_read, 100, 180);
    free(from.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dtype_table),
        cmocka_unit_test(test_every_dtype_is_read),
        cmocka_unit_test(test_read_views),
        cmocka_unit_test(test_look_up),
        cmocka_unit_test(test_read_many),
        cmocka_unit_test(test_read_without_tensors),
        cmocka_unit_test(test_read_rank_8),
        cmocka_unit_test(test_refuse_json),
        cmocka_unit_test(test_refuse_entry),
        cmocka_unit_test(test_refuse_shape),
        cmocka_unit_test(test_refuse_offsets),
        cmocka_unit_test(test_refuse_cover),
        cmocka_unit_test(test_refuse_metadata),
        cmocka_unit_test(test_refuse_header_length),
        cmocka_unit_test(test_refuse_nul_byte),
        cmocka_unit_test(test_refuse_deep_json),
        cmocka_unit_test(test_refuse_long_hostile_names),
        cmocka_unit_test(test_truncated_anywhere),
        cmocka_unit_test(test_every_byte_changed),
        IN_DIRECTORY(test_open_file),
        IN_DIRECTORY(test_open_file_fails),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
