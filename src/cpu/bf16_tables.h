/*
 * bf16_tables.h - FP8 values as bf16, with their scale in them.
 *
 * Place: cpu. For kernels that look values up (AVX-512 VBMI).
 */
#ifndef DSV4_CPU_BF16_TABLES_H
#define DSV4_CPU_BF16_TABLES_H

#include <stdint.h>

/* By scale: the high bytes of magnitudes 0 .. 127, then the low ones. */
extern const uint8_t dsv4_e4m3_bytes[256][256];

#endif
