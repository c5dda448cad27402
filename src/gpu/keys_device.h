/*
 * keys_device.h - what the host and the kernels of dsv4/keys.h say to each other.
 *
 * Place: gpu; the same for every device. Plain structs, passed by value; fields are those of the public params unless a
 * comment says otherwise. `is_aligned`: the tensor and its strides are multiples of 16 bytes.
 */
#ifndef DSV4_GPU_KEYS_DEVICE_H
#define DSV4_GPU_KEYS_DEVICE_H

#include <stdint.h>

/* Threads of a block: of finish and read, a wave for some rows; of compress. */
enum {
    KEYS_ROW_THREADS = 256,
    KEYS_READ_ROWS = 2, /* of a wave, at once */
    KEYS_COMPRESS_4_THREADS = 128,
    KEYS_COMPRESS_128_THREADS = 512,
    KEYS_CLUSTER_THREADS = 256, /* of compress for ratio 128 */
    KEYS_CLUSTER_BLOCKS = 8
};

typedef struct keys_cache_args {
    unsigned char *pages;
    int64_t page_stride_bytes;
    int64_t scale_plane_bytes; /* page_rows * 576 */
    uint32_t n_slots;          /* valid slots are below it, at most 2^31 */
    uint32_t page_rows;
    int32_t is_f32; /* rows of 512 f32, else records */
} keys_cache_args;

typedef struct keys_rope_args {
    const float *table; /* [n_rows, 64] */
    const int32_t *rows;
    uint32_t n_rows;
} keys_rope_args;

/* Rows of 512 values. */
typedef struct keys_tensor_args {
    char *base;
    int64_t token_stride_bytes, head_stride_bytes;
    int32_t is_f32, is_aligned;
} keys_tensor_args;

typedef struct keys_finish_args {
    int64_t n_rows;          /* n_tokens * rows_per_token */
    uint32_t rows_per_token; /* the heads, then the key if there is one */
    uint32_t n_heads;
    float norm_eps;
    int32_t is_official;
    int32_t is_bf16; /* q, out and kv: the kernel may be the one for that */
    keys_tensor_args q, out, kv;
    const uint16_t *kv_norm;
    keys_cache_args window;
    const int32_t *slots;
    keys_rope_args rope;
} keys_finish_args;

typedef struct keys_compress_args {
    int64_t n_tokens;
    int32_t n_requests;
    float norm_eps;
    int32_t is_official;
    int32_t raw_is_aligned; /* k, g, ape */
    const int32_t *requests, *positions;
    const char *k, *g;
    int64_t k_token_stride_bytes, g_token_stride_bytes;
    const float *ape;
    const uint16_t *norm;
    char *state;
    int64_t n_state_pages, state_page_stride_bytes;
    uint32_t state_page_rows, n_table_pages;
    const char *tables;
    int64_t table_stride_bytes;
    keys_cache_args compressed;
    const int32_t *slots;
    keys_rope_args rope; /* rows NULL: the group's first position */
} keys_compress_args;

typedef struct keys_read_args {
    int64_t n_rows;
    keys_cache_args cache;
    const int32_t *slots, *pages; /* one of them is NULL */
    keys_tensor_args out;         /* token stride: that of rows */
} keys_read_args;

#endif
