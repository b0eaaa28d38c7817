// What loops need to be vectorized for whatever CPU the program finds itself on.
#pragma once

#include <cmath>

// One binary serves every x86-64: a function marked so is compiled for AVX-512, AVX2 and the baseline, and the loader
// picks one. Products and sums in such files are never contracted to FMA (see CMakeLists.txt), and where it is asked for
// the baseline calls fmaf: all three round alike.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// AVX-512 whole: with its first part alone, 16-bit elements keep GCC from vectors. AVX2 with FMA: fmaf is an instruction
// then, and a call otherwise (RT_FAST_FMA). Compilers before 12 know the parts only.
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
