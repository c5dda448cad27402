/*
 * keys_read.cu - rows of a paged cache as bf16 or f32 in one launch, whole pages or single slots.
 *
 * Place: cuda. A warp reads ROWS rows, all loads first. A record is 584 bytes, a bf16 row 1,024.
 */
#include "keys_rows.cuh"
#include "launch.cuh"

enum { WARPS = 8, ROWS = 2 };

/* What a lane reads of a row: V values and their group's scale. */
template <int V> struct raw_piece {
    uint32_t words[V / 2];
    uint32_t scale;
};

__device__ __forceinline__ int32_t read_slot(const keys_read_args &a, int64_t i)
{
    if (a.slots != NULL) return a.slots[i];
    const uint32_t in_list = (uint32_t)i / a.cache.page_rows, row = (uint32_t)i % a.cache.page_rows;
    const int64_t slot = (int64_t)a.pages[in_list] * a.cache.page_rows + row;
    return slot >= 0 && slot < a.cache.n_slots ? (int32_t)slot : -1;
}

/* V codes with their scale, or V bf16. */
template <int V>
__device__ __forceinline__ void load_piece(const keys_cache_args &cache, const unsigned char *page,
                                           uint32_t row, int dim, raw_piece<V> &piece)
{
    const unsigned char *data = page + (int64_t)row * DATA_BYTES;
    if (dim >= NOPE_DIM) {
        load_words<V / 2>(data + NOPE_DIM + 2 * (dim - NOPE_DIM), piece.words);
        piece.scale = 0;
        return;
    }
    load_words<V / 4>(data + dim, piece.words);
    piece.scale = page[cache.scale_plane_bytes + (int64_t)row * SCALE_BYTES + dim / GROUP_DIM];
}

template <int V>
__device__ __forceinline__ void convert_piece(const raw_piece<V> &piece, int dim, float (&x)[V])
{
    if (dim >= NOPE_DIM) {
        for (int i = 0; i < V; i += 2) {
            x[i] = low_to_f32(piece.words[i / 2]);
            x[i + 1] = high_to_f32(piece.words[i / 2]);
        }
        return;
    }
    const float scale = scale_to_f32(piece.scale);
    for (int i = 0; i < V; i++) {
        x[i] = e4m3_to_f32(piece.words[i / 4] >> 8 * (i % 4) & 0xffu) * scale;
    }
}

template <int V>
__device__ __forceinline__ void read_records(const keys_read_args &a, int64_t first, int lane)
{
    enum { P = DIM / (32 * V) };
    raw_piece<V> pieces[ROWS][P];
    bool is_there[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        uint32_t row = 0;
        const unsigned char *page =
            first + r < a.n_rows ? find_page(a.cache, read_slot(a, first + r), &row) : NULL;
        is_there[r] = page != NULL;
        if (!is_there[r]) continue;
#pragma unroll
        for (int p = 0; p < P; p++) {
            load_piece<V>(a.cache, page, row, V * lane + 32 * V * p, pieces[r][p]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (first + r >= a.n_rows) continue;
#pragma unroll
        for (int p = 0; p < P; p++) {
            const int dim = V * lane + 32 * V * p;
            float x[V] = {};
            if (is_there[r]) convert_piece<V>(pieces[r][p], dim, x);
            store_values<V>(a.out.base + (first + r) * a.out.token_stride_bytes, dim, a.out.is_f32,
                            a.out.is_aligned, x);
        }
    }
}

/* Rows of f32. */
__device__ __forceinline__ void read_f32(const keys_read_args &a, int64_t i, int lane)
{
    uint32_t row = 0;
    const unsigned char *page = find_page(a.cache, read_slot(a, i), &row);
    for (int dim = 4 * lane; dim < DIM; dim += 128) {
        float x[4] = {};
        if (page != NULL)
            load_values<4>((const char *)page + (int64_t)row * (DIM * 4), dim, 1, 1, x);
        store_values<4>(a.out.base + i * a.out.token_stride_bytes, dim, a.out.is_f32,
                        a.out.is_aligned, x);
    }
}

/* V as in keys_finish.cu. */
template <int V>
__global__ static void __launch_bounds__(WARPS * 32)
    keys_read_kernel(const __grid_constant__ keys_read_args a)
{
    const int64_t first = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * ROWS;
    const int lane = threadIdx.x % 32;
    if (!a.cache.is_f32) {
        read_records<V>(a, first, lane);
        return;
    }
    for (int r = 0; r < ROWS && first + r < a.n_rows; r++) read_f32(a, first + r, lane);
}

cudaError_t dsv4_keys_read_launch(const keys_read_args *args, cudaStream_t stream)
{
    const unsigned n_blocks = (unsigned)((args->n_rows + WARPS * ROWS - 1) / (WARPS * ROWS));
    if (args->out.is_f32) {
        return launch_kernel(keys_read_kernel<4>, n_blocks, WARPS * 32, 0, stream, *args);
    }
    return launch_kernel(keys_read_kernel<8>, n_blocks, WARPS * 32, 0, stream, *args);
}
