/*
 * eval_text.h - `dsv4 eval --task text`: perplexity, and what drafts do to generation.
 *
 * Place: program.
 */
#ifndef DSV4_TOOLS_EVAL_TEXT_H
#define DSV4_TOOLS_EVAL_TEXT_H

#include "options.h"

/* Runs --task text or drafts, prints what came of it, and returns the exit code. */
int dsv4_eval_text(const dsv4_options *options);

#endif
