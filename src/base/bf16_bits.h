// bf16 as its bits, for loops that must vectorize: c10::BFloat16's conversions keep compilers from it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

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

inline float load(float x) { return x; }
inline float load(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &wide, sizeof(x));
  return x;
}

inline void store(float x, float& out) { out = x; }
inline void store(float x, std::uint16_t& out) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  // Round to nearest even; a NaN may come out as an infinity, which is caught where the loss is.
  out = static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// x rounded to the type of `like`.
inline float rounded_to(float x, float) { return x; }
inline float rounded_to(float x, std::uint16_t) {
  std::uint16_t bits;
  store(x, bits);
  return load(bits);
}

}  // namespace roundtable
