// The rotation.
#include "model/forward/rope.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>

#include "base/simd/bf16_bits.h"
#include "base/error.h"

namespace roundtable {
namespace {

// Rotates one head's pairs (x[i], x[i + half]) by the angle, or back for the gradient (sign = -1).
template <class T>
RT_SIMD_CLONES void rotate(const T* __restrict x, const T* __restrict cos, const T* __restrict sin, std::int64_t half,
                           float sign, T* __restrict y) {
#pragma omp simd
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = load(x[i]);
    const float b = load(x[i + half]);
    const float c = load(cos[i]);
    const float s = sign * load(sin[i]);
    store(a * c - b * s, y[i]);
    store(b * c + a * s, y[i + half]);
  }
}

// x [batch, seqlen, heads, head_dim], contiguous.
template <class T>
void rotate_all(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin, float sign,
                torch::Tensor& y) {
  const std::int64_t seqlen = x.size(1);
  const std::int64_t heads = x.size(2);
  const std::int64_t width = x.size(3);
  const std::int64_t rotary = cos.size(1);
  const auto* from = static_cast<const T*>(x.const_data_ptr());
  const auto* c = static_cast<const T*>(cos.const_data_ptr());
  const auto* s = static_cast<const T*>(sin.const_data_ptr());
  auto* to = static_cast<T*>(y.data_ptr());
  at::parallel_for(0, x.size(0) * seqlen, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      const std::int64_t angle = token % seqlen * rotary;
      for (std::int64_t head = 0; head < heads; ++head) {
        const std::int64_t at = (token * heads + head) * width;
        rotate(from + at, c + angle, s + angle, rotary / 2, sign, to + at);
        std::copy(from + at + rotary, from + at + width, to + at + rotary);
      }
    }
  });
}

torch::Tensor rotated(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin, float sign) {
  RT_CHECK(x.dim() == 4 && x.scalar_type() == cos.scalar_type() && cos.size(0) == x.size(1));
  const torch::Tensor in = x.contiguous();
  torch::Tensor y = torch::empty_like(in);
  const auto all = in.scalar_type() == torch::kBFloat16 ? rotate_all<std::uint16_t> : rotate_all<float>;
  all(in, cos, sin, sign, y);
  return y;
}

// One pass each way; the eager form's slices and concatenations make about eight.
struct FusedRope : public torch::autograd::Function<FusedRope> {
  static torch::Tensor forward(torch::autograd::AutogradContext* context, const torch::Tensor& x,
                               const torch::Tensor& cos, const torch::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return rotated(x, cos, sin, 1.0f);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grad_outputs) {
    const auto saved = context->get_saved_variables();
    return {rotated(grad_outputs[0], saved[0], saved[1], -1.0f), torch::Tensor(), torch::Tensor()};
  }
};

}  // namespace

torch::Tensor apply_rope(const torch::Tensor& x, const RopeTable& table) {
  if (x.is_cpu()) return FusedRope::apply(x, table.cos, table.sin);
  const std::int64_t rotary = table.cos.size(1);
  const torch::Tensor turned = x.narrow(-1, 0, rotary);
  const auto halves = turned.chunk(2, -1);
  const torch::Tensor half = torch::cat({halves[1].neg(), halves[0]}, -1);
  const torch::Tensor y = turned * table.cos.unsqueeze(1) + half * table.sin.unsqueeze(1);
  return rotary == x.size(-1) ? y : torch::cat({y, x.narrow(-1, rotary, x.size(-1) - rotary)}, -1);
}

}  // namespace roundtable
