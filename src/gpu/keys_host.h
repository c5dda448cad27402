/*
 * keys_host.h - arguments of the kernels of dsv4/keys.h from checked params; the same for CUDA and HIP.
 *
 * Place: gpu; host side. Nothing here asks a device anything.
 */
#ifndef DSV4_GPU_KEYS_HOST_H
#define DSV4_GPU_KEYS_HOST_H

#include "dsv4/keys.h"
#include "keys_device.h"

/* n_rows of the result may be 0: then there is nothing to launch. */
keys_finish_args dsv4_keys_gpu_finish_args(const dsv4_keys_finish_params *params);
keys_compress_args dsv4_keys_gpu_compress_args(const dsv4_keys_compress_params *params);
keys_read_args dsv4_keys_gpu_read_args(const dsv4_keys_read_params *params);

#endif
