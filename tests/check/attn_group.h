/*
 * attn_group.h - the groups of cases that check_attn runs.
 *
 * Place: tests. A case number is group * ATTN_GROUP_CASES + index; it decides the case entirely.
 */
#ifndef DSV4_TESTS_ATTN_GROUP_H
#define DSV4_TESTS_ATTN_GROUP_H

#include "attn_run.h"

enum { ATTN_GROUP_CASES = 1000000 };

typedef bool attn_property(attn_case *c, const attn_config *config, attn_worst *worst, char *text);

typedef struct attn_group {
    const char *name;
    int64_t n_quick;   /* cases of the quick run; the long one has ten times as many */
    int64_t n_threads; /* cases of the run under a thread sanitizer */
    int32_t math;      /* of every level and the reference; AUTO: what each level is made for */
    int64_t max_macs;  /* requests, then queries, then heads are cut until a case is this small */
    void (*draw)(attn_rng *rng, int64_t index, attn_spec *spec);
    attn_property *property; /* NULL: compare each level with the reference, and that in double */
    bool as_flashmla;        /* compare by FlashMLA's tolerances instead (attn_flashmla.h) */
} attn_group;

/* FlashMLA's shapes as they are; only a GPU runs them. */
extern const char attn_group_flashmla[];

/* Those most likely to fail come first. */
extern const attn_group attn_groups[];
extern const int64_t attn_n_groups;

/* The spec of a case number, whose group must exist. */
void attn_group_draw(uint64_t id, attn_spec *spec);

#endif
