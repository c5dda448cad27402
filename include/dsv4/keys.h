/*
 * dsv4/keys.h - what stands beside DeepSeek-V4's decode attention: making its queries and keys, as
 * stateless operations of one launch each.
 *
 *   dsv4_keys_finish    query norm and rotation; norm, rotation, quantization and insertion of the
 *                       window key
 *   dsv4_keys_compress  the compressor's step: raw rows into its state, and where a group of tokens
 *                       ends, the group's key into the compressed cache
 *   dsv4_keys_read      rows of a paged cache back as bf16 or f32, whole pages or single slots
 *
 * A batch is a list of tokens of any requests; what belongs to a token (its position, its slots)
 * stands in lists in device memory, so that a captured graph can be replayed with other contents.
 * docs/keys.md has the equations.
 *
 * Rules, the same in all three and on every device:
 *   - A slot is page * page_rows + row, below 2^31. One that is < 0 or >= n_pages * page_rows names no row:
 *     nothing is inserted there, and what is read from it is zeros. Two tokens of a call must not insert
 *     into the same slot.
 *   - A rotation is given as a row of rope_table [n_rope_rows, 64] f32: the 32 cosines, then the 32
 *     sines of the angles of pairs (dims 448 + 2i, 449 + 2i). A row outside the table makes the 64
 *     rotated values NaN.
 *   - Bytes of outputs and caches are equal on all backends, with two exceptions: which NaN a bf16 or f32
 *     NaN is; and the sum of squares of a norm, in f64 and in an order of the backend's own, may differ by
 *     2^-50 of itself, so that one row in about 2^25 may be scaled by a neighbouring f32.
 *   - Nothing is allocated, nothing is kept, no result is waited for: all memory is the caller's. Calls on
 *     disjoint outputs may run at the same time.
 *
 * backend, stream, n_threads as in dsv4/attn.h. CUDA: pointers are device memory, the device is sm_80 or
 * later; caches and their page strides are multiples of 16 bytes; other tensors need the alignment of their
 * element, and are fastest when they and their strides are multiples of 16 bytes. HIP: the same, the device is
 * gfx950 or gfx942; the first call on a device, of these or of dsv4/attn.h, loads the kernels, which is not for
 * captures. These kernels have been compiled and tested without hardware, and never run on a device.
 */
#ifndef DSV4_KEYS_H
#define DSV4_KEYS_H

#include "dsv4/attn.h"
#include "dsv4/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A paged cache of keys: the scope of dsv4_attn_params without its lists. */
typedef struct dsv4_keys_cache {
    void *pages; /* [n_pages, page_stride_bytes] u8: records of dsv4/cache.h, or rows of 512 f32 */
    int64_t n_pages;           /* 0: no slot is valid */
    int64_t page_rows;         /* rows per page, 1 .. 2^20 */
    int64_t page_stride_bytes; /* >= page_rows * 584 (FP8) or 2048 (F32) */
    int32_t row_format;        /* DSV4_ATTN_ROWS_* */
    int32_t reserved;          /* 0 */
} dsv4_keys_cache;

/*
 * Queries and window keys of a batch, after their projections and before the attention.
 *
 *   q   each head:  q * rsqrt(mean(q^2) + norm_eps), without weight, then rotation
 *   kv  each token: kv * rsqrt(mean(kv^2) + norm_eps) * kv_norm, then rotation, then the cache's format
 *
 * math EXACT (or AUTO): f32 from inputs to outputs, rounded once. OFFICIAL: rounded to bf16 where DeepSeek's own code
 * does: inputs, squares, their mean, mean + eps, its inverse root and the scaled query; the scaled key;
 * rotated values.
 */
typedef struct dsv4_keys_finish_params {
    uint64_t size; /* sizeof(dsv4_keys_finish_params) of the caller */

    int64_t n_tokens;  /* 0 .. 2^20; 0 does nothing */
    int64_t n_heads;   /* 0 .. 128; 0: keys alone */
    float norm_eps;    /* finite, >= 0 */
    int32_t backend;   /* DSV4_BACKEND_* */
    int32_t math;      /* DSV4_ATTN_MATH_AUTO, _EXACT or _OFFICIAL */
    int32_t n_threads; /* CPU threads, 1 .. 1024; 0: as many as OpenMP would use */
    int32_t q_dtype;   /* DSV4_DTYPE_* of q */
    int32_t out_dtype; /* DSV4_DTYPE_* of out */
    int32_t kv_dtype;  /* DSV4_DTYPE_* of kv */
    int32_t reserved;  /* 0 */

    const void *q; /* [n_tokens, n_heads, 512] q_dtype, unit stride inside a head */
    int64_t q_token_stride_bytes;
    int64_t q_head_stride_bytes;
    void *
        out; /* [n_tokens, n_heads, 512] out_dtype, written; may be q with the same strides and dtype,
                  else must not overlap an input */
    int64_t out_token_stride_bytes; /* no two heads of the output may overlap */
    int64_t out_head_stride_bytes;

    const void *kv; /* [n_tokens, 512] kv_dtype, unit stride inside a row; NULL: queries alone */
    int64_t kv_token_stride_bytes;
    const uint16_t *kv_norm; /* [512] bf16, or NULL: ones */
    dsv4_keys_cache window;  /* written at slots; ignored without kv */
    const int32_t *slots;    /* [n_tokens] i32, dense: where a token's key goes */

    const float *rope_table;  /* [n_rope_rows, 64] f32 */
    int64_t n_rope_rows;      /* 1 .. 2^31 - 1 */
    const int32_t *rope_rows; /* [n_tokens] i32, dense: table row of each token's position */
} dsv4_keys_finish_params;

/* Fills every field: size, norm_eps 1e-6, dtypes bf16, page_rows 64, everything else zero or NULL. */
DSV4_API void dsv4_keys_finish_params_default(dsv4_keys_finish_params *params);

/*
 * Writes out and the rows of window that slots name; a token without a valid slot inserts nothing.
 *   stream  a cudaStream_t or hipStream_t, NULL on the CPU
 * Errors: INVALID_ARGUMENT (the text names field, value and rule), UNSUPPORTED (no such backend
 * here), DEVICE (a launch failed). Then nothing was written.
 */
DSV4_API dsv4_status dsv4_keys_finish(void *stream, const dsv4_keys_finish_params *params,
                                      dsv4_error *error);

/*
 * One step of a compressor of width 512. A token's raw row is K, and G with the position's bias:
 * width f32 each, where width is 512 for ratio 128 and 1024 (two halves of 512) for ratio 4:
 *
 *   raw row of position p:  K_p = k,  G_p = g + ape[p mod ratio]
 *
 * The token at p = (j + 1) * ratio - 1 ends group j. Per channel, over the rows s of the group (ratio
 * 4: the four of group j - 1 with their first half and the four of group j with their second):
 *
 *   key = sum_s softmax_s(G_s) K_s
 *   key = key * rsqrt(mean(key^2) + norm_eps) * norm, rotated at the group's FIRST position
 *
 * math EXACT (or AUTO): f32; OFFICIAL: rounded to bf16 after the sum, the norm and the rotation. Rows before
 * position 0 do not count. The softmax is computed in runs of eight rows, each relative to its own
 * maximum; sums are in ascending order within a run and then over runs; the exponential is the
 * polynomial of src/num/exp.h: the same bits everywhere.
 *
 * State: raw rows [K, G] f32 in pages, found through a page table per request. The row of position p lies in page
 * tables[request][p / page_rows mod n_table_pages] at row p mod page_rows: a table as long as the
 * sequence keeps every row, a shorter one makes a ring. The ring must hold the rows of a group (ratio 128: 128;
 * ratio 4: 8) and the tokens that a call adds to a request, and as many more rows as the request may be
 * rewound by: rewinding is to go on with a lower position. A page number < 0 or >= n_pages is no place: such a
 * row is not stored, and does not count where it is needed.
 *
 * Tokens of one request must stand next to each other in the batch, with positions that go up by one. What a
 * group needs of the call's own tokens is taken from k and g.
 */
typedef struct dsv4_keys_compress_params {
    uint64_t size; /* sizeof(dsv4_keys_compress_params) of the caller */

    int64_t n_tokens;   /* 0 .. 2^20; 0 does nothing */
    int64_t n_requests; /* rows of tables, 1 .. 2^20 */
    int32_t ratio;      /* 4 or 128 */
    float norm_eps;     /* finite, >= 0 */
    int32_t backend;    /* DSV4_BACKEND_* */
    int32_t math;       /* DSV4_ATTN_MATH_AUTO, _EXACT or _OFFICIAL */
    int32_t n_threads;  /* CPU threads, 1 .. 1024; 0: as many as OpenMP would use */
    int32_t reserved;   /* 0 */

    const int32_t
        *requests; /* [n_tokens] i32, dense: row of tables; outside it the token is padding */
    const int32_t
        *positions; /* [n_tokens] i32, dense; < 0: the token is padding, nothing is done */

    const float *k; /* [n_tokens, width] f32, unit stride inside a row */
    int64_t k_token_stride_bytes;
    const float *g; /* [n_tokens, width] f32, without the bias */
    int64_t g_token_stride_bytes;
    const float *ape;     /* [ratio, width] f32, dense */
    const uint16_t *norm; /* [512] bf16, or NULL: ones */

    void *state; /* [n_state_pages, state_page_stride_bytes]: row i of a page is [2, width] f32 at
                    i * 8 * width bytes; aligned to 4 bytes, on GPUs to 16; read and written */
    int64_t n_state_pages;   /* 0 .. */
    int64_t state_page_rows; /* 1 .. 2^20 */
    int64_t
        state_page_stride_bytes; /* >= state_page_rows * 8 * width; a multiple of 4, on GPUs of 16 */
    const int32_t *tables;       /* [n_requests, n_table_pages] i32 page numbers */
    int64_t n_table_pages;       /* 1 .. 2^24 */
    int64_t table_stride_bytes;  /* from a request to the next; a multiple of 4 */

    dsv4_keys_cache compressed; /* written at slots */
    const int32_t *slots; /* [n_tokens] i32, dense: where the key of the group goes that the token
                                   ends; not read for other tokens */

    const float *rope_table; /* [n_rope_rows, 64] f32 */
    int64_t n_rope_rows;     /* 1 .. 2^31 - 1 */
    const int32_t
        *rope_rows; /* [n_tokens] i32, dense: table row of the FIRST position of the group that
                                 the token ends; NULL: row p of the table is position p */
} dsv4_keys_compress_params;

/* Fills every field: size, ratio 4, norm_eps 1e-6, page_rows 64, everything else zero or NULL. */
DSV4_API void dsv4_keys_compress_params_default(dsv4_keys_compress_params *params);

/* Writes state and the rows of compressed. stream and errors as dsv4_keys_finish. */
DSV4_API dsv4_status dsv4_keys_compress(void *stream, const dsv4_keys_compress_params *params,
                                        dsv4_error *error);

/*
 * Rows of a cache as numbers. slots given: row i of out is that slot. pages given: row i of out is row i mod
 * page_rows of page pages[i / page_rows]. Values are exact in f32 (products of 2^128 and more infinite), and
 * rounded to nearest even in bf16.
 */
typedef struct dsv4_keys_read_params {
    uint64_t size; /* sizeof(dsv4_keys_read_params) of the caller */

    int64_t n_rows;    /* rows of out, 0 .. 2^30; 0 does nothing */
    int32_t backend;   /* DSV4_BACKEND_* */
    int32_t n_threads; /* CPU threads, 1 .. 1024; 0: as many as OpenMP would use */
    int32_t out_dtype; /* DSV4_DTYPE_* of out */
    int32_t reserved;  /* 0 */

    dsv4_keys_cache cache; /* read */
    const int32_t *slots;  /* [n_rows] i32, dense; exactly one of slots and pages is given */
    const int32_t *pages;  /* [ceil(n_rows / page_rows)] i32 page numbers, dense; invalid: zeros */

    void *out;                    /* [n_rows, 512] out_dtype, unit stride inside a row, written */
    int64_t out_row_stride_bytes; /* >= a row, a multiple of the element */
} dsv4_keys_read_params;

/* Fills every field: size, out_dtype bf16, page_rows 64, everything else zero or NULL. */
DSV4_API void dsv4_keys_read_params_default(dsv4_keys_read_params *params);

/* Writes out. stream and errors as dsv4_keys_finish. */
DSV4_API dsv4_status dsv4_keys_read(void *stream, const dsv4_keys_read_params *params,
                                    dsv4_error *error);

#ifdef __cplusplus
}
#endif

#endif
