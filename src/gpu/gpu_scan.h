/*
 * gpu_scan.h - running sums over the threads of a wave, of a block.
 *
 * Place: gpu; included by kernels, behind gpu.h.
 */
#ifndef DSV4_GPU_GPU_SCAN_H
#define DSV4_GPU_GPU_SCAN_H

#include "gpu.h"

GPU_DEVICE int32_t gpu_scan_wave(int32_t value)
{
    GPU_UNROLL
    for (int step = 1; step < GPU_WAVE; step *= 2) {
        const int32_t other = (int32_t)gpu_shuffle_up((uint32_t)value, step);
        if (gpu_lane() >= step) value += other;
    }
    return value;
}

/*
 * Inclusive sum over the block's threads, all of which call it; a barrier has to be between two of them. n_waves: of the
 * block, at most GPU_WAVE; wave_sums [n_waves].
 */
GPU_DEVICE int32_t gpu_scan_block(int32_t value, GPU_SHARED int32_t *wave_sums, int n_waves)
{
    const int wave = gpu_wave(), lane = gpu_lane();
    value = gpu_scan_wave(value);
    if (lane == GPU_WAVE - 1) wave_sums[wave] = value;
    gpu_barrier_shared();
    if (wave == 0) {
        const int32_t sum = gpu_scan_wave(lane < n_waves ? wave_sums[lane] : 0);
        if (lane < n_waves) wave_sums[lane] = sum;
    }
    gpu_barrier_shared();
    return wave == 0 ? value : value + wave_sums[wave - 1];
}

#endif
