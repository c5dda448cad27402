/*
 * keys_finish.cu - query norm and rotation, window key norm, rotation, quantization and insertion: one launch.
 *
 * Place: cuda. A warp for each row, which it reads once: the heads of a token and then its key. Bound by
 * memory: 1 KB in and 1 KB out for a bf16 head.
 */
#include "keys_rows.cuh"
#include "launch.cuh"

enum { WARPS = 8 };

/* x [P][V]: a row, in place; squares and factor rounded to bf16 as DeepSeek's code does (specification 3.2). */
template <int V, int P>
__device__ __forceinline__ void normalize_official(float (&x)[P][V], float eps)
{
    double sum = 0.0;
    for (int p = 0; p < P; p++) {
        for (int i = 0; i < V; i++) sum += (double)round_to_bf16(x[p][i] * x[p][i]);
    }
    sum = sum_lanes(sum, 32);
    const float mean = round_to_bf16(round_to_bf16((float)sum / (float)DIM) + eps);
    const float factor = round_to_bf16(1.0f / sqrtf(mean));
    for (int p = 0; p < P; p++) {
        for (int i = 0; i < V; i++) x[p][i] = round_to_bf16(x[p][i] * factor);
    }
}

template <int V, int P> __device__ __forceinline__ void normalize(float (&x)[P][V], float eps)
{
    double sum = 0.0;
    for (int p = 0; p < P; p++) {
        /* The product is exact, so this is one rounding as in the reference. */
        for (int i = 0; i < V; i++) sum = __fma_rn((double)x[p][i], (double)x[p][i], sum);
    }
    const float factor = norm_factor(sum_lanes(sum, 32), eps);
    for (int p = 0; p < P; p++) {
        for (int i = 0; i < V; i++) x[p][i] = x[p][i] * factor;
    }
}

template <int V, int P>
__device__ __forceinline__ void load_row(const keys_tensor_args &tensor, int64_t token,
                                         uint32_t head, int lane, bool rounds, float (&x)[P][V])
{
    const char *row =
        tensor.base + token * tensor.token_stride_bytes + (int64_t)head * tensor.head_stride_bytes;
    for (int p = 0; p < P; p++) {
        load_values<V>(row, V * lane + 32 * V * p, tensor.is_f32, tensor.is_aligned, x[p]);
    }
    for (int p = 0; p < P && rounds; p++) round_values<V>(x[p]);
}

template <int V>
__device__ __forceinline__ void finish_query(const keys_finish_args &a, int64_t token,
                                             uint32_t head, int lane)
{
    float x[DIM / (32 * V)][V];
    const int32_t rope_row = a.rope.rows[token];
    load_row(a.q, token, head, lane, a.is_official, x);
    if (a.is_official) {
        normalize_official(x, a.norm_eps);
    } else {
        normalize(x, a.norm_eps);
    }
    char *out =
        a.out.base + token * a.out.token_stride_bytes + (int64_t)head * a.out.head_stride_bytes;
    for (int p = 0; p < DIM / (32 * V); p++) {
        const int dim = V * lane + 32 * V * p;
        if (dim >= NOPE_DIM) {
            rotate_values<V>(a.rope, rope_row, dim, x[p]);
            if (a.is_official) round_values<V>(x[p]);
        }
        store_values<V>(out, dim, a.out.is_f32, a.out.is_aligned, x[p]);
    }
}

template <int V>
__device__ __forceinline__ void finish_key(const keys_finish_args &a, int64_t token, int lane)
{
    uint32_t row = 0;
    unsigned char *page = find_page(a.window, a.slots[token], &row);
    if (page == NULL) return;
    float x[DIM / (32 * V)][V];
    const int32_t rope_row = a.rope.rows[token];
    load_row(a.kv, token, 0, lane, a.is_official, x);
    normalize(x, a.norm_eps);
    for (int p = 0; p < DIM / (32 * V); p++) {
        const int dim = V * lane + 32 * V * p;
        multiply_weight<V>(a.kv_norm, dim, x[p]);
        if (a.is_official) round_values<V>(x[p]);
        if (dim >= NOPE_DIM) {
            rotate_values<V>(a.rope, rope_row, dim, x[p]);
            if (a.is_official) round_values<V>(x[p]);
        }
        store_key<V>(a.window, page, row, dim, true, x[p]);
    }
}

/* V: 8 where every tensor is bf16, else 4, so that no access of 16 bytes leaves gaps. */
template <int V>
__global__ static void __launch_bounds__(WARPS * 32)
    keys_finish_kernel(const __grid_constant__ keys_finish_args a)
{
    const uint32_t warp = blockIdx.x * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (warp >= a.n_rows) return;
    const uint32_t token = warp / a.rows_per_token, head = warp % a.rows_per_token;
    if (head < a.n_heads) {
        finish_query<V>(a, token, head, lane);
    } else {
        finish_key<V>(a, token, lane);
    }
}

cudaError_t dsv4_keys_finish_launch(const keys_finish_args *args, cudaStream_t stream)
{
    const unsigned n_blocks = (unsigned)((args->n_rows + WARPS - 1) / WARPS);
    if (args->q.is_f32 || args->out.is_f32 || args->kv.is_f32) {
        return launch_kernel(keys_finish_kernel<4>, n_blocks, WARPS * 32, 0, stream, *args);
    }
    return launch_kernel(keys_finish_kernel<8>, n_blocks, WARPS * 32, 0, stream, *args);
}
