/*
 * test_base.c - checked sizes, status names, error texts, CPU levels and parallel_for.
 *
 * Place: tests.
 */
#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static void checked_sizes_refuse_wrapping(void **state)
{
    (void)state;
    size_t size;
    assert_true(dsv4_checked_mul(SIZE_MAX / 3, 3, &size));
    assert_int_equal(size, SIZE_MAX / 3 * 3);
    assert_false(dsv4_checked_mul(SIZE_MAX / 3 + 1, 3, &size));
    assert_true(dsv4_checked_add(SIZE_MAX - 1, 1, &size));
    assert_int_equal(size, SIZE_MAX);
    assert_false(dsv4_checked_add(SIZE_MAX, 1, &size));

    int64_t number;
    assert_true(dsv4_checked_mul_i64(INT64_MIN / 2, 2, &number));
    assert_int_equal(number, INT64_MIN);
    assert_false(dsv4_checked_mul_i64(INT64_MIN, -1, &number));
    assert_true(dsv4_checked_add_i64(INT64_MAX, INT64_MIN, &number));
    assert_int_equal(number, -1);
    assert_false(dsv4_checked_add_i64(INT64_MIN, -1, &number));
}

static void every_status_has_its_name(void **state)
{
    (void)state;
    assert_string_equal(dsv4_status_name(DSV4_OK), "ok");
    assert_string_equal(dsv4_status_name(DSV4_ERROR_INVALID_ARGUMENT), "invalid argument");
    assert_string_equal(dsv4_status_name(DSV4_ERROR_OUT_OF_MEMORY), "out of memory");
    assert_string_equal(dsv4_status_name(DSV4_ERROR_IO), "input/output error");
    assert_string_equal(dsv4_status_name(DSV4_ERROR_BAD_FILE), "bad file");
    assert_string_equal(dsv4_status_name(DSV4_ERROR_UNSUPPORTED), "unsupported");
    assert_string_equal(dsv4_status_name(1), "unknown status");
    assert_string_equal(dsv4_status_name(DSV4_ERROR_DEVICE), "device error");
    assert_string_equal(dsv4_status_name(-7), "unknown status");
}

static void version_agrees_with_its_numbers(void **state)
{
    (void)state;
    char text[32];
    (void)snprintf(text, sizeof text, "%d.%d.%d", DSV4_VERSION_MAJOR, DSV4_VERSION_MINOR,
                   DSV4_VERSION_PATCH);
    assert_string_equal(dsv4_version(), text);
}

static void error_set_fills_and_cuts(void **state)
{
    (void)state;
    dsv4_error error;
    memset(&error, 'x', sizeof error);
    assert_int_equal(dsv4_error_set(&error, DSV4_ERROR_IO, "%s: %d", "file", 7), DSV4_ERROR_IO);
    assert_int_equal(error.status, DSV4_ERROR_IO);
    assert_string_equal(error.text, "file: 7");

    memset(&error, 'x', sizeof error);
    (void)dsv4_error_set(&error, DSV4_ERROR_BAD_FILE, "%*d", DSV4_ERROR_TEXT_BYTES + 9, 7);
    assert_int_equal(strnlen(error.text, sizeof error.text), DSV4_ERROR_TEXT_BYTES - 1);

    assert_int_equal(dsv4_error_set(NULL, DSV4_ERROR_IO, "nobody reads this"), DSV4_ERROR_IO);
}

static dsv4_status try_twice(dsv4_status first, dsv4_status second)
{
    DSV4_TRY(first);
    DSV4_TRY(second);
    return DSV4_OK;
}

static void try_forwards_the_first_failure(void **state)
{
    (void)state;
    assert_int_equal(try_twice(DSV4_OK, DSV4_OK), DSV4_OK);
    assert_int_equal(try_twice(DSV4_ERROR_IO, DSV4_ERROR_BAD_FILE), DSV4_ERROR_IO);
    assert_int_equal(try_twice(DSV4_OK, DSV4_ERROR_BAD_FILE), DSV4_ERROR_BAD_FILE);
}

/* Whether the flags line of /proc/cpuinfo, an account of the same bits by the kernel, has a name. */
static bool kernel_lists(const char *flags, const char *name)
{
    char word[32];
    (void)snprintf(word, sizeof word, " %s ", name);
    return strstr(flags, word) != NULL;
}

static int32_t level_by_kernel(void)
{
    static char line[16384];
    FILE *file = fopen("/proc/cpuinfo", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL && strncmp(line, "flags", 5) != 0) continue;
    assert_int_equal(fclose(file), 0);
    line[strcspn(line, "\n")] = ' ';

    static const char *const of_level[][5] = {
        [DSV4_CPU_LEVEL_AVX2] = {"avx", "fma", "f16c", "avx2"},
        [DSV4_CPU_LEVEL_AVX512] = {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
        [DSV4_CPU_LEVEL_AVX512BF16] = {"avx512_bf16", "avx512vbmi"},
    };
    for (int32_t level = DSV4_CPU_LEVEL_AVX2; level <= DSV4_CPU_LEVEL_AVX512BF16; level++) {
        for (const char *const *name = of_level[level]; *name != NULL; name++) {
            if (!kernel_lists(line, *name)) return level - 1;
        }
    }
    return DSV4_CPU_LEVEL_AVX512BF16;
}

static void cpu_level_is_what_the_kernel_says(void **state)
{
    (void)state;
    assert_int_equal(dsv4_cpu_level(), level_by_kernel());
    assert_int_equal(dsv4_cpu_level(), level_by_kernel());
}

static void cpu_levels_have_names(void **state)
{
    (void)state;
    assert_string_equal(dsv4_cpu_level_name(DSV4_CPU_LEVEL_AUTO), "auto");
    assert_string_equal(dsv4_cpu_level_name(DSV4_CPU_LEVEL_V2), "v2");
    assert_string_equal(dsv4_cpu_level_name(DSV4_CPU_LEVEL_AVX2), "avx2");
    assert_string_equal(dsv4_cpu_level_name(DSV4_CPU_LEVEL_AVX512), "avx512");
    assert_string_equal(dsv4_cpu_level_name(DSV4_CPU_LEVEL_AVX512BF16), "avx512bf16");
    assert_null(dsv4_cpu_level_name(-1));
    assert_null(dsv4_cpu_level_name(5));
}

enum { MAX_TASKS = 500, MAX_WORKERS = 8 };

typedef struct tally {
    int32_t n_threads;
    int n_runs[MAX_TASKS];           /* of each task; only its own task writes it */
    atomic_int is_busy[MAX_WORKERS]; /* whether a task holds this worker number now */
    atomic_bool was_shared;          /* whether two tasks ever held the same one */
    atomic_bool was_outside;         /* whether a number was not 0 .. n_threads - 1 */
    int64_t last_task;               /* meaningful on one thread */
    bool was_out_of_order;
} tally;

static void count_task(void *context, int64_t task, int32_t worker)
{
    tally *t = context;
    if (worker < 0 || worker >= t->n_threads) {
        atomic_store(&t->was_outside, true);
        return;
    }
    if (atomic_exchange(&t->is_busy[worker], 1) != 0) atomic_store(&t->was_shared, true);
    t->n_runs[task]++;
    if (t->n_threads == 1) {
        if (task != t->last_task + 1) t->was_out_of_order = true;
        t->last_task = task;
    }
    atomic_store(&t->is_busy[worker], 0);
}

static void parallel_for_runs_each_task_once(void **state)
{
    (void)state;
    static const int64_t n_tasks_of[] = {0, 1, 2, 7, MAX_TASKS};
    for (int32_t n_threads = 1; n_threads <= MAX_WORKERS; n_threads++) {
        for (size_t i = 0; i < sizeof n_tasks_of / sizeof n_tasks_of[0]; i++) {
            tally t = {.n_threads = n_threads, .last_task = -1};
            dsv4_parallel_for(n_threads, n_tasks_of[i], count_task, &t);
            for (int64_t task = 0; task < MAX_TASKS; task++) {
                assert_int_equal(t.n_runs[task], task < n_tasks_of[i]);
            }
            assert_false(atomic_load(&t.was_shared));
            assert_false(atomic_load(&t.was_outside));
            assert_false(t.was_out_of_order);
        }
    }
}

typedef struct two_loops {
    tally first, second;
    int64_t n_first;
    atomic_llong n_done;   /* tasks of the first loop */
    atomic_bool was_early; /* whether a task of the second loop saw one of the first missing */
} two_loops;

static void count_first(void *context, int64_t task, int32_t worker)
{
    two_loops *loops = context;
    count_task(&loops->first, task, worker);
    atomic_fetch_add(&loops->n_done, 1);
}

static void count_second(void *context, int64_t task, int32_t worker)
{
    two_loops *loops = context;
    if (atomic_load(&loops->n_done) != loops->n_first) atomic_store(&loops->was_early, true);
    count_task(&loops->second, task, worker);
}

static void check_two_loops(int32_t n_threads, int64_t n_first, int64_t n_second)
{
    two_loops loops = {.n_first = n_first};
    loops.first = (tally){.n_threads = n_threads, .last_task = -1};
    loops.second = (tally){.n_threads = n_threads, .last_task = -1};
    dsv4_parallel_for_both(n_threads, n_first, count_first, n_second, count_second, &loops);
    for (int64_t task = 0; task < MAX_TASKS; task++) {
        assert_int_equal(loops.first.n_runs[task], task < n_first);
        assert_int_equal(loops.second.n_runs[task], task < n_second);
    }
    assert_false(atomic_load(&loops.was_early));
    assert_false(atomic_load(&loops.first.was_shared) || atomic_load(&loops.second.was_shared));
    assert_false(atomic_load(&loops.first.was_outside) || atomic_load(&loops.second.was_outside));
    assert_false(loops.first.was_out_of_order || loops.second.was_out_of_order);
}

static void parallel_for_both_runs_one_loop_after_the_other(void **state)
{
    (void)state;
    static const int64_t n_tasks_of[] = {0, 1, 2, 7, MAX_TASKS};
    enum { N = sizeof n_tasks_of / sizeof n_tasks_of[0] };
    for (int32_t n_threads = 1; n_threads <= MAX_WORKERS; n_threads++) {
        for (int i = 0; i < N * N; i++) {
            check_two_loops(n_threads, n_tasks_of[i / N], n_tasks_of[i % N]);
        }
    }
}

enum { N_MEETING = 4, MAX_WAIT_S = 10 };

typedef struct meeting {
    atomic_int n_arrived;
    atomic_bool is_given_up;
} meeting;

static void wait_for_the_others(void *context, int64_t task, int32_t worker)
{
    (void)task;
    (void)worker;
    meeting *m = context;
    atomic_fetch_add(&m->n_arrived, 1);
    time_t start = time(NULL);
    while (atomic_load(&m->n_arrived) < N_MEETING && !atomic_load(&m->is_given_up)) {
        if (time(NULL) - start > MAX_WAIT_S) atomic_store(&m->is_given_up, true);
    }
}

/* Four tasks that each wait for the other three all meet only when four threads run them. */
static void parallel_for_uses_its_threads(void **state)
{
    (void)state;
    meeting m = {0};
    dsv4_parallel_for(N_MEETING, N_MEETING, wait_for_the_others, &m);
    assert_int_equal(atomic_load(&m.n_arrived), N_MEETING);
    assert_false(atomic_load(&m.is_given_up));
}

static void default_threads_is_positive(void **state)
{
    (void)state;
    assert_true(dsv4_parallel_default_threads() >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checked_sizes_refuse_wrapping),
        cmocka_unit_test(every_status_has_its_name),
        cmocka_unit_test(version_agrees_with_its_numbers),
        cmocka_unit_test(error_set_fills_and_cuts),
        cmocka_unit_test(try_forwards_the_first_failure),
        cmocka_unit_test(cpu_level_is_what_the_kernel_says),
        cmocka_unit_test(cpu_levels_have_names),
        cmocka_unit_test(parallel_for_runs_each_task_once),
        cmocka_unit_test(parallel_for_both_runs_one_loop_after_the_other),
        cmocka_unit_test(parallel_for_uses_its_threads),
        cmocka_unit_test(default_threads_is_positive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
