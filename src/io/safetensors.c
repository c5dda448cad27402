/*
 * safetensors.c - the safetensors reader.
 *
 * Place: io, on Jansson for the header. The file is hostile: nothing of it is used before it was
 * checked, and an error text quotes at most the end of a name. The parsed JSON is dropped at the
 * end of opening; what stays is one table of views in data order, one of pointers in name order,
 * and one block with all strings in header order.
 */
#include "io/safetensors.h"

#include "base/checked.h"
#include "base/error.h"
#include "io/file_error.h"
#include "io/json_text.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LENGTH_FIELD_BYTES 8 /* the header length before the header */
#define METADATA_NAME      "__metadata__"

struct dsv4_safetensors {
    void *mapping; /* NULL when the bytes are the caller's */
    size_t mapping_bytes;
    dsv4_tensor_view *tensors;        /* [n_tensors] by data address, see compare_by_data */
    const dsv4_tensor_view **by_name; /* [n_tensors] by strcmp */
    int64_t n_tensors;
    dsv4_metadata_entry *metadata; /* [n_metadata] */
    int64_t n_metadata;
    char *strings;
};

/* What the functions that check one file share. */
typedef struct reader {
    const char *path;
    dsv4_error *error;
    const unsigned char *data; /* [data_bytes] everything after the header */
    int64_t data_bytes;
    dsv4_safetensors *file;
    char *next_string; /* free part of file->strings */
} reader;

static const struct {
    const char *name;
    int64_t element_bytes;
} dtype_rules[] = {
    [DSV4_SAFETENSORS_BOOL] = {"BOOL", 1},       [DSV4_SAFETENSORS_U8] = {"U8", 1},
    [DSV4_SAFETENSORS_I8] = {"I8", 1},           [DSV4_SAFETENSORS_F8_E4M3] = {"F8_E4M3", 1},
    [DSV4_SAFETENSORS_F8_E8M0] = {"F8_E8M0", 1}, [DSV4_SAFETENSORS_F16] = {"F16", 2},
    [DSV4_SAFETENSORS_BF16] = {"BF16", 2},       [DSV4_SAFETENSORS_I16] = {"I16", 2},
    [DSV4_SAFETENSORS_I32] = {"I32", 4},         [DSV4_SAFETENSORS_F32] = {"F32", 4},
    [DSV4_SAFETENSORS_I64] = {"I64", 8},         [DSV4_SAFETENSORS_F64] = {"F64", 8},
};

static bool is_dtype(int32_t dtype)
{
    return dtype >= DSV4_SAFETENSORS_BOOL && dtype <= DSV4_SAFETENSORS_F64;
}

const char *dsv4_safetensors_dtype_name(int32_t dtype)
{
    return is_dtype(dtype) ? dtype_rules[dtype].name : NULL;
}

int64_t dsv4_safetensors_dtype_bytes(int32_t dtype)
{
    return is_dtype(dtype) ? dtype_rules[dtype].element_bytes : 0;
}

bool dsv4_tensor_view_bytes(const dsv4_tensor_view *view, int64_t *len_bytes)
{
    int64_t product = dsv4_safetensors_dtype_bytes(view->dtype);
    bool is_empty = false;
    for (int32_t i = 0; i < view->rank; i++) {
        if (view->shape[i] == 0) {
            is_empty = true;
        } else if (!dsv4_checked_mul_i64(product, view->shape[i], &product)) {
            return false;
        }
    }
    *len_bytes = is_empty ? 0 : product;
    return true;
}

/* Error texts. */

/* BAD_FILE with "<path>: <text>". */
static dsv4_status bad_file(const reader *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static dsv4_status bad_file(const reader *r, const char *format, ...)
{
    char text[DSV4_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return dsv4_error_set(r->error, DSV4_ERROR_BAD_FILE, "%s: %s", dsv4_shorten(r->path).text,
                          text);
}

/* BAD_FILE with "<path>: tensor '<name>': <text>". */
static dsv4_status bad_tensor(const reader *r, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static dsv4_status bad_tensor(const reader *r, const char *name, const char *format, ...)
{
    char text[DSV4_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return bad_file(r, "tensor '%s': %s", dsv4_shorten(name).text, text);
}

/* Reading: one tensor. */

/* A JSON integer >= 0; `what` and `index` name it: "shape", 1. */
static dsv4_status read_count(const reader *r, const char *name, const char *what, size_t index,
                              const json_t *value, int64_t *count)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return bad_tensor(r, name, "%s[%zu] is %s, expected an integer >= 0", what, index,
                          dsv4_json_describe(value).text);
    }
    *count = json_integer_value(value);
    return DSV4_OK;
}

static dsv4_status read_dtype(const reader *r, const char *name, const json_t *value,
                              int32_t *dtype)
{
    if (!json_is_string(value)) {
        return bad_tensor(r, name, "dtype is %s, expected a string",
                          dsv4_json_describe(value).text);
    }
    for (int32_t i = DSV4_SAFETENSORS_BOOL; i <= DSV4_SAFETENSORS_F64; i++) {
        if (strcmp(dtype_rules[i].name, json_string_value(value)) == 0) {
            *dtype = i;
            return DSV4_OK;
        }
    }
    return bad_tensor(r, name,
                      "dtype is %s, expected BOOL, U8, I8, F8_E4M3, F8_E8M0, F16, BF16, I16, "
                      "I32, F32, I64 or F64",
                      dsv4_json_describe(value).text);
}

/* Sets view->rank, shape and len_bytes; view->dtype is set. */
static dsv4_status read_shape(const reader *r, const char *name, const json_t *value,
                              dsv4_tensor_view *view)
{
    if (!json_is_array(value)) {
        return bad_tensor(r, name, "shape is %s, expected an array",
                          dsv4_json_describe(value).text);
    }
    size_t rank = json_array_size(value);
    if (rank > DSV4_SAFETENSORS_MAX_RANK) {
        return bad_tensor(r, name, "shape has %zu dimensions, expected at most %d", rank,
                          DSV4_SAFETENSORS_MAX_RANK);
    }
    view->rank = (int32_t)rank;
    for (size_t i = 0; i < rank; i++) {
        DSV4_TRY(read_count(r, name, "shape", i, json_array_get(value, i), &view->shape[i]));
    }
    if (!dsv4_tensor_view_bytes(view, &view->len_bytes)) {
        return bad_tensor(r, name,
                          "the product of its shape and of the %" PRId64
                          " bytes of a %s is too big, expected less than 2^63",
                          dtype_rules[view->dtype].element_bytes, dtype_rules[view->dtype].name);
    }
    return DSV4_OK;
}

/* Sets view->data; view->len_bytes is set. */
static dsv4_status read_offsets(const reader *r, const char *name, const json_t *value,
                                dsv4_tensor_view *view)
{
    if (!json_is_array(value) || json_array_size(value) != 2) {
        return bad_tensor(r, name, "data_offsets is %s%s, expected [begin, end]",
                          dsv4_json_describe(value).text,
                          json_is_array(value) ? " of another length" : "");
    }
    int64_t begin = 0, end = 0;
    DSV4_TRY(read_count(r, name, "data_offsets", 0, json_array_get(value, 0), &begin));
    DSV4_TRY(read_count(r, name, "data_offsets", 1, json_array_get(value, 1), &end));
    if (begin > end || end > r->data_bytes) {
        return bad_tensor(r, name,
                          "data_offsets is [%" PRId64 ", %" PRId64
                          "], expected begin <= end <= %" PRId64 ", the bytes after the header",
                          begin, end, r->data_bytes);
    }
    if (end - begin != view->len_bytes) {
        return bad_tensor(r, name,
                          "data_offsets is [%" PRId64 ", %" PRId64 "], which is %" PRId64
                          " bytes, expected the %" PRId64 " of its dtype and shape",
                          begin, end, end - begin, view->len_bytes);
    }
    view->data = r->data + begin;
    return DSV4_OK;
}

/* Copies a string of the header behind those that file->strings holds already. */
static const char *keep_string(reader *r, const char *text)
{
    char *kept = r->next_string;
    size_t len_bytes = strlen(text) + 1;
    memcpy(kept, text, len_bytes);
    r->next_string += len_bytes;
    return kept;
}

static dsv4_status read_tensor(reader *r, const char *name, json_t *entry, dsv4_tensor_view *view)
{
    if (name[0] == '\0') {
        return bad_tensor(r, name, "the name is empty, expected at least one character");
    }
    if (!json_is_object(entry)) {
        return bad_tensor(r, name, "the entry is %s, expected an object",
                          dsv4_json_describe(entry).text);
    }
    for (void *it = json_object_iter(entry); it != NULL; it = json_object_iter_next(entry, it)) {
        const char *key = json_object_iter_key(it);
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 &&
            strcmp(key, "data_offsets") != 0) {
            return bad_tensor(r, name,
                              "has a field '%s', expected only dtype, shape and data_offsets",
                              dsv4_shorten(key).text);
        }
    }
    const json_t *dtype = json_object_get(entry, "dtype");
    const json_t *shape = json_object_get(entry, "shape");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (dtype == NULL || shape == NULL || offsets == NULL) {
        return bad_tensor(r, name, "has no %s, expected dtype, shape and data_offsets",
                          dtype == NULL   ? "dtype"
                          : shape == NULL ? "shape"
                                          : "data_offsets");
    }
    DSV4_TRY(read_dtype(r, name, dtype, &view->dtype));
    DSV4_TRY(read_shape(r, name, shape, view));
    DSV4_TRY(read_offsets(r, name, offsets, view));
    view->name = keep_string(r, name);
    return DSV4_OK;
}

/* Reading: the whole file. */

/* Order of the data; an empty tensor before one that begins at the same place; else header order,
 * which is that of the kept names. */
static int compare_by_data(const void *a, const void *b)
{
    const dsv4_tensor_view *x = a, *y = b;
    const unsigned char *x_data = x->data, *y_data = y->data;
    if (x_data != y_data) return x_data < y_data ? -1 : 1;
    if (x->len_bytes != y->len_bytes) return x->len_bytes < y->len_bytes ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name;
}

static int compare_by_name(const void *a, const void *b)
{
    const dsv4_tensor_view *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int compare_name_to_view(const void *key, const void *element)
{
    const dsv4_tensor_view *const *view = element;
    return strcmp(key, (*view)->name);
}

/* Allocates the tables and the string block for what the header holds. */
static dsv4_status allocate_tables(reader *r, json_t *root, json_t *metadata)
{
    dsv4_safetensors *file = r->file;
    size_t string_bytes = 0; /* less than the header's: each string has two quotes there */
    for (void *it = json_object_iter(root); it != NULL; it = json_object_iter_next(root, it)) {
        string_bytes += strlen(json_object_iter_key(it)) + 1;
    }
    for (void *it = json_object_iter(metadata); it; it = json_object_iter_next(metadata, it)) {
        json_t *value = json_object_iter_value(it);
        if (!json_is_string(value)) {
            return bad_file(r, METADATA_NAME ": the value of '%s' is %s, expected a string",
                            dsv4_shorten(json_object_iter_key(it)).text,
                            dsv4_json_describe(value).text);
        }
        string_bytes += strlen(json_object_iter_key(it)) + json_string_length(value) + 2;
    }
    /* one more of each: an allocation of nothing may return NULL */
    file->tensors = calloc(json_object_size(root) + 1, sizeof *file->tensors);
    file->by_name = calloc(json_object_size(root) + 1, sizeof *file->by_name);
    file->metadata = calloc(json_object_size(metadata) + 1, sizeof *file->metadata);
    file->strings = malloc(string_bytes + 1);
    if (file->tensors == NULL || file->by_name == NULL || file->metadata == NULL ||
        file->strings == NULL) {
        return dsv4_error_set_memory(r->path, r->error);
    }
    r->next_string = file->strings;
    return DSV4_OK;
}

/* The sorted tensors must cover the data from its first to its last byte, each byte once. */
static dsv4_status check_cover(const reader *r)
{
    const dsv4_safetensors *file = r->file;
    int64_t covered_bytes = 0;
    for (int64_t i = 0; i < file->n_tensors; i++) {
        const dsv4_tensor_view *view = &file->tensors[i];
        int64_t begin = (const unsigned char *)view->data - r->data;
        if (begin > covered_bytes) {
            return bad_tensor(r, view->name,
                              "its data begin at byte %" PRId64 ", expected %" PRId64
                              ": a hole before them",
                              begin, covered_bytes);
        }
        if (begin < covered_bytes) {
            return bad_tensor(r, view->name,
                              "its data begin at byte %" PRId64 ", expected %" PRId64
                              ": they overlap tensor '%s'",
                              begin, covered_bytes, dsv4_shorten(file->tensors[i - 1].name).text);
        }
        covered_bytes = begin + view->len_bytes;
    }
    if (covered_bytes != r->data_bytes) {
        return bad_file(r,
                        "%" PRId64 " bytes after the header, expected %" PRId64 ", the end of %s",
                        r->data_bytes, covered_bytes,
                        file->n_tensors == 0 ? "a file without tensors" : "the last tensor");
    }
    return DSV4_OK;
}

static dsv4_status read_root(reader *r, json_t *root)
{
    dsv4_safetensors *file = r->file;
    json_t *metadata = json_object_get(root, METADATA_NAME);
    if (metadata != NULL && !json_is_object(metadata)) {
        return bad_file(r, METADATA_NAME " is %s, expected an object of strings",
                        dsv4_json_describe(metadata).text);
    }
    DSV4_TRY(allocate_tables(r, root, metadata));
    for (void *it = json_object_iter(metadata); it; it = json_object_iter_next(metadata, it)) {
        dsv4_metadata_entry *entry = &file->metadata[file->n_metadata++];
        entry->key = keep_string(r, json_object_iter_key(it));
        entry->value = keep_string(r, json_string_value(json_object_iter_value(it)));
    }
    for (void *it = json_object_iter(root); it != NULL; it = json_object_iter_next(root, it)) {
        json_t *entry = json_object_iter_value(it);
        if (entry == metadata) continue;
        DSV4_TRY(read_tensor(r, json_object_iter_key(it), entry, &file->tensors[file->n_tensors]));
        file->n_tensors++;
    }
    size_t n_tensors = (size_t)file->n_tensors;
    qsort(file->tensors, n_tensors, sizeof *file->tensors, compare_by_data);
    DSV4_TRY(check_cover(r));
    for (size_t i = 0; i < n_tensors; i++) file->by_name[i] = &file->tensors[i];
    qsort(file->by_name, n_tensors, sizeof *file->by_name, compare_by_name);
    return DSV4_OK;
}

/* Jansson's refusal of a header, with the last bytes before the place (a duplicate name, say). */
static dsv4_status bad_json(const reader *r, const char *header, size_t header_bytes,
                            const json_error_t *json_error)
{
    /* Jansson leaves the text empty where an allocation failed. */
    if (json_error_code(json_error) == json_error_out_of_memory || json_error->text[0] == '\0') {
        return dsv4_error_set_memory(r->path, r->error);
    }
    size_t position = json_error->position > 0 ? (size_t)json_error->position : 0;
    if (position > header_bytes) position = header_bytes;
    return bad_file(r, "header byte %zu, after '%s': %s, expected a JSON object of tensors",
                    position, dsv4_shorten_bytes(header, position).text,
                    dsv4_shorten(json_error->text).text);
}

/* The lengths, then the header; on success r->file is filled but for the mapping. */
static dsv4_status read_bytes(reader *r, const unsigned char *bytes, size_t len_bytes)
{
    if (len_bytes < LENGTH_FIELD_BYTES) {
        return bad_file(r, "the file has %zu bytes, expected at least %d", len_bytes,
                        LENGTH_FIELD_BYTES);
    }
    uint64_t header_bytes = 0;
    for (int i = LENGTH_FIELD_BYTES - 1; i >= 0; i--) header_bytes = header_bytes << 8 | bytes[i];
    if (header_bytes > DSV4_SAFETENSORS_MAX_HEADER_BYTES) {
        return bad_file(r, "the header length is %" PRIu64 ", expected at most %u", header_bytes,
                        DSV4_SAFETENSORS_MAX_HEADER_BYTES);
    }
    if (header_bytes > len_bytes - LENGTH_FIELD_BYTES) {
        return bad_file(r, "the header length is %" PRIu64 ", expected at most the %zu bytes left",
                        header_bytes, len_bytes - LENGTH_FIELD_BYTES);
    }
    const char *header = (const char *)bytes + LENGTH_FIELD_BYTES;
    if (header_bytes == 0 || header[0] != '{') {
        return bad_file(r, "the header begins with '%s', expected '{'",
                        dsv4_shorten_bytes(header, header_bytes > 0).text);
    }
    /* Jansson would skip some of them. */
    const char *nul = memchr(header, '\0', header_bytes);
    if (nul != NULL) {
        return bad_file(r, "header byte %td is NUL, expected JSON text", nul - header);
    }
    r->data = bytes + LENGTH_FIELD_BYTES + header_bytes;
    r->data_bytes = (int64_t)(len_bytes - LENGTH_FIELD_BYTES - header_bytes);

    json_error_t json_error;
    json_t *root = json_loadb(header, header_bytes, JSON_REJECT_DUPLICATES, &json_error);
    if (root == NULL) return bad_json(r, header, header_bytes, &json_error);
    dsv4_status status = read_root(r, root);
    json_decref(root);
    return status;
}

dsv4_status dsv4_safetensors_open_memory(const char *path, const void *bytes, size_t len_bytes,
                                         dsv4_safetensors **file, dsv4_error *error)
{
    reader r = {.path = path, .error = error, .file = calloc(1, sizeof *r.file)};
    if (r.file == NULL) return dsv4_error_set_memory(path, error);
    dsv4_status status = read_bytes(&r, bytes, len_bytes);
    if (status != DSV4_OK) {
        dsv4_safetensors_close(r.file);
        return status;
    }
    *file = r.file;
    return DSV4_OK;
}

/* Maps a regular file; an empty one gives NULL and 0. */
static dsv4_status map_file(const char *path, void **mapping, size_t *mapping_bytes,
                            dsv4_error *error)
{
    /* Without O_NONBLOCK, opening a pipe would wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return dsv4_error_set_io(path, "open", errno, error);
    dsv4_status status = DSV4_OK;
    struct stat info;
    if (fstat(fd, &info) != 0) {
        status = dsv4_error_set_io(path, "stat", errno, error);
    } else if (!S_ISREG(info.st_mode)) {
        status = dsv4_error_set(error, DSV4_ERROR_IO, "%s: cannot read: expected a regular file",
                                dsv4_shorten(path).text);
    } else if (info.st_size > 0) {
        *mapping_bytes = (size_t)info.st_size;
        *mapping = mmap(NULL, *mapping_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (*mapping == MAP_FAILED) status = dsv4_error_set_io(path, "map", errno, error);
    }
    (void)close(fd); /* only read from: nothing to lose */
    return status;
}

dsv4_status dsv4_safetensors_open(const char *path, dsv4_safetensors **file, dsv4_error *error)
{
    void *mapping = NULL;
    size_t mapping_bytes = 0;
    DSV4_TRY(map_file(path, &mapping, &mapping_bytes, error));
    dsv4_status status = dsv4_safetensors_open_memory(path, mapping, mapping_bytes, file, error);
    if (status != DSV4_OK) {
        if (mapping != NULL) (void)munmap(mapping, mapping_bytes);
        return status;
    }
    (*file)->mapping = mapping;
    (*file)->mapping_bytes = mapping_bytes;
    return DSV4_OK;
}

void dsv4_safetensors_close(dsv4_safetensors *file)
{
    if (file == NULL) return;
    if (file->mapping != NULL) (void)munmap(file->mapping, file->mapping_bytes);
    free(file->strings);
    free(file->metadata);
    free(file->by_name);
    free(file->tensors);
    free(file);
}

int64_t dsv4_safetensors_n_tensors(const dsv4_safetensors *file)
{
    return file->n_tensors;
}

const dsv4_tensor_view *dsv4_safetensors_tensor(const dsv4_safetensors *file, int64_t i)
{
    assert(i >= 0 && i < file->n_tensors);
    return &file->tensors[i];
}

const dsv4_tensor_view *dsv4_safetensors_find(const dsv4_safetensors *file, const char *name)
{
    const dsv4_tensor_view **found = bsearch(name, file->by_name, (size_t)file->n_tensors,
                                             sizeof *file->by_name, compare_name_to_view);
    return found == NULL ? NULL : *found;
}

const char *dsv4_safetensors_metadata(const dsv4_safetensors *file, const char *key)
{
    for (int64_t i = 0; i < file->n_metadata; i++) {
        if (strcmp(file->metadata[i].key, key) == 0) return file->metadata[i].value;
    }
    return NULL;
}
