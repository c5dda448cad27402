/*
 * open_bar.h - a bar on a terminal while a model opens.
 *
 * Place: program. Opening maps files and reads headers, mostly in less time than a glance takes: the bar
 * appears only after DSV4_OPEN_BAR_DELAY_S, never where no one looks, and is wiped away at the end.
 */
#ifndef DSV4_TOOLS_OPEN_BAR_H
#define DSV4_TOOLS_OPEN_BAR_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define DSV4_OPEN_BAR_DELAY_S 0.3

typedef struct dsv4_open_bar {
    FILE *terminal; /* NULL: show nothing */
    double (*now_s)(void);
    double start_s;
    bool is_shown;
} dsv4_open_bar;

/* On standard error, if that is a terminal. */
dsv4_open_bar dsv4_open_bar_start(void);

/* A dsv4_open_progress (dsv4/dsv4.h) whose context is the bar. */
void dsv4_open_bar_step(void *bar, int64_t n_done, int64_t n_total);

void dsv4_open_bar_end(dsv4_open_bar *bar);

#endif
