/*
 * compiler.h - the few GNU extensions that the sources use, under names of our own.
 *
 * Place: base. gcc and clang both have them; nothing else names an attribute or a pragma.
 */
#ifndef DSV4_BASE_COMPILER_H
#define DSV4_BASE_COMPILER_H

/* DSV4_ADDRESS_SANITIZED, DSV4_THREAD_SANITIZED: built with it. gcc has a word for each, clang a feature. */
#if defined(__SANITIZE_ADDRESS__)
#define DSV4_ADDRESS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DSV4_ADDRESS_SANITIZED 1
#endif
#endif

#if defined(__SANITIZE_THREAD__)
#define DSV4_THREAD_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define DSV4_THREAD_SANITIZED 1
#endif
#endif

/*
 * DSV4_ALWAYS_INLINE: for a function whose constant arguments its callers rely on.
 * DSV4_UNROLL, before a loop of constant length: unroll it wholly, so that arrays it indexes live in
 * registers. Under a sanitizer both are left to the compiler: checks at every access would multiply.
 */
#if defined(DSV4_ADDRESS_SANITIZED) || defined(DSV4_THREAD_SANITIZED)
#define DSV4_ALWAYS_INLINE inline
#define DSV4_UNROLL
#elif defined(__clang__)
#define DSV4_ALWAYS_INLINE inline __attribute__((always_inline))
#define DSV4_UNROLL        _Pragma("unroll")
#else
#define DSV4_ALWAYS_INLINE inline __attribute__((always_inline))
#define DSV4_UNROLL        _Pragma("GCC unroll 16")
#endif

/*
 * A function that does nothing but prefetch has to be DSV4_ALWAYS_INLINE: gcc takes it for one without effect and
 * drops the calls.
 */
#define DSV4_PREFETCH_L2(address) __builtin_prefetch((address), 0, 2)

#endif
