/*
 * dot.h - the order in which the reference operations sum products.
 *
 * Place: ref, private to its files. A dot product walks blocks of 128 columns. In a block, lane l
 * of eight adds the products of columns l, l + 8, l + 16, ... ascending, starting from 0; the lanes
 * are added as ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)); the blocks' sums are added ascending,
 * starting from 0. Products are rounded to f32 before they are added. The order depends on the
 * length alone.
 */
#ifndef DSV4_REF_DOT_H
#define DSV4_REF_DOT_H

#include <stdint.h>

enum { DSV4_DOT_BLOCK = 128 };

/* One block: a, b [n] f32, n is 0 .. 128. */
static inline float dsv4_dot_block(const float *a, const float *b, int64_t n)
{
    float lanes[8] = {0.0f};
    int64_t n_whole = n - n % 8;
    for (int64_t i = 0; i < n_whole; i += 8) {
        for (int64_t lane = 0; lane < 8; lane++) lanes[lane] += a[i + lane] * b[i + lane];
    }
    for (int64_t i = n_whole; i < n; i++) lanes[i - n_whole] += a[i] * b[i];
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/* a, b [n] f32, any n. */
static inline float dsv4_dot_f32(const float *a, const float *b, int64_t n)
{
    float sum = 0.0f;
    for (int64_t begin = 0; begin < n; begin += DSV4_DOT_BLOCK) {
        int64_t n_block = n - begin < DSV4_DOT_BLOCK ? n - begin : DSV4_DOT_BLOCK;
        sum += dsv4_dot_block(a + begin, b + begin, n_block);
    }
    return sum;
}

#endif
