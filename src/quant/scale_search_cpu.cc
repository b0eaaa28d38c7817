// The search for scales on the CPU: rows in parallel, the weights of a group in SIMD.
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "quant/cpu_rows.h"
#include "quant/scale_search.h"

namespace roundtable::cpu {
namespace {

// A row of weights and what enters their columns; its groups have `width` weights, but for the last.
struct SearchedRow {
  const float* weight;
  const float* importance;
  std::int64_t columns;
  std::int64_t width;
  float* wmin;
  float* wmax;
  float* ratios;  // room for those of a group
};

// The error of `size` weights with a candidate. It is a function of its own so that the loop is vectorized.
template <WeightType kType, std::int64_t kWidth>
C10_ALWAYS_INLINE float error_of_candidate(const float* __restrict weight, const float* __restrict importance,
                                           std::int64_t size, CandidateScale candidate, LevelBounds bounds) {
  float error = 0;
#pragma omp simd reduction(+ : error)
  for (std::int64_t j = 0; j < (kWidth > 0 ? kWidth : size); ++j) {
    const float difference = nearest_error<kType>(candidate, bounds, weight[j]);
    error += importance[j] * (difference * difference);
  }
  return error;
}

// The same of weights whose round(W/s) is known.
template <std::int64_t kWidth>
C10_ALWAYS_INLINE float error_of_zero_point(const float* __restrict weight, const float* __restrict importance,
                                            const float* __restrict ratios, std::int64_t size, float scale, float low,
                                            float high) {
  float error = 0;
#pragma omp simd reduction(+ : error)
  for (std::int64_t j = 0; j < (kWidth > 0 ? kWidth : size); ++j) {
    const float difference = level_error(scale, within(ratios[j], low, high), weight[j]);
    error += importance[j] * (difference * difference);
  }
  return error;
}

template <WeightType kType, std::int64_t kWidth>
RT_SIMD_CLONES void search_symmetric_row(const QuantScheme& scheme, const ScaleCandidates& candidates,
                                         const SearchedRow& row) {
  const LevelBounds bounds = symmetric_bounds<kType>(scheme);
  float scale[kMostCandidates];
  float inverse[kMostCandidates];
  for (std::int64_t begin = 0, group = 0; begin < row.columns; begin += row.width, ++group) {
    const std::int64_t size = kWidth > 0 ? kWidth : std::min(row.width, row.columns - begin);
    const FoundRange range{row.wmin[group], row.wmax[group]};
    const float anchor = search_anchor(scheme, range);
    const float anchor_inverse = reciprocal_or_zero(anchor);
#pragma GCC ivdep
    for (int i = 0; i < candidates.count; ++i) {
      const CandidateScale one = candidate_scale<kType>(scheme, anchor, anchor_inverse, candidates.value[i]);
      scale[i] = one.scale;
      inverse[i] = one.inverse;
    }
    float least = std::numeric_limits<float>::infinity();
    int best = 0;
    for (int i = 0; i < candidates.count; ++i) {
      if (i > 0 && scale[i] == scale[i - 1]) continue;  // E4M3 makes one scale of several candidates
      const float error = error_of_candidate<kType, kWidth>(row.weight + begin, row.importance + begin, size,
                                                            {scale[i], inverse[i]}, bounds);
      best = error < least ? i : best;
      least = error < least ? error : least;
    }
    const FoundRange found = symmetric_range<kType>(scheme, range, candidates.value[best]);
    row.wmin[group] = found.wmin;
    row.wmax[group] = found.wmax;
  }
}

template <std::int64_t kWidth>
RT_SIMD_CLONES void search_asymmetric_row(const QuantScheme& scheme, const ScaleCandidates& coarse,
                                          const SearchedRow& row) {
  const float top = top_level(scheme);
  for (std::int64_t begin = 0, group = 0; begin < row.columns; begin += row.width, ++group) {
    const std::int64_t size = kWidth > 0 ? kWidth : std::min(row.width, row.columns - begin);
    const float* weight = row.weight + begin;
    const float* importance = row.importance + begin;
    float* __restrict ratios = row.ratios;
    const FoundRange range{row.wmin[group], row.wmax[group]};
    const float widest = widest_scale(scheme, range);
    // Where nothing is better, and that is where no token came: rounding to nearest.
    float best_scale = widest;
    float best_zero = nearest_zero_point(scheme, range, 1.0f / widest);
    int best = kCoarseFractions - 1;
#pragma omp simd
    for (std::int64_t j = 0; j < size; ++j) ratios[j] = rintf(weight[j] / widest);
    float least =
        error_of_zero_point<kWidth>(weight, importance, ratios, size, widest, -best_zero, top - best_zero);
    for (int i = 0, center = 0; i < kCoarseFractions + kFineFractions; ++i) {
      if (i <= kCoarseFractions) center = best;
      const float scale = widest * fraction_of(coarse, i, center);
      const float inverse = 1.0f / scale;
#pragma omp simd
      for (std::int64_t j = 0; j < size; ++j) ratios[j] = rintf(weight[j] * inverse);
      const ZeroPointRange zeros = zero_points_of(scheme, range, inverse);
      for (float zero = zeros.first; zero <= zeros.last; ++zero) {
        const float error =
            error_of_zero_point<kWidth>(weight, importance, ratios, size, scale, -zero, top - zero);
        if (!(error < least)) continue;
        least = error;
        best_scale = scale;
        best_zero = zero;
        best = i;
      }
    }
    const FoundRange found = asymmetric_range(scheme, best_scale, best_zero);
    row.wmin[group] = found.wmin;
    row.wmax[group] = found.wmax;
  }
}

template <WeightType kType, std::int64_t kWidth>
void search_row(const QuantScheme& scheme, const ScaleCandidates& candidates, const SearchedRow& row) {
  if constexpr (kType == WeightType::kInt) {
    if (!scheme.symmetric) return search_asymmetric_row<kWidth>(scheme, candidates, row);
  }
  search_symmetric_row<kType, kWidth>(scheme, candidates, row);
}

}  // namespace

void search_scales(const WeightArrays& a, const QuantScheme& scheme, const float* importance) {
  const ScaleCandidates candidates = scale_candidates(scheme);
  const std::int64_t width = scheme.group_columns(a.columns);
  with_kinds(a, scheme, [&](auto type, auto usual) {
    at::parallel_for(0, a.rows, 1, [&](std::int64_t first, std::int64_t end) {
      std::vector<float> room;
      std::vector<float> ratios(static_cast<std::size_t>(width));
      for (std::int64_t r = first; r < end; ++r) {
        const float* weight = wide_weights(a, r * a.columns, a.columns, room);
        search_row<type(), usual()>(scheme, candidates,
                                    {weight, importance, a.columns, width, a.wmin + r * a.groups,
                                     a.wmax + r * a.groups, ratios.data()});
      }
    });
  });
}

}  // namespace roundtable::cpu
