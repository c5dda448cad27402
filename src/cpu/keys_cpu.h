/*
 * keys_cpu.h - the operations of dsv4/keys.h on the CPU, the reference included.
 *
 * Place: cpu; params have been validated. level 0 is the reference: the same code on the functions of ref.
 */
#ifndef DSV4_CPU_KEYS_CPU_H
#define DSV4_CPU_KEYS_CPU_H

#include "dsv4/keys.h"

void dsv4_keys_cpu_finish(const dsv4_keys_finish_params *params, int32_t level, int32_t n_threads);
void dsv4_keys_cpu_compress(const dsv4_keys_compress_params *params, int32_t level,
                            int32_t n_threads);
void dsv4_keys_cpu_read(const dsv4_keys_read_params *params, int32_t level, int32_t n_threads);

#endif
