/*
 * interrupt.h - Ctrl-C as a request instead of the program's end.
 *
 * Place: program. One flag for the process, since a signal has no other address; set by the handler alone,
 * cleared by who has done what it asks for.
 */
#ifndef DSV4_TOOLS_INTERRUPT_H
#define DSV4_TOOLS_INTERRUPT_H

#include <stdbool.h>

/* From now on SIGINT only sets the flag. System calls that it meets go on. */
void dsv4_interrupt_catch(void);

/* Whether SIGINT came since the flag was cleared. */
bool dsv4_interrupt_came(void);

void dsv4_interrupt_clear(void);

#endif
