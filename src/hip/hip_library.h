/*
 * hip_library.h - AMD's runtime, libamdhip64, found when it is first needed.
 *
 * Place: hip. The library is not linked with it: the same binary runs where there is none. HIP's headers are not needed
 * either: what is used has been the same from HIP 6.0 on, calls take no structs but one, whose layout is part of its
 * symbol's name (hip_device.c), and enumerations are passed as numbers. A status is HIP's hipError_t, 0 when all is well.
 *
 * The table is filled once for the process, by whichever thread comes first, and never changed or given back: the
 * only other state that the library keeps is the kernels of each device (hip_device.h). A runtime that cannot be used
 * stays unusable; why is said again at each call.
 */
#ifndef DSV4_HIP_HIP_LIBRARY_H
#define DSV4_HIP_HIP_LIBRARY_H

#include <stddef.h>

#include "dsv4/base.h"

enum { HIP_NAME_BYTES = 32, HIP_LEAST_VERSION = 60000000 /* 6.0 */ };

typedef struct dsv4_hip {
    void *library;             /* of dlopen */
    char name[HIP_NAME_BYTES]; /* under which it was found */
    int version;               /* major * 10^7 + minor * 10^5 + patch */
    const char *(*hipGetErrorString)(int status);
    int (*hipRuntimeGetVersion)(int *version);
    int (*hipGetDeviceCount)(int *n_devices);
    int (*hipGetDevice)(int *device);
    int (*hipDeviceGetAttribute)(int *value, int attribute, int device);
    int (*hipGetDevicePropertiesR0600)(void *properties, int device);
    int (*hipModuleLoadData)(void **module, const void *image);
    int (*hipModuleUnload)(void *module);
    int (*hipModuleGetFunction)(void **function, void *module, const char *name);
    int (*hipModuleLaunchKernel)(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                 unsigned block_x, unsigned block_y, unsigned block_z,
                                 unsigned shared_bytes, void *stream, void **arguments,
                                 void **extra);
} dsv4_hip;

/* The process's runtime, or NULL. Thread-safe. Errors: UNSUPPORTED; the text says what is missing. */
const dsv4_hip *dsv4_hip_get(dsv4_error *error);

/* DSV4_OK, or DEVICE with the call's name and HIP's words. `what` may be NULL: the object of the call. */
dsv4_status dsv4_hip_check(const dsv4_hip *hip, int status, const char *call, const char *what,
                           dsv4_error *error);

/* ---- parts of it, for those who look up more functions, and for tests ---- */

/* The address of a symbol in a library, or NULL: dlsym, or a test's stand-in. */
typedef void *dsv4_hip_find(void *library, const char *symbol);

/* A symbol, and where in a struct of function pointers its address belongs. */
typedef struct dsv4_hip_symbol {
    const char *name;
    size_t offset;
} dsv4_hip_symbol;

/* What dsv4_hip_bind looks for; NULL ends it. */
extern const dsv4_hip_symbol dsv4_hip_symbols[];

/* The first symbol that is not there, or NULL when all are and *functions has their addresses. */
const char *dsv4_hip_bind_symbols(dsv4_hip_find *find, void *library,
                                  const dsv4_hip_symbol *symbols, void *functions);

/* Fills *hip, whose `library` and `name` are set, and looks at the version first. Errors: UNSUPPORTED. */
dsv4_status dsv4_hip_bind(dsv4_hip_find *find, dsv4_hip *hip, dsv4_error *error);

/*
 * Opens the first of the names, which NULL ends, that there is, and binds it. One that the process already has comes
 * before all others: streams and memory belong to it. Errors: UNSUPPORTED; then nothing is open.
 */
dsv4_status dsv4_hip_open(const char *const *names, dsv4_hip *hip, dsv4_error *error);

/* dlsym. */
void *dsv4_hip_find_symbol(void *library, const char *symbol);

#endif
