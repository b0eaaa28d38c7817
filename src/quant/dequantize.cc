// Weights from integers, scales and zero points. On a CPU this takes one pass: plain operations would keep five
// matrices of floats, for every block that is proven, replayed or evaluated.
#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/simd/bf16_bits.h"
#include "base/error.h"
#include "quant/fake_quant.h"
#include "quant/fake_quant_math.h"

namespace roundtable {
namespace {

constexpr std::int64_t kGrain = 65536;  // a thread takes at least so many weights

// The values of all floats of 4 bits, by their bits.
std::array<float, 16> float4_levels() {
  std::array<float, 16> levels{};
  for (std::uint8_t bits = 0; bits < 16; ++bits) levels[bits] = e2m1_level(bits);
  return levels;
}

template <class R>
RT_SIMD_CLONES void integers_of_row(const std::uint8_t* __restrict q, const float* __restrict scale,
                                    const std::uint8_t* __restrict zero_point, std::int64_t columns, std::int64_t width,
                                    R* __restrict result) {
  for (std::int64_t begin = 0, group = 0; begin < columns; begin += width, ++group) {
    const float factor = scale[group];
    const float zero = zero_point[group];
    const std::int64_t end = std::min(begin + width, columns);
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      store(factor * (static_cast<float>(q[i]) - zero), result[i]);
    }
  }
}

template <class R>
void float4s_of_row(const std::uint8_t* q, const float* scale, const std::array<float, 16>& levels, std::int64_t columns,
                    std::int64_t width, R* result) {
  for (std::int64_t i = 0; i < columns; ++i) store(scale[i / width] * levels[q[i] & 15], result[i]);
}

template <class R>
void dequantize_rows(const QuantizedWeight& weight, R* result) {
  const torch::Tensor q = weight.q.contiguous();
  const torch::Tensor scale = weight.scale.to(torch::kFloat32).contiguous();
  const torch::Tensor zero_point = weight.zero_point.contiguous();
  const std::int64_t columns = q.size(1);
  const std::int64_t groups = scale.size(1);
  const std::int64_t width = weight.scheme.group_columns(columns);
  RT_CHECK(groups == weight.scheme.groups(columns) && scale.size(0) == q.size(0) && zero_point.sizes() == scale.sizes());
  const auto* from = q.const_data_ptr<std::uint8_t>();
  const auto* factors = scale.const_data_ptr<float>();
  const auto* zeros = zero_point.const_data_ptr<std::uint8_t>();
  const std::array<float, 16> levels = float4_levels();
  const bool integers = weight.scheme.type == WeightType::kInt;
  at::parallel_for(0, q.size(0), std::max<std::int64_t>(1, kGrain / columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t weights = row * columns;
      const std::int64_t first = row * groups;
      if (integers) {
        integers_of_row(from + weights, factors + first, zeros + first, columns, width, result + weights);
      } else {
        float4s_of_row(from + weights, factors + first, levels, columns, width, result + weights);
      }
    }
  });
}

// The same by LibTorch's operations, on any device.
torch::Tensor dequantize_by_operations(const QuantizedWeight& weight, torch::ScalarType dtype) {
  const std::int64_t columns = weight.q.size(1);
  const std::int64_t width = weight.scheme.group_columns(columns);
  const auto spread = [&](const torch::Tensor& of_groups) {
    return of_groups.to(torch::kFloat32).repeat_interleave(width, 1).narrow(1, 0, columns);
  };
  if (weight.scheme.type != WeightType::kInt) {
    const std::array<float, 16> levels = float4_levels();
    const torch::Tensor table = torch::tensor(std::vector<float>(levels.begin(), levels.end()), weight.scale.options());
    return spread(weight.scale).mul(table.index({weight.q.to(torch::kInt64)})).to(dtype);
  }
  return spread(weight.scale).mul(weight.q.to(torch::kFloat32).sub(spread(weight.zero_point))).to(dtype);
}

}  // namespace

torch::Tensor dequantize(const QuantizedWeight& weight, torch::ScalarType dtype) {
  if (!weight.q.is_cpu()) return dequantize_by_operations(weight, dtype);
  const bool bf16 = dtype == torch::kBFloat16;
  torch::Tensor result = torch::empty(weight.q.sizes(), bf16 ? dtype : torch::kFloat32);
  if (bf16) {
    dequantize_rows(weight, static_cast<std::uint16_t*>(result.data_ptr()));
  } else {
    dequantize_rows(weight, result.data_ptr<float>());
  }
  return result.to(dtype);
}

}  // namespace roundtable
