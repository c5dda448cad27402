/*
 * fiber_switch.h - from one fiber to another.
 *
 * Place: tests; for C and C++.
 */
#ifndef DSV4_TESTS_FIBER_SWITCH_H
#define DSV4_TESTS_FIBER_SWITCH_H

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Saves the caller's registers and stack pointer in *from and goes on where `to` was saved. A new fiber's stack has on its
 * top six words for registers, the function that it begins with, and a word for where that would return to.
 */
void fiber_switch(void **from, void *to);

#ifdef __cplusplus
}
#endif

#endif
