/*
 * rows_avx512.c - the row functions of rows_cpu.h at the avx512 level.
 *
 * Place: cpu. Compiled with this level's instruction set; see rows_tmpl.h.
 */
#include "vec_avx512.h"

#include "round_tmpl.h"
#include "rows_tmpl.h"

const dsv4_rows_kernels dsv4_rows_avx512 = ROWS_TABLE;
