// RMSNorm: one pass over a row forward, one backward. Eager operations would make five to nine, each with a fresh
// fp32 copy of the activations.
#include "model/rms_norm.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <cmath>

#include "base/bf16_bits.h"
#include "base/error.h"

namespace roundtable {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kGrainRows = 16;

// y = w * r(x * s), s = 1 / sqrt(mean(x^2) + eps); returns s.
template <class T>
RT_SIMD_CLONES float forward_row(const T* __restrict x, const T* __restrict w, std::int64_t n, float eps,
                                 T* __restrict y) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += load(x[i]) * load(x[i]);
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(load(w[i]) * rounded_to(load(x[i]) * scale, T{}), y[i]);
  return scale;
}

// dx = s * (g - x * s^2 * mean(g * x)), g = dy * w.
template <class T>
RT_SIMD_CLONES void backward_row(const T* __restrict x, const T* __restrict w, const T* __restrict dy, std::int64_t n,
                                 float scale, T* __restrict dx) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t i = 0; i < n; ++i) dot += load(dy[i]) * load(w[i]) * load(x[i]);
  const float factor = scale * scale * dot / static_cast<float>(n);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(scale * (load(dy[i]) * load(w[i]) - load(x[i]) * factor), dx[i]);
}

template <class T>
void forward_rows(const torch::Tensor& x, const torch::Tensor& w, float eps, torch::Tensor& y, torch::Tensor& scales) {
  const std::int64_t n = x.size(-1);
  const auto* from = static_cast<const T*>(x.const_data_ptr());
  const auto* weight = static_cast<const T*>(w.const_data_ptr());
  auto* to = static_cast<T*>(y.data_ptr());
  auto* scale = scales.data_ptr<float>();
  at::parallel_for(0, x.numel() / n, kGrainRows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      scale[row] = forward_row(from + row * n, weight, n, eps, to + row * n);
    }
  });
}

template <class T>
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
      backward_row(from + row * n, weight, upstream + row * n, n, scale[row], to + row * n);
    }
  });
}

struct FusedRmsNorm : public torch::autograd::Function<FusedRmsNorm> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& input, const torch::Tensor& weight,
                               double eps) {
    const torch::Tensor x = input.contiguous();
    torch::Tensor y = torch::empty_like(x);
    torch::Tensor scales = torch::empty({x.numel() / x.size(-1)}, torch::kFloat32);
    const auto rows = x.scalar_type() == torch::kBFloat16 ? forward_rows<std::uint16_t> : forward_rows<float>;
    rows(x, weight, static_cast<float>(eps), y, scales);
    context->save_for_backward({x, weight, scales});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const auto saved = context->get_saved_variables();
    torch::Tensor dx = torch::empty_like(saved[0]);
    const auto rows =
        saved[0].scalar_type() == torch::kBFloat16 ? backward_rows<std::uint16_t> : backward_rows<float>;
    rows(saved[0], saved[1], grad_outputs[0].contiguous(), saved[2], dx);
    return {dx, torch::Tensor(), torch::Tensor()};
  }
};

// On devices without a fused path of ours.
torch::Tensor eager_rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  const torch::Tensor wide = x.to(torch::kFloat32);
  const torch::Tensor scale = torch::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  return weight * (wide * scale).to(x.scalar_type());
}

}  // namespace

torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  RT_CHECK(x.scalar_type() == weight.scalar_type());
  if (!x.is_cpu()) return eager_rms_norm(x, weight, eps);
  return FusedRmsNorm::apply(x, weight, eps);
}

}  // namespace roundtable
