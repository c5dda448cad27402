/*
 * rows_v2.c - the row functions of rows_cpu.h at the v2 level.
 *
 * Place: cpu. Compiled with this level's instruction set; see rows_tmpl.h.
 */
#include "vec_v2.h"

#include "round_tmpl.h"
#include "rows_tmpl.h"

const dsv4_rows_kernels dsv4_rows_v2 = ROWS_TABLE;
