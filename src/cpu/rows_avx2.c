/*
 * rows_avx2.c - the row functions of rows_cpu.h at the avx2 level.
 *
 * Place: cpu. Compiled with this level's instruction set; see rows_tmpl.h.
 */
#include "vec_avx2.h"

#include "round_tmpl.h"
#include "rows_tmpl.h"

const dsv4_rows_kernels dsv4_rows_avx2 = ROWS_TABLE;
