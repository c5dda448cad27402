/*
 * test_safetensors_write.c - the safetensors writer: what it writes byte for byte, that the reader
 * gives it back, what it refuses, and that a failed write leaves the old file alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/safetensors.h"
#include "test_files.h"

#include <jansson.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static const struct {
    int32_t dtype;
    int64_t element_bytes;
} dtypes[] = {
    {DSV4_SAFETENSORS_BOOL, 1},    {DSV4_SAFETENSORS_U8, 1},      {DSV4_SAFETENSORS_I8, 1},
    {DSV4_SAFETENSORS_F8_E4M3, 1}, {DSV4_SAFETENSORS_F8_E8M0, 1}, {DSV4_SAFETENSORS_F16, 2},
    {DSV4_SAFETENSORS_BF16, 2},    {DSV4_SAFETENSORS_I16, 2},     {DSV4_SAFETENSORS_I32, 4},
    {DSV4_SAFETENSORS_F32, 4},     {DSV4_SAFETENSORS_I64, 8},     {DSV4_SAFETENSORS_F64, 8},
};

static const dsv4_tensor_view good = {.name = "tt",
                                      .dtype = DSV4_SAFETENSORS_I16,
                                      .rank = 2,
                                      .shape = {1, 2},
                                      .data = "\1\2\3\4",
                                      .len_bytes = 4};

static void assert_same_view(const dsv4_tensor_view *view, const dsv4_tensor_view *expected)
{
    assert_string_equal(view->name, expected->name);
    assert_int_equal(view->dtype, expected->dtype);
    assert_int_equal(view->rank, expected->rank);
    for (int32_t i = 0; i < view->rank; i++) {
        assert_int_equal(view->shape[i], expected->shape[i]);
    }
    assert_int_equal(view->len_bytes, expected->len_bytes);
    if (view->len_bytes > 0) {
        assert_memory_equal(view->data, expected->data, (size_t)view->len_bytes);
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    unsigned char data[256];
    for (int i = 0; i < 256; i++) data[i] = (unsigned char)(i * 7 + 3);
    dsv4_tensor_view tensors[LENGTH_OF(dtypes) + 3];
    char names[LENGTH_OF(dtypes)][32];
    size_t n_tensors = 0;
    for (; n_tensors < LENGTH_OF(dtypes); n_tensors++) {
        /* names in another order than the data; shapes [3], [3,1], ... up to rank 8, then again */
        (void)snprintf(names[n_tensors], sizeof names[0], "%c.%zu.weight",
                       (char)('z' - (int)n_tensors), n_tensors);
        tensors[n_tensors] = (dsv4_tensor_view){.name = names[n_tensors],
                                                .dtype = dtypes[n_tensors].dtype,
                                                .rank = 1 + (int32_t)n_tensors % 8,
                                                .shape = {3, 1, 1, 1, 1, 1, 1, 1},
                                                .data = data + n_tensors,
                                                .len_bytes = 3 * dtypes[n_tensors].element_bytes};
    }
    /* empty tensors, whose data may be NULL, in this order; a scalar */
    tensors[n_tensors++] = (dsv4_tensor_view){
        .name = "z\"\\/\n\x7f\xc3\xa9", .dtype = DSV4_SAFETENSORS_F32, .rank = 2, .shape = {0, 5}};
    tensors[n_tensors++] =
        (dsv4_tensor_view){.name = "empty", .dtype = DSV4_SAFETENSORS_I8, .rank = 1};
    tensors[n_tensors++] = (dsv4_tensor_view){
        .name = "scalar", .dtype = DSV4_SAFETENSORS_F64, .data = data + 99, .len_bytes = 8};
    static const dsv4_metadata_entry metadata[] = {
        {"format", "pt"}, {"\"k\n", "\xe2\x82\xac"}, {"", ""}};
    assert_int_equal(dsv4_safetensors_write("x.st", tensors, (int64_t)n_tensors, metadata,
                                            LENGTH_OF(metadata), NULL),
                     DSV4_OK);
    assert_int_equal(visit_files(false), 1);

    dsv4_safetensors *file = NULL;
    assert_int_equal(dsv4_safetensors_open("x.st", &file, NULL), DSV4_OK);
    assert_int_equal(dsv4_safetensors_n_tensors(file), n_tensors);
    assert_int_equal((uintptr_t)dsv4_safetensors_tensor(file, 0)->data % 8, 0);
    for (size_t i = 0; i < n_tensors; i++) {
        const dsv4_tensor_view *view = dsv4_safetensors_tensor(file, (int64_t)i);
        assert_same_view(view, &tensors[i]);
        assert_ptr_equal(dsv4_safetensors_find(file, tensors[i].name), view);
    }
    for (size_t i = 0; i < LENGTH_OF(metadata); i++) {
        assert_string_equal(dsv4_safetensors_metadata(file, metadata[i].key), metadata[i].value);
    }
    dsv4_safetensors_close(file);
}

static void assert_file_holds(const char *path, const char *expected, size_t len_bytes)
{
    char bytes[256];
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    assert_int_equal(fread(bytes, 1, sizeof bytes, stream), len_bytes);
    assert_int_equal(fclose(stream), 0);
    assert_memory_equal(bytes, expected, len_bytes);
}

/* The bytes of the format, independent of the reader: 57 of header, padded to 64. */
static const char good_file[] =
    "\x40\0\0\0\0\0\0\0"
    "{\"tt\":{\"dtype\":\"I16\",\"shape\":[1,2],\"data_offsets\":[0,4]}}"
    "       "
    "\1\2\3\4";

static void test_written_bytes(void **state)
{
    (void)state;
    assert_int_equal(dsv4_safetensors_write("x.st", &good, 1, NULL, 0, NULL), DSV4_OK);
    assert_file_holds("x.st", good_file, sizeof good_file - 1);
    /* with metadata, which comes first; 88 of header, which is not padded */
    static const char with_metadata[] =
        "\x58\0\0\0\0\0\0\0"
        "{\"__metadata__\":{\"key\":\"12xxx\"},"
        "\"tt\":{\"dtype\":\"I16\",\"shape\":[1,2],\"data_offsets\":[0,4]}}"
        "\1\2\3\4";
    const dsv4_metadata_entry metadata = {"key", "12xxx"};
    assert_int_equal(dsv4_safetensors_write("x.st", &good, 1, &metadata, 1, NULL), DSV4_OK);
    assert_file_holds("x.st", with_metadata, sizeof with_metadata - 1);
}

static void test_written_mode(void **state)
{
    (void)state;
    mode_t mask = umask(027);
    dsv4_status status = dsv4_safetensors_write("x.st", &good, 1, NULL, 0, NULL);
    (void)umask(mask);
    assert_int_equal(status, DSV4_OK);
    struct stat info;
    assert_int_equal(stat("x.st", &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
}

static void test_write_nothing(void **state)
{
    (void)state;
    assert_int_equal(dsv4_safetensors_write("x.st", NULL, 0, NULL, 0, NULL), DSV4_OK);
    assert_file_holds("x.st", "\x08\0\0\0\0\0\0\0{}      ", 16);
    dsv4_safetensors *file = NULL;
    assert_int_equal(dsv4_safetensors_open("x.st", &file, NULL), DSV4_OK);
    assert_int_equal(dsv4_safetensors_n_tensors(file), 0);
    dsv4_safetensors_close(file);
}

/* In a directory that does not exist, so that a missing check shows as another error. */
static void assert_refused(const dsv4_tensor_view *tensors, int64_t n_tensors,
                           const dsv4_metadata_entry *metadata, int64_t n_metadata,
                           const char *name_part, const char *value_part)
{
    dsv4_error error = {0};
    assert_int_equal(
        dsv4_safetensors_write("absent/x.st", tensors, n_tensors, metadata, n_metadata, &error),
        DSV4_ERROR_INVALID_ARGUMENT);
    assert_int_equal(error.status, DSV4_ERROR_INVALID_ARGUMENT);
    assert_contains(error.text, "absent/x.st: ");
    assert_contains(error.text, name_part);
    assert_contains(error.text, value_part);
    assert_contains(error.text, "expected");
}

static void test_refuse_tensors(void **state)
{
    (void)state;
    dsv4_tensor_view bad = good;
    bad.name = "";
    assert_refused(&bad, 1, NULL, 0, "tensor ''", "empty");
    bad.name = NULL;
    assert_refused(&bad, 1, NULL, 0, "tensor ''", "empty");
    bad.name = "__metadata__";
    assert_refused(&bad, 1, NULL, 0, "tensor '__metadata__'", "reserved");
    bad.name = "\xc3.weight";
    assert_refused(&bad, 1, NULL, 0, ".weight'", "not valid UTF-8");
    bad = good;
    bad.dtype = 13;
    assert_refused(&bad, 1, NULL, 0, "tensor 'tt'", "dtype is 13");
    bad.dtype = 0;
    assert_refused(&bad, 1, NULL, 0, "tensor 'tt'", "dtype is 0");
    bad = good;
    bad.rank = 9;
    assert_refused(&bad, 1, NULL, 0, "tensor 'tt'", "rank is 9");
    bad.rank = -1;
    assert_refused(&bad, 1, NULL, 0, "tensor 'tt'", "rank is -1");
    bad = good;
    bad.shape[1] = -2;
    assert_refused(&bad, 1, NULL, 0, "tensor 'tt'", "shape[1] is -2");
    bad.shape[1] = INT64_MAX;
    assert_refused(&bad, 1, NULL, 0, "tensor 'tt'", "2^63");
    bad = good;
    bad.len_bytes = 3;
    assert_refused(&bad, 1, NULL, 0, "tensor 'tt'", "len_bytes is 3, expected 4");
    bad = good;
    bad.data = NULL;
    assert_refused(&bad, 1, NULL, 0, "tensor 'tt'", "data is NULL, expected 4");
}

static void test_refuse_tensor_set(void **state)
{
    (void)state;
    const dsv4_tensor_view twice[] = {good, good};
    assert_refused(twice, 2, NULL, 0, "tensor 'tt'", "used twice");
    const dsv4_tensor_view all_bytes = {.name = "u",
                                        .dtype = DSV4_SAFETENSORS_U8,
                                        .rank = 1,
                                        .shape = {INT64_MAX},
                                        .data = "",
                                        .len_bytes = INT64_MAX};
    const dsv4_tensor_view too_much[] = {good, all_bytes};
    assert_refused(too_much, 2, NULL, 0, "tensor 'u'", "2^63");
}

static void test_refuse_metadata(void **state)
{
    (void)state;
    const dsv4_metadata_entry twice[] = {{"k", "v"}, {"k", "w"}};
    assert_refused(NULL, 0, twice, 2, "metadata 'k'", "used twice");
    const dsv4_metadata_entry bad_key = {"k\xff", "v"}, bad_value = {"k", "v\xff"};
    assert_refused(NULL, 0, &bad_key, 1, "metadata 'k\xff'", "not valid UTF-8");
    assert_refused(NULL, 0, &bad_value, 1, "metadata 'k'", "not valid UTF-8");

    /* 25 bytes are around the value, and the result is padded */
    size_t len_bytes = DSV4_SAFETENSORS_MAX_HEADER_BYTES - 24;
    char *huge = malloc(len_bytes + 1);
    assert_non_null(huge);
    memset(huge, 'v', len_bytes);
    huge[len_bytes] = '\0';
    const dsv4_metadata_entry huge_value = {"k", huge};
    assert_refused(NULL, 0, &huge_value, 1, "header would have 100000008 bytes",
                   "at most 100000000");
    free(huge);
}

static void test_utf8(void **state)
{
    (void)state;
    static const char *const valid[] = {"\xc2\x80",     "\xdf\xbf",         "\xe0\xa0\x80",
                                        "\xed\x9f\xbf", "\xee\x80\x80",     "\xef\xbf\xbf",
                                        "\x7f\x01",     "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};
    static const char *const invalid[] = {"\x80",
                                          "\xbf\xbf",
                                          "\xbf",
                                          "\xc1\xbf",
                                          "\xc2",
                                          "\xc2z",
                                          "\xe0\x9f\xbf",
                                          "\xe0\xa0",
                                          "\xe0\xa0z",
                                          "\xed\xa0\x80",
                                          "\xed\xbf\xbf",
                                          "\xf0\x8f\xbf\xbf",
                                          "\xf4\x90\x80\x80",
                                          "\xf0\x90\x80",
                                          "\xf5\x80\x80\x80",
                                          "\xff"};
    dsv4_tensor_view view = good;
    for (size_t i = 0; i < LENGTH_OF(valid); i++) {
        view.name = valid[i];
        assert_int_equal(dsv4_safetensors_write("x.st", &view, 1, NULL, 0, NULL), DSV4_OK);
        dsv4_safetensors *file = NULL;
        assert_int_equal(dsv4_safetensors_open("x.st", &file, NULL), DSV4_OK);
        assert_non_null(dsv4_safetensors_find(file, valid[i]));
        dsv4_safetensors_close(file);
    }
    for (size_t i = 0; i < LENGTH_OF(invalid); i++) {
        view.name = invalid[i];
        assert_refused(&view, 1, NULL, 0, "tensor '", "not valid UTF-8");
    }
}

static void test_fail_to_create(void **state)
{
    (void)state;
    dsv4_error error = {0};
    assert_int_equal(dsv4_safetensors_write("absent/x.st", &good, 1, NULL, 0, &error),
                     DSV4_ERROR_IO);
    assert_int_equal(error.status, DSV4_ERROR_IO);
    assert_contains(error.text, "absent/x.st: cannot create");
    assert_contains(error.text, "No such file");

    assert_int_equal(mkdir("folder", 0700), 0);
    assert_int_equal(dsv4_safetensors_write("folder", &good, 1, NULL, 0, &error), DSV4_ERROR_IO);
    assert_contains(error.text, "folder: cannot replace");
    assert_int_equal(visit_files(false), 1);
}

/* A rename would put a file in the place of a pipe, a device, a link. */
static void test_replace_only_files(void **state)
{
    (void)state;
    struct stat info;
    dsv4_error error = {0};
    assert_int_equal(mkfifo("pipe", 0600), 0);
    assert_int_equal(symlink("pipe", "to_pipe"), 0);
    const char *const paths[] = {"pipe", "to_pipe"};
    for (size_t i = 0; i < LENGTH_OF(paths); i++) {
        assert_int_equal(dsv4_safetensors_write(paths[i], &good, 1, NULL, 0, &error),
                         DSV4_ERROR_IO);
        assert_contains(error.text, "pipe: cannot replace: expected a regular file");
    }
    assert_int_equal(lstat("pipe", &info), 0);
    assert_true(S_ISFIFO(info.st_mode));
    assert_int_equal(unlink("to_pipe"), 0);
    assert_int_equal(unlink("pipe"), 0);

    write_bytes("x.st", "old", 3);
    assert_int_equal(symlink("x.st", "link"), 0);
    assert_int_equal(dsv4_safetensors_write("link", &good, 1, NULL, 0, &error), DSV4_OK);
    assert_file_holds("x.st", good_file, sizeof good_file - 1);
    assert_int_equal(lstat("link", &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_int_equal(unlink("x.st"), 0);
    assert_int_equal(dsv4_safetensors_write("link", &good, 1, NULL, 0, &error), DSV4_ERROR_IO);
    assert_contains(error.text, "link: cannot replace: No such file");
    assert_int_equal(unlink("link"), 0);
    assert_int_equal(visit_files(false), 0);
}

/* With a limit on file sizes as a full disk: header and some data fit, the rest does not. */
static void test_fail_to_write(void **state)
{
    (void)state;
    static const unsigned char data[65536];
    const dsv4_tensor_view view = {.name = "t",
                                   .dtype = DSV4_SAFETENSORS_U8,
                                   .rank = 1,
                                   .shape = {sizeof data},
                                   .data = data,
                                   .len_bytes = sizeof data};
    write_bytes("x.st", "old", 3);
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit small = {.rlim_cur = 4096, .rlim_max = before.rlim_max};
    struct sigaction ignore = {.sa_handler = SIG_IGN}, old_action;
    assert_int_equal(sigaction(SIGXFSZ, &ignore, &old_action), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    dsv4_error error = {0};
    dsv4_status status = dsv4_safetensors_write("x.st", &view, 1, NULL, 0, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(sigaction(SIGXFSZ, &old_action, NULL), 0);
    assert_int_equal(status, DSV4_ERROR_IO);
    assert_contains(error.text, "x.st: cannot write: File too large");
    assert_int_equal(visit_files(false), 1);
    assert_file_holds("x.st", "old", 3);
}

/* Somebody else's temporary file is kept. */
static void test_step_over_temporary(void **state)
{
    (void)state;
    write_bytes("x.st", "old", 3);
    write_bytes("x.st.0.tmp", "theirs", 6);
    assert_int_equal(dsv4_safetensors_write("x.st", &good, 1, NULL, 0, NULL), DSV4_OK);
    assert_file_holds("x.st", good_file, sizeof good_file - 1);
    assert_file_holds("x.st.0.tmp", "theirs", 6);
    assert_int_equal(visit_files(false), 2);
}

/* Memory: the allocation that Jansson does `n_left` allocations from now fails. */

static int n_left;

static void *failing_malloc(size_t len_bytes)
{
    return n_left-- == 0 ? NULL : malloc(len_bytes);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    const dsv4_metadata_entry metadata = {"k", "v"};
    int n_out_of_memory = 0;
    json_set_alloc_funcs(failing_malloc, free);
    for (int i = 0; i < 200; i++) {
        dsv4_error error = {0};
        n_left = i;
        dsv4_status status = dsv4_safetensors_write("x.st", &good, 1, &metadata, 1, &error);
        assert_int_equal(visit_files(true), status == DSV4_OK);
        if (status == DSV4_OK) {
            assert_true(n_left >= 0);
        } else {
            assert_int_equal(status, DSV4_ERROR_OUT_OF_MEMORY);
            assert_string_equal(error.text, "x.st: out of memory");
            n_out_of_memory++;
        }
    }
    json_set_alloc_funcs(malloc, free);
    assert_in_range(n_out_of_memory, 20, 180);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(test_round_trip),          IN_DIRECTORY(test_written_bytes),
        IN_DIRECTORY(test_written_mode),        IN_DIRECTORY(test_write_nothing),
        cmocka_unit_test(test_refuse_tensors),  cmocka_unit_test(test_refuse_tensor_set),
        cmocka_unit_test(test_refuse_metadata), IN_DIRECTORY(test_utf8),
        IN_DIRECTORY(test_fail_to_create),      IN_DIRECTORY(test_replace_only_files),
        IN_DIRECTORY(test_fail_to_write),       IN_DIRECTORY(test_step_over_temporary),
        IN_DIRECTORY(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
