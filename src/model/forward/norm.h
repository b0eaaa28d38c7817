// RMSNorm, with a fused path for CPUs.
#pragma once

#include <torch/types.h>

namespace roundtable {

enum class RmsWeight {
  kPlain,    // y = w * to_dtype(x / rms(x))          (transformers' LlamaRMSNorm)
  kPlusOne,  // y = to_dtype((1 + w) * x / rms(x))    (Gemma2RMSNorm: 1 + w and the product in fp32)
};

// rms(x) = sqrt(mean(x^2) + eps) over the last dimension, in fp32. Differentiable in x; the weight is a constant.
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps,
                       RmsWeight kind = RmsWeight::kPlain);

}  // namespace roundtable
