/*
 * attn_cpu.h - decode attention on the CPU: plan, decode.
 *
 * Place: cpu. Params must have passed the checks of src/attn, and n_threads is resolved (>= 1).
 *
 * Division of the work. A query's keys are its two lists one behind the other, cut into blocks of 64
 * list entries; blocks are grouped into splits, four of them up to 32 blocks and at most 32, by the length
 * of the lists alone (official math: one split). Blocks are folded in order within a split, and the other
 * splits in order into the first. Every query is computed by this one rule, whether one task walks all its
 * splits or several leave the states of theirs for a second pass to fold: that is why results do not
 * depend on batch or threads.
 */
#ifndef DSV4_CPU_ATTN_CPU_H
#define DSV4_CPU_ATTN_CPU_H

#include <stdbool.h>

#include "attn_kernels.h"
#include "dsv4/attn.h"

/* The kernels of a level; NULL when `level` is none. The caller checks that the CPU has the level. */
const dsv4_attn_kernels *dsv4_attn_cpu_kernels(int32_t level);

/* False when a size does not fit. */
bool dsv4_attn_cpu_plan_size(const dsv4_attn_params *params, const dsv4_attn_kernels *kernels,
                             int32_t n_threads, size_t *plan_bytes, size_t *workspace_bytes);

/* plan: 64-byte aligned, of the size above. */
void dsv4_attn_cpu_plan_build(const dsv4_attn_params *params, int32_t n_threads, void *plan);

/* plan and workspace: 64-byte aligned, of the sizes above, plan built for these shapes. */
void dsv4_attn_cpu_decode(const dsv4_attn_params *params, const dsv4_attn_kernels *kernels,
                          const void *plan, void *workspace);

#endif
