// exp without a library call, so that loops around it vectorize on every compiler.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/simd/simd.h"

namespace roundtable {

// 2^(x / ln 2) from the exponent's bits and a polynomial of the fraction (Cephes expf), relative error below 2e-7.
// x is clamped to [-87, 87]. Where FMA is an instruction, this takes half as many operations.
inline float exp_of(float x) {
  x = x < -87.0f ? -87.0f : (x > 87.0f ? 87.0f : x);
  const float n = rintf(x * 1.44269504f);
  const float r = multiply_add(n, 2.12194440e-4f, multiply_add(n, -0.693359375f, x));
  float p = 1.9875691500e-4f;
  p = multiply_add(p, r, 1.3981999507e-3f);
  p = multiply_add(p, r, 8.3334519073e-3f);
  p = multiply_add(p, r, 4.1665795894e-2f);
  p = multiply_add(p, r, 1.6666665459e-1f);
  p = multiply_add(p, r, 5.0000001201e-1f);
  p = multiply_add(p * r, r, r) + 1.0f;
  const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return p * power;
}

}  // namespace roundtable
