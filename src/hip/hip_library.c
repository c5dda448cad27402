/*
 * hip_library.c - opening libamdhip64 and finding its functions.
 *
 * Place: hip. The version is looked at before any other symbol: of an old runtime it is the version that is wrong.
 */
#include "hip_library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

#define SYMBOL(name)                                                                               \
    {                                                                                              \
#name, offsetof(dsv4_hip, name)                                                            \
    }

enum { MAJOR_STEP = 10000000, MINOR_STEP = 100000 };

const dsv4_hip_symbol dsv4_hip_symbols[] = {
    SYMBOL(hipRuntimeGetVersion),
    SYMBOL(hipGetErrorString),
    SYMBOL(hipGetDeviceCount),
    SYMBOL(hipGetDevice),
    SYMBOL(hipDeviceGetAttribute),
    SYMBOL(hipGetDevicePropertiesR0600),
    SYMBOL(hipModuleLoadData),
    SYMBOL(hipModuleUnload),
    SYMBOL(hipModuleGetFunction),
    SYMBOL(hipModuleLaunchKernel),
    {NULL, 0},
};

/* Newest first; the last is there to be named when it is all there is. */
static const char *const library_names[] = {"libamdhip64.so.7", "libamdhip64.so.6",
                                            "libamdhip64.so", "libamdhip64.so.5", NULL};

_Static_assert(sizeof(void *) == sizeof(int (*)(void)), "dlsym gives functions as objects");

dsv4_status dsv4_hip_check(const dsv4_hip *hip, int status, const char *call, const char *what,
                           dsv4_error *error)
{
    if (status == 0) return DSV4_OK;
    const char *words = hip->hipGetErrorString(status);
    return dsv4_error_set(error, DSV4_ERROR_DEVICE, "%s%s%s: %.200s (%d)", call,
                          what == NULL ? "" : " ", what == NULL ? "" : what,
                          words == NULL ? "unknown error" : words, status);
}

const char *dsv4_hip_bind_symbols(dsv4_hip_find *find, void *library,
                                  const dsv4_hip_symbol *symbols, void *functions)
{
    for (; symbols->name != NULL; symbols++) {
        void *address = find(library, symbols->name);
        if (address == NULL) return symbols->name;
        memcpy((unsigned char *)functions + symbols->offset, &address, sizeof address);
    }
    return NULL;
}

static dsv4_status check_version(dsv4_hip_find *find, dsv4_hip *hip, dsv4_error *error)
{
    static const dsv4_hip_symbol symbols[] = {
        SYMBOL(hipRuntimeGetVersion), SYMBOL(hipGetErrorString), {NULL, 0}};
    dsv4_error cause = {.status = DSV4_OK};
    const char *missing = dsv4_hip_bind_symbols(find, hip->library, symbols, hip);
    if (missing != NULL) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "%s has no symbol %s", hip->name,
                              missing);
    }
    /* Some versions say here that there is no device. */
    if (dsv4_hip_check(hip, hip->hipRuntimeGetVersion(&hip->version), "hipRuntimeGetVersion", NULL,
                       &cause) != DSV4_OK) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "%s: %.400s", hip->name, cause.text);
    }
    if (hip->version >= HIP_LEAST_VERSION) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                          "%s is HIP %d.%d (%d): expected 6.0 or later, since before that device "
                          "properties have another layout and gfx942 and gfx950 are not known",
                          hip->name, hip->version / MAJOR_STEP,
                          hip->version % MAJOR_STEP / MINOR_STEP, hip->version);
}

dsv4_status dsv4_hip_bind(dsv4_hip_find *find, dsv4_hip *hip, dsv4_error *error)
{
    DSV4_TRY(check_version(find, hip, error));
    const char *missing = dsv4_hip_bind_symbols(find, hip->library, dsv4_hip_symbols, hip);
    if (missing == NULL) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "%s (HIP %d.%d) has no symbol %s",
                          hip->name, hip->version / MAJOR_STEP,
                          hip->version % MAJOR_STEP / MINOR_STEP, missing);
}

void *dsv4_hip_find_symbol(void *library, const char *symbol)
{
    return dlsym(library, symbol);
}

static void *open_first(const char *const *names, int more_flags, const char **name)
{
    void *library = NULL;
    for (; *names != NULL && library == NULL; names++) {
        *name = *names;
        library = dlopen(*names, RTLD_NOW | RTLD_LOCAL | more_flags);
    }
    return library;
}

/* dlerror of the first name: of the others it would say no more than that they are not there. */
static dsv4_status refuse_open(const char *const *names, dsv4_error *error)
{
    (void)dlerror();
    void *library = dlopen(names[0], RTLD_NOW | RTLD_LOCAL);
    const char *words = library == NULL ? dlerror() : NULL;
    if (library != NULL) (void)dlclose(library);
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "no HIP runtime: %.300s",
                          words == NULL ? "it cannot be opened" : words);
}

dsv4_status dsv4_hip_open(const char *const *names, dsv4_hip *hip, dsv4_error *error)
{
    const char *name = "";
    *hip = (dsv4_hip){0};
    hip->library = open_first(names, RTLD_NOLOAD, &name);
    if (hip->library == NULL) hip->library = open_first(names, 0, &name);
    if (hip->library == NULL) return refuse_open(names, error);
    (void)snprintf(hip->name, sizeof hip->name, "%s", name);
    dsv4_status status = dsv4_hip_bind(dsv4_hip_find_symbol, hip, error);
    if (status == DSV4_OK) return DSV4_OK;
    (void)dlclose(hip->library);
    *hip = (dsv4_hip){0};
    return status;
}

/* ---- the process's ---- */

static struct {
    pthread_once_t once;
    dsv4_hip hip;
    dsv4_error error;
} process = {.once = PTHREAD_ONCE_INIT};

static void open_process(void)
{
    process.error.status = dsv4_hip_open(library_names, &process.hip, &process.error);
}

const dsv4_hip *dsv4_hip_get(dsv4_error *error)
{
    (void)pthread_once(&process.once, open_process);
    if (process.error.status == DSV4_OK) return &process.hip;
    (void)dsv4_error_set(error, process.error.status, "backend: hip, but %.480s",
                         process.error.text);
    return NULL;
}
