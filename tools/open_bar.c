/*
 * open_bar.c - draws the bar of opening a model.
 *
 * Place: program.
 */
#include "open_bar.h"

#include "bench_clock.h"

#include <inttypes.h>
#include <unistd.h>

enum { WIDTH = 30 };

#define WIPE_LINE "\r\033[K"

dsv4_open_bar dsv4_open_bar_start(void)
{
    return (dsv4_open_bar){.terminal = isatty(STDERR_FILENO) ? stderr : NULL,
                           .now_s = dsv4_bench_now_s,
                           .start_s = dsv4_bench_now_s()};
}

void dsv4_open_bar_step(void *context, int64_t n_done, int64_t n_total)
{
    dsv4_open_bar *bar = context;
    if (bar->terminal == NULL || n_total < 1) return;
    if (bar->now_s() - bar->start_s < DSV4_OPEN_BAR_DELAY_S) return;
    char filled[WIDTH + 1] = "";
    int n_filled = (int)((double)n_done / (double)n_total * WIDTH);
    for (int i = 0; i < WIDTH; i++) filled[i] = i < n_filled ? '#' : '.';
    fprintf(bar->terminal, WIPE_LINE "opening [%s] %" PRId64 "/%" PRId64 " files", filled, n_done,
            n_total);
    (void)fflush(bar->terminal);
    bar->is_shown = true;
}

void dsv4_open_bar_end(dsv4_open_bar *bar)
{
    if (!bar->is_shown) return;
    fputs(WIPE_LINE, bar->terminal);
    (void)fflush(bar->terminal);
    bar->is_shown = false;
}
