/*
 * hyper.h - hyper-connections: four residual streams, mixed around every sublayer (specification 2.2-2.4).
 *
 * Place: ref. Streams are X [4, dim] f32, stream-major. One function per equation group; `round` is 1
 * where the official numerics rounds a result to bf16, and 0 for exact.
 */
#ifndef DSV4_REF_HYPER_H
#define DSV4_REF_HYPER_H

#include <stdint.h>

/* Weights of one mixing point, as in the checkpoint, all f32. */
typedef struct dsv4_hyper {
    const float *fn;    /* [24, 4 * dim]; [4, 4 * dim] for the head; any alignment of 4 */
    const float *base;  /* [24]; [4] */
    const float *scale; /* [3]; [1] */
} dsv4_hyper;

typedef struct dsv4_hyper_mix {
    float pre[4], post[4];
    float comb[4][4]; /* [source stream][destination stream] */
} dsv4_hyper_mix;

/* The 24 (or 4) dot products fn . x over 4 * dim values times rsqrt(mean(x^2) + norm_eps). */
void dsv4_hyper_project(const dsv4_hyper *hyper, const float *streams, int64_t dim, int n_out,
                        float norm_eps, float *projected);

/* projected [24] -> mix: sigmoids and n_iters Sinkhorn rounds; the last is a column normalization. */
void dsv4_hyper_split(const dsv4_hyper *hyper, const float *projected, int n_iters, float hc_eps,
                      dsv4_hyper_mix *mix);

/* The head's weights: pre[4] from projected [4]. */
void dsv4_hyper_split_head(const dsv4_hyper *hyper, const float *projected, float hc_eps,
                           float pre[4]);

/* out [dim] = sum_j pre[j] * X[j]. */
void dsv4_hyper_collapse(const float pre[4], const float *streams, int64_t dim, int round,
                         float *out);

/* X [k] = post[k] * sublayer + sum_j comb[j][k] * X[j], in place. */
void dsv4_hyper_expand(const dsv4_hyper_mix *mix, const float *sublayer, int64_t dim, int round,
                       float *streams);

#endif
