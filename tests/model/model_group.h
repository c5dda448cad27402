/*
 * model_group.h - the groups of cases that check_model runs.
 *
 * Place: tests. A group is a function that checks cases and counts them in the context.
 */
#ifndef DSV4_TESTS_MODEL_GROUP_H
#define DSV4_TESTS_MODEL_GROUP_H

#include "model_run.h"

enum { MODEL_N_FIXTURES = 8 };

typedef struct model_context {
    model_fixture fixtures[MODEL_N_FIXTURES];
    int32_t best_level;         /* of this machine */
    bool is_quick, stops_early; /* fewer cases; stop at the first failure */
    const char *group;          /* name, for failures */
    int64_t n_cases, n_failed;  /* of the group */
    char note[80];              /* what the group's line says besides */
} model_context;

/* Counts a case; prints a failed one. */
void model_check(model_context *context, bool is_good, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Whether the group should end now. */
bool model_is_over(const model_context *context);

const model_fixture *model_find(const model_context *context, const char *name);

/* The numerics i = 0, 1 at the machine's best level. */
model_setup model_best_setup(const model_context *context, int i);
const char *model_numerics_name(int32_t numerics);

/* model_engine_free and a case: no page has leaked. */
void model_check_free(model_context *context, model_engine *engine);

/* n rows are the same bits as the reference's from row `begin` on. */
bool model_same_rows(const model_fixture *fixture, const float *rows, int64_t n,
                     const float *reference, int64_t begin);

/* model_golden.c */
void model_group_exact(model_context *context);
void model_group_official(model_context *context);

/* model_split.c */
void model_group_chunks(model_context *context);
void model_group_splits(model_context *context);
void model_group_batches(model_context *context);

/* model_state.c */
void model_group_forks(model_context *context);
void model_group_rewinds(model_context *context);
void model_group_pages(model_context *context);
void model_group_growth(model_context *context);

/* model_inputs.c */
void model_group_inputs(model_context *context);

#endif
