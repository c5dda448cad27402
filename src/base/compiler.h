/*
 * compiler.h - the few GNU extensions that the sources use, under names of our own.
 *
 * Place: base. gcc and clang both have them; nothing else names an attribute or a pragma.
 */
#ifndef DSV4_BASE_COMPILER_H
#define DSV4_BASE_COMPILER_H

#define DSV4_ALWAYS_INLINE inline __attribute__((always_inline))

/* Before a loop of constant length: unroll it wholly, so that arrays it indexes live in registers. */
#if defined(__clang__)
#define DSV4_UNROLL _Pragma("unroll")
#else
#define DSV4_UNROLL _Pragma("GCC unroll 16")
#endif

#define DSV4_PREFETCH_L2(address) __builtin_prefetch((address), 0, 2)

#endif
