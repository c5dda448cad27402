/*
 * fake_hip.c - devices, code objects and launches of the stand-in for AMD's runtime, and its record.
 *
 * Place: tests. Memory, streams and graphs are in fake_hip_memory.c.
 */
#include "fake_hip_state.h"

#include <elf.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/attn_device.h"
#include "gpu/keys_device.h"

enum {
    ARCHITECTURE_OFFSET = 1160,
    PROPERTIES_BYTES = 1472,
    ATTRIBUTE_MULTIPROCESSOR_COUNT = 63,
    MAX_BLOCK_THREADS = 1024,
    MACHINE_AMDGPU = 224,
    ABI_HSA = 64,
    ABI_VERSION_5 = 3, /* of code objects: every HIP from 6.0 on has it */
    /* in a kernel's descriptor, which lies where its address says: in the first segment */
    SHARED_SIZE_OFFSET = 0,
    KERNARG_SIZE_OFFSET = 8,
    MAX_MODULES = 64,
    MAX_FUNCTIONS = 256,
    MAX_CALLS = 1 << 13,
};

typedef struct device_state {
    char name[FAKE_HIP_NAME_BYTES];
    int n_units;
} device_state;

typedef struct module_state {
    const unsigned char *image; /* NULL: unloaded */
    int device;
} module_state;

/* What a code object says of a kernel. */
typedef struct kernel_limits {
    unsigned max_threads;  /* of a block */
    uint32_t shared_bytes; /* that it has without a launch's asking */
} kernel_limits;

typedef struct function_state {
    char name[FAKE_HIP_NAME_BYTES];
    const module_state *module;
    kernel_limits limits;
} function_state;

static struct {
    int version, n_devices, current;
    device_state devices[FAKE_HIP_DEVICES];
    module_state modules[MAX_MODULES];
    function_state functions[MAX_FUNCTIONS];
    int n_modules, n_functions;
    fake_hip_runner *runner;
    const char *hidden;
    const char *failing;
    int failing_n, failing_status;
    fake_hip_call calls[MAX_CALLS];
    atomic_int n_calls; /* first calls come from several threads */
} fake;

/* ---- what a test asks for ---- */

void fake_hip_set_device(int device, const char *name, int n_units)
{
    if (device < 0 || device >= FAKE_HIP_DEVICES) abort();
    memset(fake.devices[device].name, 0, sizeof fake.devices[device].name);
    strncpy(fake.devices[device].name, name, FAKE_HIP_NAME_BYTES - 1);
    fake.devices[device].n_units = n_units;
}

void fake_hip_reset(void)
{
    fake.version = 70000000;
    fake.n_devices = 1;
    fake.current = 0;
    for (int i = 0; i < FAKE_HIP_DEVICES; i++) {
        fake_hip_set_device(i, "gfx950:sramecc+:xnack-", fake_hip_default_units);
    }
    fake.runner = fake_hip_default_runner;
    fake.failing = NULL;
    fake.hidden = NULL;
    fake.n_calls = 0;
}

/*
 * A program that only finds the library gets what reset gives, before it calls anything, but for the devices'
 * architecture when FAKE_HIP_ARCHITECTURE names another.
 */
__attribute__((constructor)) static void start(void)
{
    fake_hip_reset();
    const char *architecture = getenv("FAKE_HIP_ARCHITECTURE");
    for (int i = 0; architecture != NULL && i < FAKE_HIP_DEVICES; i++) {
        fake_hip_set_device(i, architecture, fake_hip_default_units);
    }
}

void fake_hip_set_version(int version)
{
    fake.version = version;
}

void fake_hip_set_n_devices(int n_devices)
{
    fake.n_devices = n_devices;
}

void fake_hip_set_runner(fake_hip_runner *runner)
{
    fake.runner = runner;
}

void fake_hip_hide_kernels(const char *prefix)
{
    fake.hidden = prefix;
}

size_t fake_hip_args_bytes(const char *kernel)
{
    if (strcmp(kernel, "dsv4_attn_plan") == 0) return sizeof(attn_plan_args);
    if (strcmp(kernel, "dsv4_attn_merge") == 0) return sizeof(attn_merge_args);
    if (strncmp(kernel, "dsv4_keys_finish", strlen("dsv4_keys_finish")) == 0)
        return sizeof(keys_finish_args);
    if (strncmp(kernel, "dsv4_keys_read", strlen("dsv4_keys_read")) == 0)
        return sizeof(keys_read_args);
    if (strncmp(kernel, "dsv4_keys_compress", strlen("dsv4_keys_compress")) == 0)
        return sizeof(keys_compress_args);
    return sizeof(attn_args);
}

void fake_hip_fail(const char *name, int n, int status)
{
    fake.failing = name;
    fake.failing_n = n;
    fake.failing_status = status;
}

void fake_hip_forget_calls(void)
{
    fake.n_calls = 0;
}

int fake_hip_n_calls(void)
{
    int n = atomic_load(&fake.n_calls);
    return n < MAX_CALLS ? n : MAX_CALLS;
}

int fake_hip_count(const char *name)
{
    int n = 0;
    for (int i = 0; i < fake_hip_n_calls(); i++) n += strcmp(fake.calls[i].name, name) == 0;
    return n;
}

const fake_hip_call *fake_hip_call_at(int i)
{
    if (i < 0 || i >= fake_hip_n_calls()) abort();
    return &fake.calls[i];
}

const fake_hip_call *fake_hip_only(const char *name)
{
    if (fake_hip_count(name) != 1) return NULL;
    int i = 0;
    while (strcmp(fake.calls[i].name, name) != 0) i++;
    return &fake.calls[i];
}

/* ---- the record ---- */

fake_hip_call *fake_hip_record(const char *name)
{
    /* Of a long run the last entry is overwritten: nobody reads it. */
    int i = atomic_fetch_add(&fake.n_calls, 1);
    if (i >= MAX_CALLS) atomic_store(&fake.n_calls, MAX_CALLS);
    fake_hip_call *call = &fake.calls[i < MAX_CALLS ? i : MAX_CALLS - 1];
    memset(call, 0, sizeof *call);
    strncpy(call->name, name, FAKE_HIP_NAME_BYTES - 1);
    call->device = fake.current;
    return call;
}

int fake_hip_failure(const char *name)
{
    if (fake.failing == NULL || strcmp(fake.failing, name) != 0) return 0;
    if (fake.failing_n == 0) return fake.failing_status;
    return --fake.failing_n == 0 ? fake.failing_status : 0;
}

#define ENTER(name)                                                                                \
    do {                                                                                           \
        (void)fake_hip_record(name);                                                               \
        int failure_ = fake_hip_failure(name);                                                     \
        if (failure_ != 0) return failure_;                                                        \
    } while (0)

/* ---- devices ---- */

const char *hipGetErrorString(int status)
{
    switch (status) {
    case 0: return "no error";
    case FAKE_OUT_OF_MEMORY: return "out of memory";
    case FAKE_NO_DEVICE: return "no ROCm-capable device is detected";
    case FAKE_NO_BINARY: return "no kernel image is available for execution on the device";
    case FAKE_NOT_FOUND: return "named symbol not found";
    case FAKE_IN_CAPTURE: return "operation not permitted when stream is capturing";
    default: return "a made-up failure";
    }
}

int hipRuntimeGetVersion(int *version)
{
    ENTER("hipRuntimeGetVersion");
    *version = fake.version;
    return 0;
}

int hipGetDeviceCount(int *n_devices)
{
    ENTER("hipGetDeviceCount");
    *n_devices = fake.n_devices;
    return fake.n_devices > 0 ? 0 : FAKE_NO_DEVICE;
}

int hipGetDevice(int *device)
{
    ENTER("hipGetDevice");
    *device = fake.current;
    return 0;
}

int hipSetDevice(int device)
{
    ENTER("hipSetDevice");
    if (device < 0 || device >= fake.n_devices) return FAKE_INVALID_DEVICE;
    fake.current = device;
    return 0;
}

/* Remembers nothing: dsv4 goes by what calls return. */
int hipGetLastError(void)
{
    ENTER("hipGetLastError");
    return 0;
}

int hipDeviceGetAttribute(int *value, int attribute, int device)
{
    ENTER("hipDeviceGetAttribute");
    if (device < 0 || device >= fake.n_devices) return FAKE_INVALID_DEVICE;
    if (attribute != ATTRIBUTE_MULTIPROCESSOR_COUNT) return FAKE_INVALID_VALUE;
    *value = fake.devices[device].n_units;
    return 0;
}

/* As many bytes as the real one, none of them zero but where the name ends. */
int hipGetDevicePropertiesR0600(void *properties, int device)
{
    ENTER("hipGetDevicePropertiesR0600");
    if (device < 0 || device >= fake.n_devices) return FAKE_INVALID_DEVICE;
    memset(properties, 0x55, PROPERTIES_BYTES);
    memcpy((char *)properties + ARCHITECTURE_OFFSET, fake.devices[device].name,
           FAKE_HIP_NAME_BYTES);
    return 0;
}

/* ---- code ---- */

static const struct machine {
    const char *architecture;
    unsigned number;       /* in an ELF file's flags */
    uint32_t shared_bytes; /* of a block */
} machines[] = {
    {"gfx90a", 0x3f, 64 << 10}, {"gfx942", 0x4c, 64 << 10}, {"gfx950", 0x4f, 160 << 10}};

enum { N_MACHINES = sizeof machines / sizeof machines[0] };

static bool is_machine(const struct machine *machine, const char *device_name)
{
    return strncmp(device_name, machine->architecture, strlen(machine->architecture)) == 0;
}

static bool is_code_for(const unsigned char *image, const char *device_name)
{
    Elf64_Ehdr header;
    memcpy(&header, image, sizeof header);
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_machine != MACHINE_AMDGPU ||
        header.e_ident[EI_OSABI] != ABI_HSA || header.e_ident[EI_ABIVERSION] != ABI_VERSION_5 ||
        header.e_type != ET_DYN)
        return false;
    for (int i = 0; i < N_MACHINES; i++) {
        if (machines[i].number == (header.e_flags & 0xff))
            return is_machine(&machines[i], device_name);
    }
    return false;
}

/* Of the current device, for a block. */
static uint32_t most_shared_bytes(void)
{
    for (int i = 0; i < N_MACHINES; i++) {
        if (is_machine(&machines[i], fake.devices[fake.current].name))
            return machines[i].shared_bytes;
    }
    return 0;
}

int hipModuleLoadData(void **module, const void *image)
{
    ENTER("hipModuleLoadData");
    if (fake_hip_is_capturing()) return FAKE_IN_CAPTURE;
    if (fake.n_modules == MAX_MODULES) return FAKE_OUT_OF_MEMORY;
    if (!is_code_for(image, fake.devices[fake.current].name)) return FAKE_NO_BINARY;
    module_state *m = &fake.modules[fake.n_modules++];
    *m = (module_state){image, fake.current};
    *module = m;
    return 0;
}

int hipModuleUnload(void *module)
{
    ENTER("hipModuleUnload");
    ((module_state *)module)->image = NULL;
    return 0;
}

/*
 * The most threads of a block, from the code object's notes: a map in MessagePack, its keys sorted, so that the kernel's
 * name stands behind the number. 0: not found.
 */
static unsigned read_max_threads(const unsigned char *notes, size_t n_bytes, const char *name)
{
    static const char key[] = ".max_flat_workgroup_size", next_key[] = "\xa5.name";
    for (size_t i = 0; i + sizeof key + 40 < n_bytes; i++) {
        const unsigned char *at = notes + i;
        if (memcmp(at, key, sizeof key - 1) != 0) continue;
        at += sizeof key - 1;
        const bool is_wide = *at == 0xcd; /* two bytes behind it, else one */
        const unsigned n = is_wide ? (unsigned)at[1] << 8 | at[2] : *at == 0xcc ? at[1] : *at;
        at += is_wide ? 3 : *at == 0xcc ? 2 : 1;
        if (memcmp(at, next_key, sizeof next_key - 1) != 0) continue;
        at += sizeof next_key - 1;
        const size_t len = *at & 0x1f;
        if (len == strlen(name) && memcmp(at + 1, name, len) == 0) return n;
    }
    return 0;
}

static unsigned find_max_threads(const unsigned char *image, const Elf64_Ehdr *header,
                                 const char *name)
{
    for (unsigned i = 0; i < header->e_shnum; i++) {
        Elf64_Shdr section;
        memcpy(&section, image + header->e_shoff + i * sizeof section, sizeof section);
        if (section.sh_type == SHT_NOTE)
            return read_max_threads(image + section.sh_offset, section.sh_size, name);
    }
    return 0;
}

/*
 * Whether the dynamic symbols have the kernel's descriptor, and its arguments are as long as the host's struct: a launch
 * would read as many. A file that is a header only has every kernel, without limits of its own.
 */
static bool find_kernel(const unsigned char *image, const char *name, kernel_limits *limits)
{
    uint32_t args_bytes;
    char wanted[FAKE_HIP_NAME_BYTES + 4];
    Elf64_Ehdr header;
    Elf64_Shdr section, strings;
    Elf64_Sym symbol;
    memcpy(&header, image, sizeof header);
    *limits = (kernel_limits){.max_threads = MAX_BLOCK_THREADS};
    if (header.e_shnum == 0) return true;
    limits->max_threads = find_max_threads(image, &header, name);
    strcpy(stpcpy(wanted, name), ".kd");
    for (unsigned i = 0; i < header.e_shnum; i++) {
        memcpy(&section, image + header.e_shoff + i * sizeof section, sizeof section);
        if (section.sh_type != SHT_DYNSYM) continue;
        memcpy(&strings, image + header.e_shoff + section.sh_link * sizeof strings, sizeof strings);
        for (size_t k = 0; k < section.sh_size / sizeof symbol; k++) {
            memcpy(&symbol, image + section.sh_offset + k * sizeof symbol, sizeof symbol);
            const char *found = (const char *)image + strings.sh_offset + symbol.st_name;
            if (strcmp(found, wanted) != 0) continue;
            memcpy(&args_bytes, image + symbol.st_value + KERNARG_SIZE_OFFSET, sizeof args_bytes);
            memcpy(&limits->shared_bytes, image + symbol.st_value + SHARED_SIZE_OFFSET,
                   sizeof limits->shared_bytes);
            if (args_bytes == fake_hip_args_bytes(name)) return true;
            fprintf(stderr, "fake_hip: %s reads %u bytes of arguments, the host has %zu\n", name,
                    (unsigned)args_bytes, fake_hip_args_bytes(name));
            abort();
        }
    }
    return false;
}

int hipModuleGetFunction(void **function, void *module, const char *name)
{
    const module_state *m = module;
    fake_hip_call *call = fake_hip_record("hipModuleGetFunction");
    strncpy(call->kernel, name, FAKE_HIP_NAME_BYTES - 1);
    int failure = fake_hip_failure("hipModuleGetFunction");
    if (failure != 0) return failure;
    if (m->image == NULL || fake.n_functions == MAX_FUNCTIONS) return FAKE_INVALID_VALUE;
    if (fake.hidden != NULL && strncmp(name, fake.hidden, strlen(fake.hidden)) == 0)
        return FAKE_NOT_FOUND;
    kernel_limits limits;
    if (strlen(name) >= FAKE_HIP_NAME_BYTES || !find_kernel(m->image, name, &limits))
        return FAKE_NOT_FOUND;
    function_state *f = &fake.functions[fake.n_functions++];
    strcpy(f->name, name);
    f->module = m;
    f->limits = limits;
    *function = f;
    return 0;
}

void fake_hip_run(const fake_hip_call *launch)
{
    if (fake.runner != NULL &&
        !fake.runner(launch->kernel, launch->args, (int)launch->grid[0], (int)launch->block[0]))
        abort();
}

int hipModuleLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                          unsigned block_x, unsigned block_y, unsigned block_z,
                          unsigned shared_bytes, void *stream, void **arguments, void **extra)
{
    const function_state *f = function;
    fake_hip_call *call = fake_hip_record("hipModuleLaunchKernel");
    const unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
    strcpy(call->kernel, f->name);
    memcpy(call->grid, grid, sizeof grid);
    memcpy(call->block, block, sizeof block);
    call->shared_bytes = shared_bytes;
    call->stream = stream;
    if (arguments != NULL) memcpy(call->args, arguments[0], fake_hip_args_bytes(f->name));
    int failure = fake_hip_failure("hipModuleLaunchKernel");
    if (failure != 0) return failure;
    const uint64_t n_threads = (uint64_t)grid_x * block_x;
    if (grid_x == 0 || grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1 || block_x == 0 ||
        block_x > f->limits.max_threads || n_threads > UINT32_MAX ||
        (uint64_t)f->limits.shared_bytes + shared_bytes > most_shared_bytes())
        return FAKE_INVALID_CONFIGURATION;
    if (arguments == NULL || extra != NULL || f->module->device != fake.current ||
        f->module->image == NULL)
        return FAKE_INVALID_VALUE;
    if (fake_hip_keep(stream, call)) return 0;
    fake_hip_run(call);
    return 0;
}
