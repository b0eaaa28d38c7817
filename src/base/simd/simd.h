// Attributes and pragmas that let loops be vectorized for whatever CPU the program runs on.
#pragma once

#include <cmath>

// One binary serves every x86-64: a function with this attribute is compiled for AVX-512, AVX2 and the baseline, and
// the loader picks one. Products and sums in such files are never contracted to FMA (see CMakeLists.txt); where the
// code asks for FMA, the baseline calls fmaf. So all three give the same roundings.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// AVX-512 with all of its parts: with its first part alone, GCC does not vectorize loops over 16-bit elements. AVX2
// with FMA: there fmaf is an instruction, elsewhere a call (RT_FAST_FMA). Compilers before GCC 12 know only the single
// parts.
#if __GNUC__ >= 12
#define RT_SIMD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define RT_FAST_FMA 1
#else
#define RT_SIMD_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#define RT_FAST_FMA 0
#endif
#else
#define RT_SIMD_CLONES
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define RT_FAST_FMA 1
#else
#define RT_FAST_FMA 0
#endif
#endif

namespace roundtable {

// a * b + c, in one rounding where FMA is fast.
inline float multiply_add(float a, float b, float c) {
#if RT_FAST_FMA
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace roundtable
