/*
 * attn_host.h - what a call of dsv4/attn.h becomes for kernels: sizes, fingerprint and arguments.
 *
 * Place: gpu, host code; the same for every device. A device's folder chooses the kernel and launches it. Params are
 * valid (src/attn). Nothing here knows a device, allocates or waits.
 */
#ifndef DSV4_GPU_ATTN_HOST_H
#define DSV4_GPU_ATTN_HOST_H

#include <stdbool.h>

#include "attn_device.h"
#include "dsv4/attn.h"

/*
 * What shapes, options and the choice of a kernel make of a call: all that a plan depends on but lengths. Of joined lists
 * a request's queries are one task; its parts are so many as one query's lists would have, and the decode kernel, which
 * knows how long the joined list is, cuts that anew: a plan is good for all layers, whatever rows their lists share.
 */
typedef struct dsv4_attn_gpu_shape {
    bool is_joined;
    int32_t n_groups; /* of heads */
    int32_t n_thread_blocks;
    int64_t state_bytes;                /* of a partial state */
    int64_t joined_pitch;               /* entries of a request's joined lists */
    uint64_t fingerprint;               /* of what decides a plan; never 0 */
    size_t plan_bytes, workspace_bytes; /* of device memory */
} dsv4_attn_gpu_shape;

/* What a plan has to know of a kernel (attn_plan_args). */
typedef struct dsv4_attn_gpu_costs {
    int32_t n_streams, n_alone;
    float busy_part, busy_block;
    float split_fixed, split_share, split;
} dsv4_attn_gpu_costs;

/* Entries of a scope's lists: none when it is absent. */
int64_t dsv4_attn_gpu_used_indices(const dsv4_attn_scope *scope);

/* Whether joined lists can name what these params' lists do; group_heads: that the kernel must have at least. */
bool dsv4_attn_gpu_can_join(const dsv4_attn_params *params, int32_t *group_heads);

/*
 * For a kernel that computes group_heads heads together in n_thread_blocks blocks, at most ATTN_PLAN_THREADS.
 * `kernel` tells kernels apart for which n_groups and n_thread_blocks do not. is_joined: it takes joined lists.
 * Errors: OUT_OF_MEMORY.
 */
dsv4_status dsv4_attn_gpu_describe(const dsv4_attn_params *params, int32_t group_heads,
                                   int64_t n_thread_blocks, int64_t kernel, bool is_joined,
                                   dsv4_attn_gpu_shape *shape, dsv4_error *error);

void dsv4_attn_gpu_plan_args(const dsv4_attn_params *params, const dsv4_attn_gpu_shape *shape,
                             const dsv4_attn_gpu_costs *costs, void *plan, attn_plan_args *args);

void dsv4_attn_gpu_args(const dsv4_attn_params *params, const dsv4_attn_gpu_shape *shape,
                        const void *plan, void *workspace, attn_args *args);

/* Of a shape that is joined; 2 * n_requests thread blocks. */
void dsv4_attn_gpu_join_args(const dsv4_attn_params *params, const dsv4_attn_gpu_shape *shape,
                             const void *plan, void *workspace, attn_join_args *args);

void dsv4_attn_gpu_merge_args(const dsv4_attn_merge_params *params, attn_merge_args *args);

#endif
