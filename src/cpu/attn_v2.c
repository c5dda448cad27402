/*
 * attn_v2.c - decode-attention kernels of the v2 level, f32 products.
 *
 * Place: cpu. Compiled with this level's instruction set; see attn_f32_tmpl.h.
 */
#include "vec_v2.h"

#include "round_tmpl.h"
#include "attn_common_tmpl.h"
#include "attn_f32_tmpl.h"

const dsv4_attn_kernels dsv4_attn_kernels_v2 = ATTN_F32_KERNELS(DSV4_CPU_LEVEL_V2);
