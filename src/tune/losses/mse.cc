// Squared error: fused on the CPU, LibTorch's operations elsewhere.
#include "tune/losses/mse.h"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

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

// The largest |y - target|.
template <class T>
RT_SIMD_CLONES float largest_error(const T* __restrict y, const T* __restrict target, std::int64_t n) {
  float largest = 0;
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < n; ++i) {
    const float difference = fabsf(load(y[i]) - load(target[i]));
    largest = difference > largest ? difference : largest;
  }
  return largest;
}

// One row: output, target, number of elements and where the gradient goes.
template <class T>
struct ErrorRow {
  const T* y;
  const T* target;
  std::int64_t n;
  T* gradient;
};

// Calls body(number of the part, first element, elements) for parts of `width` elements, in parallel.
template <class Body>
void for_parts(std::int64_t n, std::int64_t width, const Body& body) {
  const std::int64_t parts = (n + width - 1) / width;
  const std::int64_t grain = std::max<std::int64_t>(1, 4 * kPiece / width);
  at::parallel_for(0, parts, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part) {
      body(static_cast<std::size_t>(part), part * width, std::min(width, n - part * width));
    }
  });
}

// The elements of a row with the `count` largest errors, of equal ones the first, in their order. Only few parts of the
// row have such elements: those whose largest error is no less than the one of rank `count` among them.
template <class T>
std::vector<std::int64_t> find_outliers(const ErrorRow<T>& row, std::int64_t count) {
  constexpr std::int64_t kWidth = 64;
  std::vector<float> largest(static_cast<std::size_t>((row.n + kWidth - 1) / kWidth));
  for_parts(row.n, kWidth, [&](std::size_t part, std::int64_t first, std::int64_t size) {
    largest[part] = largest_error(row.y + first, row.target + first, size);
  });
  float least = 0;
  if (static_cast<std::size_t>(count) < largest.size()) {
    std::vector<float> ranked = largest;
    std::nth_element(ranked.begin(), ranked.begin() + (count - 1), ranked.end(), std::greater<>());
    least = ranked[static_cast<std::size_t>(count - 1)];
  }
  std::vector<std::pair<float, std::int64_t>> found;  // -|error|, so that the largest come first
  for (std::size_t part = 0; part < largest.size(); ++part) {
    if (largest[part] < least) continue;
    const std::int64_t first = static_cast<std::int64_t>(part) * kWidth;
    for (std::int64_t i = first; i < std::min(first + kWidth, row.n); ++i) {
      const float error = fabsf(load(row.y[i]) - load(row.target[i]));
      if (error >= least) found.emplace_back(-error, i);
    }
  }
  // An error that is not a number is no outlier: it is in the loss, which then ends the run.
  const auto kept = std::min(found.size(), static_cast<std::size_t>(count));
  std::nth_element(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(kept), found.end());
  std::vector<std::int64_t> outliers;
  for (std::size_t i = 0; i < kept; ++i) outliers.push_back(found[i].second);
  std::sort(outliers.begin(), outliers.end());
  return outliers;
}

template <class T>
double row_error(const ErrorRow<T>& row, float factor, std::int64_t outliers) {
  const std::vector<std::int64_t> left_out = outliers > 0 ? find_outliers(row, outliers) : std::vector<std::int64_t>();
  std::vector<float> sums(static_cast<std::size_t>((row.n + kPiece - 1) / kPiece));
  for_parts(row.n, kPiece, [&](std::size_t piece, std::int64_t first, std::int64_t size) {
    // The sum runs over what lies between outliers, whose squares could be far larger than all others.
    float sum = 0;
    std::int64_t begin = first;
    for (auto at = std::lower_bound(left_out.begin(), left_out.end(), first);
         at != left_out.end() && *at < first + size; ++at) {
      sum += piece_error(row.y + begin, row.target + begin, *at - begin, factor, row.gradient + begin);
      store(0.0f, row.gradient[*at]);
      begin = *at + 1;
    }
    sums[piece] = sum + piece_error(row.y + begin, row.target + begin, first + size - begin, factor,
                                    row.gradient + begin);
  });
  double sum = 0;
  for (const float one : sums) sum += one;
  return sum;
}

template <class T>
double fused(const torch::Tensor& y, const torch::Tensor& target, const torch::Tensor& rows, float factor,
             std::int64_t outliers, torch::Tensor& gradient) {
  const std::int64_t n = y[0].numel();
  const auto* from = static_cast<const T*>(y.const_data_ptr());
  const auto* wanted = static_cast<const T*>(target.const_data_ptr());
  auto* to = static_cast<T*>(gradient.data_ptr());
  const auto* row = rows.const_data_ptr<std::int64_t>();
  double sum = 0;
  for (std::int64_t i = 0; i < rows.numel(); ++i) {
    sum += row_error(ErrorRow<T>{from + i * n, wanted + row[i] * n, n, to + i * n}, factor, outliers);
  }
  return sum;
}

}  // namespace

std::int64_t outlier_count(std::int64_t n, double outliers) {
  if (outliers <= 0) return 0;
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(n) * outliers));
}

SquaredError squared_error(const torch::Tensor& output, const torch::Tensor& target, const torch::Tensor& rows,
                           double scale, double outliers) {
  const torch::Tensor y = output.detach().contiguous();
  RT_CHECK(y.size(0) == rows.numel() && y.scalar_type() == target.scalar_type());
  const std::int64_t left_out = outlier_count(y[0].numel(), outliers);
  if (!y.is_cpu()) {
    torch::Tensor difference = y.to(torch::kFloat32).sub_(target.index_select(0, rows).to(y.device()));
    if (left_out > 0) {
      torch::Tensor flat = difference.flatten(1);
      flat.scatter_(1, std::get<1>(flat.abs().topk(left_out, 1, true, false)), 0);
    }
    const torch::Tensor loss = difference.square().sum() * scale;
    return {loss, difference.mul_(2 * scale).to(y.scalar_type())};
  }
  RT_CHECK(target.is_contiguous() && rows.is_contiguous());
  SquaredError error{{}, torch::empty_like(y)};
  const auto kernel = y.scalar_type() == torch::kBFloat16 ? fused<std::uint16_t> : fused<float>;
  const double sum = kernel(y, target, rows, static_cast<float>(2 * scale), left_out, error.gradient);
  error.loss = torch::tensor(scale * sum, torch::kFloat64);
  return error;
}

}  // namespace roundtable
