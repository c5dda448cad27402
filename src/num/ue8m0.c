/*
 * ue8m0.c - power-of-two scales.
 *
 * Place: num. A code is the exponent field of the f32 it stands for, except code 0, whose f32 is
 * subnormal, and 255.
 */
#include "num/ue8m0.h"

#include <math.h>
#include <string.h>

#define CODE_NAN 255u
#define CODE_MAX 254u

#define F32_CODE_0 0x00400000u /* 2^-127 */
#define F32_NAN    0x7fc00000u

float dsv4_ue8m0_to_f32(uint8_t code)
{
    uint32_t bits = (uint32_t)code << 23;
    if (code == 0) bits = F32_CODE_0;
    if (code == CODE_NAN) bits = F32_NAN;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint8_t code_saturate(uint32_t code)
{
    return (uint8_t)(code > CODE_MAX ? CODE_MAX : code);
}

uint8_t dsv4_ue8m0_from_f32_ceil(float value)
{
    if (isnan(value)) return CODE_NAN;
    if (value <= 0x1p-127f) return 0;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    /* Holds for the subnormals above 2^-127 too: exponent field 0, next power 2^-126, code 1. */
    return code_saturate((bits >> 23) + ((bits & 0x7fffffu) != 0u));
}

uint8_t dsv4_ue8m0_from_f32_nearest(float value)
{
    if (isnan(value)) return CODE_NAN;
    /*
     * Code 0 ends at 1.5 * 2^-127, in the middle of the subnormals: the tie is code 0's. For the
     * subnormals above, the carry below gives 1.
     */
    if (value <= 0x1.8p-127f) return 0;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t odd = (bits >> 23) & 1u;
    return code_saturate((bits + 0x3fffffu + odd) >> 23);
}

uint8_t dsv4_ue8m0_group_scale(float amax, float max_code, float floor)
{
    /* False for a NaN amax, which so passes through. */
    if (amax < floor) amax = floor;
    return dsv4_ue8m0_from_f32_ceil(amax * (1.0f / max_code));
}
