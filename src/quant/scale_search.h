// What the search for scales tries, and the range that it leaves, shared by the CPU and the CUDA source.
//
// Sources: auto-round 0.16.1's SignRoundV2 (enable_alg_ext): search_scales in data_type/int.py, search_mx_scale in
// mxfp.py, search_nvfp4_scale in nvfp.py; for asymmetric integers neuqi_search_scale_zero in neuqi.py, after NeUQI
// (arXiv 2505.17595). D is 2^(b-1), or 1/2 less for the restricted range; m is the weight of largest magnitude:
//
//   sym    s = -m / (D - 0.01 k), k = -90 ... 90, with 2 bits; else s = -m / (D - 0.0075 D k), k = -100 ... 100
//   asym   s = f (wmax - wmin) / (2^b - 1): 64 fractions f up to 1, each step as many times as large as the one before,
//          then 32 between the two neighbors of the best; each with all zero points that can be best
//   mx_fp  m times 1, 1/2 and 2
//   nv_fp  m times 1, and 0.50, 0.51, ... 1.51
//
// The measure is the sum of importance * (Wq - W)^2 of rounding to nearest; of equal ones the first is chosen, which is
// the one without a search.
#pragma once

#include <algorithm>
#include <cmath>

#include "quant/fake_quant_math.h"

namespace roundtable {

constexpr int kMostCandidates = 201;
constexpr int kCoarseFractions = 64;
constexpr int kFineFractions = 32;
constexpr float kMostZeroPoints = 16;  // per scale: all of them up to 4 bits, those in the middle above

// The numbers that a scale follows from, in the order in which they are tried: what m is divided by (sym), the first
// 64 fractions (asym), or what m is multiplied by.
struct ScaleCandidates {
  int count = 0;
  float value[kMostCandidates] = {};
};

inline ScaleCandidates symmetric_candidates(const QuantScheme& scheme) {
  const double base = (1 << (scheme.bits - 1)) - (scheme.full_range ? 0.0 : 0.5);
  const int steps = scheme.bits == 2 ? 90 : 100;
  const double step = scheme.bits == 2 ? 0.01 : base * 0.75 / 100;
  ScaleCandidates out{1, {static_cast<float>(base)}};
  for (int k = -steps; k <= steps; ++k) {
    if (k != 0) out.value[out.count++] = static_cast<float>(base - step * k);
  }
  return out;
}

inline ScaleCandidates asymmetric_candidates(const QuantScheme& scheme) {
  const double least = scheme.bits >= 4 ? 0.25 : (scheme.bits == 3 ? 0.15 : 0.05);
  ScaleCandidates out;
  while (out.count < kCoarseFractions) {
    out.value[out.count] = static_cast<float>(std::pow(least, 1 - out.count / (kCoarseFractions - 1.0)));
    ++out.count;
  }
  return out;
}

inline ScaleCandidates scale_candidates(const QuantScheme& scheme) {
  if (scheme.type == WeightType::kMxFp4) return {3, {1.0f, 0.5f, 2.0f}};
  if (scheme.type == WeightType::kInt) {
    return scheme.symmetric ? symmetric_candidates(scheme) : asymmetric_candidates(scheme);
  }
  ScaleCandidates out{1, {1.0f}};
  for (int i = 50; i <= 151; ++i) {
    if (i != 100) out.value[out.count++] = static_cast<float>(i / 100.0);
  }
  return out;
}

// What a search puts in the place of a group's least and largest weight: with factors of 1 its grid is the one found.
struct FoundRange {
  float wmin;
  float wmax;
};

struct CandidateScale {
  float scale;
  float inverse;
};

// m with the sign of the scale that it gives, of a group with `range`. Floats and the restricted range: without a sign.
C10_HOST_DEVICE C10_ALWAYS_INLINE float search_anchor(const QuantScheme& scheme, FoundRange range) {
  const float a = -range.wmin;
  const float c = range.wmax;
  const float largest = a > c ? a : c;
  return scheme.type == WeightType::kInt && scheme.full_range && !(c < a) ? -largest : largest;
}

C10_HOST_DEVICE C10_ALWAYS_INLINE float reciprocal_or_zero(float x) {
  constexpr float kLeast = 1e-30f;
  return fabsf(x) >= kLeast ? 1.0f / x : 0.0f;
}

// Of symmetric integers and of floats. `anchor_inverse` is reciprocal_or_zero(anchor).
template <WeightType kType>
C10_HOST_DEVICE C10_ALWAYS_INLINE CandidateScale candidate_scale(const QuantScheme& scheme, float anchor,
                                                                 float anchor_inverse, float value) {
  if constexpr (kType == WeightType::kInt) {
    const float inverse = value * anchor_inverse;
    return {reciprocal_or_zero(inverse), inverse};
  } else {
    const GroupGrid grid = kType == WeightType::kMxFp4 ? mx_fp4_grid(anchor, value)
                                                       : nv_fp4_grid(scheme.global_scale, anchor, value);
    return {grid.scale, grid.inverse_scale};
  }
}

// Where round(W/s) or W/s is clamped to.
struct LevelBounds {
  float low;
  float high;
};

template <WeightType kType>
C10_HOST_DEVICE C10_ALWAYS_INLINE LevelBounds symmetric_bounds(const QuantScheme& scheme) {
  if constexpr (kType != WeightType::kInt) return {-kLargestE2m1, kLargestE2m1};
  const float levels = static_cast<float>(1 << (scheme.bits - 1));
  return {-levels, levels - 1};
}

// Wq - W.
C10_HOST_DEVICE C10_ALWAYS_INLINE float level_error(float scale, float level, float weight) {
#if RT_FAST_FMA || defined(__CUDA_ARCH__)
  return fmaf(scale, level, -weight);
#else
  return scale * level - weight;
#endif
}

C10_HOST_DEVICE C10_ALWAYS_INLINE float within(float value, float low, float high) {
  const float raised = value > low ? value : low;
  return raised < high ? raised : high;
}

// Wq - W of a weight that is rounded to nearest.
template <WeightType kType>
C10_HOST_DEVICE C10_ALWAYS_INLINE float nearest_error(const CandidateScale& candidate,
                                                        const LevelBounds& bounds, float weight) {
  const float ratio = weight * candidate.inverse;
  if constexpr (kType == WeightType::kInt) {
    return level_error(candidate.scale, within(rintf(ratio), bounds.low, bounds.high), weight);
  } else {
    return level_error(candidate.scale, round_e2m1(within(ratio, bounds.low, bounds.high)), weight);
  }
}

// The range for a group of symmetric integers or of floats, whose best candidate is `value`.
template <WeightType kType>
C10_HOST_DEVICE C10_ALWAYS_INLINE FoundRange symmetric_range(const QuantScheme& scheme, FoundRange range, float value) {
  if constexpr (kType != WeightType::kInt) return {range.wmin * value, range.wmax * value};
  const float anchor = search_anchor(scheme, range);
  const float scale = candidate_scale<kType>(scheme, anchor, reciprocal_or_zero(anchor), value).scale;
  const float least = least_scale(scheme);
  const float magnitude = fabsf(scale) < least ? least : fabsf(scale);
  const float divisor = static_cast<float>(1 << (scheme.bits - 1)) - (scheme.full_range ? 0.0f : 0.5f);
  const float reach = magnitude * divisor;
  return scheme.full_range && !(scale < 0) ? FoundRange{-reach, 0.0f} : FoundRange{0.0f, reach};
}

C10_HOST_DEVICE C10_ALWAYS_INLINE float top_level(const QuantScheme& scheme) {
  return static_cast<float>((1 << scheme.bits) - 1);
}

// Of fraction 1.
C10_HOST_DEVICE C10_ALWAYS_INLINE float widest_scale(const QuantScheme& scheme, FoundRange range) {
  const float scale = (range.wmax - range.wmin) / top_level(scheme);
  const float least = least_scale(scheme);
  return scale > least ? scale : least;
}

C10_HOST_DEVICE C10_ALWAYS_INLINE float nearest_zero_point(const QuantScheme& scheme, FoundRange range,
                                                           float inverse) {
  return within(rintf(-range.wmin * inverse), static_cast<float>(scheme.min_zero_point), top_level(scheme));
}

struct ZeroPointRange {
  float first;
  float last;
};

// The zero points that can be the best ones for a scale: with a larger one the least levels would lie below all
// weights, with a smaller one the largest levels above them.
C10_HOST_DEVICE C10_ALWAYS_INLINE ZeroPointRange zero_points_of(const QuantScheme& scheme, FoundRange range,
                                                                float inverse) {
  const float top = top_level(scheme);
  const float least = static_cast<float>(scheme.min_zero_point);
  const float below = nearest_zero_point(scheme, range, inverse);
  const float above = within(top - rintf(range.wmax * inverse), least, top);
  const float first = below < above ? below : above;
  const float last = below < above ? above : below;
  if (last - first < kMostZeroPoints) return {first, last};
  const float middle = floorf((first + last) / 2);
  return {middle - kMostZeroPoints / 2, middle + kMostZeroPoints / 2 - 1};
}

// The fraction that is tried as number i, of which the first 64 are those of `coarse`; `best` is the best of these.
C10_HOST_DEVICE C10_ALWAYS_INLINE float fraction_of(const ScaleCandidates& coarse, int i, int best) {
  if (i < kCoarseFractions) return coarse.value[i];
  const float low = coarse.value[best > 0 ? best - 1 : 0];
  const float high = coarse.value[best + 1 < kCoarseFractions ? best + 1 : kCoarseFractions - 1];
  const float part = static_cast<float>(i - kCoarseFractions + 1) / (kFineFractions + 1);
  return low * (1.0f - part) + high * part;
}

C10_HOST_DEVICE C10_ALWAYS_INLINE FoundRange asymmetric_range(const QuantScheme& scheme, float scale,
                                                              float zero_point) {
  const float least = least_scale(scheme);
  const float rounded = round_scale(scheme, scale > least ? scale : least);
  return {-zero_point * rounded, (top_level(scheme) - zero_point) * rounded};
}

}  // namespace roundtable
