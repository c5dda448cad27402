/*
 * test_open_bar.c - when the bar of opening a model appears, and that it goes.
 *
 * Place: tests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "open_bar.h"

#include <stdio.h>
#include <string.h>

static double clock_s; /* what the bar takes for the time */

static double read_clock(void)
{
    return clock_s;
}

static dsv4_open_bar make_bar(FILE *terminal)
{
    clock_s = 100;
    return (dsv4_open_bar){.terminal = terminal, .now_s = read_clock, .start_s = clock_s};
}

/* What was written so far. */
static size_t read_back(FILE *file, char *text, size_t text_bytes)
{
    rewind(file);
    size_t n = fread(text, 1, text_bytes - 1, file);
    text[n] = '\0';
    return n;
}

static void a_quick_opening_shows_nothing(void **state)
{
    (void)state;
    char text[256];
    FILE *file = tmpfile();
    dsv4_open_bar bar = make_bar(file);
    for (int64_t i = 1; i <= 4; i++) {
        clock_s += 0.07;
        dsv4_open_bar_step(&bar, i, 4);
    }
    dsv4_open_bar_end(&bar);
    assert_int_equal(read_back(file, text, sizeof text), 0);
    (void)fclose(file);
}

static void a_slow_opening_shows_a_bar_and_wipes_it(void **state)
{
    (void)state;
    char text[256];
    FILE *file = tmpfile();
    dsv4_open_bar bar = make_bar(file);
    dsv4_open_bar_step(&bar, 1, 4);
    clock_s += 0.31;
    dsv4_open_bar_step(&bar, 2, 4);
    dsv4_open_bar_end(&bar);
    dsv4_open_bar_end(&bar);
    (void)read_back(file, text, sizeof text);
    assert_string_equal(text, "\r\033[Kopening [###############...............] 2/4 files\r\033[K");
    (void)fclose(file);
}

static void no_terminal_no_bar(void **state)
{
    (void)state;
    dsv4_open_bar bar = make_bar(NULL);
    clock_s += 1;
    dsv4_open_bar_step(&bar, 1, 1);
    dsv4_open_bar_end(&bar);
    assert_false(bar.is_shown);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quick_opening_shows_nothing),
        cmocka_unit_test(a_slow_opening_shows_a_bar_and_wipes_it),
        cmocka_unit_test(no_terminal_no_bar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
