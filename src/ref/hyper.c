/*
 * hyper.c - hyper-connections (specification 2.2, 2.3, 2.4).
 *
 * Place: ref. f32 throughout. Dot products, the sum of squares included, are summed in the order of
 * dot.h; sums over four streams are summed from stream 0 to stream 3, and expand adds the
 * sublayer's part last. Rounding to bf16, where asked for, is of the finished u and X' alone.
 */
#include "ref/hyper.h"

#include <math.h>

#include "ref/dot.h"
#include "ref/quant.h"

enum { N_STREAMS = 4 };

void dsv4_hyper_project(const dsv4_hyper *hyper, const float *streams, int64_t dim, int n_out,
                        float norm_eps, float *projected)
{
    int64_t n = N_STREAMS * dim;
    float inverse = 1.0f / sqrtf(dsv4_dot_f32(streams, streams, n) / (float)n + norm_eps);
    for (int i = 0; i < n_out; i++) {
        projected[i] = dsv4_dot_f32(hyper->fn + i * n, streams, n) * inverse;
    }
}

static float sigmoid(float value)
{
    return 1.0f / (1.0f + expf(-value));
}

static float sum4(float a, float b, float c, float d)
{
    return ((a + b) + c) + d;
}

/* Softmax over the destinations of one source stream, then + hc_eps. */
static void row_softmax(float row[4], float hc_eps)
{
    float max = row[0];
    for (int k = 1; k < N_STREAMS; k++) max = row[k] > max ? row[k] : max;
    for (int k = 0; k < N_STREAMS; k++) row[k] = expf(row[k] - max);
    float sum = sum4(row[0], row[1], row[2], row[3]);
    for (int k = 0; k < N_STREAMS; k++) row[k] = row[k] / sum + hc_eps;
}

static void normalize_rows(float comb[4][4], float hc_eps)
{
    for (int j = 0; j < N_STREAMS; j++) {
        float sum = sum4(comb[j][0], comb[j][1], comb[j][2], comb[j][3]) + hc_eps;
        for (int k = 0; k < N_STREAMS; k++) comb[j][k] /= sum;
    }
}

static void normalize_columns(float comb[4][4], float hc_eps)
{
    for (int k = 0; k < N_STREAMS; k++) {
        float sum = sum4(comb[0][k], comb[1][k], comb[2][k], comb[3][k]) + hc_eps;
        for (int j = 0; j < N_STREAMS; j++) comb[j][k] /= sum;
    }
}

void dsv4_hyper_split(const dsv4_hyper *hyper, const float *projected, int n_iters, float hc_eps,
                      dsv4_hyper_mix *mix)
{
    const float *base = hyper->base, *scale = hyper->scale;
    for (int j = 0; j < N_STREAMS; j++) {
        mix->pre[j] = sigmoid(projected[j] * scale[0] + base[j]) + hc_eps;
        mix->post[j] = 2.0f * sigmoid(projected[4 + j] * scale[1] + base[4 + j]);
    }
    for (int j = 0; j < N_STREAMS; j++) {
        for (int k = 0; k < N_STREAMS; k++) {
            int i = 8 + 4 * j + k;
            mix->comb[j][k] = projected[i] * scale[2] + base[i];
        }
        row_softmax(mix->comb[j], hc_eps);
    }
    normalize_columns(mix->comb, hc_eps);
    for (int iter = 1; iter < n_iters; iter++) {
        normalize_rows(mix->comb, hc_eps);
        normalize_columns(mix->comb, hc_eps);
    }
}

void dsv4_hyper_split_head(const dsv4_hyper *hyper, const float *projected, float hc_eps,
                           float pre[4])
{
    for (int j = 0; j < N_STREAMS; j++) {
        pre[j] = sigmoid(projected[j] * hyper->scale[0] + hyper->base[j]) + hc_eps;
    }
}

void dsv4_hyper_collapse(const float pre[4], const float *streams, int64_t dim, int round,
                         float *out)
{
    for (int64_t i = 0; i < dim; i++) {
        out[i] = sum4(pre[0] * streams[i], pre[1] * streams[dim + i], pre[2] * streams[2 * dim + i],
                      pre[3] * streams[3 * dim + i]);
    }
    if (round) dsv4_quant_bf16(out, dim);
}

void dsv4_hyper_expand(const dsv4_hyper_mix *mix, const float *sublayer, int64_t dim, int round,
                       float *streams)
{
    for (int64_t i = 0; i < dim; i++) {
        float old[N_STREAMS];
        for (int j = 0; j < N_STREAMS; j++) old[j] = streams[j * dim + i];
        for (int k = 0; k < N_STREAMS; k++) {
            float residual = sum4(mix->comb[0][k] * old[0], mix->comb[1][k] * old[1],
                                  mix->comb[2][k] * old[2], mix->comb[3][k] * old[3]);
            streams[k * dim + i] = mix->post[k] * sublayer[i] + residual;
        }
    }
    if (round) dsv4_quant_bf16(streams, N_STREAMS * dim);
}
