// Fake quantization on the CPU: rows in parallel, the weights of a group in SIMD.
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "base/simd/bf16_bits.h"
#include "quant/cpu_rows.h"
#include "quant/fake_quant_kernels.h"
#include "quant/fake_quant_math.h"

namespace roundtable::cpu {
namespace {

// Grids of several groups, one array per member of GroupGrid, so that SIMD makes several at once: making one grid takes
// as long as rounding a hundred weights.
struct GridArrays {
  static constexpr std::int64_t kNumbers = 9;
  float* first;
  std::int64_t stride;  // from one number to the next

  C10_ALWAYS_INLINE void set(std::int64_t g, GroupGrid grid) const {
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
  }
  float scale(std::int64_t g) const { return first[g]; }
  float zero_point(std::int64_t g) const { return first[g + stride]; }
  C10_ALWAYS_INLINE GroupGrid get(std::int64_t g) const {
    const float* from = first + g;
    return {from[0],          from[stride],     from[2 * stride], from[3 * stride], from[4 * stride],
            from[5 * stride], from[6 * stride], from[7 * stride], from[8 * stride]};
  }
};

// A row of weights and its groups, each of `width` but the last, which may be shorter. The functions below walk over a
// row's groups themselves: they are compiled for several instruction sets, and a call through the loader's choice for
// every group, of as few as 16 weights, takes longer than its work.
//
// kWidth is the width where it is a usual one and divides the row, else 0: a loop whose length the compiler knows needs
// nothing before and after its vectors.
struct Row {
  std::int64_t columns;
  std::int64_t width;
  GridArrays grids;

  std::int64_t groups() const { return (columns + width - 1) / width; }
  template <std::int64_t kWidth>
  C10_ALWAYS_INLINE std::int64_t size(std::int64_t begin) const {
    return kWidth > 0 ? kWidth : std::min(width, columns - begin);
  }
};

// Weights are widened and results narrowed in loops of their own, one row at a time: in a loop that also holds numbers
// of 8 or 16 bits, compilers use only half or a quarter of a vector for floats.
RT_SIMD_CLONES void narrow_integers(const std::int32_t* __restrict from, std::int64_t n, std::uint8_t* __restrict to) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<std::uint8_t>(from[i]);
}

template <WeightType kType, std::int64_t kWidth>
RT_SIMD_CLONES void fake_quantize_row(const float* weight, const float* v, Row row, float* result) {
  for (std::int64_t begin = 0, group = 0; begin < row.columns; begin += row.width, ++group) {
    const GroupGrid grid = row.grids.get(group);
#pragma omp simd
    for (std::int64_t i = 0; i < row.size<kWidth>(begin); ++i) {
      result[begin + i] = grid.scale * level_of<kType>(grid, weight[begin + i], v[begin + i]);
    }
  }
}

struct GroupSums {
  float dscale;
  float dzero;
};

// Sums up what min_scale's and max_scale's gradients come from. Moves v by the sign of its own gradient (kSteps), or
// leaves that in `dv`.
template <WeightType kType, bool kSteps, std::int64_t kWidth>
RT_SIMD_CLONES void gradients_row(const float* __restrict weight, float* __restrict v, const float* __restrict gradient,
                                  Row row, float lr, float* __restrict dv, GroupSums* __restrict sums) {
  for (std::int64_t begin = 0, group = 0; begin < row.columns; begin += row.width, ++group) {
    const GroupGrid grid = row.grids.get(group);
    float dscale = 0;
    float dzero = 0;
#pragma omp simd reduction(+ : dscale, dzero)
    for (std::int64_t i = 0; i < row.size<kWidth>(begin); ++i) {
      const std::int64_t at = begin + i;
      const WeightGradient one = weight_gradient<kType>(grid, weight[at], v[at], gradient[at]);
      dscale += one.dscale;
      dzero += one.dzero;
      if constexpr (kSteps) {
        v[at] = stepped(v[at], one.dv, lr);
      } else {
        dv[at] = one.dv;
      }
    }
    sums[group] = {dscale, dzero};
  }
}

template <WeightType kType, std::int64_t kWidth>
RT_SIMD_CLONES void quantize_row(const float* __restrict weight, const float* __restrict v, Row row,
                                 std::int32_t* __restrict q) {
  for (std::int64_t begin = 0, group = 0; begin < row.columns; begin += row.width, ++group) {
    const GroupGrid grid = row.grids.get(group);
#pragma omp simd
    for (std::int64_t i = 0; i < row.size<kWidth>(begin); ++i) {
      q[begin + i] = bits_of<kType>(grid, weight[begin + i], v[begin + i]);
    }
  }
}

// Template arguments here are conditions that would prevent the loop from being vectorized.
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

// What the grids of several groups are computed from.
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

// What a thread needs for a row in addition to the arrays.
struct Room {
  std::vector<GroupSums> sums;
  std::vector<float> weight;
  std::vector<float> result;
  std::vector<std::int32_t> integers;
};

// Weights of a row that are worked on at a time, in whole groups: with what is widened of them, few enough for a core's
// level 1 cache. Larger groups are not cut.
std::int64_t piece_columns(std::int64_t width, std::int64_t columns) {
  constexpr std::int64_t kInCache = 1024;
  return width > kInCache ? columns : kInCache / width * width;
}

// Calls body(weights in fp32, index of the first of them, index of the first group, row, room) for the pieces of every
// row, each a row to the functions above, in parallel.
template <class Body>
void for_each_piece(const WeightArrays& a, const QuantScheme& scheme, const Body& body) {
  const std::int64_t width = scheme.group_columns(a.columns);
  const std::int64_t some = rows_at_once(a);
  const std::int64_t piece = piece_columns(width, a.columns);
  at::parallel_for(0, a.rows, some, [&](std::int64_t first_row, std::int64_t end) {
    std::vector<float> numbers(static_cast<std::size_t>(GridArrays::kNumbers * some * a.groups));
    const GridArrays grids{numbers.data(), some * a.groups};
    Room room;
    for (std::int64_t first = first_row; first < end; first += some) {
      const std::int64_t last = std::min(first + some, end);
      const std::int64_t from = first * a.groups;
      make_grids({a.wmin + from, a.wmax + from, a.min_scale + from, a.max_scale + from}, scheme,
                 (last - first) * a.groups, grids);
      for (std::int64_t r = first; r < last; ++r) {
        for (std::int64_t begin = 0; begin < a.columns; begin += piece) {
          const std::int64_t at = r * a.columns + begin;
          const std::int64_t group = r * a.groups + begin / width;
          const Row row{std::min(piece, a.columns - begin), width, {grids.first + group - from, grids.stride}};
          body(wide_weights(a, at, row.columns, room.weight), at, group, row, room);
        }
      }
    }
  });
}

// Moves min_scale and max_scale of a row's groups by the signs of their gradients (kSteps), or leaves those in them.
template <bool kSteps>
RT_SIMD_CLONES void range_gradients_row(GridArrays grids, const GroupSums* __restrict sums, std::int64_t groups,
                                        float lr, float bound, float* __restrict min_scale,
                                        float* __restrict max_scale) {
#pragma GCC ivdep
  for (std::int64_t g = 0; g < groups; ++g) {
    const RangeGradient d = range_gradient(grids.get(g), sums[g].dscale, sums[g].dzero);
    if constexpr (kSteps) {
      min_scale[g] = stepped_scale(min_scale[g], d.dmin_scale, lr, bound);
      max_scale[g] = stepped_scale(max_scale[g], d.dmax_scale, lr, bound);
    } else {
      min_scale[g] = d.dmin_scale;
      max_scale[g] = d.dmax_scale;
    }
  }
}

}  // namespace

void fake_quantize(const WeightArrays& a, const QuantScheme& scheme, void* result, bool result_is_bf16) {
  with_kinds(a, scheme, [&](auto type, auto width) {
    for_each_piece(a, scheme, [&](const float* weight, std::int64_t at, std::int64_t, const Row& row, Room& room) {
      float* wide = result_is_bf16 ? at_least(room.result, row.columns) : static_cast<float*>(result) + at;
      fake_quantize_row<type(), width()>(weight, a.v + at, row, wide);
      if (result_is_bf16) narrow_row(wide, row.columns, static_cast<std::uint16_t*>(result) + at);
    });
  });
}

void sign_step(const WeightArrays& a, const QuantScheme& scheme, const float* gradient, const StepSize& size) {
  with_kinds(a, scheme, [&](auto type, auto width) {
    for_each_piece(a, scheme,
                   [&](const float* weight, std::int64_t at, std::int64_t first, const Row& row, Room& room) {
                     GroupSums* sums = at_least(room.sums, row.groups());
                     gradients_row<type(), true, width()>(weight, a.v + at, gradient + at, row, size.lr, nullptr, sums);
                     if (size.minmax_lr != 0) {
                       range_gradients_row<true>(row.grids, sums, row.groups(), size.minmax_lr,
                                                 size.minmax_bound, a.min_scale + first, a.max_scale + first);
                     }
                   });
  });
}

void rounding_gradients(const WeightArrays& a, const QuantScheme& scheme, const float* gradient,
                        const GradientArrays& out) {
  with_kinds(a, scheme, [&](auto type, auto width) {
    for_each_piece(
        a, scheme, [&](const float* weight, std::int64_t at, std::int64_t first, const Row& row, Room& room) {
          GroupSums* sums = at_least(room.sums, row.groups());
          gradients_row<type(), false, width()>(weight, a.v + at, gradient + at, row, 0, out.v + at, sums);
          range_gradients_row<false>(row.grids, sums, row.groups(), 0, 0, out.min_scale + first, out.max_scale + first);
        });
  });
}

void quantize(const WeightArrays& a, const QuantScheme& scheme, const bool* wanted, const QuantizedArrays& out) {
  if (wanted != nullptr && !*wanted) return;
  with_kinds(a, scheme, [&](auto type, auto width) {
    for_each_piece(a, scheme,
                   [&](const float* weight, std::int64_t at, std::int64_t first, const Row& row, Room& room) {
                     std::int32_t* q = at_least(room.integers, row.columns);
                     quantize_row<type(), width()>(weight, a.v + at, row, q);
                     narrow_integers(q, row.columns, out.q + at);
                     for (std::int64_t g = 0; g < row.groups(); ++g) {
                       out.scale[first + g] = row.grids.scale(g);
                       out.zero_point[first + g] = static_cast<std::uint8_t>(row.grids.zero_point(g));
                     }
                   });
  });
}

}  // namespace roundtable::cpu
