// Fake quantization on the CPU: rows in parallel, the weights of a group in SIMD.
#include <ATen/Parallel.h>

#include <algorithm>

#include "base/bf16_bits.h"
#include "quant/fake_quant_kernels.h"
#include "quant/fake_quant_math.h"

namespace roundtable::cpu {
namespace {

template <bool kFloat4, class W, class R>
RT_SIMD_CLONES void fake_quantize_group(const W* __restrict weight, const float* __restrict v, std::int64_t n,
                                        GroupGrid grid, R* __restrict result) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    store(grid.scale * level_of<kFloat4>(grid, load(weight[i]), v[i]), result[i]);
  }
}

struct GroupSums {
  float dscale;
  float dzero;
};

template <bool kFloat4, class W>
RT_SIMD_CLONES GroupSums sum_group(const W* __restrict weight, const float* __restrict v,
                                   const float* __restrict gradient, std::int64_t n, GroupGrid grid) {
  float dscale = 0;
  float dzero = 0;
#pragma omp simd reduction(+ : dscale, dzero)
  for (std::int64_t i = 0; i < n; ++i) {
    const WeightGradient one = weight_gradient<kFloat4>(grid, load(weight[i]), v[i], gradient[i]);
    dscale += one.dscale;
    dzero += one.dzero;
  }
  return {dscale, dzero};
}

template <bool kFloat4, class W>
RT_SIMD_CLONES void step_group(const W* __restrict weight, float* __restrict v, const float* __restrict gradient,
                               std::int64_t n, GroupGrid grid, float lr) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    v[i] -= lr * sign_of(weight_gradient<kFloat4>(grid, load(weight[i]), v[i], gradient[i]).dv);
  }
}

template <bool kFloat4, class W>
RT_SIMD_CLONES void v_gradient_group(const W* __restrict weight, const float* __restrict v,
                                     const float* __restrict gradient, std::int64_t n, GroupGrid grid,
                                     float* __restrict out) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) out[i] = weight_gradient<kFloat4>(grid, load(weight[i]), v[i], gradient[i]).dv;
}

template <bool kFloat4, class W>
RT_SIMD_CLONES void quantize_group(const W* __restrict weight, const float* __restrict v, std::int64_t n,
                                   GroupGrid grid, std::uint8_t* __restrict q) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) q[i] = bits_of<kFloat4>(grid, load(weight[i]), v[i]);
}

// One group of one row: where it lies in the arrays, and its grid.
template <class W>
struct Group {
  const W* weight;
  float* v;
  std::int64_t offset;  // of its first weight
  std::int64_t size;
  std::int64_t index;   // of the group in [rows, groups]
  GroupGrid grid;
};

// Calls body(group) for every group, rows in parallel.
template <class W, class Body>
void for_each_group(const WeightArrays& arrays, const QuantScheme& scheme, const Body& body) {
  const std::int64_t width = scheme.group_columns(arrays.columns);
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / arrays.columns);
  at::parallel_for(0, arrays.rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t g = 0; g < arrays.groups; ++g) {
        const std::int64_t index = row * arrays.groups + g;
        const std::int64_t offset = row * arrays.columns + g * width;
        const GroupRange range{arrays.wmin[index], arrays.wmax[index], arrays.min_scale[index],
                               arrays.max_scale[index]};
        body(Group<W>{static_cast<const W*>(arrays.weight) + offset, arrays.v + offset, offset,
                      std::min(width, arrays.columns - g * width), index, group_grid(scheme, range)});
      }
    }
  });
}

}  // namespace

void fake_quantize(const WeightArrays& arrays, const QuantScheme& scheme, void* result, bool result_is_bf16) {
  with_types<std::uint16_t>(arrays, scheme, [&](auto* weight, auto float4) {
    using W = std::remove_pointer_t<decltype(weight)>;
    constexpr bool kFloat4 = decltype(float4)::value;
    for_each_group<W>(arrays, scheme, [&](const Group<W>& group) {
      if (result_is_bf16) {
        fake_quantize_group<kFloat4>(group.weight, group.v, group.size, group.grid,
                                     static_cast<std::uint16_t*>(result) + group.offset);
      } else {
        fake_quantize_group<kFloat4>(group.weight, group.v, group.size, group.grid,
                                     static_cast<float*>(result) + group.offset);
      }
    });
  });
}

void sign_step(const WeightArrays& arrays, const QuantScheme& scheme, const float* gradient, const StepSize& size) {
  with_types<std::uint16_t>(arrays, scheme, [&](auto* weight, auto float4) {
    using W = std::remove_pointer_t<decltype(weight)>;
    constexpr bool kFloat4 = decltype(float4)::value;
    for_each_group<W>(arrays, scheme, [&](const Group<W>& group) {
      const float* g = gradient + group.offset;
      if (size.minmax_lr != 0) {
        // Before v moves: all three gradients belong to the same point.
        const GroupSums sums = sum_group<kFloat4>(group.weight, group.v, g, group.size, group.grid);
        const RangeGradient d = range_gradient(group.grid, sums.dscale, sums.dzero);
        float& low = arrays.min_scale[group.index];
        float& high = arrays.max_scale[group.index];
        low = stepped_scale(low, d.dmin_scale, size.minmax_lr);
        high = stepped_scale(high, d.dmax_scale, size.minmax_lr);
      }
      step_group<kFloat4>(group.weight, group.v, g, group.size, group.grid, size.lr);
    });
  });
}

void rounding_gradients(const WeightArrays& arrays, const QuantScheme& scheme, const float* gradient,
                        const GradientArrays& out) {
  with_types<std::uint16_t>(arrays, scheme, [&](auto* weight, auto float4) {
    using W = std::remove_pointer_t<decltype(weight)>;
    constexpr bool kFloat4 = decltype(float4)::value;
    for_each_group<W>(arrays, scheme, [&](const Group<W>& group) {
      const float* g = gradient + group.offset;
      const GroupSums sums = sum_group<kFloat4>(group.weight, group.v, g, group.size, group.grid);
      const RangeGradient d = range_gradient(group.grid, sums.dscale, sums.dzero);
      out.min_scale[group.index] = d.dmin_scale;
      out.max_scale[group.index] = d.dmax_scale;
      v_gradient_group<kFloat4>(group.weight, group.v, g, group.size, group.grid, out.v + group.offset);
    });
  });
}

void quantize(const WeightArrays& arrays, const QuantScheme& scheme, std::uint8_t* q, float* scale,
              std::uint8_t* zero_point) {
  with_types<std::uint16_t>(arrays, scheme, [&](auto* weight, auto float4) {
    using W = std::remove_pointer_t<decltype(weight)>;
    constexpr bool kFloat4 = decltype(float4)::value;
    for_each_group<W>(arrays, scheme, [&](const Group<W>& group) {
      quantize_group<kFloat4>(group.weight, group.v, group.size, group.grid, q + group.offset);
      scale[group.index] = group.grid.scale;
      zero_point[group.index] = static_cast<std::uint8_t>(group.grid.zero_point);
    });
  });
}

}  // namespace roundtable::cpu
