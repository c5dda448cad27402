/*
 * wgmma_matrix.cuh - how matrix instructions of Hopper are told where an operand lies in shared memory.
 *
 * Place: cuda, sm_90a only; part of wgmma.cuh. Plain arithmetic, so that tests on the CPU have the same.
 */
#ifndef DSV4_CUDA_WGMMA_MATRIX_CUH
#define DSV4_CUDA_WGMMA_MATRIX_CUH

#include <stdint.h>

/*
 * Descriptor of a matrix in shared memory whose 128-byte rows are swizzled: 16-byte chunk c of row r lies
 * at chunk c ^ (r % 8); tiles of 8 rows are 1024 bytes. K-major (rows are M or N, a row is 64 values of K):
 * leading_bytes is unused. M- or N-major (rows are K, a row is 64 values of M or N): leading_bytes from one
 * 64 values to the next. address is that of the tile, 1024-aligned, plus an offset inside the first row.
 */
__device__ __forceinline__ uint64_t wgmma_matrix(uint32_t address, uint32_t leading_bytes)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(leading_bytes >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/*
 * The same for rows of 64 bytes: chunk c of row r lies at chunk c ^ (r / 2 % 4), tiles of 8 rows are 512 bytes;
 * K-major only.
 */
__device__ __forceinline__ uint64_t wgmma_matrix64(uint32_t address)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(512 >> 4) << 32 |
           (uint64_t)2 << 62;
}

/* The descriptor of a matrix n_bytes further on; n_bytes is a multiple of 16. */
__device__ __forceinline__ uint64_t wgmma_move(uint64_t matrix, uint32_t n_bytes)
{
    return (matrix & 0xffffffff00000000u) | (uint32_t)((uint32_t)matrix + (n_bytes >> 4));
}

#endif
