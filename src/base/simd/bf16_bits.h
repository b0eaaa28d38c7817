// bf16 as its bits, for loops that must be vectorized: c10::BFloat16's conversions prevent that.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/simd/simd.h"  // for all who work on bf16: they do so in such loops

namespace roundtable {

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
  // Round to nearest even; a NaN may become an infinity, which is noticed when the loss is computed.
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
