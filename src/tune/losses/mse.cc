// Squared error: fused on the CPU, LibTorch's operations elsewhere.
#include "tune/losses/mse.h"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>

#include "base/error.h"
#include "base/simd/bf16_bits.h"

namespace roundtable {
namespace {

// Rows are summed in pieces of this many elements, each in fp32, and the pieces in fp64 in their order: the sum does
// not depend on the number of threads.
constexpr std::int64_t kPiece = 4096;

template <class T>
RT_SIMD_CLONES float piece_error(const T* __restrict y, const T* __restrict target, std::int64_t n, float factor,
                                 T* __restrict gradient) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) {
    const float difference = load(y[i]) - load(target[i]);
    sum += difference * difference;
    store(factor * difference, gradient[i]);
  }
  return sum;
}

template <class T>
double row_error(const T* y, const T* target, std::int64_t n, float factor, T* gradient) {
  const std::int64_t pieces = (n + kPiece - 1) / kPiece;
  std::vector<float> sums(static_cast<std::size_t>(pieces));
  at::parallel_for(0, pieces, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t first = piece * kPiece;
      sums[static_cast<std::size_t>(piece)] =
          piece_error(y + first, target + first, std::min(kPiece, n - first), factor, gradient + first);
    }
  });
  double sum = 0;
  for (const float one : sums) sum += one;
  return sum;
}

template <class T>
double fused(const torch::Tensor& y, const torch::Tensor& target, const torch::Tensor& rows, float factor,
             torch::Tensor& gradient) {
  const std::int64_t n = y[0].numel();
  const auto* from = static_cast<const T*>(y.const_data_ptr());
  const auto* wanted = static_cast<const T*>(target.const_data_ptr());
  auto* to = static_cast<T*>(gradient.data_ptr());
  const auto* row = rows.const_data_ptr<std::int64_t>();
  double sum = 0;
  for (std::int64_t i = 0; i < rows.numel(); ++i) {
    sum += row_error(from + i * n, wanted + row[i] * n, n, factor, to + i * n);
  }
  return sum;
}

}  // namespace

SquaredError squared_error(const torch::Tensor& output, const torch::Tensor& target, const torch::Tensor& rows,
                           double scale) {
  const torch::Tensor y = output.detach().contiguous();
  RT_CHECK(y.size(0) == rows.numel() && y.scalar_type() == target.scalar_type());
  if (!y.is_cpu()) {
    torch::Tensor difference = y.to(torch::kFloat32).sub_(target.index_select(0, rows).to(y.device()));
    const torch::Tensor loss = difference.square().sum() * scale;
    return {loss, difference.mul_(2 * scale).to(y.scalar_type())};
  }
  RT_CHECK(target.is_contiguous() && rows.is_contiguous());
  SquaredError error{{}, torch::empty_like(y)};
  const auto kernel = y.scalar_type() == torch::kBFloat16 ? fused<std::uint16_t> : fused<float>;
  const double sum = kernel(y, target, rows, static_cast<float>(2 * scale), error.gradient);
  error.loss = torch::tensor(scale * sum, torch::kFloat64);
  return error;
}

}  // namespace roundtable
