/*
 * layer_cache.h - what a model keeps per token between steps, and where it lies.
 *
 * Place: model; the memory and the page tables belong to kv, on the right. Five kinds of rows are paged,
 * each with page numbers of its own that all layers share:
 *
 *   WINDOW   row = token position           every layer: keys of the sliding window
 *   C4       row = group of 4 tokens        ratio-4 layers: compressed keys and indexer keys
 *   C128     row = group of 128 tokens      ratio-128 layers: compressed keys
 *   S4       row = token position           ratio-4 layers: raw compressor rows, main and indexer
 *   S128     row = token position           ratio-128 layers: raw compressor rows
 *
 * Row formats follow the numerics. Keys: 584-byte FP8 records, or 512 f32. Indexer keys: 64 bytes of e2m1
 * and 4 ue8m0 scales, or 128 f32. Raw compressor rows are K then G with its bias, f32 always.
 */
#ifndef DSV4_MODEL_LAYER_CACHE_H
#define DSV4_MODEL_LAYER_CACHE_H

#include <stdint.h>

#include "io/config.h"

enum {
    DSV4_CACHE_WINDOW = 0,
    DSV4_CACHE_C4,
    DSV4_CACHE_C128,
    DSV4_CACHE_S4,
    DSV4_CACHE_S128,
    DSV4_CACHE_N_KINDS
};

/* How the model computes. OFFICIAL: the roundings and quantizers of DeepSeek's own code. EXACT: f32. */
enum { DSV4_NUMERICS_OFFICIAL = 1, DSV4_NUMERICS_EXACT = 2 };

/* One layer's tensor of one kind: [n_pages, page_stride_bytes]. base is NULL where a layer has none. */
typedef struct dsv4_cache_tensor {
    unsigned char *base;
    int64_t page_stride_bytes;
} dsv4_cache_tensor;

typedef struct dsv4_layer_cache {
    dsv4_cache_tensor window, compressed, index_keys, state, index_state;
} dsv4_layer_cache;

typedef struct dsv4_cache {
    int32_t numerics;
    int64_t n_pages[DSV4_CACHE_N_KINDS];
    int64_t page_rows[DSV4_CACHE_N_KINDS];
    dsv4_layer_cache *layers; /* [n_layers + n_mtp_blocks] */
} dsv4_cache;

/* One sequence's page tables: pages[kind][row / page_rows] is a page number, -1 where none is held. */
typedef struct dsv4_cache_view {
    const int32_t *pages[DSV4_CACHE_N_KINDS];
    int64_t n_pages[DSV4_CACHE_N_KINDS]; /* lengths of the tables */
} dsv4_cache_view;

/* Kind of page table that a layer of this ratio uses for compressed keys and for raw rows; -1: none. */
int dsv4_cache_compressed_kind(int32_t ratio);
int dsv4_cache_state_kind(int32_t ratio);

/* Bytes of one row of each tensor under these numerics; 0 where a layer of this ratio has none. */
int64_t dsv4_cache_key_bytes(int32_t numerics);
int64_t dsv4_cache_index_key_bytes(int32_t numerics);
int64_t dsv4_cache_state_bytes(int32_t ratio);
int64_t dsv4_cache_index_state_bytes(int32_t ratio);

/* Slot of a row: page * page_rows + row in page, or -1 where the sequence holds no page for it. */
int32_t dsv4_cache_slot(const dsv4_cache *cache, const dsv4_cache_view *view, int kind,
                        int64_t row);

/* Address of a slot in a tensor of plain rows (not of FP8 records). */
unsigned char *dsv4_cache_row(const dsv4_cache *cache, const dsv4_cache_tensor *tensor, int kind,
                              int64_t row_bytes, int32_t slot);

/* Writes a finished key, values [512] f32, at a slot; in the FP8 format values 0..447 are quantized. */
void dsv4_cache_write_key(const dsv4_cache *cache, const dsv4_cache_tensor *tensor, int kind,
                          int32_t slot, const float *values);

/* Writes an indexer key [128] f32; in the FP4 format it is quantized, exactly if it was. */
void dsv4_cache_write_index_key(const dsv4_cache *cache, const dsv4_cache_tensor *tensor,
                                int32_t slot, const float *values);

#endif
