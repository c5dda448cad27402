/*
 * dsv4/cache.h - the paged FP8 cache record that DeepSeek-V4's attention reads.
 *
 * One cached token is 584 bytes, split over two planes of its page (page-planar; the layout that
 * FlashMLA calls MODEL1 and vLLM fp8_ds_mla; docs/layouts.md):
 *
 *   page + i * 576                  448 e4m3 codes (dims 0..447), then 64 little-endian bf16
 *                                   (dims 448..511, already rotated)
 *   page + page_rows * 576 + i * 8  7 ue8m0 scale bytes (dims 0..63, 64..127, ..., 384..447),
 *                                   then one zero
 *
 * value = e4m3 * 2^(scale byte - 127). A slot is page * page_rows + row: a signed 32-bit number in
 * index lists; byte offsets are 64-bit everywhere. These functions are pure and thread-safe on
 * disjoint rows.
 */
#ifndef DSV4_CACHE_H
#define DSV4_CACHE_H

#include "dsv4/base.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DSV4_CACHE_DIM              512 /* values in a row */
#define DSV4_CACHE_FP8_DIM          448 /* of which stored as e4m3, in groups of 64 */
#define DSV4_CACHE_ROPE_DIM         64  /* of which stored as bf16 */
#define DSV4_CACHE_GROUP_DIM        64  /* values that share one scale */
#define DSV4_CACHE_N_GROUPS         7   /* scale bytes in a row */
#define DSV4_CACHE_DATA_BYTES       576 /* distance of rows in the data plane */
#define DSV4_CACHE_SCALE_BYTES      8   /* distance of rows in the scale plane */
#define DSV4_CACHE_RECORD_BYTES     584 /* both together */
#define DSV4_CACHE_PAGE_ALIGN_BYTES 576 /* peers round the page stride up to a multiple of this */

/*
 * Bytes from one page to the next as peers lay pages out: page_rows * 584 rounded up to a multiple
 * of 576 (64 rows: 37440). Returns 0 when page_rows < 1 or the result does not fit.
 */
DSV4_API int64_t dsv4_cache_page_stride_bytes(int64_t page_rows);

/*
 * Writes one row: quantizes values 0..447 in 7 groups of 64 with power-of-two scales rounded up
 * (scale = 2^ceil(log2(max(amax, 1e-4) / 448))), rounds values 448..511 to bf16, zeroes the pad
 * byte. A NaN becomes code 0x7f and does not count in its group's amax; an infinity saturates to
 * +-448 of a group whose scale is the largest.
 *   page    the page's first byte; at least page_rows * 584 bytes; any alignment
 *   row     0 .. page_rows - 1
 *   values  [512] f32, unit stride
 */
DSV4_API void dsv4_cache_row_write(void *page, int64_t page_rows, int64_t row, const float *values);

/*
 * Reads one row back to f32, exactly (products of 2^128 and more are infinite). NaN codes, NaN scale bytes (255) and bf16 NaNs give NaN.
 *   values  [512] f32, unit stride, written
 */
DSV4_API void dsv4_cache_row_read(const void *page, int64_t page_rows, int64_t row, float *values);

#ifdef __cplusplus
}
#endif

#endif
