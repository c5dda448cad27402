/*
 * fake_hip.h - a stand-in for AMD's runtime: the functions that dsv4 uses, and what a test can ask of them.
 *
 * Place: tests. The library is named libamdhip64.so.7, so that a program that is linked with it has it open when dsv4
 * looks for the runtime, and one that finds it in LD_LIBRARY_PATH takes it for the real one. Devices are memory of the
 * host; what is enqueued happens at once, or is kept in a graph while its stream is captured. There are two: one that
 * runs kernels on fibers, and one where a launch only leaves a record, unless a test gives it a way to run them.
 *
 * Strict where the real one is: code must be an ELF file for the device's architecture, kernels are those that it
 * names, blocks have at most the threads for which the kernel was compiled and no more shared memory, its own and the
 * launch's, than the device has, and what waits or allocates fails during a capture. It is not for several threads at
 * once, but for first calls, which it counts.
 */
#ifndef DSV4_TESTS_FAKE_HIP_H
#define DSV4_TESTS_FAKE_HIP_H

#include <stdbool.h>
#include <stddef.h>

#include "dsv4/base.h"

enum { FAKE_HIP_NAME_BYTES = 48, FAKE_HIP_ARGS_BYTES = 1024, FAKE_HIP_DEVICES = 8 };

/* A call as it came, also one that failed. */
typedef struct fake_hip_call {
    char name[FAKE_HIP_NAME_BYTES];   /* "hipModuleLaunchKernel" */
    char kernel[FAKE_HIP_NAME_BYTES]; /* of a launch, or asked for by hipModuleGetFunction */
    int device;                       /* that was current */
    unsigned grid[3], block[3], shared_bytes;
    void *stream;
    unsigned char args[FAKE_HIP_ARGS_BYTES]; /* of a launch: the kernel's only argument */
} fake_hip_call;

/* Runs a kernel of n_blocks blocks of n_threads; false: there is none of this name. */
typedef bool fake_hip_runner(const char *kernel, const void *args, int n_blocks, int n_threads);

/* HIP 7.0, one device, number 0, gfx950 with 256 compute units (8 where kernels run); nothing fails, the record is empty. */
DSV4_API void fake_hip_reset(void);
DSV4_API void fake_hip_set_version(int version);
/* `name` as the runtime gives it: "gfx950:sramecc+:xnack-". */
DSV4_API void fake_hip_set_device(int device, const char *name, int n_units);
DSV4_API void fake_hip_set_n_devices(int n_devices);
DSV4_API void fake_hip_set_runner(fake_hip_runner *runner);
/* Kernels whose names begin so are in no code object. NULL: all are where they are. */
DSV4_API void fake_hip_hide_kernels(const char *prefix);
/* Bytes of a kernel's argument, which the real runtime reads in the code object. */
DSV4_API size_t fake_hip_args_bytes(const char *kernel);

/* The n-th call of a function from now on, counted from 1, fails with the status; n 0: every one. NULL: none does. */
DSV4_API void fake_hip_fail(const char *name, int n, int status);

/* The record. */
DSV4_API void fake_hip_forget_calls(void);
DSV4_API int fake_hip_n_calls(void);
DSV4_API int fake_hip_count(const char *name);
DSV4_API const fake_hip_call *fake_hip_call_at(int i);
/* The call of this name, NULL when there is none or more than one. */
DSV4_API const fake_hip_call *fake_hip_only(const char *name);
/* Blocks of hipMalloc that are not freed. */
DSV4_API int fake_hip_n_blocks(void);

/* ---- HIP's own functions, by its headers' declarations with numbers for enumerations ---- */

DSV4_API const char *hipGetErrorString(int status);
DSV4_API int hipRuntimeGetVersion(int *version);
DSV4_API int hipGetDeviceCount(int *n_devices);
DSV4_API int hipGetDevice(int *device);
DSV4_API int hipSetDevice(int device);
DSV4_API int hipGetLastError(void);
DSV4_API int hipDeviceGetAttribute(int *value, int attribute, int device);
DSV4_API int hipGetDevicePropertiesR0600(void *properties, int device);
DSV4_API int hipModuleLoadData(void **module, const void *image);
DSV4_API int hipModuleUnload(void *module);
DSV4_API int hipModuleGetFunction(void **function, void *module, const char *name);
DSV4_API int hipModuleLaunchKernel(void *function, unsigned grid_x, unsigned grid_y,
                                   unsigned grid_z, unsigned block_x, unsigned block_y,
                                   unsigned block_z, unsigned shared_bytes, void *stream,
                                   void **arguments, void **extra);
DSV4_API int hipMalloc(void **memory, size_t n_bytes);
DSV4_API int hipFree(void *memory);
DSV4_API int hipMemset(void *memory, int byte, size_t n_bytes);
DSV4_API int hipMemcpy(void *to, const void *from, size_t n_bytes, int kind);
DSV4_API int hipMemcpy2D(void *to, size_t to_stride_bytes, const void *from,
                         size_t from_stride_bytes, size_t row_bytes, size_t n_rows, int kind);
DSV4_API int hipDeviceSynchronize(void);
DSV4_API int hipMemGetInfo(size_t *n_free, size_t *n_all);
DSV4_API int hipHostMalloc(void **memory, size_t n_bytes, unsigned flags);
DSV4_API int hipHostFree(void *memory);
DSV4_API int hipMemcpyAsync(void *to, const void *from, size_t n_bytes, int kind, void *stream);
DSV4_API int hipMemsetAsync(void *memory, int byte, size_t n_bytes, void *stream);
DSV4_API int hipStreamCreateWithFlags(void **stream, unsigned flags);
DSV4_API int hipStreamDestroy(void *stream);
DSV4_API int hipStreamQuery(void *stream);
DSV4_API int hipStreamBeginCapture(void *stream, int mode);
DSV4_API int hipStreamEndCapture(void *stream, void **graph);
DSV4_API int hipGraphGetNodes(void *graph, void **nodes, size_t *n_nodes);
DSV4_API int hipGraphNodeGetType(void *node, int *type);
DSV4_API int hipGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags);
DSV4_API int hipGraphLaunch(void *exec, void *stream);
DSV4_API int hipGraphExecDestroy(void *exec);
DSV4_API int hipGraphDestroy(void *graph);

#endif
