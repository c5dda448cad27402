/*
 * parallel.c - parallel_for on OpenMP.
 *
 * Place: base. The barrier at the end of the parallel region orders the tasks' writes before the
 * return.
 */
#include "parallel.h"

#include <omp.h>

void dsv4_parallel_for(int32_t n_threads, int64_t n_tasks, dsv4_parallel_body *body, void *context)
{
    if (n_threads <= 1 || n_tasks <= 1) {
        for (int64_t task = 0; task < n_tasks; task++) body(context, task, 0);
        return;
    }
    int n_used = n_tasks < n_threads ? (int)n_tasks : n_threads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_used)
    for (int64_t task = 0; task < n_tasks; task++) body(context, task, omp_get_thread_num());
}

int32_t dsv4_parallel_default_threads(void)
{
    return omp_get_max_threads();
}
