/*
 * dsv4/attn.h - DeepSeek-V4's sparse MLA decode attention, as a stateless operation.
 *
 * For each query token, keys are the cache rows that two index lists name: the sliding window and,
 * when present, a second scope (the compressed cache). One softmax runs over both; key and value
 * are the same 512 numbers; the output is 512 numbers per head (DeepSeek-V4, core attention;
 * docs/attn.md has the equations and every rule in full):
 *
 *   s_i = softmax_scale * (q . k_i)     m = max s_i     Z = sum exp(s_i - m)
 *   out = sum exp(s_i - m) k_i / (Z + exp(sink - m))    lse = m + ln Z
 *
 * Rules, the same on every device:
 *   - An index < 0 or >= n_pages * page_rows names no key. Indices may repeat; each mention counts.
 *   - With `lengths`, only the first lengths[request] entries of a list count; < 0 counts as 0,
 *     more than n_indices as n_indices.
 *   - Only named rows are read as numbers: bytes of unnamed slots may be anything, NaN included.
 *     A NaN in a named row makes the outputs of the queries that name it NaN, and no other.
 *   - A query without keys gives out = 0 and lse = +inf. sink = +inf gives out = 0, sink = -inf
 *     nothing. lse is the natural log and never includes the sink.
 *   - Results are bit-equal whatever the batch around a request, the order of requests and the
 *     number of threads; on GPUs only with fixed_split. There too, the same call twice gives the same bits.
 *     A list that was padded with indices that name no key is another list; `lengths` leave it the same.
 *
 * Use: fill dsv4_attn_params (start from dsv4_attn_params_default), ask dsv4_attn_plan_size for the
 * two memories, call dsv4_attn_plan_build once per step and dsv4_attn_decode once per layer.
 * Nothing is allocated, nothing is kept: all memory is the caller's.
 */
#ifndef DSV4_ATTN_H
#define DSV4_ATTN_H

#include "dsv4/base.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DSV4_ATTN_DIM       512 /* query, key, value and output width */
#define DSV4_ATTN_ROPE_DIM  64  /* rotated tail: dims 448..511 */
#define DSV4_ATTN_MAX_HEADS 128
#define DSV4_ATTN_OUT_GROUP 128 /* values that share a scale where the output is FP8 */

/*
 * Where to compute. AUTO takes the best CPU kernel that this machine can run. CUDA: the calling thread's current
 * device; every pointer of params, plan and workspace is device memory, calls enqueue work on `stream` (a cudaStream_t)
 * and return, allocate nothing, wait for nothing and can be captured in a graph. Differences: math is BF16, which AUTO
 * takes, or on Hopper FP8; queries are bf16, rows FP8; caches and page strides are multiples of 16 bytes; the
 * workspace must be zero before its first use and every decode leaves it ready for the next. A plan cannot be looked
 * at by the host, so that one of other shapes or options, or one that was never built, is refused on the device: decode
 * returns OK, and all of out and lse is NaN (FP8: codes 0x7f, scales 0xff). Shapes are n_requests, n_queries, n_heads
 * and n_indices of both scopes, options fixed_split and what math, cuda_kernel, group_heads, join_queries, out_dtype,
 * pools of 2^28 - 1 rows and more, and the device make of the choice of kernel, heads and joined lists; what such a plan
 * would have named is not touched, nor is the workspace.
 *
 * HIP: the same on an AMD GPU, gfx950 or gfx942; `stream` is a hipStream_t. AMD's runtime (libamdhip64, HIP 6.0 or
 * later) is opened by the first call that names this backend, and the kernels are loaded by the first one on each
 * device: dsv4_attn_choose or dsv4_attn_plan_size, so that this is done before a graph is captured. cuda_kernel is
 * ignored. Kernels are compiled and ISA-checked for gfx950 and gfx942, functionally tested without hardware, never run on an
 * MI355X (docs/hip.md).
 */
enum {
    DSV4_BACKEND_AUTO = 0,
    DSV4_BACKEND_REF = 1,
    DSV4_BACKEND_CPU = 2,
    DSV4_BACKEND_CUDA = 3,
    DSV4_BACKEND_HIP = 4
};

/*
 * Arithmetic. EXACT: f32 products and sums. BF16: bf16 products, f32 sums, probabilities rounded to
 * bf16; the relative norm error of out is below 2^-9 over many heads and 2^-8 for any one, lse is as
 * EXACT; queries and keys below 2^-126 count as zero. AUTO: BF16 where the hardware has it, else EXACT.
 * OFFICIAL: the roundings of DeepSeek's own code: probabilities relative to the maximum over all of a
 * query's keys are rounded to bf16 before they multiply the values, and their sum is of the unrounded
 * ones; two passes over the keys, for agreement with that code rather than for speed.
 *
 * FP8: rougher, faster for many requests, never taken unless asked for; backend CUDA on Hopper (sm_90), kernel SM90, or
 * backend HIP on gfx950, out_dtype BF16 or F32; anything else is UNSUPPORTED. Both products, on HIP the scores alone,
 * read the cache's own codes; what follows of probabilities and values is CUDA's, on HIP they are as with BF16:
 *   queries        2^k of a head is the power of two with max |q[0..447]| / 2^k in (224, 448], the maximum taken as at
 *                  least 2^-90; q[0..447] / 2^k is rounded to e4m3 (nearest, ties to even), so that what is below 2^-19
 *                  of the head's largest becomes 0. q[448..511] stay bf16, but what is below 2^-126 * 2^k may become 0.
 *                  An infinite q[0..447] makes the head's out and lse NaN.
 *   scores         sums over 64 dims hold about 14 bits of the largest product; everything after that is f32
 *   probabilities  each, times the row's scale of a group of 64 dims, is rounded to e4m3 (3 bits of mantissa): off by
 *                  up to 2^-4 of itself, and 0 below about 2^-16 of the largest such product of the heads that are
 *                  computed together. For dims 448..511 it is rounded to bf16. Their sum, and with it lse, is of
 *                  unrounded ones.
 *   values         sums over keys hold about 14 bits, and what is cut off has one sign: where all values have it too, out
 *                  is 0.9 % too small after 640 keys that are computed in one go, 2.6 % after 2,176, 7.8 % after 8,320
 * The relative norm error of out is about 2^-5.6 (2 %) from probabilities; queries add as much as their own error moves
 * scores: 2.4 % of the standard deviation of a query's scores, in natural-log units. That also is lse's error for a
 * query with few keys; for the rounded query it is a few 2^-12 of the scores.
 */
enum {
    DSV4_ATTN_MATH_AUTO = 0,
    DSV4_ATTN_MATH_EXACT = 1,
    DSV4_ATTN_MATH_BF16 = 2,
    DSV4_ATTN_MATH_OFFICIAL = 3,
    DSV4_ATTN_MATH_FP8 = 4
};

/*
 * FP8 is for the output of a decode alone: e4m3 codes in `out`, and in `out_scales` one ue8m0 scale for
 * each 128 values of a head, as the model quantizes what its FP8 matrix products read:
 *
 *   scale = 2^ceil(log2(max(amax, 1e-4) / 448))    amax = max |x| of the 128 f32 results, NaN not counted
 *   code  = e4m3(x / scale)                        to nearest, ties to even; NaN stays NaN (0x7f or 0xff)
 *
 * Nothing is rounded before it, and it comes last: after the sink, the division and the rotation. 128 results that
 * are all zero, as those of a query without keys, have the scale 2^-22 (byte 105) and codes 0 (of either sign).
 */
/*
 * Kernels of the CUDA backend. MMA: any device from sm_80 on, 8 or 16 heads together. SM90: Hopper, 16, 32 or 64.
 * AUTO on Hopper takes the faster one for each shape; FP8 output is always MMA's.
 */
enum { DSV4_CUDA_KERNEL_AUTO = 0, DSV4_CUDA_KERNEL_MMA = 1, DSV4_CUDA_KERNEL_SM90 = 2 };

/*
 * Joined lists, CUDA only: a hint of speed, results are the same within the tolerances of BF16. Of the queries of a
 * request (as with MTP) each row that several of them name is read once.
 *
 *   NEVER   each query is computed alone
 *   ALWAYS  wherever it can be done, as NEVER elsewhere: 8, 16 or 32 heads, 2 to 4 queries, at most 64 heads of all queries;
 *           not FP8 math; pools of fewer than 2^28 - 1 rows, at most 2^18 indices of all queries and both scopes; and a
 *           kernel that computes all heads of all queries together (MMA: 8 heads, 2 queries; group_heads, where given,
 *           at least that many)
 *   AUTO    of these, where it expects a clear gain, assuming that four of five rows of a query are named by the others
 *           too: three queries or more, lists of 4096 / n_queries entries at most in each scope; not with fixed_split
 *
 * The workspace then holds the joined lists too, and every decode begins with a kernel that makes them, from indices and
 * lengths; bits of a query depend on the other queries of its request. A row whose values become infinite is NaN to
 * the queries that name it, if others do not.
 */
enum { DSV4_JOIN_AUTO = 0, DSV4_JOIN_NEVER = 1, DSV4_JOIN_ALWAYS = 2 };

enum { DSV4_DTYPE_BF16 = 1, DSV4_DTYPE_F32 = 2, DSV4_DTYPE_FP8 = 3 };

/*
 * How a scope stores its rows. FP8: the 584-byte records of dsv4/cache.h. F32: row i of a page is 512
 * f32 at i * 2048 bytes; an engine that keeps everything in f32 uses it, with exact math only.
 */
enum { DSV4_ATTN_ROWS_FP8 = 0, DSV4_ATTN_ROWS_F32 = 1 };

/*
 * One paged cache and the lists that name rows in it. A scope with n_pages == 0 is absent: its other
 * fields are ignored. Strides are in bytes, non-negative.
 */
typedef struct dsv4_attn_scope {
    const void *cache; /* [n_pages, page_stride_bytes] u8, records of dsv4/cache.h; any alignment */
    int64_t n_pages;   /* 0: absent; n_pages * page_rows may exceed 2^31: indices name a part */
    int64_t page_rows; /* rows per page, 1 .. 2^20 */
    int64_t page_stride_bytes; /* >= page_rows * 584 (FP8) or 2048 (F32) */
    int32_t row_format;        /* DSV4_ATTN_ROWS_* */
    int32_t reserved;          /* 0 */
    const int32_t
        *indices;      /* [n_requests, n_queries, n_indices] i32 slots, unit stride inside a list */
    int64_t n_indices; /* 0 .. 2^24; indices may be NULL when 0 */
    int64_t indices_request_stride_bytes; /* multiple of 4 */
    int64_t indices_query_stride_bytes;   /* multiple of 4 */
    const int32_t *lengths;               /* [n_requests] i32, or NULL: the whole list counts */
} dsv4_attn_scope;

/*
 * Everything that describes one decode call. Set `size` (dsv4_attn_params_default does): fields
 * after it in later versions then keep their defaults. All pointers are borrowed for the call.
 * Tensor pointers must be aligned to their element; strides must be multiples of it.
 */
typedef struct dsv4_attn_params {
    uint64_t size; /* sizeof(dsv4_attn_params) of the caller */

    int64_t n_requests;  /* 0 .. 2^20; 0 does nothing */
    int64_t n_queries;   /* query tokens per request (s_q), 1 .. 2^10 */
    int64_t n_heads;     /* 1 .. 128, all of one key head */
    float softmax_scale; /* finite, > 0 */
    int32_t backend;     /* DSV4_BACKEND_* */
    int32_t math;        /* DSV4_ATTN_MATH_*; GPUs: AUTO, BF16 or FP8 */
    int32_t cpu_level;   /* DSV4_CPU_LEVEL_*: AUTO, or a level to use instead of the best one */
    int32_t n_threads;   /* CPU threads, 1 .. 1024; 0: as many as OpenMP would use */
    int32_t out_dtype;   /* DSV4_DTYPE_BF16, _F32 or _FP8 */
    int32_t q_dtype;     /* DSV4_DTYPE_BF16 or _F32; F32 with exact math only */
    int32_t fixed_split; /* GPUs: 1: bit-equal whatever the batch, slower when it is small; 0 */
    int32_t group_heads; /* GPUs: heads computed together, 8, 16, 32 or 64, or what the kernel has
                            nearest (FP8 math: 32 or 64); 0: the fastest */
    int32_t cuda_kernel; /* DSV4_CUDA_KERNEL_*: AUTO, or one to use instead of the best one */

    const void *q; /* [n_requests, n_queries, n_heads, 512] q_dtype, unit stride inside a head */
    int64_t q_request_stride_bytes;
    int64_t q_query_stride_bytes;
    int64_t q_head_stride_bytes;

    dsv4_attn_scope window; /* the sliding window */
    dsv4_attn_scope extra;  /* the compressed cache */

    const float *sink; /* [n_heads] f32 natural-log logits, +-inf allowed, or NULL: no sink */

    void *out; /* [n_requests, n_queries, n_heads, 512] out_dtype, unit stride inside a head,
                  written */
    int64_t out_request_stride_bytes; /* no two heads of the output may overlap */
    int64_t out_query_stride_bytes;
    int64_t out_head_stride_bytes;

    float *lse;                       /* [n_requests, n_queries, n_heads] f32, written, or NULL */
    int64_t lse_request_stride_bytes; /* no two elements may overlap */
    int64_t lse_query_stride_bytes;
    int64_t lse_head_stride_bytes;

    /*
     * Epilogue, used when rope_table != NULL: dims 448..511 of the output are rotated back by the
     * query's position. Pair i (dims 448 + 2i, 449 + 2i) turns by minus the angle whose cosine and
     * sine are rope_table[row][i] and rope_table[row][32 + i]. Rotation is linear, so partial
     * results may be rotated before dsv4_attn_merge. A row outside the table makes those 64 outputs
     * NaN.
     */
    const float *rope_table; /* [n_rope_rows, 64] f32: 32 cosines, then 32 sines */
    int64_t n_rope_rows;     /* 1 .. 2^31 - 1 */
    const int32_t
        *rope_rows; /* [n_requests, n_queries] i32, dense: table row of each query token */

    uint8_t *
        out_scales; /* [n_requests, n_queries, n_heads, 4] ue8m0, unit stride inside a head, written when
                            out_dtype is FP8; else this and its strides are ignored */
    int64_t out_scales_request_stride_bytes; /* no two heads may overlap */
    int64_t out_scales_query_stride_bytes;
    int64_t out_scales_head_stride_bytes;

    int32_t join_queries; /* DSV4_JOIN_* */
    int32_t reserved;     /* 0 */
} dsv4_attn_params;

/*
 * Fills every field: size, n_queries 1, softmax_scale 512^-0.5, q_dtype and out_dtype bf16, page_rows 64,
 * everything else zero or NULL.
 */
DSV4_API void dsv4_attn_params_default(dsv4_attn_params *params);

/*
 * Sets every stride to that of dense tensors of the shapes given so far (n_queries, n_heads,
 * n_indices of both scopes, out_dtype), and page strides to dsv4_cache_page_stride_bytes. A stride that
 * does not fit becomes -1, which every call refuses.
 */
DSV4_API void dsv4_attn_params_set_dense(dsv4_attn_params *params);

/*
 * Checks params and says how much memory a plan and a decode need. The answer depends on shapes,
 * n_threads and the machine, not on the contents of any tensor; no tensor is read and tensor
 * pointers may still be NULL. Both memories need 64-byte alignment. Either size may be 0. Errors:
 * INVALID_ARGUMENT (the text names field, value and rule), UNSUPPORTED (backend, math or level that
 * this machine cannot run), OUT_OF_MEMORY (a size overflows).
 */
DSV4_API dsv4_status dsv4_attn_plan_size(const dsv4_attn_params *params, size_t *plan_bytes,
                                         size_t *workspace_bytes, dsv4_error *error);

/*
 * Builds the plan for one step: how lists are split over threads, from shapes and lengths (indices
 * are not read). Every later decode with the same shapes and the same lengths may share it, from
 * several threads at once; when lengths change, build it again (on a GPU that is a kernel, so a captured graph that
 * begins with it follows lengths in device memory).
 *   stream      must be NULL on the CPU
 *   plan        plan_bytes of caller memory, at least what dsv4_attn_plan_size said, 64-byte aligned
 */
DSV4_API dsv4_status dsv4_attn_plan_build(void *stream, const dsv4_attn_params *params, void *plan,
                                          size_t plan_bytes, dsv4_error *error);

/*
 * Computes out and lse. Allocates nothing; starts OpenMP threads on the CPU when n_threads > 1 allows.
 *   plan        from dsv4_attn_plan_build with the same shapes, backend, math, level and n_threads: another one is
 *               refused, on a GPU by NaN (DSV4_BACKEND_CUDA); not written
 *   workspace   workspace_bytes of caller memory, at least what dsv4_attn_plan_size said, 64-byte aligned, contents
 *               without meaning before and after (not on a GPU); not shared by concurrent calls
 * Errors as dsv4_attn_plan_size; then nothing was written.
 */
DSV4_API dsv4_status dsv4_attn_decode(void *stream, const dsv4_attn_params *params,
                                      const void *plan, size_t plan_bytes, void *workspace,
                                      size_t workspace_bytes, dsv4_error *error);

/* What decode will run with these params: static strings for a person to read. */
typedef struct dsv4_attn_choice {
    const char *backend; /* "ref", "cpu", "cuda", "hip" */
    const char *kernel;  /* "scalar", a CPU level name, "mma", "sm90", "gfx950" or "gfx942" */
    const char *math;    /* "exact", "bf16", "official" or "fp8" */
    const char *reason;  /* why this one */
} dsv4_attn_choice;

/*
 * Reads backend, math, cpu_level, cuda_kernel, q_dtype, out_dtype and row_format only. Errors as
 * dsv4_attn_plan_size.
 */
DSV4_API dsv4_status dsv4_attn_choose(const dsv4_attn_params *params, dsv4_attn_choice *choice,
                                      dsv4_error *error);

/*
 * Merges partial results of disjoint key sets (several ranks, or several calls), each made without
 * a sink: out = sum_p w_p out_p with w_p = exp(lse_p) / (sum exp(lse_p) + exp(sink)), lse = ln sum
 * exp(lse_p). A part whose lse is +inf had no keys and counts as nothing; when all are, out = 0 and
 * lse = +inf. Tensors are dense: n_rows stands for n_requests * n_queries.
 */
typedef struct dsv4_attn_merge_params {
    uint64_t size;
    int64_t n_parts;        /* 1 .. 4096 */
    int64_t n_rows;         /* 0 .. 2^30 */
    int64_t n_heads;        /* 1 .. 128 */
    int32_t part_dtype;     /* DSV4_DTYPE_BF16 or _F32, of out_parts */
    int32_t out_dtype;      /* the same of out */
    int32_t n_threads;      /* as in dsv4_attn_params */
    int32_t backend;        /* DSV4_BACKEND_*; AUTO is the CPU, which computes as REF does */
    const void *out_parts;  /* [n_parts, n_rows, n_heads, 512] part_dtype */
    const float *lse_parts; /* [n_parts, n_rows, n_heads] f32 */
    const float *sink;      /* [n_heads] f32, or NULL */
    void *out;  /* [n_rows, n_heads, 512] out_dtype, written; must not overlap the parts */
    float *lse; /* [n_rows, n_heads] f32, written, or NULL */
} dsv4_attn_merge_params;

/*
 * Allocates nothing. On the CPU tensors are in host memory and stream must be NULL. On a GPU they are in the current
 * device's memory, out_parts and out multiples of 16 bytes; one kernel is enqueued on `stream` and can be
 * captured in a graph. Results are bit-equal whatever the other rows and the number of threads; the CPU's and the
 * device's differ by f32 rounding. Errors: INVALID_ARGUMENT, UNSUPPORTED (no device, or a build without
 * CUDA), DEVICE.
 */
DSV4_API dsv4_status dsv4_attn_merge(void *stream, const dsv4_attn_merge_params *params,
                                     dsv4_error *error);

#ifdef __cplusplus
}
#endif

#endif
