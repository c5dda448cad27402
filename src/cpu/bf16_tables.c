/*
 * bf16_tables.c - FP8 values as bf16, with their scale in them.
 *
 * Place: cpu. One row for each of the 256 scales, of which a checkpoint or a cache has a dozen. `bits` of
 * bf16 moves by the scale's power of two; zero and NaN do not. Rows of scales that are not plain hold
 * nonsense and are not read.
 */
#include "bf16_tables.h"

#define MOVED(s, bits)    ((uint32_t)(bits) + ((uint32_t)(s)-127u) * 128u)
#define FOUR_ROWS(row, s) row(s), row((s) + 1), row((s) + 2), row((s) + 3)
#define SIXTEEN_ROWS(row, s)                                                                       \
    FOUR_ROWS(row, s), FOUR_ROWS(row, (s) + 4), FOUR_ROWS(row, (s) + 8), FOUR_ROWS(row, (s) + 12)
#define ALL_ROWS(row)                                                                              \
    SIXTEEN_ROWS(row, 0), SIXTEEN_ROWS(row, 16), SIXTEEN_ROWS(row, 32), SIXTEEN_ROWS(row, 48),     \
        SIXTEEN_ROWS(row, 64), SIXTEEN_ROWS(row, 80), SIXTEEN_ROWS(row, 96),                       \
        SIXTEEN_ROWS(row, 112), SIXTEEN_ROWS(row, 128), SIXTEEN_ROWS(row, 144),                    \
        SIXTEEN_ROWS(row, 160), SIXTEEN_ROWS(row, 176), SIXTEEN_ROWS(row, 192),                    \
        SIXTEEN_ROWS(row, 208), SIXTEEN_ROWS(row, 224), SIXTEEN_ROWS(row, 240)

/* e4m3: the high bytes of magnitudes 0 .. 127, then the low ones. */
#define HIGH_BYTE(s, bits) (uint8_t)(MOVED(s, bits) >> 8 & 255u)
#define LOW_BYTE(s, bits)  (uint8_t)(MOVED(s, bits) & 255u)
#define EIGHT(byte, s, bits)                                                                       \
    byte(s, bits), byte(s, (bits) + 16), byte(s, (bits) + 32), byte(s, (bits) + 48),               \
        byte(s, (bits) + 64), byte(s, (bits) + 80), byte(s, (bits) + 96), byte(s, (bits) + 112)
#define FP8_BYTES(byte, s, nan)                                                                    \
    0, byte(s, 0x3b00), byte(s, 0x3b80), byte(s, 0x3bc0), byte(s, 0x3c00), byte(s, 0x3c20),        \
        byte(s, 0x3c40), byte(s, 0x3c60), EIGHT(byte, s, 0x3c80), EIGHT(byte, s, 0x3d00),          \
        EIGHT(byte, s, 0x3d80), EIGHT(byte, s, 0x3e00), EIGHT(byte, s, 0x3e80),                    \
        EIGHT(byte, s, 0x3f00), EIGHT(byte, s, 0x3f80), EIGHT(byte, s, 0x4000),                    \
        EIGHT(byte, s, 0x4080), EIGHT(byte, s, 0x4100), EIGHT(byte, s, 0x4180),                    \
        EIGHT(byte, s, 0x4200), EIGHT(byte, s, 0x4280), EIGHT(byte, s, 0x4300), byte(s, 0x4380),   \
        byte(s, 0x4390), byte(s, 0x43a0), byte(s, 0x43b0), byte(s, 0x43c0), byte(s, 0x43d0),       \
        byte(s, 0x43e0), nan
#define FP8_ROW(s)                                                                                 \
    {                                                                                              \
        FP8_BYTES(HIGH_BYTE, s, 0x7f), FP8_BYTES(LOW_BYTE, s, 0xc0)                                \
    }

const uint8_t dsv4_e4m3_bytes[256][256] = {ALL_ROWS(FP8_ROW)};
