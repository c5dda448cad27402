/*
 * cuda_runtime_api.h - in the place of the toolkit's header: cuda_runtime.h.
 *
 * Place: tests.
 */
#include <cuda_runtime.h>
