/*
 * file_read.h - a small file as one block of memory.
 *
 * Place: io. For JSON files, whose size has a limit; tensors are mapped by safetensors.c instead.
 */
#ifndef DSV4_IO_FILE_READ_H
#define DSV4_IO_FILE_READ_H

#include "dsv4/base.h"

/*
 * Reads a regular file. *bytes is the caller's to free, never NULL on success, set on success only.
 * Errors: IO (cannot open or read, not a regular file), BAD_FILE (longer than max_bytes),
 * OUT_OF_MEMORY.
 */
dsv4_status dsv4_file_read(const char *path, size_t max_bytes, void **bytes, size_t *len_bytes,
                           dsv4_error *error);

#endif
