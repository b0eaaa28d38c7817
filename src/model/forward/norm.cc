// RMSNorm: one pass over a row forward, one backward. Eager operations would make five to nine, each with a fresh
// fp32 copy of the activations.
#include "model/forward/norm.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <cmath>

#include "base/error.h"
#include "base/simd/bf16_bits.h"

namespace roundtable {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kGrainRows = 16;

// y = w * r(x * s), or (1 + w) * (x * s), with s = 1 / sqrt(mean(x^2) + eps); returns s.
template <class T, RmsWeight kKind>
RT_SIMD_CLONES float forward_row(const T* __restrict x, const T* __restrict w, std::int64_t n, float eps,
                                 T* __restrict y) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += load(x[i]) * load(x[i]);
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float quotient = load(x[i]) * scale;
    if constexpr (kKind == RmsWeight::kPlusOne) {
      store((1.0f + load(w[i])) * quotient, y[i]);
    } else {
      store(load(w[i]) * rounded_to(quotient, T{}), y[i]);
    }
  }
  return scale;
}

// dx = s * (g - x * s^2 * mean(g * x)), g = dy * w or dy * (1 + w).
template <class T, RmsWeight kKind>
RT_SIMD_CLONES void backward_row(const T* __restrict x, const T* __restrict w, const T* __restrict dy, std::int64_t n,
                                 float scale, T* __restrict dx) {
  constexpr float kOffset = kKind == RmsWeight::kPlusOne ? 1.0f : 0.0f;
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t i = 0; i < n; ++i) dot += load(dy[i]) * (kOffset + load(w[i])) * load(x[i]);
  const float factor = scale * scale * dot / static_cast<float>(n);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    store(scale * (load(dy[i]) * (kOffset + load(w[i])) - load(x[i]) * factor), dx[i]);
  }
}

template <class T, RmsWeight kKind>
void forward_rows(const torch::Tensor& x, const torch::Tensor& w, float eps, torch::Tensor& y, torch::Tensor& scales) {
  const std::int64_t n = x.size(-1);
  const auto* from = static_cast<const T*>(x.const_data_ptr());
  const auto* weight = static_cast<const T*>(w.const_data_ptr());
  auto* to = static_cast<T*>(y.data_ptr());
  auto* scale = scales.data_ptr<float>();
  at::parallel_for(0, x.numel() / n, kGrainRows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      scale[row] = forward_row<T, kKind>(from + row * n, weight, n, eps, to + row * n);
    }
  });
}

template <class T, RmsWeight kKind>
void backward_rows(const torch::Tensor& x, const torch::Tensor& w, const torch::Tensor& dy, const torch::Tensor& scales,
                   torch::Tensor& dx) {
  const std::int64_t n = x.size(-1);
  const auto* from = static_cast<const T*>(x.const_data_ptr());
  const auto* weight = static_cast<const T*>(w.const_data_ptr());
  const auto* upstream = static_cast<const T*>(dy.const_data_ptr());
  auto* to = static_cast<T*>(dx.data_ptr());
  const auto* scale = scales.const_data_ptr<float>();
  at::parallel_for(0, x.numel() / n, kGrainRows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      backward_row<T, kKind>(from + row * n, weight, upstream + row * n, n, scale[row], to + row * n);
    }
  });
}

template <RmsWeight kKind>
struct FusedRmsNorm : public torch::autograd::Function<FusedRmsNorm<kKind>> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& input, const torch::Tensor& weight,
                               double eps) {
    const torch::Tensor x = input.contiguous();
    torch::Tensor y = torch::empty_like(x);
    torch::Tensor scales = torch::empty({x.numel() / x.size(-1)}, torch::kFloat32);
    const auto rows =
        x.scalar_type() == torch::kBFloat16 ? forward_rows<std::uint16_t, kKind> : forward_rows<float, kKind>;
    rows(x, weight, static_cast<float>(eps), y, scales);
    context->save_for_backward({x, weight, scales});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const auto saved = context->get_saved_variables();
    torch::Tensor dx = torch::empty_like(saved[0]);
    const auto rows =
        saved[0].scalar_type() == torch::kBFloat16 ? backward_rows<std::uint16_t, kKind> : backward_rows<float, kKind>;
    rows(saved[0], saved[1], grad_outputs[0].contiguous(), saved[2], dx);
    return {dx, torch::Tensor(), torch::Tensor()};
  }
};

// On devices without a fused path of ours.
torch::Tensor eager_rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps, RmsWeight kind) {
  const torch::Tensor wide = x.to(torch::kFloat32);
  const torch::Tensor quotient = wide * torch::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  if (kind == RmsWeight::kPlusOne) return (quotient * (weight.to(torch::kFloat32) + 1.0)).to(x.scalar_type());
  return weight * quotient.to(x.scalar_type());
}

}  // namespace

torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps, RmsWeight kind) {
  RT_CHECK(x.scalar_type() == weight.scalar_type());
  if (!x.is_cpu()) return eager_rms_norm(x, weight, eps, kind);
  if (kind == RmsWeight::kPlusOne) return FusedRmsNorm<RmsWeight::kPlusOne>::apply(x, weight, eps);
  return FusedRmsNorm<RmsWeight::kPlain>::apply(x, weight, eps);
}

}  // namespace roundtable
