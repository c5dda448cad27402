/*
 * dsv4/base.h - what every public header of libdsv4 shares: export macro, version, status, error.
 *
 * The library never exits, aborts, prints or reads the environment. A function that can fail
 * returns a dsv4_status (0 is success) and, when the caller passes a dsv4_error, writes there in
 * words what was wrong, with the offending value and the rule it broke.
 */
#ifndef DSV4_BASE_H
#define DSV4_BASE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define DSV4_API __attribute__((visibility("default")))
#else
#define DSV4_API
#endif

#define DSV4_VERSION_MAJOR  0
#define DSV4_VERSION_MINOR  1
#define DSV4_VERSION_PATCH  0
#define DSV4_VERSION_STRING "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/* Status codes. Values are part of the ABI: they are never renumbered. */
enum {
    DSV4_OK = 0,
    DSV4_ERROR_INVALID_ARGUMENT = -1, /* a parameter breaks its rule; the text names it */
    DSV4_ERROR_OUT_OF_MEMORY = -2,    /* an allocation failed, or a size does not fit in size_t */
    DSV4_ERROR_IO = -3,               /* the operating system refused a file operation */
    DSV4_ERROR_BAD_FILE = -4,         /* a file's content breaks its format */
    DSV4_ERROR_UNSUPPORTED = -5,      /* valid, but this build or this machine cannot do it */
    DSV4_ERROR_DEVICE = -6            /* a call to a GPU failed; the text has its driver's words */
};
typedef int32_t dsv4_status;

#define DSV4_ERROR_TEXT_BYTES 512

/*
 * Caller-owned error text. Written only when a call fails; always NUL-terminated, valid UTF-8 as
 * far as the quoted input was. Every function that takes a `dsv4_error *` accepts NULL. One error
 * must not be shared by concurrent calls.
 */
typedef struct dsv4_error {
    dsv4_status status;
    char text[DSV4_ERROR_TEXT_BYTES];
} dsv4_error;

/* Static name of a status code, "invalid argument" for instance; "unknown status" for any other. */
DSV4_API const char *dsv4_status_name(dsv4_status status);

/* The version of the library in use, "0.1.0"; static storage. */
DSV4_API const char *dsv4_version(void);

/*
 * CPU levels, lowest first; each includes all below it. A level is used only when the CPU has it.
 *   V2          SSE4.2: any x86-64-v2 machine
 *   AVX2        AVX2, FMA, F16C
 *   AVX512      AVX-512 F, BW, DQ, VL
 *   AVX512BF16  AVX-512 BF16 and VBMI
 */
enum {
    DSV4_CPU_LEVEL_AUTO = 0,
    DSV4_CPU_LEVEL_V2 = 1,
    DSV4_CPU_LEVEL_AVX2 = 2,
    DSV4_CPU_LEVEL_AVX512 = 3,
    DSV4_CPU_LEVEL_AVX512BF16 = 4
};

/* The highest level that this CPU and operating system support. Thread-safe. */
DSV4_API int32_t dsv4_cpu_level(void);

/* Static name of a level: "auto", "v2", "avx2", "avx512", "avx512bf16"; NULL for any other value.
 */
DSV4_API const char *dsv4_cpu_level_name(int32_t level);

#ifdef __cplusplus
}
#endif

#endif
