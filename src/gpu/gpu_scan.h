/*
 * gpu_scan.h - sums over the threads of a block.
 *
 * Place: gpu; included by kernels, behind gpu.h.
 */
#ifndef DSV4_GPU_GPU_SCAN_H
#define DSV4_GPU_GPU_SCAN_H

#include "gpu.h"

/* The value of the lane `step` below; own where there is none. */
GPU_DEVICE int32_t gpu_from_below(int32_t value, int step)
{
    const int lane = gpu_lane();
    return (int32_t)gpu_shuffle((uint32_t)value, lane >= step ? lane - step : lane);
}

GPU_DEVICE int32_t gpu_scan_wave(int32_t value)
{
    for (int step = 1; step < GPU_WAVE; step *= 2) {
        const int32_t other = gpu_from_below(value, step);
        if (gpu_lane() >= step) value += other;
    }
    return value;
}

/* Inclusive sum over the block's threads, all of which call it; wave_sums: one for each wave. */
GPU_DEVICE int32_t gpu_scan_block(int32_t value, GPU_SHARED int32_t *wave_sums)
{
    const int wave = gpu_wave();
    value = gpu_scan_wave(value);
    gpu_barrier_shared();
    if (gpu_lane() == GPU_WAVE - 1) wave_sums[wave] = value;
    gpu_barrier_shared();
    for (int i = 0; i < wave; i++) value += wave_sums[i];
    return value;
}

#endif
