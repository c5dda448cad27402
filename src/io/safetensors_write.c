/*
 * safetensors_write.c - the safetensors writer.
 *
 * Place: io, on Jansson for the header. What it writes, the reader of safetensors.c accepts. The
 * target is replaced by a rename, so a reader never sees half a file; it must be a regular file.
 */
#define _DEFAULT_SOURCE /* realpath */
#include "io/safetensors.h"

#include "base/checked.h"
#include "base/error.h"
#include "io/file_error.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LENGTH_FIELD_BYTES 8 /* the header length before the header */
#define DATA_ALIGN_BYTES   8
#define METADATA_NAME      "__metadata__"

/* INVALID_ARGUMENT with "<path>: <kind> '<name>': <text>". */
static dsv4_status bad_argument(const char *path, const char *kind, const char *name,
                                dsv4_error *error, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
static dsv4_status bad_argument(const char *path, const char *kind, const char *name,
                                dsv4_error *error, const char *format, ...)
{
    char text[DSV4_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT, "%s: %s '%s': %s",
                          dsv4_shorten(path).text, kind, dsv4_shorten(name).text, text);
}

static dsv4_status check_view(const char *path, const dsv4_tensor_view *view, dsv4_error *error)
{
    const char *name = view->name == NULL ? "" : view->name;
    if (name[0] == '\0' || strcmp(name, METADATA_NAME) == 0) {
        return bad_argument(path, "tensor", name, error,
                            "the name is empty or reserved, expected another");
    }
    if (dsv4_safetensors_dtype_name(view->dtype) == NULL) {
        return bad_argument(path, "tensor", name, error, "dtype is %" PRId32 ", expected %d .. %d",
                            view->dtype, DSV4_SAFETENSORS_BOOL, DSV4_SAFETENSORS_F64);
    }
    if (view->rank < 0 || view->rank > DSV4_SAFETENSORS_MAX_RANK) {
        return bad_argument(path, "tensor", name, error, "rank is %" PRId32 ", expected 0 .. %d",
                            view->rank, DSV4_SAFETENSORS_MAX_RANK);
    }
    for (int32_t i = 0; i < view->rank; i++) {
        if (view->shape[i] < 0) {
            return bad_argument(path, "tensor", name, error,
                                "shape[%" PRId32 "] is %" PRId64 ", expected >= 0", i,
                                view->shape[i]);
        }
    }
    int64_t expected_bytes;
    if (!dsv4_tensor_view_bytes(view, &expected_bytes)) {
        return bad_argument(path, "tensor", name, error,
                            "the product of its shape is too big, expected less than 2^63 bytes");
    }
    if (view->len_bytes != expected_bytes) {
        return bad_argument(path, "tensor", name, error,
                            "len_bytes is %" PRId64 ", expected %" PRId64 " from dtype and shape",
                            view->len_bytes, expected_bytes);
    }
    if (view->data == NULL && expected_bytes > 0) {
        return bad_argument(path, "tensor", name, error, "data is NULL, expected %" PRId64 " bytes",
                            expected_bytes);
    }
    return DSV4_OK;
}

/* Takes over `value`, which may be NULL when it could not be made. `kind` and `name` are for the
 * error text: "tensor", the tensor's name. */
static dsv4_status set_member(json_t *object, const char *kind, const char *name, json_t *value,
                              const char *path, dsv4_error *error)
{
    if (json_object_get(object, name) != NULL) {
        json_decref(value);
        return bad_argument(path, kind, name, error, "the name is used twice, expected once");
    }
    if (json_object_set_new(object, name, value) == 0) return DSV4_OK;
    return dsv4_error_set_memory(path, error);
}

/* Jansson refuses other text too, but as if an allocation had failed. */
static bool is_utf8(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    while (*p != '\0') {
        unsigned first = *p++;
        if (first < 0x80) continue;
        int n_more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
        if (first < 0xc2 || first > 0xf4) return false;
        unsigned code = first & (0x3fu >> n_more);
        for (int i = 0; i < n_more; i++, p++) {
            if ((*p & 0xc0) != 0x80) return false;
            code = code << 6 | (*p & 0x3fu);
        }
        static const unsigned least[] = {0, 0x80, 0x800, 0x10000};
        bool is_surrogate = code >= 0xd800 && code <= 0xdfff;
        if (code < least[n_more] || code > 0x10ffff || is_surrogate) return false;
    }
    return true;
}

static dsv4_status check_utf8(const char *path, const char *kind, const char *name,
                              const char *text, dsv4_error *error)
{
    if (is_utf8(text)) return DSV4_OK;
    return bad_argument(path, kind, name, error, "not valid UTF-8, expected UTF-8 text");
}

/* The header's entry of one tensor; NULL when out of memory. */
static json_t *create_entry(const dsv4_tensor_view *view, int64_t begin, int64_t end)
{
    json_t *entry = json_object();
    json_t *shape = json_array();
    json_t *offsets = json_array();
    int failed = 0;
    for (int32_t i = 0; i < view->rank; i++) {
        failed |= json_array_append_new(shape, json_integer(view->shape[i]));
    }
    failed |= json_array_append_new(offsets, json_integer(begin));
    failed |= json_array_append_new(offsets, json_integer(end));
    failed |=
        json_object_set_new(entry, "dtype", json_string(dsv4_safetensors_dtype_name(view->dtype)));
    failed |= json_object_set_new(entry, "shape", shape);
    failed |= json_object_set_new(entry, "data_offsets", offsets);
    if (failed == 0) return entry;
    json_decref(entry);
    return NULL;
}

static dsv4_status fill_metadata(const char *path, json_t *object,
                                 const dsv4_metadata_entry *metadata, int64_t n_metadata,
                                 dsv4_error *error)
{
    for (int64_t i = 0; i < n_metadata; i++) {
        const char *key = metadata[i].key, *value = metadata[i].value;
        assert(key != NULL && value != NULL);
        DSV4_TRY(check_utf8(path, "metadata", key, key, error));
        DSV4_TRY(check_utf8(path, "metadata", key, value, error));
        DSV4_TRY(set_member(object, "metadata", key, json_string(value), path, error));
    }
    return DSV4_OK;
}

static dsv4_status fill_tensors(const char *path, json_t *root, const dsv4_tensor_view *tensors,
                                int64_t n_tensors, dsv4_error *error)
{
    int64_t begin = 0;
    for (int64_t i = 0; i < n_tensors; i++) {
        const dsv4_tensor_view *view = &tensors[i];
        DSV4_TRY(check_view(path, view, error));
        DSV4_TRY(check_utf8(path, "tensor", view->name, view->name, error));
        int64_t end;
        if (!dsv4_checked_add_i64(begin, view->len_bytes, &end)) {
            return bad_argument(path, "tensor", view->name, error,
                                "the data end beyond 2^63 - 1, expected a smaller file");
        }
        DSV4_TRY(
            set_member(root, "tensor", view->name, create_entry(view, begin, end), path, error));
        begin = end;
    }
    return DSV4_OK;
}

/* The length field and the header padded with spaces, *len_bytes in all; freed by the caller. */
static dsv4_status print_header(const char *path, const json_t *root, char **bytes,
                                size_t *len_bytes, dsv4_error *error)
{
    size_t text_bytes = json_dumpb(root, NULL, 0, JSON_COMPACT);
    if (text_bytes == 0) return dsv4_error_set_memory(path, error);
    size_t header_bytes = (text_bytes + DATA_ALIGN_BYTES - 1) / DATA_ALIGN_BYTES * DATA_ALIGN_BYTES;
    if (header_bytes > DSV4_SAFETENSORS_MAX_HEADER_BYTES) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "%s: the header would have %zu bytes, expected at most %u",
                              dsv4_shorten(path).text, header_bytes,
                              DSV4_SAFETENSORS_MAX_HEADER_BYTES);
    }
    char *result = malloc(LENGTH_FIELD_BYTES + header_bytes);
    if (result == NULL) return dsv4_error_set_memory(path, error);
    for (int i = 0; i < LENGTH_FIELD_BYTES; i++) {
        result[i] = (char)((uint64_t)header_bytes >> (8 * i) & 0xff);
    }
    memset(result + LENGTH_FIELD_BYTES, ' ', header_bytes);
    if (json_dumpb(root, result + LENGTH_FIELD_BYTES, text_bytes, JSON_COMPACT) != text_bytes) {
        free(result);
        return dsv4_error_set_memory(path, error);
    }
    *bytes = result;
    *len_bytes = LENGTH_FIELD_BYTES + header_bytes;
    return DSV4_OK;
}

static dsv4_status create_header(const char *path, const dsv4_tensor_view *tensors,
                                 int64_t n_tensors, const dsv4_metadata_entry *metadata,
                                 int64_t n_metadata, char **bytes, size_t *len_bytes,
                                 dsv4_error *error)
{
    dsv4_status status = DSV4_OK;
    json_t *root = json_object();
    if (root == NULL) return dsv4_error_set_memory(path, error);
    if (n_metadata > 0) {
        json_t *object = json_object();
        status = set_member(root, "metadata", METADATA_NAME, object, path, error);
        if (status == DSV4_OK) status = fill_metadata(path, object, metadata, n_metadata, error);
    }
    if (status == DSV4_OK) status = fill_tensors(path, root, tensors, n_tensors, error);
    if (status == DSV4_OK) status = print_header(path, root, bytes, len_bytes, error);
    json_decref(root);
    return status;
}

static bool write_all(int fd, const char *bytes, size_t len_bytes)
{
    while (len_bytes > 0) {
        ssize_t n_written = write(fd, bytes, len_bytes);
        if (n_written < 0) {
            if (errno == EINTR) continue;
            return false;
        }
        bytes += n_written;
        len_bytes -= (size_t)n_written;
    }
    return true;
}

/*
 * The file that a write to `path` replaces: where that is a link, what it names. *target is malloc'ed. A
 * rename would replace a device or a pipe too, which no one who names one wants.
 */
static dsv4_status find_target(const char *path, char **target, dsv4_error *error)
{
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) {
        return dsv4_error_set(error, DSV4_ERROR_IO, "%s: cannot replace: expected a regular file",
                              dsv4_shorten(path).text);
    }
    bool is_link = lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
    *target = is_link ? realpath(path, NULL) : strdup(path);
    if (*target != NULL) return DSV4_OK;
    return errno == ENOMEM ? dsv4_error_set_memory(path, error)
                           : dsv4_error_set_io(path, "replace", errno, error);
}

/*
 * Opens a new file beside `path` and writes its name to temporary_path, which holds name_bytes.
 * Not mkstemp: that would give the file mode 0600 instead of the umask's.
 */
static int create_temporary(const char *path, char *temporary_path, size_t name_bytes)
{
    int fd = -1;
    errno = EEXIST;
    for (int i = 0; i < 1000 && fd < 0 && errno == EEXIST; i++) {
        (void)snprintf(temporary_path, name_bytes, "%s.%d.tmp", path, i);
        fd = open(temporary_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    return fd;
}

/* Writes header and tensors to a temporary file and makes it `path`. */
static dsv4_status write_file(const char *path, const char *header, size_t header_bytes,
                              const dsv4_tensor_view *tensors, int64_t n_tensors, dsv4_error *error)
{
    size_t name_bytes = strlen(path) + sizeof ".999.tmp";
    char *temporary_path = malloc(name_bytes);
    if (temporary_path == NULL) return dsv4_error_set_memory(path, error);
    int fd = create_temporary(path, temporary_path, name_bytes);
    if (fd < 0) {
        dsv4_status status =
            dsv4_error_set_io(path, "create a temporary file beside it", errno, error);
        free(temporary_path);
        return status;
    }
    bool written = write_all(fd, header, header_bytes);
    for (int64_t i = 0; i < n_tensors && written; i++) {
        written = write_all(fd, tensors[i].data, (size_t)tensors[i].len_bytes);
    }
    int write_errno = errno;
    if (close(fd) != 0 && written) {
        written = false;
        write_errno = errno;
    }
    dsv4_status status = DSV4_OK;
    if (!written) {
        status = dsv4_error_set_io(path, "write", write_errno, error);
    } else if (rename(temporary_path, path) != 0) {
        status = dsv4_error_set_io(path, "replace", errno, error);
    }
    if (status != DSV4_OK) (void)unlink(temporary_path);
    free(temporary_path);
    return status;
}

dsv4_status dsv4_safetensors_write(const char *path, const dsv4_tensor_view *tensors,
                                   int64_t n_tensors, const dsv4_metadata_entry *metadata,
                                   int64_t n_metadata, dsv4_error *error)
{
    char *header = NULL;
    size_t header_bytes = 0;
    DSV4_TRY(create_header(path, tensors, n_tensors, metadata, n_metadata, &header, &header_bytes,
                           error));
    char *target = NULL;
    dsv4_status status = find_target(path, &target, error);
    if (status == DSV4_OK) {
        status = write_file(target, header, header_bytes, tensors, n_tensors, error);
    }
    free(target);
    free(header);
    return status;
}
