/*
 * attn_device.h - what the host, the plan kernel and the attention kernels say to each other.
 *
 * Place: gpu; the same for every device. Plain structs, passed to kernels by value or lying in the plan. A task is one
 * query token and one group of its heads, of joined lists all queries of a request; a part is a run of a task's key
 * blocks, computed by one thread block; a task of several parts leaves partial results in the workspace, which are
 * merged within the same launch.
 */
#ifndef DSV4_GPU_ATTN_DEVICE_H
#define DSV4_GPU_ATTN_DEVICE_H

#include <stdint.h>

enum {
    ATTN_BLOCK_KEYS = 64, /* keys of one step */
    ATTN_MAX_GROUP = 64,  /* heads that one thread block computes together */
    ATTN_PLAN_THREADS = 1024,
    ATTN_MERGE_WAVES = 8, /* of a block of dsv4_attn_merge, a head of a row each */
    /* bytes in front of a partial state: ref and sum of every head of a group */
    ATTN_STATE_BYTES = 2 * ATTN_MAX_GROUP * (int)sizeof(float),
};

/*
 * Joined lists: what the queries of a request name in a scope, each row once for all of them (attn_join_kernel.c). An
 * entry is a slot, and above it a bit for each query that names it.
 */
enum {
    ATTN_JOIN_THREADS = 512,
    ATTN_JOIN_ENTRIES = 4096, /* of all queries: so many are matched with one another at once */
    ATTN_JOIN_MAX_QUERIES = 4,
    ATTN_JOIN_SLOT_BITS = 28,
    ATTN_JOIN_NAN_SLOT =
        (1 << ATTN_JOIN_SLOT_BITS) - 1,               /* a row that is NaN to those who name it */
    ATTN_JOIN_ALL = (1 << ATTN_JOIN_MAX_QUERIES) - 1, /* of all queries, however many they are */
};

/* In front of a request's joined lists, which have room for every entry of every query: the window's, then the extra scope's. */
typedef struct attn_joined_head {
    int32_t n_window, n_extra; /* entries */
    int32_t reserved[2];
} attn_joined_head;

/* Where joined lists are, in units of an entry; of n_requests requests. */
typedef struct attn_joined_lists {
    uint32_t *lists; /* NULL: none */
    int64_t request_pitch;
    int32_t first_extra;
    int32_t
        query_shift; /* heads of a query are 1 << query_shift; those of a request are counted through its queries */
} attn_joined_lists;

/* One scope of dsv4_attn_params; n_slots 0: absent. */
typedef struct attn_scope_args {
    const unsigned char *cache;
    int64_t page_stride_bytes;
    int64_t scale_plane_bytes; /* page_rows * 576 */
    const char *indices;
    int64_t indices_request_stride_bytes;
    int64_t indices_query_stride_bytes;
    uint32_t n_slots;   /* valid indices are below it, at most 2^31 */
    uint32_t page_rows; /* page = umulhi(2 * slot, divide_factor) >> divide_shift */
    uint32_t divide_factor;
    uint32_t divide_shift;
} attn_scope_args;

/* A part, 32 bytes. */
typedef struct attn_part {
    int32_t request;
    int32_t query_group; /* query << 8 | head group */
    int32_t first_block;
    int32_t end_block;
    int32_t part_of; /* number of this part << 16 | parts of the task */
    int32_t
        first_slot; /* partial state and counter of the task's first part; -1: a task of one part */
    int32_t window_len; /* entries of the window list that count */
    int32_t total_len;  /* of both lists */
} attn_part;

/*
 * The plan in device memory: this head, then `parts` in the order of ranks, then the order of requests
 * (scratch of the plan kernel). Thread block i of n computes ranks i, 2n - 1 - i, 2n + i, 4n - 1 - i, ...
 */
typedef struct attn_plan_head {
    int32_t n_parts; /* ranks */
    int32_t reserved;
    uint64_t fingerprint; /* of the shapes and options that it was built for; never 0 */
    int32_t more_reserved[4];
} attn_plan_head;

typedef struct attn_plan_args {
    unsigned char *plan;
    uint64_t fingerprint;          /* for the plan's head */
    const int32_t *window_lengths; /* [n_requests], or NULL */
    const int32_t *extra_lengths;
    int32_t window_n_indices, extra_n_indices;
    int32_t n_requests, n_queries, n_groups;
    int32_t n_thread_blocks;
    int32_t may_split;
    int32_t n_streams; /* blocks that a part computes at once */
    /* Costs in the time of a block of a thread block that has its multiprocessor for itself. */
    int32_t n_alone;             /* so many thread blocks have */
    float busy_part, busy_block; /* of more: what a part costs on top, and a block */
    float split_fixed, split;    /* of cutting a task, and for each part */
    float split_share;           /* of merging a whole task, which parts share */
} attn_plan_args;

/* Of a task of several parts, in the workspace; 0 before and after. */
typedef struct attn_arrivals {
    int32_t arrived; /* parts that have */
    int32_t
        gave_up; /* parts that did not wait for the others; none where the last one merges alone */
    uint64_t ended; /* parts that will not look at these again, where parts wait */
} attn_arrivals;

typedef struct attn_args {
    const unsigned char *plan;
    uint64_t fingerprint;    /* that the plan must have, else it is refused (attn_refuse.cuh) */
    unsigned char *states;   /* [n_thread_blocks] partial states */
    attn_arrivals *arrivals; /* [n_thread_blocks] */
    int64_t state_bytes;     /* of one partial state */
    int32_t n_requests, n_queries, n_heads;
    float scale_log2;               /* softmax_scale * log2(e) */
    int32_t out_is_f32, out_is_fp8; /* neither: bf16 */
    attn_scope_args window, extra;
    const char *q;
    int64_t q_request_stride_bytes, q_query_stride_bytes, q_head_stride_bytes;
    const float *sink;
    char *out;
    int64_t out_request_stride_bytes, out_query_stride_bytes, out_head_stride_bytes;
    uint8_t *out_scales; /* of FP8 output */
    int64_t out_scales_request_stride_bytes, out_scales_query_stride_bytes;
    int64_t out_scales_head_stride_bytes;
    char *lse;
    int64_t lse_request_stride_bytes, lse_query_stride_bytes, lse_head_stride_bytes;
    const float *rope_table;
    int64_t n_rope_rows;
    const int32_t *rope_rows;
    int32_t q_is_aligned; /* rows of 16-byte alignment */
    int32_t out_is_aligned;
    attn_joined_lists joined; /* of kernels that take them; behind what all kernels read */
} attn_args;

/* A thread block joins one scope of one request. */
typedef struct attn_join_args {
    const unsigned char *plan;
    uint64_t fingerprint; /* another plan's call leaves the workspace as it is */
    attn_joined_lists joined;
    attn_scope_args scopes[2]; /* window, extra */
    const int32_t *lengths[2]; /* [n_requests], or NULL */
    int32_t n_indices[2];
    int32_t n_requests, n_queries;
} attn_join_args;

/* dsv4_attn_merge_params; tensors are dense. */
typedef struct attn_merge_args {
    int64_t n_parts, n_rows;
    int32_t n_heads;
    int32_t part_is_f32, out_is_f32;
    const void *out_parts; /* aligned to 16 bytes in f32, to 8 in bf16 */
    const float *lse_parts;
    const float *sink;
    void *out;
    float *lse;
} attn_merge_args;

#endif
