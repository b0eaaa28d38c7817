// Adding a bf16 product to an fp32 sum in one pass over memory.
#include "tune/gradients/accumulate.h"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include "base/error.h"
#include "base/simd/bf16_bits.h"

namespace roundtable {
namespace {

constexpr std::int64_t kElementsPerThread = 32768;  // at least

RT_SIMD_CLONES void add_run(const std::uint16_t* __restrict from, std::int64_t n, float* __restrict to) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) to[i] += load(from[i]);
}

}  // namespace

void accumulate(torch::Tensor sum, const torch::Tensor& product) {
  if (!sum.is_cpu() || product.scalar_type() != torch::kBFloat16) {
    sum.add_(product);
    return;
  }
  RT_CHECK(sum.scalar_type() == torch::kFloat32 && sum.sizes() == product.sizes() && sum.is_contiguous() &&
           product.is_contiguous());
  const auto* from = static_cast<const std::uint16_t*>(product.const_data_ptr());
  auto* to = sum.data_ptr<float>();
  at::parallel_for(0, sum.numel(), kElementsPerThread,
                   [&](std::int64_t begin, std::int64_t end) { add_run(from + begin, end - begin, to + begin); });
}

}  // namespace roundtable
