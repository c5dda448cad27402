/*
 * parallel.h - the one way to use threads.
 *
 * Place: base. A loop over independent tasks on OpenMP. Which thread runs which task is not fixed,
 * so a result must not depend on it; `worker` only selects scratch memory.
 */
#ifndef DSV4_BASE_PARALLEL_H
#define DSV4_BASE_PARALLEL_H

#include <stdint.h>

/* One task. worker is 0 .. n_threads - 1, and no two tasks run at the same time with the same
 * worker. */
typedef void dsv4_parallel_body(void *context, int64_t task, int32_t worker);

/*
 * Runs body(context, task, worker) for task 0 .. n_tasks - 1 on at most n_threads threads (>= 1),
 * each thread taking the next task as it becomes free, and returns when all are done. With one
 * thread or one task everything runs on the caller's thread, in order.
 */
void dsv4_parallel_for(int32_t n_threads, int64_t n_tasks, dsv4_parallel_body *body, void *context);

/*
 * The same for two loops with the same context; the second one's tasks begin when all of the first one's are done.
 * Threads start once for both.
 */
void dsv4_parallel_for_both(int32_t n_threads, int64_t n_first, dsv4_parallel_body *first,
                            int64_t n_second, dsv4_parallel_body *second, void *context);

/* How many threads OpenMP would use for a loop of its own; >= 1. */
int32_t dsv4_parallel_default_threads(void);

#endif
