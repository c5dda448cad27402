/*
 * hip_device.c - what a device is, the code for it, and its kernels.
 *
 * Place: hip. A device's entry is written once, under the lock, and read without it once it says that it is there.
 */
#include "hip_device.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "gpu/attn_device.h"
#include "gpu/code_objects.h"

/*
 * Where hipGetDevicePropertiesR0600 puts gcnArchName. The suffix stands for the struct's layout, the same in all of HIP
 * 6 and 7; a later one would have another suffix, and the old symbol stays for old callers. The struct has 1472 bytes;
 * there is room for more than twice as many.
 */
enum { PROPERTIES_BYTES = 4096, ARCHITECTURE_OFFSET = 1160, ARCHITECTURE_FIELD_BYTES = 256 };

/* Of hipDeviceAttribute_t and hipError_t. */
enum { ATTRIBUTE_MULTIPROCESSOR_COUNT = 63, ERROR_NOT_FOUND = 500 };

static const struct {
    const char *name;
    unsigned n_threads;
} kernels[HIP_N_KERNELS] = {
    [HIP_KERNEL_PLAN] = {"dsv4_attn_plan", ATTN_PLAN_THREADS},
    [HIP_KERNEL_MERGE] = {"dsv4_attn_merge", MERGE_THREADS},
    [HIP_KERNEL_BF16_H16] = {"dsv4_attn_bf16_h16", DECODE_BLOCK_THREADS},
    [HIP_KERNEL_BF16_H32] = {"dsv4_attn_bf16_h32", DECODE_BLOCK_THREADS},
    [HIP_KERNEL_BF16_H64] = {"dsv4_attn_bf16_h64", DECODE_BLOCK_THREADS},
    [HIP_KERNEL_FP8_H16] = {"dsv4_attn_fp8_h16", DECODE_BLOCK_THREADS},
    [HIP_KERNEL_FP8_H32] = {"dsv4_attn_fp8_h32", DECODE_BLOCK_THREADS},
    [HIP_KERNEL_FP8_H64] = {"dsv4_attn_fp8_h64", DECODE_BLOCK_THREADS},
    [HIP_KERNEL_KEYS_FINISH] = {"dsv4_keys_finish", KEYS_ROW_THREADS},
    [HIP_KERNEL_KEYS_FINISH_BF16] = {"dsv4_keys_finish_bf16", KEYS_ROW_THREADS},
    [HIP_KERNEL_KEYS_COMPRESS_4] = {"dsv4_keys_compress_4", KEYS_COMPRESS_4_THREADS},
    [HIP_KERNEL_KEYS_COMPRESS_128] = {"dsv4_keys_compress_128", KEYS_COMPRESS_128_THREADS},
    [HIP_KERNEL_KEYS_READ] = {"dsv4_keys_read", KEYS_ROW_THREADS},
    [HIP_KERNEL_KEYS_READ_BF16] = {"dsv4_keys_read_bf16", KEYS_ROW_THREADS},
};

const char *dsv4_hip_kernel_name(int kernel)
{
    return kernels[kernel].name;
}

int dsv4_hip_kernel_threads(int kernel)
{
    return (int)kernels[kernel].n_threads;
}

dsv4_status dsv4_hip_kernel_require(const dsv4_hip_device *device, int kernel, dsv4_error *error)
{
    if (device->functions[kernel] != NULL) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                          "backend: hip, but this build's code for %s has no kernel %s",
                          device->properties.architecture, kernels[kernel].name);
}

dsv4_status dsv4_hip_code_find(const char *architecture, const void **code, dsv4_error *error)
{
    const struct {
        const char *architecture;
        const unsigned char *code;
        size_t n_bytes;
    } all[] = {{"gfx950", dsv4_code_gfx950, dsv4_code_gfx950_bytes},
               {"gfx942", dsv4_code_gfx942, dsv4_code_gfx942_bytes}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (strcmp(architecture, all[i].architecture) != 0) continue;
        *code = all[i].code;
        if (all[i].n_bytes > 0) return DSV4_OK;
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "%s, for which this build has no code (it was configured without "
                              "clang-22)",
                              architecture);
    }
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "%s: expected gfx950 or gfx942",
                          architecture);
}

dsv4_status dsv4_hip_properties_read(const dsv4_hip *hip, int ordinal,
                                     dsv4_hip_properties *properties, dsv4_error *error)
{
    _Alignas(16) char memory[PROPERTIES_BYTES] = {0};
    DSV4_TRY(dsv4_hip_check(hip, hip->hipGetDevicePropertiesR0600(memory, ordinal),
                            "hipGetDevicePropertiesR0600", NULL, error));
    const char *name = memory + ARCHITECTURE_OFFSET;
    const size_t len_bytes = strcspn(name, ":");
    if (strncmp(name, "gfx", 3) != 0 || len_bytes >= HIP_ARCHITECTURE_BYTES ||
        memchr(name, 0, ARCHITECTURE_FIELD_BYTES) == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_DEVICE,
                              "hipGetDevicePropertiesR0600: no name of an architecture at byte %d",
                              ARCHITECTURE_OFFSET);
    }
    memcpy(properties->architecture, name, len_bytes);
    properties->architecture[len_bytes] = 0;
    DSV4_TRY(dsv4_hip_check(
        hip,
        hip->hipDeviceGetAttribute(&properties->n_units, ATTRIBUTE_MULTIPROCESSOR_COUNT, ordinal),
        "hipDeviceGetAttribute", "MultiprocessorCount", error));
    if (properties->n_units > 0) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_DEVICE,
                          "hipDeviceGetAttribute MultiprocessorCount: %d, expected at least 1",
                          properties->n_units);
}

/* What a build leaves out has no function. */
static dsv4_status find_functions(const dsv4_hip *hip, void *module, dsv4_hip_device *device,
                                  dsv4_error *error)
{
    for (int i = 0; i < HIP_N_KERNELS; i++) {
        void *function = NULL;
        int status = hip->hipModuleGetFunction(&function, module, kernels[i].name);
        if (status == ERROR_NOT_FOUND) continue;
        DSV4_TRY(dsv4_hip_check(hip, status, "hipModuleGetFunction", kernels[i].name, error));
        device->functions[i] = function;
    }
    return DSV4_OK;
}

/* The current device, whose number it is, with its kernels. */
static dsv4_status load_device(const dsv4_hip *hip, int ordinal, dsv4_hip_device *device,
                               dsv4_error *error)
{
    void *module = NULL;
    const void *code;
    dsv4_error cause = {.status = DSV4_OK};
    *device = (dsv4_hip_device){0};
    DSV4_TRY(dsv4_hip_properties_read(hip, ordinal, &device->properties, error));
    if (dsv4_hip_code_find(device->properties.architecture, &code, &cause) != DSV4_OK) {
        return dsv4_error_set(error, cause.status, "backend: hip, but the device is %.400s",
                              cause.text);
    }
    DSV4_TRY(dsv4_hip_check(hip, hip->hipModuleLoadData(&module, code), "hipModuleLoadData",
                            device->properties.architecture, error));
    dsv4_status status = find_functions(hip, module, device, error);
    if (status != DSV4_OK) (void)hip->hipModuleUnload(module);
    return status;
}

/* ---- the process's ---- */

static struct {
    pthread_mutex_t lock;
    struct {
        atomic_bool is_there; /* written last, released; who acquires it may read `device` */
        dsv4_hip_device device;
    } entries[HIP_MAX_DEVICES];
} process = {.lock = PTHREAD_MUTEX_INITIALIZER};

static dsv4_status refuse_none(const char *words, dsv4_error *error)
{
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                          "backend: hip, but no device can be used: %.300s", words);
}

static dsv4_status find_ordinal(const dsv4_hip *hip, int *ordinal, dsv4_error *error)
{
    dsv4_error cause = {.status = DSV4_OK};
    int n_devices = 0;
    dsv4_status status =
        dsv4_hip_check(hip, hip->hipGetDeviceCount(&n_devices), "hipGetDeviceCount", NULL, &cause);
    if (status == DSV4_OK && n_devices == 0) return refuse_none("none is there", error);
    if (status == DSV4_OK)
        status = dsv4_hip_check(hip, hip->hipGetDevice(ordinal), "hipGetDevice", NULL, &cause);
    if (status != DSV4_OK) return refuse_none(cause.text, error);
    if (*ordinal >= 0 && *ordinal < HIP_MAX_DEVICES) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                          "backend: hip, but the device has number %d: expected less than %d",
                          *ordinal, HIP_MAX_DEVICES);
}

dsv4_status dsv4_hip_device_current(const dsv4_hip *hip, const dsv4_hip_device **device,
                                    dsv4_error *error)
{
    int ordinal = 0;
    DSV4_TRY(find_ordinal(hip, &ordinal, error));
    *device = &process.entries[ordinal].device;
    atomic_bool *is_there = &process.entries[ordinal].is_there;
    if (atomic_load_explicit(is_there, memory_order_acquire)) return DSV4_OK;
    dsv4_status status = DSV4_OK;
    (void)pthread_mutex_lock(&process.lock);
    if (!atomic_load_explicit(is_there, memory_order_relaxed)) {
        status = load_device(hip, ordinal, &process.entries[ordinal].device, error);
        atomic_store_explicit(is_there, status == DSV4_OK, memory_order_release);
    }
    (void)pthread_mutex_unlock(&process.lock);
    return status;
}

dsv4_status dsv4_hip_launch(const dsv4_hip *hip, const dsv4_hip_device *device, int kernel,
                            int64_t n_blocks, void *stream, const void *args, dsv4_error *error)
{
    /* hipModuleLaunchKernel reads what these point to, as many bytes as the kernel says, and returns. */
    void *arguments[1] = {(void *)(uintptr_t)args};
    return dsv4_hip_check(hip,
                          hip->hipModuleLaunchKernel(device->functions[kernel], (unsigned)n_blocks,
                                                     1, 1, kernels[kernel].n_threads, 1, 1, 0,
                                                     stream, arguments, NULL),
                          "hipModuleLaunchKernel", kernels[kernel].name, error);
}
