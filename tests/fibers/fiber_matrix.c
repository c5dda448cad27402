/*
 * fiber_matrix.c - gpu_matrix.h's products and conversions in C.
 *
 * Place: tests. What each lane holds is written here as published: AMD's matrix instruction calculator for bf16, the
 * tests of AMD's composable_kernel for scaled e4m3. A wave's product is computed by the lane that asks first.
 */
#include "gpu/gpu_matrix.h"

enum { MAX_SIDE = 32, MAX_K = 128, PLACE = FIBER_MAX_EXCHANGE_BYTES };

/* The product of the wave's last exchange. */
static float product[MAX_SIDE][MAX_SIDE];
static uint64_t product_number;

static float bf16_value(uint32_t bits)
{
    return gpu_as_f32(bits << 16);
}

/* A code of src/num/e4m3.c's format. */
static float code_value(uint32_t code)
{
    if ((code & 0x7fu) == 0x7fu) return GPU_NAN;
    return gpu_as_f32((code & 0x80u) << 24 | (code & 0x7fu) << 20) * 0x1p120f;
}

/* 2^(byte - 127), which is subnormal for 0. By its bits: a call of ldexpf was a fifth of a run. */
static float scale_value(uint32_t byte)
{
    if (byte == 255u) return GPU_NAN;
    return gpu_as_f32(byte == 0 ? 0x00400000u : byte << 23);
}

/*
 * Each element sums over ascending k; elements of a row side by side, which fills vectors. side is a constant at every
 * call.
 */
static inline __attribute__((always_inline)) void
multiply_all(const int side, int n_k, float a[MAX_SIDE][MAX_K], float b[MAX_K][MAX_SIDE])
{
    for (int i = 0; i < side; i++) {
        float sums[MAX_SIDE] = {0};
        for (int k = 0; k < n_k; k++) {
            for (int j = 0; j < side; j++) sums[j] += a[i][k] * b[k][j];
        }
        memcpy(product[i], sums, sizeof sums);
    }
}

/* n_words of A, then of B. Lane l: row l % 16 of A, column l % 16 of B, k = 2 n_words (l / 16) ... */
static void multiply_bf16_wave(const unsigned char *all, int n_words)
{
    static float a[MAX_SIDE][MAX_K], b[MAX_K][MAX_SIDE];
    for (int lane = 0; lane < 64; lane++) {
        uint32_t words[8];
        memcpy(words, all + lane * PLACE, sizeof words);
        for (int i = 0; i < n_words; i++) {
            const int side = lane % 16, k = 2 * n_words * (lane / 16) + 2 * i;
            const uint32_t word_b = words[n_words + i];
            a[side][k] = bf16_value(words[i] & 0xffffu);
            a[side][k + 1] = bf16_value(words[i] >> 16);
            b[k][side] = bf16_value(word_b & 0xffffu);
            b[k + 1][side] = bf16_value(word_b >> 16);
        }
    }
    multiply_all(16, 8 * n_words, a, b);
}

static gpu_f32x4 add_product(gpu_f32x4 c)
{
    const int lane = fiber_here.thread % 64;
    for (int r = 0; r < 4; r++) c[r] += product[4 * (lane / 16) + r][lane % 16];
    return c;
}

gpu_f32x4 gpu_multiply_bf16(gpu_u32x4 a, gpu_u32x4 b, gpu_f32x4 c)
{
    const gpu_u32x4 own[2] = {a, b};
    const unsigned char *all = fiber_exchange("multiply_bf16", own, sizeof own);
    if (product_number != fiber_exchange_number) multiply_bf16_wave(all, 4);
    product_number = fiber_exchange_number;
    return add_product(c);
}

gpu_f32x4 fiber_multiply_bf16_k16(gpu_u32x2 a, gpu_u32x2 b, gpu_f32x4 c)
{
    const gpu_u32x2 own[2] = {a, b};
    const unsigned char *all = fiber_exchange("multiply_bf16_k16", own, sizeof own);
    if (product_number != fiber_exchange_number) multiply_bf16_wave(all, 2);
    product_number = fiber_exchange_number;
    return add_product(c);
}

typedef struct code_operands {
    unsigned char a[32], b[32];
    uint32_t scale_a, scale_b;
} code_operands;

/*
 * side x side x n_k; groups of lanes g = l / side: byte e is k = 16g + e % 16 + (n_k / 2) (e / 16), and the group's scale
 * is that of k = 32g .. 32g + 31.
 */
static void multiply_codes_wave(const unsigned char *all, int side, int n_k)
{
    static float a[MAX_SIDE][MAX_K], b[MAX_K][MAX_SIDE];
    static float scales_a[MAX_SIDE][4], scales_b[MAX_SIDE][4];
    for (int lane = 0; lane < 64; lane++) {
        code_operands own;
        memcpy(&own, all + lane * PLACE, sizeof own);
        const int row = lane % side, group = lane / side;
        for (int e = 0; e < 32; e++) {
            const int k = 16 * group + e % 16 + n_k / 2 * (e / 16);
            a[row][k] = code_value(own.a[e]);
            b[k][row] = code_value(own.b[e]);
        }
        scales_a[row][group] = scale_value(own.scale_a & 0xffu);
        scales_b[row][group] = scale_value(own.scale_b & 0xffu);
    }
    for (int row = 0; row < side; row++) {
        for (int k = 0; k < n_k; k++) {
            a[row][k] *= scales_a[row][k / 32];
            b[k][row] *= scales_b[row][k / 32];
        }
    }
    if (side == 16) {
        multiply_all(16, n_k, a, b);
    } else {
        multiply_all(32, n_k, a, b);
    }
}

static void exchange_codes(gpu_u32x8 a, gpu_u32x8 b, uint32_t scale_a, uint32_t scale_b, int side,
                           int n_k)
{
    code_operands own;
    memcpy(own.a, &a, sizeof own.a);
    memcpy(own.b, &b, sizeof own.b);
    own.scale_a = scale_a;
    own.scale_b = scale_b;
    const unsigned char *all =
        fiber_exchange(side == 16 ? "multiply_codes" : "multiply_codes32", &own, sizeof own);
    if (product_number != fiber_exchange_number) multiply_codes_wave(all, side, n_k);
    product_number = fiber_exchange_number;
}

gpu_f32x4 gpu_multiply_codes(gpu_u32x8 a, gpu_u32x8 b, gpu_f32x4 c, uint32_t scale_a,
                             uint32_t scale_b)
{
    exchange_codes(a, b, scale_a, scale_b, 16, 128);
    return add_product(c);
}

gpu_f32x16 gpu_multiply_codes32(gpu_u32x8 a, gpu_u32x8 b, gpu_f32x16 c, uint32_t scale_a,
                                uint32_t scale_b)
{
    const int lane = fiber_here.thread % 64;
    exchange_codes(a, b, scale_a, scale_b, 32, 64);
    for (int i = 0; i < 16; i++) {
        c[i] += product[8 * (i / 4) + 4 * (lane / 32) + i % 4][lane % 32];
    }
    return c;
}

/* The scale's exponent counts and nothing else of it; a NaN makes NaN. */
static float converted(uint32_t code, uint32_t scale)
{
    return code_value(code) * scale_value(scale == 0x7fc00000u ? 255u : scale >> 23 & 0xffu);
}

uint32_t gpu_codes_to_bf16_low(uint32_t word, uint32_t scale)
{
    return gpu_to_bf16_pair(converted(word & 0xffu, scale), converted(word >> 8 & 0xffu, scale));
}

uint32_t gpu_codes_to_bf16_high(uint32_t word, uint32_t scale)
{
    return gpu_codes_to_bf16_low(word >> 16, scale);
}

/* Nearest even, saturating. */
static uint32_t code_of(float value)
{
    const uint32_t sign = gpu_as_u32(value) >> 31 << 7;
    const float magnitude = fabsf(value);
    if (value != value) return 0x7fu;
    if (magnitude >= 448.0f) return sign | 0x7eu;
    if (magnitude == 0.0f) return sign;
    int exponent;
    (void)frexpf(magnitude, &exponent);
    if (exponent < -5) exponent = -5; /* 2^-6 and below: multiples of 2^-9 */
    const float steps = nearbyintf(ldexpf(magnitude, 4 - exponent)); /* 8 .. 16 of a normal one */
    return sign | (uint32_t)((int)steps + 8 * (exponent + 5));
}

uint32_t gpu_to_codes(float a, float b, float c, float d)
{
    return code_of(a) | code_of(b) << 8 | code_of(c) << 16 | code_of(d) << 24;
}
