/*
 * eval_errors.c - how far logits are from known ones.
 *
 * Place: program.
 */
#include "eval_errors.h"

#include <math.h>
#include <string.h>

static double known_at(const unsigned char *known, int64_t i)
{
    float value;
    memcpy(&value, known + i * (int64_t)sizeof value, sizeof value);
    return (double)value;
}

/* Kullback-Leibler divergence of softmax(logits) from softmax(known); x, y are the largest of each. */
static double divergence(const float *logits, const unsigned char *known, int64_t n_vocab, double x,
                         double y)
{
    double x_sum = 0, y_sum = 0, weighted = 0;
    for (int64_t i = 0; i < n_vocab; i++) {
        double a = (double)logits[i] - x, b = known_at(known, i) - y, weight = exp(b);
        x_sum += exp(a);
        y_sum += weight;
        if (weight > 0) weighted += weight * (b - a);
    }
    return weighted / y_sum + log(x_sum) - log(y_sum);
}

double dsv4_cosine(double xx, double yy, double xy)
{
    if (xx == 0 || yy == 0) return xx == yy;
    return xy / (sqrt(xx) * sqrt(yy));
}

dsv4_eval_row dsv4_eval_compare(const float *logits, const unsigned char *known, int64_t n_vocab)
{
    dsv4_eval_row row = {.is_finite = true};
    double xx = 0, yy = 0, xy = 0;
    for (int64_t i = 0; i < n_vocab; i++) {
        double x = (double)logits[i], y = known_at(known, i);
        xx += x * x;
        yy += y * y;
        xy += x * y;
        row.max_abs = fmax(row.max_abs, fabs(x - y));
        row.is_finite = row.is_finite && isfinite(x) && isfinite(y);
        if (logits[i] > logits[row.largest]) row.largest = i;
        if (y > known_at(known, row.known_largest)) row.known_largest = i;
    }
    row.cosine = row.is_finite ? dsv4_cosine(xx, yy, xy) : NAN;
    row.kl = NAN;
    if (row.is_finite) {
        row.kl = divergence(logits, known, n_vocab, (double)logits[row.largest],
                            known_at(known, row.known_largest));
    }
    return row;
}

void dsv4_eval_add(dsv4_eval_errors *errors, const dsv4_eval_row *row)
{
    /* fmin and fmax pass over NaN, which n_not_finite tells of. */
    errors->min_cosine = errors->n_rows == 0 ? row->cosine : fmin(errors->min_cosine, row->cosine);
    errors->n_rows++;
    errors->n_agree += row->largest == row->known_largest;
    errors->n_close += row->max_abs <= DSV4_EVAL_CLOSE;
    errors->n_not_finite += !row->is_finite;
    errors->max_abs = fmax(errors->max_abs, row->max_abs);
    errors->cosine_sum += row->cosine;
    errors->kl_sum += row->kl;
}
