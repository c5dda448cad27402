/*
 * attn_property.h - what must hold besides the numbers themselves.
 *
 * Place: tests. Each check runs one case on one config and returns false with the reason in text.
 */
#ifndef DSV4_TESTS_ATTN_PROPERTY_H
#define DSV4_TESTS_ATTN_PROPERTY_H

#include "attn_run.h"

/*
 * Bit-equal results: repeated calls, other numbers of threads, a plan built before the lists were
 * known, a request alone, requests in another order, a request among others; a bf16 output is the
 * f32 output rounded to nearest even.
 */
bool attn_check_bits(attn_case *c, const attn_config *config, attn_worst *worst, char *text);

/* Keys split into parts, each decoded without the sink, merged: equal to the one call. */
bool attn_check_merge(attn_case *c, const attn_config *config, attn_worst *worst, char *text);

/* The epilogue equals a rotation of the plain output in double precision; other dims keep bits. */
bool attn_check_rope(attn_case *c, const attn_config *config, attn_worst *worst, char *text);

/* Slots up to 2^31 - 1 in a pool of more than a terabyte of address space. */
bool attn_check_far(attn_case *c, const attn_config *config, attn_worst *worst, char *text);

/* Several threads decode at once with one plan, each with its own workspace and output. */
bool attn_check_shared_plan(attn_case *c, const attn_config *config, attn_worst *worst, char *text);

/* GPUs only: plans that are not the call's own are refused (attn_refused.c); any other config passes. */
bool attn_check_refused(attn_case *c, const attn_config *config, attn_worst *worst, char *text);

#endif
