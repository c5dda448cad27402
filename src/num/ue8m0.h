/*
 * ue8m0.h - OCP E8M0 scales: an unsigned power of two, 2^(code - 127); code 255 is NaN.
 *
 * Place: num. Source: OCP microscaling specification 1.0; specification of the model, 3.8.
 */
#ifndef DSV4_NUM_UE8M0_H
#define DSV4_NUM_UE8M0_H

#include <stdint.h>

/* Exact (code 0 is the f32 subnormal 2^-127); NaN for 255. */
float dsv4_ue8m0_to_f32(uint8_t code);

/*
 * Smallest power of two >= value, as a code: value must be positive. Values up to 2^-127 give 0,
 * values past 2^127 and infinity saturate to 254, NaN gives 255.
 */
uint8_t dsv4_ue8m0_from_f32_ceil(float value);

/*
 * Nearest power of two in value; a tie (1.5 * 2^n) goes to the even code. Saturates and treats NaN
 * as the function above.
 */
uint8_t dsv4_ue8m0_from_f32_nearest(float value);

/*
 * The scale of a quantization group: 2^ceil(log2(amax / max_code)) with amax first raised to floor,
 * where the quotient is amax * (1 / max_code) in f32 as the model's reference has it. FP8: max_code
 * 448, floor 1e-4; FP4: max_code 6, floor 6 * 2^-126. NaN amax gives 255.
 */
uint8_t dsv4_ue8m0_group_scale(float amax, float max_code, float floor);

#endif
