// Fake quantization on the CPU: rows in parallel, the weights of a group in SIMD.
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "base/bf16_bits.h"
#include "quant/fake_quant_kernels.h"
#include "quant/fake_quant_math.h"

namespace roundtable::cpu {
namespace {

// Grids of some groups, number by number of GroupGrid, so that they are made in SIMD: making one takes as long as rounding
// a hundred weights.
struct GridArrays {
  static constexpr std::int64_t kNumbers = 10;
  float* first;
  std::int64_t stride;  // from one number to the next

  void set(std::int64_t g, GroupGrid grid) const {
    float* to = first + g;
    to[0 * stride] = grid.scale;
    to[1 * stride] = grid.zero_point;
    to[2 * stride] = grid.low;
    to[3 * stride] = grid.high;
    to[4 * stride] = grid.dscale_dmin;
    to[5 * stride] = grid.dscale_dmax;
    to[6 * stride] = grid.dzero_dmin;
    to[7 * stride] = grid.dzero_dmax;
    to[8 * stride] = grid.inverse_scale;
    to[9 * stride] = grid.own_exponent;
  }
  GroupGrid get(std::int64_t g) const {
    const float* from = first + g;
    return {from[0],          from[stride],     from[2 * stride], from[3 * stride], from[4 * stride],
            from[5 * stride], from[6 * stride], from[7 * stride], from[8 * stride], from[9 * stride]};
  }
};

// A row of weights and its groups, each of `width` but the last, which may be shorter. The functions below walk over a
// row's groups themselves: they are compiled for several instruction sets, and a call through the loader's choice for
// every group, of as few as 32 weights, takes longer than its work.
struct Row {
  std::int64_t columns;
  std::int64_t width;
  GridArrays grids;

  std::int64_t end(std::int64_t begin) const { return std::min(begin + width, columns); }
};

template <bool kFloat4, class W, class R>
RT_SIMD_CLONES void fake_quantize_row(const W* __restrict weight, const float* __restrict v, Row row,
                                      R* __restrict result) {
  for (std::int64_t begin = 0, group = 0; begin < row.columns; begin = row.end(begin), ++group) {
    const GroupGrid grid = row.grids.get(group);
#pragma omp simd
    for (std::int64_t i = begin; i < row.end(begin); ++i) {
      store(grid.scale * level_of<kFloat4>(grid, load(weight[i]), v[i]), result[i]);
    }
  }
}

struct GroupSums {
  float dscale;
  float dzero;
};

// Sums up what min_scale's and max_scale's gradients come from. Moves v by the sign of its own gradient (kSteps), or
// leaves that in `dv`.
template <bool kFloat4, bool kSteps, class W>
RT_SIMD_CLONES void gradients_row(const W* __restrict weight, float* __restrict v, const float* __restrict gradient,
                                  Row row, float lr, float* __restrict dv, GroupSums* __restrict sums) {
  for (std::int64_t begin = 0, group = 0; begin < row.columns; begin = row.end(begin), ++group) {
    const GroupGrid grid = row.grids.get(group);
    float dscale = 0;
    float dzero = 0;
#pragma omp simd reduction(+ : dscale, dzero)
    for (std::int64_t i = begin; i < row.end(begin); ++i) {
      const WeightGradient one = weight_gradient<kFloat4>(grid, load(weight[i]), v[i], gradient[i]);
      dscale += one.dscale;
      dzero += one.dzero;
      if constexpr (kSteps) {
        v[i] -= lr * sign_of(one.dv);
      } else {
        dv[i] = one.dv;
      }
    }
    sums[group] = {dscale, dzero};
  }
}

template <bool kFloat4, class W>
RT_SIMD_CLONES void quantize_row(const W* __restrict weight, const float* __restrict v, Row row,
                                 std::uint8_t* __restrict q) {
  for (std::int64_t begin = 0, group = 0; begin < row.columns; begin = row.end(begin), ++group) {
    const GroupGrid grid = row.grids.get(group);
#pragma omp simd simdlen(16)  // and not as many as fit in a vector of bytes: a group may have no more
    for (std::int64_t i = begin; i < row.end(begin); ++i) q[i] = bits_of<kFloat4>(grid, load(weight[i]), v[i]);
  }
}

// What a loop is not vectorized over, when it is a condition in it, are constants here.
template <WeightType kType, bool kSymmetric, bool kFp16Scale>
RT_SIMD_CLONES void grids_of(QuantScheme scheme, const float* __restrict wmin, const float* __restrict wmax,
                             const float* __restrict min_scale, const float* __restrict max_scale, std::int64_t groups,
                             GridArrays grids) {
  scheme.type = kType;
  scheme.fp16_scale = kFp16Scale;
#pragma GCC ivdep  // and not omp simd, which gives every lane structs of its own in memory
  for (std::int64_t g = 0; g < groups; ++g) {
    const GroupRange range{wmin[g], wmax[g], min_scale[g], max_scale[g]};
    if constexpr (kType != WeightType::kInt) {
      grids.set(g, float4_grid(scheme, range));
    } else if constexpr (kSymmetric) {
      grids.set(g, symmetric_grid(scheme, range));
    } else {
      grids.set(g, asymmetric_grid(scheme, range));
    }
  }
}

// What the grids of some groups come from.
struct RangeArrays {
  const float* wmin;
  const float* wmax;
  const float* min_scale;
  const float* max_scale;
};

void make_grids(const RangeArrays& from, const QuantScheme& scheme, std::int64_t groups, const GridArrays& grids) {
  const auto make = [&] {
    constexpr auto kInt = WeightType::kInt;
    if (scheme.type == WeightType::kMxFp4) return grids_of<WeightType::kMxFp4, true, false>;
    if (scheme.type == WeightType::kNvFp4) return grids_of<WeightType::kNvFp4, true, false>;
    if (scheme.symmetric) return scheme.fp16_scale ? grids_of<kInt, true, true> : grids_of<kInt, true, false>;
    return scheme.fp16_scale ? grids_of<kInt, false, true> : grids_of<kInt, false, false>;
  }();
  make(scheme, from.wmin, from.wmax, from.min_scale, from.max_scale, groups, grids);
}

// Rows whose grids are made at a time: a row may have few groups.
std::int64_t rows_at_once(const WeightArrays& a) { return std::max<std::int64_t>(1, 16384 / a.columns); }

// Calls body(offset of the row's first weight, index of its first group, row, sums) for every row, in parallel; `sums`
// is room for one a group.
template <class Body>
void for_each_row(const WeightArrays& a, const QuantScheme& scheme, const Body& body) {
  const std::int64_t width = scheme.group_columns(a.columns);
  const std::int64_t some = rows_at_once(a);
  at::parallel_for(0, a.rows, some, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> numbers(static_cast<std::size_t>(GridArrays::kNumbers * some * a.groups));
    const GridArrays grids{numbers.data(), some * a.groups};
    std::vector<GroupSums> sums(static_cast<std::size_t>(a.groups));
    for (std::int64_t first = begin; first < end; first += some) {
      const std::int64_t last = std::min(first + some, end);
      const std::int64_t at = first * a.groups;
      make_grids({a.wmin + at, a.wmax + at, a.min_scale + at, a.max_scale + at}, scheme, (last - first) * a.groups, grids);
      for (std::int64_t row = first; row < last; ++row) {
        body(row * a.columns, row * a.groups, Row{a.columns, width, {grids.first + (row - first) * a.groups, grids.stride}}, sums.data());
      }
    }
  });
}

// Moves min_scale and max_scale of a row's groups by the signs of their gradients (kSteps), or leaves those in them.
template <bool kSteps>
RT_SIMD_CLONES void range_gradients_row(GridArrays grids, const GroupSums* __restrict sums, std::int64_t groups,
                                        float lr, float* __restrict min_scale, float* __restrict max_scale) {
#pragma GCC ivdep
  for (std::int64_t g = 0; g < groups; ++g) {
    const RangeGradient d = range_gradient(grids.get(g), sums[g].dscale, sums[g].dzero);
    if constexpr (kSteps) {
      min_scale[g] = stepped_scale(min_scale[g], d.dmin_scale, lr);
      max_scale[g] = stepped_scale(max_scale[g], d.dmax_scale, lr);
    } else {
      min_scale[g] = d.dmin_scale;
      max_scale[g] = d.dmax_scale;
    }
  }
}

// Where the error of a row's groups is less than the least so far, `candidate` becomes their scale.
template <bool kFloat4, class W>
RT_SIMD_CLONES void try_scale_row(const W* __restrict weight, const float* __restrict importance, Row row,
                                  float candidate, float* __restrict least, float* __restrict scale) {
  for (std::int64_t begin = 0, group = 0; begin < row.columns; begin = row.end(begin), ++group) {
    const GroupGrid grid = row.grids.get(group);
    float error = 0;
#pragma omp simd reduction(+ : error)
    for (std::int64_t i = begin; i < row.end(begin); ++i) {
      error += importance[i] * nearest_error<kFloat4>(grid, load(weight[i]));
    }
    const bool better = error < least[group];
    least[group] = better ? error : least[group];
    scale[group] = better ? candidate : scale[group];
  }
}

// The best candidates for the groups of the rows [first, first + rows), into `scale`.
template <bool kFloat4, class W>
void search_rows(const WeightArrays& a, const QuantScheme& scheme, const float* importance, std::int64_t first,
                 std::int64_t rows, float* scale) {
  const std::int64_t width = scheme.group_columns(a.columns);
  const std::int64_t groups = rows * a.groups;
  const auto* weight = static_cast<const W*>(a.weight) + first * a.columns;
  std::vector<float> numbers(static_cast<std::size_t>(GridArrays::kNumbers * groups));
  const GridArrays grids{numbers.data(), groups};
  std::vector<float> tried(static_cast<std::size_t>(groups));
  std::vector<float> least(static_cast<std::size_t>(groups), std::numeric_limits<float>::infinity());
  std::fill(scale, scale + groups, 1.0f);
  for (int i = 0; i < kScaleCandidates; ++i) {
    std::fill(tried.begin(), tried.end(), scale_candidate(i));
    make_grids({a.wmin + first * a.groups, a.wmax + first * a.groups, tried.data(), tried.data()}, scheme, groups, grids);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = r * a.groups;
      try_scale_row<kFloat4>(weight + r * a.columns, importance, Row{a.columns, width, {grids.first + at, grids.stride}},
                             scale_candidate(i), least.data() + at, scale + at);
    }
  }
}

}  // namespace

void search_scales(const WeightArrays& a, const QuantScheme& scheme, const float* importance) {
  with_types<std::uint16_t>(a, scheme, [&](auto* typed, auto float4) {
    using W = std::remove_pointer_t<decltype(typed)>;
    const std::int64_t some = rows_at_once(a);
    at::parallel_for(0, a.rows, some, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t first = begin; first < end; first += some) {
        const std::int64_t rows = std::min(some, end - first);
        float* scale = a.max_scale + first * a.groups;
        search_rows<decltype(float4)::value, W>(a, scheme, importance, first, rows, scale);
        std::copy(scale, scale + rows * a.groups, a.min_scale + first * a.groups);
      }
    });
  });
}

void fake_quantize(const WeightArrays& a, const QuantScheme& scheme, void* result, bool result_is_bf16) {
  with_types<std::uint16_t>(a, scheme, [&](auto* typed, auto float4) {
    const auto* weight = static_cast<const std::remove_pointer_t<decltype(typed)>*>(a.weight);
    constexpr bool kFloat4 = decltype(float4)::value;
    for_each_row(a, scheme, [&](std::int64_t offset, std::int64_t, const Row& row, GroupSums*) {
      if (result_is_bf16) {
        fake_quantize_row<kFloat4>(weight + offset, a.v + offset, row, static_cast<std::uint16_t*>(result) + offset);
      } else {
        fake_quantize_row<kFloat4>(weight + offset, a.v + offset, row, static_cast<float*>(result) + offset);
      }
    });
  });
}

void sign_step(const WeightArrays& a, const QuantScheme& scheme, const float* gradient, const StepSize& size) {
  with_types<std::uint16_t>(a, scheme, [&](auto* typed, auto float4) {
    const auto* weight = static_cast<const std::remove_pointer_t<decltype(typed)>*>(a.weight);
    for_each_row(a, scheme, [&](std::int64_t offset, std::int64_t first, const Row& row, GroupSums* sums) {
      gradients_row<decltype(float4)::value, true>(weight + offset, a.v + offset, gradient + offset, row, size.lr, nullptr,
                                                   sums);
      if (size.minmax_lr != 0) {
        range_gradients_row<true>(row.grids, sums, a.groups, size.minmax_lr, a.min_scale + first, a.max_scale + first);
      }
    });
  });
}

void rounding_gradients(const WeightArrays& a, const QuantScheme& scheme, const float* gradient,
                        const GradientArrays& out) {
  with_types<std::uint16_t>(a, scheme, [&](auto* typed, auto float4) {
    const auto* weight = static_cast<const std::remove_pointer_t<decltype(typed)>*>(a.weight);
    for_each_row(a, scheme, [&](std::int64_t offset, std::int64_t first, const Row& row, GroupSums* sums) {
      gradients_row<decltype(float4)::value, false>(weight + offset, a.v + offset, gradient + offset, row, 0, out.v + offset,
                                                    sums);
      range_gradients_row<false>(row.grids, sums, a.groups, 0, out.min_scale + first, out.max_scale + first);
    });
  });
}

void quantize(const WeightArrays& a, const QuantScheme& scheme, const bool* wanted, const QuantizedArrays& out) {
  if (wanted != nullptr && !*wanted) return;
  with_types<std::uint16_t>(a, scheme, [&](auto* typed, auto float4) {
    const auto* weight = static_cast<const std::remove_pointer_t<decltype(typed)>*>(a.weight);
    for_each_row(a, scheme, [&](std::int64_t offset, std::int64_t first, const Row& row, GroupSums*) {
      quantize_row<decltype(float4)::value>(weight + offset, a.v + offset, row, out.q + offset);
      for (std::int64_t g = 0; g < a.groups; ++g) {
        const GroupGrid grid = row.grids.get(g);
        out.scale[first + g] = grid.scale;
        out.zero_point[first + g] = static_cast<std::uint8_t>(grid.zero_point);
      }
    });
  });
}

}  // namespace roundtable::cpu
