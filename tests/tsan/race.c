/*
 * race.c - a data race inside parallel_for, and the same work without one.
 *
 * Place: tests. `race racy` adds from several threads to one variable; `race clean` lets each task
 * write its own element and reads them after the loop, which only its final barrier orders. Built
 * with ThreadSanitizer: shows that the first is reported and the second is not.
 */
#include "base/parallel.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { N_THREADS = 4, N_TASKS = 4000 };

typedef struct work {
    bool is_racy;
    int64_t shared;
    int64_t own[N_TASKS];
} work;

static void add_task(void *context, int64_t task, int32_t worker)
{
    (void)worker;
    work *w = context;
    if (w->is_racy) {
        w->shared += task;
    } else {
        w->own[task] += task;
    }
}

int main(int argc, char **argv)
{
    static work w;
    if (argc != 2) return 2;
    w.is_racy = strcmp(argv[1], "racy") == 0;

    int64_t sum = 0;
    for (int round = 0; round < 3; round++) {
        dsv4_parallel_for(N_THREADS, N_TASKS, add_task, &w);
        for (int64_t task = 0; task < N_TASKS; task++) sum += w.own[task];
    }
    printf("%" PRId64 "\n", sum + w.shared);
    return 0;
}
