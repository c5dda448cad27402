/*
 * step_memory.h - laying out a step's memory.
 *
 * Place: model, private to forward.c and step.c.
 */
#ifndef DSV4_MODEL_STEP_MEMORY_H
#define DSV4_MODEL_STEP_MEMORY_H

#include <stdbool.h>

#include "step.h"

/*
 * Points every buffer of step into memory (64-byte aligned) by its shapes, and says how long they are
 * together; with memory NULL it only counts. False when a size overflows.
 */
bool dsv4_step_place(dsv4_step *step, unsigned char *memory, size_t *len_bytes);

#endif
