/*
 * eval_errors.h - how far logits are from known ones, position by position.
 *
 * Place: program. Sums are in double.
 */
#ifndef DSV4_TOOLS_EVAL_ERRORS_H
#define DSV4_TOOLS_EVAL_ERRORS_H

#include <stdbool.h>
#include <stdint.h>

#define DSV4_EVAL_CLOSE 2e-3 /* largest absolute error of a position that counts as close */

/* One position. */
typedef struct dsv4_eval_row {
    double max_abs, cosine;
    double kl; /* of ours from the known distribution, nats */
    int64_t largest, known_largest;
    bool is_finite; /* all of ours and of the known ones; else cosine and kl are NaN */
} dsv4_eval_row;

/* All positions so far. Begins zeroed. */
typedef struct dsv4_eval_errors {
    int64_t n_rows, n_agree, n_close, n_not_finite;
    double max_abs, cosine_sum, min_cosine, kl_sum;
} dsv4_eval_errors;

/*
 * Cosine of two vectors from their squared norms and their product. A zero vector is like another one, 1,
 * and unlike all else, 0.
 */
double dsv4_cosine(double xx, double yy, double xy);

/* logits, known: [n_vocab] f32; known may lie at any address */
dsv4_eval_row dsv4_eval_compare(const float *logits, const unsigned char *known, int64_t n_vocab);

void dsv4_eval_add(dsv4_eval_errors *errors, const dsv4_eval_row *row);

#endif
