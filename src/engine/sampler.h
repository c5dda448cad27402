/*
 * sampler.h - from logits to a token; dsv4_sample itself is declared in dsv4/dsv4.h.
 *
 * Place: engine. A sampled token is a function of logits, settings and random state alone. A logit that
 * is NaN is never chosen; -INFINITY only where nothing else is left.
 */
#ifndef DSV4_ENGINE_SAMPLER_H
#define DSV4_ENGINE_SAMPLER_H

#include "dsv4/dsv4.h"

/* Returned by dsv4_sample when every logit is NaN. */
#define DSV4_SAMPLE_NONE (-1)

/* Bytes of scratch that dsv4_sample needs per token of the vocabulary. */
#define DSV4_SAMPLE_SCRATCH_BYTES 8

/*
 * Whether the settings are ones that dsv4/dsv4.h describes.
 * Errors: INVALID_ARGUMENT (the field, its value, the rule).
 */
dsv4_status dsv4_sampling_check(const dsv4_sampling *sampling, dsv4_error *error);

#endif
