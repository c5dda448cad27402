/*
 * keys_hip.c - the operations of dsv4/keys.h on AMD GPUs, host side: launches.
 *
 * Place: hip; what kernels are told is in gpu/keys_host.h. Once a device's kernels are loaded nothing here waits for the
 * device or allocates.
 */
#include "keys_hip.h"

#include "base/error.h"
#include "gpu/keys_host.h"
#include "hip_device.h"

/* A wave takes some rows, and further ones when there are more than in so many blocks: HIP wants fewer than 2^32 threads. */
enum { WAVE_THREADS = 64, MAX_ROW_BLOCKS = 1 << 20 };

/* Runtime and device for a kernel. */
typedef struct keys_device {
    const dsv4_hip *hip;
    const dsv4_hip_device *device;
    int kernel;
} keys_device;

static dsv4_status open_device(keys_device *d, int kernel, dsv4_error *error)
{
    d->kernel = kernel;
    d->hip = dsv4_hip_get(error);
    if (d->hip == NULL) return DSV4_ERROR_UNSUPPORTED;
    DSV4_TRY(dsv4_hip_device_current(d->hip, &d->device, error));
    return dsv4_hip_kernel_require(d->device, kernel, error);
}

static int64_t count_blocks(int64_t n_rows, int64_t wave_rows)
{
    const int64_t block_rows = KEYS_ROW_THREADS / WAVE_THREADS * wave_rows;
    const int64_t n_wanted = (n_rows + block_rows - 1) / block_rows;
    return n_wanted < MAX_ROW_BLOCKS ? n_wanted : MAX_ROW_BLOCKS;
}

static dsv4_status launch(const keys_device *d, int64_t n_blocks, void *stream, const void *args,
                          dsv4_error *error)
{
    return dsv4_hip_launch(d->hip, d->device, d->kernel, n_blocks, stream, args, error);
}

dsv4_status dsv4_keys_hip_finish(void *stream, const dsv4_keys_finish_params *params,
                                 dsv4_error *error)
{
    keys_device d;
    const keys_finish_args args = dsv4_keys_gpu_finish_args(params);
    const int kernel = args.is_bf16 ? HIP_KERNEL_KEYS_FINISH_BF16 : HIP_KERNEL_KEYS_FINISH;
    DSV4_TRY(open_device(&d, kernel, error));
    if (args.n_rows == 0) return DSV4_OK;
    return launch(&d, count_blocks(args.n_rows, 1), stream, &args, error);
}

dsv4_status dsv4_keys_hip_compress(void *stream, const dsv4_keys_compress_params *params,
                                   dsv4_error *error)
{
    keys_device d;
    const int kernel =
        params->ratio == 4 ? HIP_KERNEL_KEYS_COMPRESS_4 : HIP_KERNEL_KEYS_COMPRESS_128;
    DSV4_TRY(open_device(&d, kernel, error));
    if (params->n_tokens == 0) return DSV4_OK;
    const keys_compress_args args = dsv4_keys_gpu_compress_args(params);
    return launch(&d, args.n_tokens, stream, &args, error);
}

dsv4_status dsv4_keys_hip_read(void *stream, const dsv4_keys_read_params *params, dsv4_error *error)
{
    keys_device d;
    const keys_read_args args = dsv4_keys_gpu_read_args(params);
    const int kernel = args.out.is_f32 ? HIP_KERNEL_KEYS_READ : HIP_KERNEL_KEYS_READ_BF16;
    DSV4_TRY(open_device(&d, kernel, error));
    if (params->n_rows == 0) return DSV4_OK;
    return launch(&d, count_blocks(args.n_rows, KEYS_READ_ROWS), stream, &args, error);
}
