/* What compilers differ in. GCC or Clang is needed; without one, torch does the same. */

#ifndef CRYSTALMAX_PORTABLE_H
#define CRYSTALMAX_PORTABLE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* One binary for all x86 processors: the loader picks the widest vectors that the machine has. Only the widest are 32
 * registers on x86, so only there a tile of 64 columns stays in them. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 12
#define HOT EXPORT __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define HAS_WIDEST __builtin_cpu_supports("x86-64-v4")
#else
#define HOT EXPORT
#define HAS_WIDEST 0
#endif

/* Only what is inlined into a hot function is compiled for each of these. */
#define INLINE static inline __attribute__((always_inline))

#define PRAGMA(text) _Pragma(#text)
#define SIMD PRAGMA(omp simd)
#define SIMD_SUM(name) PRAGMA(omp simd reduction(+ : name))

#endif
