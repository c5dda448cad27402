/*
 * safetensors.h - reading and writing one safetensors file.
 *
 * Place: io. A file is an 8-byte little-endian header length, a JSON header (name -> dtype, shape,
 * data_offsets; optional "__metadata__" of strings), then the tensors' bytes. The reader maps the
 * file and checks everything before it returns: header length, JSON, every dtype, shape and offset,
 * byte counts, duplicate names; and, as the official library does, that the tensors cover the data
 * without overlap, hole or rest. Tensor data is not copied and not read.
 *
 * An open file is immutable: any number of threads may read it. Strings and data belong to the file
 * and end with dsv4_safetensors_close. A file that somebody else shortens while it is open is not
 * guarded against.
 */
#ifndef DSV4_IO_SAFETENSORS_H
#define DSV4_IO_SAFETENSORS_H

#include "dsv4/base.h"

#include <stdbool.h>

#define DSV4_SAFETENSORS_MAX_RANK         8
#define DSV4_SAFETENSORS_MAX_HEADER_BYTES 100000000u /* the official library's limit */

/* Element types of the format that this project meets; the file's other types are refused by name.
 */
enum {
    DSV4_SAFETENSORS_BOOL = 1,
    DSV4_SAFETENSORS_U8,
    DSV4_SAFETENSORS_I8,
    DSV4_SAFETENSORS_F8_E4M3,
    DSV4_SAFETENSORS_F8_E8M0,
    DSV4_SAFETENSORS_F16,
    DSV4_SAFETENSORS_BF16,
    DSV4_SAFETENSORS_I16,
    DSV4_SAFETENSORS_I32,
    DSV4_SAFETENSORS_F32,
    DSV4_SAFETENSORS_I64,
    DSV4_SAFETENSORS_F64
};

typedef struct dsv4_safetensors dsv4_safetensors;

typedef struct dsv4_tensor_view {
    const char *name;
    int32_t dtype; /* DSV4_SAFETENSORS_* */
    int32_t rank;  /* 0 .. 8 */
    /* Each >= 0. The product of the non-zero sizes and the element bytes fits in 63 bits. */
    int64_t shape[DSV4_SAFETENSORS_MAX_RANK];
    const void *data;  /* [shape] dtype, row-major; the format promises no alignment */
    int64_t len_bytes; /* product of shape times element bytes */
} dsv4_tensor_view;

/* Name in the format ("BF16"), and bytes per element; NULL and 0 for a value that is no dtype. */
const char *dsv4_safetensors_dtype_name(int32_t dtype);
int64_t dsv4_safetensors_dtype_bytes(int32_t dtype);

/*
 * The len_bytes that belongs to a view's dtype, rank and shape (all valid); false when the product
 * of the non-zero sizes does not fit in 63 bits.
 */
bool dsv4_tensor_view_bytes(const dsv4_tensor_view *view, int64_t *len_bytes);

/*
 * Opens and checks a file. *file is set on success only; close it with dsv4_safetensors_close.
 * Errors: IO (cannot open, map; not a regular file), BAD_FILE (the text names file, tensor, value
 * and rule; long names are cut to their end), OUT_OF_MEMORY (which can also show as BAD_FILE where
 * the JSON parser does not tell the two apart).
 */
dsv4_status dsv4_safetensors_open(const char *path, dsv4_safetensors **file, dsv4_error *error);

/* The same from memory that stays the caller's and must outlive the file. `path` is for error
 * texts. */
dsv4_status dsv4_safetensors_open_memory(const char *path, const void *bytes, size_t len_bytes,
                                         dsv4_safetensors **file, dsv4_error *error);

/* Accepts NULL. */
void dsv4_safetensors_close(dsv4_safetensors *file);

/* Tensors in the order of their data; empty ones at the same place in the header's order. */
int64_t dsv4_safetensors_n_tensors(const dsv4_safetensors *file);
const dsv4_tensor_view *dsv4_safetensors_tensor(const dsv4_safetensors *file, int64_t i);

/* By exact name; NULL when absent. */
const dsv4_tensor_view *dsv4_safetensors_find(const dsv4_safetensors *file, const char *name);

/* Value of a "__metadata__" key; NULL when absent. */
const char *dsv4_safetensors_metadata(const dsv4_safetensors *file, const char *key);

typedef struct dsv4_metadata_entry {
    const char *key, *value;
} dsv4_metadata_entry;

/*
 * Writes a file: tensors in the order given, packed without holes as the format demands. The data
 * starts at a multiple of 8 bytes in the file, so a tensor is 8-byte aligned when the sizes of all
 * tensors before it are multiples of 8. Replaces an existing file, or the one that a link names, only
 * after everything was written (temporary file beside it, then rename; not synced to the disk). What is
 * there must be a regular file: no device and no pipe is replaced.
 * Errors: INVALID_ARGUMENT (len_bytes does not match dtype and shape; a tensor name that is empty,
 * used twice or "__metadata__"; a metadata key used twice; text that is not UTF-8; a header over
 * the limit), IO, OUT_OF_MEMORY.
 */
dsv4_status dsv4_safetensors_write(const char *path, const dsv4_tensor_view *tensors,
                                   int64_t n_tensors, const dsv4_metadata_entry *metadata,
                                   int64_t n_metadata, dsv4_error *error);

#endif
