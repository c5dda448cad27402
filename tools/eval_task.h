/*
 * eval_task.h - `dsv4 eval --task`: how many answers are right.
 *
 * Place: program.
 */
#ifndef DSV4_TOOLS_EVAL_TASK_H
#define DSV4_TOOLS_EVAL_TASK_H

#include "options.h"

/* Runs the task that the options name and prints its table; returns the exit code. */
int dsv4_eval_task(const dsv4_options *options);

#endif
