// In the place of CUDA's own header: bf16 by its bits.
#pragma once

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  const std::uint32_t wide = std::uint32_t{x.bits} << 16;
  float out;
  std::memcpy(&out, &wide, sizeof(out));
  return out;
}

// Half to even; every NaN becomes the same one.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if (x != x) return {0x7fff};
  const std::uint32_t half = 0x7fffu + (bits >> 16 & 1u);
  return {static_cast<std::uint16_t>((bits + half) >> 16)};
}
