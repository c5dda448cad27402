/*
 * ceiling.h - loops that reach what one core can do, one file per instruction set.
 *
 * Place: program, bench. Each loop keeps its state in registers and depends on nothing but the
 * execution units (multiply-add) or the memory (read). They return a number that depends on all
 * work, so that no compiler may leave any of it out.
 */
#ifndef DSV4_TOOLS_CEILING_H
#define DSV4_TOOLS_CEILING_H

#include <stddef.h>
#include <stdint.h>

/*
 * Independent chains of multiply-adds: enough to hide the latency of two units, few enough for 16
 * registers.
 */
#define DSV4_CEILING_CHAINS 12

/* FLOP of one round of each loop: chains times lanes times two, bf16 pairs count double. */
#define DSV4_CEILING_V2_FLOP         (DSV4_CEILING_CHAINS * 4) /* half multiply, half add */
#define DSV4_CEILING_AVX2_FLOP       (DSV4_CEILING_CHAINS * 8 * 2)
#define DSV4_CEILING_AVX512_FLOP     (DSV4_CEILING_CHAINS * 16 * 2)
#define DSV4_CEILING_AVX512BF16_FLOP (DSV4_CEILING_CHAINS * 32 * 2)

/*
 * Runs n_rounds. seeds: [DSV4_CEILING_CHAINS] f32, seeds[0] = 1, where the chains start; being
 * arguments, they stop the compiler from merging chains.
 */
typedef float dsv4_ceiling_flop_loop(int64_t n_rounds, const float *seeds);

/* Reads bytes[0 .. len_bytes - 1] once; 64-byte aligned, len_bytes a multiple of 512. */
typedef uint64_t dsv4_ceiling_read_loop(const void *bytes, size_t len_bytes);

dsv4_ceiling_flop_loop dsv4_ceiling_flop_v2, dsv4_ceiling_flop_avx2, dsv4_ceiling_flop_avx512,
    dsv4_ceiling_flop_avx512bf16;
dsv4_ceiling_read_loop dsv4_ceiling_read_v2, dsv4_ceiling_read_avx2, dsv4_ceiling_read_avx512;

#endif
