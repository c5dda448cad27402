/*
 * file_read.c - a small file as one block of memory.
 *
 * Place: io. Reads at most the size that the file had when it was opened.
 */
#include "io/file_read.h"

#include "base/error.h"
#include "io/file_error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Fills bytes from fd; *len_bytes is their room before and their number after. */
static dsv4_status read_all(const char *path, int fd, char *bytes, size_t *len_bytes,
                            dsv4_error *error)
{
    size_t n_read = 0;
    while (n_read < *len_bytes) {
        ssize_t n = read(fd, bytes + n_read, *len_bytes - n_read);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return dsv4_error_set_io(path, "read", errno, error);
        if (n == 0) break;
        n_read += (size_t)n;
    }
    *len_bytes = n_read;
    return DSV4_OK;
}

static dsv4_status read_open_file(const char *path, int fd, size_t max_bytes, void **bytes,
                                  size_t *len_bytes, dsv4_error *error)
{
    struct stat info;
    if (fstat(fd, &info) != 0) return dsv4_error_set_io(path, "stat", errno, error);
    if (!S_ISREG(info.st_mode)) {
        return dsv4_error_set(error, DSV4_ERROR_IO, "%s: cannot read: expected a regular file",
                              dsv4_shorten(path).text);
    }
    size_t file_bytes = (size_t)info.st_size;
    if (file_bytes > max_bytes) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%s: the file has %zu bytes, expected at most %zu",
                              dsv4_shorten(path).text, file_bytes, max_bytes);
    }
    char *block = malloc(file_bytes + 1); /* an allocation of nothing may return NULL */
    if (block == NULL) return dsv4_error_set_memory(path, error);
    dsv4_status status = read_all(path, fd, block, &file_bytes, error);
    if (status != DSV4_OK) {
        free(block);
        return status;
    }
    *bytes = block;
    *len_bytes = file_bytes;
    return DSV4_OK;
}

dsv4_status dsv4_file_read(const char *path, size_t max_bytes, void **bytes, size_t *len_bytes,
                           dsv4_error *error)
{
    /* Without O_NONBLOCK, opening a pipe would wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return dsv4_error_set_io(path, "open", errno, error);
    dsv4_status status = read_open_file(path, fd, max_bytes, bytes, len_bytes, error);
    (void)close(fd); /* only read from: nothing to lose */
    return status;
}
