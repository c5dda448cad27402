/*
 * cpu.c - which CPU level this machine has.
 *
 * Place: base. Read once from CPUID and XCR0 (a level needs the operating system to save its
 * registers); the answer is a single atomic, so concurrent first calls agree.
 */
#include "dsv4/base.h"

#include <cpuid.h>
#include <stdatomic.h>
#include <stdbool.h>

enum {
    XCR0_AVX = 0x6,     /* XMM and YMM state */
    XCR0_AVX512 = 0xe6, /* and opmask, ZMM */
};

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

static bool has_bits(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

static int32_t detect_level(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return DSV4_CPU_LEVEL_V2;
    if (!has_bits(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C)) return DSV4_CPU_LEVEL_V2;
    uint64_t xcr0 = read_xcr0();
    if ((xcr0 & XCR0_AVX) != XCR0_AVX) return DSV4_CPU_LEVEL_V2;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return DSV4_CPU_LEVEL_V2;
    if (!has_bits(b, bit_AVX2)) return DSV4_CPU_LEVEL_V2;
    if ((xcr0 & XCR0_AVX512) != XCR0_AVX512) return DSV4_CPU_LEVEL_AVX2;
    if (!has_bits(b, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL)) {
        return DSV4_CPU_LEVEL_AVX2;
    }
    bool has_vbmi = has_bits(c, bit_AVX512VBMI);
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return DSV4_CPU_LEVEL_AVX512;
    bool has_bf16 = has_bits(a, bit_AVX512BF16);
    return has_vbmi && has_bf16 ? DSV4_CPU_LEVEL_AVX512BF16 : DSV4_CPU_LEVEL_AVX512;
}

int32_t dsv4_cpu_level(void)
{
    static atomic_int cached_level; /* 0: not read yet */
    int level = atomic_load_explicit(&cached_level, memory_order_relaxed);
    if (level == 0) {
        level = detect_level();
        atomic_store_explicit(&cached_level, level, memory_order_relaxed);
    }
    return level;
}

const char *dsv4_cpu_level_name(int32_t level)
{
    switch (level) {
    case DSV4_CPU_LEVEL_AUTO: return "auto";
    case DSV4_CPU_LEVEL_V2: return "v2";
    case DSV4_CPU_LEVEL_AVX2: return "avx2";
    case DSV4_CPU_LEVEL_AVX512: return "avx512";
    case DSV4_CPU_LEVEL_AVX512BF16: return "avx512bf16";
    default: return NULL;
    }
}
