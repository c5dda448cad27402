/*
 * interrupt.c - catches SIGINT.
 *
 * Place: program.
 */
#include "interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t came;

static void note(int number)
{
    (void)number;
    came = 1;
}

void dsv4_interrupt_catch(void)
{
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
}

bool dsv4_interrupt_came(void)
{
    return came != 0;
}

void dsv4_interrupt_clear(void)
{
    came = 0;
}
