/*
 * round_tmpl.h - rounding to small float formats in f32 vectors, and FP8 codes of a row.
 *
 * Place: cpu; a template. Included once by each attn_<level>.c and rows_<level>.c after one vec_*.h.
 *
 * Rounding to a small float format without its codes: with M = 1.5 * 2^(e + 23 - m), adding M to a
 * magnitude below 2^(e + 1) and taking it away again rounds it to a multiple of 2^(e - m), ties to even.
 * e is the magnitude's exponent, at least that of the format's least normal number; m its mantissa bits.
 */
#include <string.h>

#include "base/compiler.h"
#include "num/ue8m0.h"

enum { FP8_GROUP = 128 };

#define FP8_MAX    448.0f
#define FP8_FLOOR  1e-4f
#define FP8_LEAST  0x1p-6f   /* least normal number */
#define FP8_SPAN   0x1.8p20f /* 1.5 * 2^(23 - m) */
#define FP8_REBIAS 0x1p-120f /* puts the exponent of e4m3, bias 7, where that of f32 is, bias 127 */

/* n_left values, at most a vector; zeros behind them. */
static DSV4_ALWAYS_INLINE vf load_some(const float *p, int64_t n_left)
{
    if (n_left >= VF_LANES) return vf_load(p);
    float padded[VF_LANES] = {0.0f};
    memcpy(padded, p, (size_t)n_left * sizeof *p);
    return vf_load(padded);
}

/* Largest magnitude of a group, NaN not counted. */
static DSV4_ALWAYS_INLINE float group_max(const float *x, int64_t n)
{
    vf most = vf_zero();
    for (int64_t i = 0; i < n; i += VF_LANES) {
        most = vf_max(vf_abs(load_some(x + i, n - i)), most);
    }
    float lanes[VF_LANES], max = 0.0f;
    vf_store(lanes, most);
    for (int lane = 0; lane < VF_LANES; lane++) max = lanes[lane] > max ? lanes[lane] : max;
    return max;
}

/* Magnitude, clamped, to the format's grid. */
static DSV4_ALWAYS_INLINE vf round_to_grid(vf magnitude, float least, float span)
{
    vf shift = vf_mul(vf_max(vf_binade(magnitude), vf_set1(least)), vf_set1(span));
    return vf_sub(vf_add(magnitude, shift), shift);
}

/*
 * codes [n] and scales [n / 128] of values [n], n a multiple of 128. EXACT: dsv4_quant_fp8_codes. A value of the
 * format times FP8_REBIAS is an f32 whose bits from 20 up are the code, subnormals as well; NaN is past all codes.
 */
static inline void quantize_codes(const float *values, int64_t n, uint8_t *codes, uint8_t *scales)
{
    for (int64_t begin = 0; begin < n; begin += FP8_GROUP) {
        float rebiased[FP8_GROUP];
        const float *x = values + begin;
        uint8_t scale = dsv4_ue8m0_group_scale(group_max(x, FP8_GROUP), FP8_MAX, FP8_FLOOR);
        vf inverse = vf_set1(1.0f / dsv4_ue8m0_to_f32(scale)), most = vf_set1(FP8_MAX);
        for (int i = 0; i < FP8_GROUP; i += VF_LANES) {
            vf scaled = vf_mul(vf_load(x + i), inverse);
            vf rounded = round_to_grid(vf_min(most, vf_abs(scaled)), FP8_LEAST, FP8_SPAN);
            vf_store(rebiased + i, vf_mul(vf_or(rounded, vf_sign(scaled)), vf_set1(FP8_REBIAS)));
        }
        for (int i = 0; i < FP8_GROUP; i++) {
            uint32_t bits;
            memcpy(&bits, &rebiased[i], sizeof bits);
            uint32_t magnitude = (bits & 0x7fffffffu) >> 20;
            codes[begin + i] =
                (uint8_t)((magnitude < 0x7fu ? magnitude : 0x7fu) | (bits >> 24 & 0x80u));
        }
        scales[begin / FP8_GROUP] = scale;
    }
}
