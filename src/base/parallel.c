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

void dsv4_parallel_for_both(int32_t n_threads, int64_t n_first, dsv4_parallel_body *first,
                            int64_t n_second, dsv4_parallel_body *second, void *context)
{
    if (n_threads <= 1 || (n_first <= 1 && n_second <= 1)) {
        for (int64_t task = 0; task < n_first; task++) first(context, task, 0);
        for (int64_t task = 0; task < n_second; task++) second(context, task, 0);
        return;
    }
    int64_t n_most = n_first > n_second ? n_first : n_second;
    int n_used = n_most < n_threads ? (int)n_most : n_threads;
#pragma omp parallel num_threads(n_used)
    {
        int worker = omp_get_thread_num();
        if (n_first <= n_used) {
#pragma omp for schedule(static, 1)
            for (int64_t task = 0; task < n_first; task++) first(context, task, worker);
        } else {
#pragma omp for schedule(dynamic, 1)
            for (int64_t task = 0; task < n_first; task++) first(context, task, worker);
        }
#pragma omp for schedule(static, 1) nowait
        for (int64_t task = 0; task < n_second; task++) second(context, task, worker);
    }
}

int32_t dsv4_parallel_default_threads(void)
{
    return omp_get_max_threads();
}
