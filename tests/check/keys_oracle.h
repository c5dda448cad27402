/*
 * keys_oracle.h - what a call of dsv4/keys.h must have done, in double precision and from the case alone.
 *
 * Place: tests. Independent of the library: formats are decoded and scales derived here.
 */
#ifndef DSV4_TESTS_KEYS_ORACLE_H
#define DSV4_TESTS_KEYS_ORACLE_H

#include "keys_case.h"

/*
 * Whether `after`, an image on which the case was computed, has every output within its bound and every other byte
 * as before. If not, text says what is wrong. *worst grows to the largest error in units of its bound.
 */
bool keys_oracle_check(const keys_case *c, const uint8_t *after, double *worst,
                       char text[KEYS_TEXT_BYTES]);

#endif
