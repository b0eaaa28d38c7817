// The arithmetic of fake quantization, one group or one weight at a time, shared by the CPU and the CUDA source.
//
// Sources: SignRound (arXiv 2309.05516, equations 2 to 5) and auto-round 0.16.1, data_type/int.py (quant_tensor_sym,
// quant_tensor_asym), whose results these functions reproduce. Per group of weights W:
//
//   asym  s = fp16((wmax*max_scale - wmin*min_scale) / (2^b - 1)), s >= 1e-5
//         z = round(-wmin*min_scale / s)
//         q = clamp(round(W/s + v) + z, 0, 2^b - 1),             Wq = s * (q - z)
//   sym   M = 2^(b-1), a = -wmin*min_scale, c = wmax*max_scale
//         s = fp16((c < a ? +1 : -1) * max(a, c) / M), |s| >= 1e-5, sign kept
//         q = clamp(round(W/s + v), -M, M - 1),                  Wq = s * q, stored with z = M
//         restricted range: s = fp16(max(a, c) / (M - 1/2))
//
// round is half to even, its gradient 1 (straight through); so is the gradient of fp16().
// Both schemes clamp round(W/s + v) to [low, high] and scale it: asym has low = -z and high = 2^b - 1 - z.
//
// Floats of 4 bits: auto-round 0.16.1, data_type/mxfp.py (quant_mx) and nvfp.py (nv_fp4). m = max|W| * max_scale:
//
//   mx_fp  s = 2^(floor(log2(m)) - 2)
//   nv_fp  s = e4m3(G * m / 6) / G, G the scheme's global_scale
//          q = e2m1(clamp(W/s + v, -6, 6)),                    Wq = s * q
//
// e2m1 is half to even, its gradient 1; that of floor and log2 is passed on, by quant_mx through the level's own
// exponent too, which makes the gradient of e2m1(t) there q/t where |t| >= 1.
#pragma once

#include <c10/macros/Macros.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/simd/simd.h"
#include "quant/scheme.h"

namespace roundtable {

// All of these are inlined, whatever their size: a loop that contains a call is not vectorized.

// The least magnitude of a scale: auto-round's q_scale_thresh, which depends on the scale's dtype and is rounded to it
// (a scale that fp16 does not hold would not be read back as it was tuned): 1e-5 becomes 168 * 2^-24.
C10_HOST_DEVICE C10_ALWAYS_INLINE float least_scale(const QuantScheme& scheme) {
  return scheme.fp16_scale ? 168.0f / 16777216.0f : 1e-8f;
}

// What is fixed when a group is wrapped, and what is tuned of it.
struct GroupRange {
  float wmin;  // min(W, 0), or what a search has found in its place
  float wmax;  // max(W, 0), or the same
  float min_scale;
  float max_scale;
};

// The grid of one group, and its derivatives for the backward pass.
struct GroupGrid {
  float scale = 0;
  float zero_point = 0;      // as stored: in [0, 2^b - 1]
  float low = 0;             // bounds of round(W/s + v)
  float high = 0;
  float dscale_dmin = 0;     // ds / d min_scale
  float dscale_dmax = 0;     // ds / d max_scale
  float dzero_dmin = 0;      // dz / d min_scale, through s as well
  float dzero_dmax = 0;
  float inverse_scale = 0;   // 1 / scale; 0 for a scale of 0
};

// x without the last kDropped of its mantissa's 23 bits, half to even.
template <int kDropped>
C10_HOST_DEVICE C10_ALWAYS_INLINE float round_mantissa(float x) {
  constexpr std::uint32_t kLast = 1u << kDropped;  // of the bits that stay
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits = (bits + (kLast / 2 - 1) + ((bits >> kDropped) & 1u)) & ~(kLast - 1);
  float rounded;
  std::memcpy(&rounded, &bits, sizeof(rounded));
  return rounded;
}

// To fp16 and back, half to even. c10::Half's conversion is exact, too, but keeps loops from being vectorized.
C10_HOST_DEVICE C10_ALWAYS_INLINE float round_half(float x) {
  const float normal = round_mantissa<13>(x);
  constexpr float kUlps = 0.75f;  // an ulp here is fp16's least number, 2^-24
  const float magnitude = fabsf(x);
  const float rounded = magnitude < 6.103515625e-5f ? copysignf((magnitude + kUlps) - kUlps, x) : normal;
  return fabsf(rounded) > 65504.0f ? copysignf(INFINITY, x) : rounded;
}

C10_HOST_DEVICE C10_ALWAYS_INLINE float round_scale(const QuantScheme& scheme, float scale) {
  return scheme.fp16_scale ? round_half(scale) : scale;
}

C10_HOST_DEVICE C10_ALWAYS_INLINE GroupGrid symmetric_grid(const QuantScheme& scheme, GroupRange range) {
  const float levels = static_cast<float>(1 << (scheme.bits - 1));  // M
  const float least = least_scale(scheme);
  const float a = -range.wmin * range.min_scale;
  const float c = range.wmax * range.max_scale;
  const float divisor = scheme.full_range ? levels : levels - 0.5f;
  // Which of a and c is larger cannot be predicted from group to group, so there is no branch on it.
  const float sign = 1.0f - 2.0f * static_cast<float>(scheme.full_range & !(c < a));
  const float largest = a > c ? a : c;
  const float raw = round_scale(scheme, sign * largest / divisor);

  const bool held = fabsf(raw) < least;
  const float signed_least = raw < 0 ? -least : least;
  // max() shares the gradient of a tie evenly, as torch.max does.
  const float share_a = 0.5f + 0.5f * (static_cast<float>(a > c) - static_cast<float>(a < c));
  const float slope = held ? 0.0f : sign / divisor;
  const float scale = held ? signed_least : raw;
  return {.scale = scale,
          .zero_point = levels,
          .low = -levels,
          .high = levels - 1,
          .dscale_dmin = slope * share_a * -range.wmin,
          .dscale_dmax = slope * (1.0f - share_a) * range.wmax,
          .inverse_scale = 1.0f / scale};
}

C10_HOST_DEVICE C10_ALWAYS_INLINE GroupGrid asymmetric_grid(const QuantScheme& scheme, GroupRange range) {
  const float top = static_cast<float>((1 << scheme.bits) - 1);
  const float least = least_scale(scheme);
  const float low_end = range.wmin * range.min_scale;
  const float raw = round_scale(scheme, (range.wmax * range.max_scale - low_end) / top);

  const bool held = raw < least;
  const float scale = held ? least : raw;
  const float dscale_dmin = held ? 0.0f : -range.wmin / top;
  const float dscale_dmax = held ? 0.0f : range.wmax / top;
  const float zero = rintf(-low_end / scale);
  const float dzero_dscale = low_end / (scale * scale);
  const float least_zero = static_cast<float>(scheme.min_zero_point);
  // Above the top: -wmin*min_scale/s exceeds 2^b - 1 only by the rounding of s to half precision.
  const float raised = zero > least_zero ? zero : least_zero;
  const float zero_point = raised < top ? raised : top;
  const bool moves = zero_point == zero;
  return {.scale = scale,
          .zero_point = zero_point,
          .low = -zero_point,
          .high = top - zero_point,
          .dscale_dmin = dscale_dmin,
          .dscale_dmax = dscale_dmax,
          .dzero_dmin = moves ? -range.wmin / scale + dzero_dscale * dscale_dmin : 0.0f,
          .dzero_dmax = moves ? dzero_dscale * dscale_dmax : 0.0f,
          .inverse_scale = 1.0f / scale};
}

constexpr float kLargestE2m1 = 6.0f;
constexpr float kLargestE4m3 = 448.0f;

// floor(log2(x)) of a positive x; of a denormal one, a number below -126. frexp would keep loops from being vectorized.
C10_HOST_DEVICE C10_ALWAYS_INLINE int exponent_of(float x) {
  std::int32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return (bits >> 23) - 127;
}

// 2^exponent, of -127 to 127.
C10_HOST_DEVICE C10_ALWAYS_INLINE float power_of_two(int exponent) {
  const std::int32_t bits = exponent < -126 ? 1 << 22 : (exponent + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return power;
}

// To E4M3 and back, half to even; x in [0, 448]. In the form of round_half, for the same reason.
C10_HOST_DEVICE C10_ALWAYS_INLINE float round_e4m3(float x) {
  const float normal = round_mantissa<20>(x);
  constexpr float kUlps = 24576.0f;  // an ulp here is E4M3's least number, 2^-9
  return x < 0.015625f ? (x + kUlps) - kUlps : normal;
}

C10_HOST_DEVICE C10_ALWAYS_INLINE GroupGrid mx_fp4_grid(float largest, float max_scale) {
  constexpr int kLargestExponent = 127;  // of E8M0
  GroupGrid grid{};
  const float reach = largest * max_scale;
  // 6 = 1.5 * 2^2; quant_mx's floor(log2) for a group of zeros is 1.
  const int exponent = (reach > 0 ? exponent_of(reach) : 1) - 2;
  const int raised = exponent < -kLargestExponent ? -kLargestExponent : exponent;
  const int in_range = raised > kLargestExponent ? kLargestExponent : raised;
  const bool held = in_range != exponent;
  grid.scale = power_of_two(in_range);
  grid.inverse_scale = power_of_two(-in_range);
  grid.dscale_dmax = held || reach == 0 ? 0.0f : grid.scale / max_scale;
  return grid;
}

C10_HOST_DEVICE C10_ALWAYS_INLINE GroupGrid nv_fp4_grid(float global_scale, float largest, float max_scale) {
  GroupGrid grid{};
  const float wanted = global_scale * (largest * max_scale * (1.0f / kLargestE2m1));
  const bool held = wanted > kLargestE4m3;
  grid.scale = round_e4m3(held ? kLargestE4m3 : wanted) / global_scale;
  grid.inverse_scale = grid.scale > 0 ? 1.0f / grid.scale : 0.0f;
  grid.dscale_dmax = held ? 0.0f : largest / kLargestE2m1;
  return grid;
}

C10_HOST_DEVICE C10_ALWAYS_INLINE GroupGrid float4_grid(const QuantScheme& scheme, GroupRange range) {
  const float largest = range.wmax > -range.wmin ? range.wmax : -range.wmin;
  GroupGrid grid = scheme.type == WeightType::kMxFp4 ? mx_fp4_grid(largest, range.max_scale)
                                                     : nv_fp4_grid(scheme.global_scale, largest, range.max_scale);
  grid.low = -kLargestE2m1;
  grid.high = kLargestE2m1;
  return grid;
}

C10_HOST_DEVICE C10_ALWAYS_INLINE GroupGrid group_grid(const QuantScheme& scheme, GroupRange range) {
  if (scheme.type != WeightType::kInt) return float4_grid(scheme, range);
  return scheme.symmetric ? symmetric_grid(scheme, range) : asymmetric_grid(scheme, range);
}

// The largest power of two in |x|, no less than 1. `bits` are those of x.
C10_HOST_DEVICE C10_ALWAYS_INLINE float power_within(std::uint32_t bits) {
  constexpr std::uint32_t kExponent = 0x7f800000u;
  constexpr std::uint32_t kOne = 0x3f800000u;
  const std::uint32_t own = bits & kExponent;
  const std::uint32_t raised = own > kOne ? own : kOne;
  float power;
  std::memcpy(&power, &raised, sizeof(power));
  return power;
}

// x in [-6, 6]. Steps are half of the power of two in |x|: adding a number whose ulp is a step rounds to one.
C10_HOST_DEVICE C10_ALWAYS_INLINE float round_e2m1(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const float rounder = power_within(bits) * 6291456.0f;  // 1.5 * 2^23 steps
  return (x + rounder) - rounder;
}

// E2M1's bits: the sign, two of exponent, one of mantissa; and back. From 1 on they are the middle of a float's.
C10_HOST_DEVICE C10_ALWAYS_INLINE std::int32_t e2m1_bits(float level) {
  std::uint32_t bits;
  std::memcpy(&bits, &level, sizeof(bits));
  const float magnitude = fabsf(level);
  const auto small = static_cast<std::int32_t>(2 * magnitude);
  const auto large = static_cast<std::int32_t>((bits >> 22) & 511u) - 252;
  return (magnitude < 1 ? small : large) | static_cast<std::int32_t>((bits >> 28) & 8u);
}

C10_HOST_DEVICE C10_ALWAYS_INLINE float e2m1_level(std::uint8_t bits) {
  const auto index = static_cast<float>(bits & 7);
  const float magnitude = index < 4 ? index / 2 : (index < 6 ? index - 2 : 2 * index - 8);
  return bits & 8 ? -magnitude : magnitude;
}

// Minimum and maximum in the form that compiles to one instruction each.
C10_HOST_DEVICE C10_ALWAYS_INLINE float clamped(const GroupGrid& grid, float value) {
  const float raised = value > grid.low ? value : grid.low;
  return raised < grid.high ? raised : grid.high;
}

// weight / scale, rounded as IEEE's division rounds, by a product and one correction: a division takes a CPU longer than
// all else that is done to a weight. Before its last rounding the sum is within 2^-47 of the quotient, and the quotient of
// 24 bits by a scale in fp16, of 11, is never so near to the middle between two floats (2^-35). With a scale in fp32 it
// can be, once in millions, and then the result is off by an ulp.
C10_HOST_DEVICE C10_ALWAYS_INLINE float ratio_of(const GroupGrid& grid, float weight) {
#if RT_FAST_FMA || defined(__CUDA_ARCH__)
  const float near = weight * grid.inverse_scale;
  return fmaf(fmaf(-near, grid.scale, weight), grid.inverse_scale, near);
#else
  return weight / grid.scale;
#endif
}

// What a weight becomes before it is scaled. The type is a template argument, so that loops contain only what it needs.
template <WeightType kType>
C10_HOST_DEVICE C10_ALWAYS_INLINE float level_of(const GroupGrid& grid, float weight, float v) {
  if constexpr (kType != WeightType::kInt) return round_e2m1(clamped(grid, weight * grid.inverse_scale + v));
  return clamped(grid, rintf(ratio_of(grid, weight) + v));
}

// The weight as it is stored, in 8 bits.
template <WeightType kType>
C10_HOST_DEVICE C10_ALWAYS_INLINE std::int32_t bits_of(const GroupGrid& grid, float weight, float v) {
  const float level = level_of<kType>(grid, weight, v);
  if constexpr (kType != WeightType::kInt) return e2m1_bits(level);
  return static_cast<std::int32_t>(level + grid.zero_point);
}

// Contribution of one weight, with gradient g = dL/dWq, to the gradients of its group's scale and zero point:
//   inside the clamp   dWq/dv = s, dWq/ds = q - W/s, dWq/dz = 0        (q counted from the zero point)
//   outside            dWq/dv = 0, dWq/ds = q,       dWq/dz = -s
struct WeightGradient {
  float dv;
  float dscale;
  float dzero;
};

template <WeightType kType>
C10_HOST_DEVICE C10_ALWAYS_INLINE WeightGradient weight_gradient(const GroupGrid& grid, float weight, float v, float g) {
  WeightGradient out;
  if constexpr (kType != WeightType::kInt) {
    const float ratio = weight * grid.inverse_scale;
    const float t = ratio + v;
    const bool inside = t >= grid.low && t <= grid.high;
    const float q = round_e2m1(clamped(grid, t));
    // No gradient at 0, where auto-round's is that of |t| times its sign: a pruned weight stays pruned.
    float slope = inside && t != 0 ? 1.0f : 0.0f;
    if constexpr (kType == WeightType::kMxFp4) slope = inside && fabsf(t) >= 1 ? q / t : slope;
    out.dv = g * grid.scale * slope;
    out.dscale = g * (q - slope * ratio);
    out.dzero = 0;
  } else {
    const float ratio = ratio_of(grid, weight);
    const float value = rintf(ratio + v);
    const float q = clamped(grid, value);
    const bool inside = q == value;
    const float scaled = g * grid.scale;
    out.dv = inside ? scaled : 0.0f;
    out.dscale = g * (q - (inside ? ratio : 0.0f));
    out.dzero = out.dv - scaled;
  }
  return out;
}

struct RangeGradient {
  float dmin_scale;
  float dmax_scale;
};

// Chain rule from the group's sums of dscale and dzero to its two tuned scales.
C10_HOST_DEVICE C10_ALWAYS_INLINE RangeGradient range_gradient(GroupGrid grid, float dscale, float dzero) {
  return {dscale * grid.dscale_dmin + dzero * grid.dzero_dmin, dscale * grid.dscale_dmax + dzero * grid.dzero_dmax};
}

// p - lr * sign(dL/dp); a gradient that is not a number moves nothing.
C10_HOST_DEVICE C10_ALWAYS_INLINE float stepped(float value, float gradient, float lr) {
  return value - (fabsf(gradient) > 0 ? copysignf(lr, gradient) : 0.0f);
}

// The same, kept in [0, bound]: min_scale and max_scale.
C10_HOST_DEVICE C10_ALWAYS_INLINE float stepped_scale(float value, float gradient, float lr, float bound) {
  const float next = stepped(value, gradient, lr);
  return next < 0.0f ? 0.0f : (next > bound ? bound : next);
}

}  // namespace roundtable
