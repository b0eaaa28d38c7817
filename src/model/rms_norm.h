// RMSNorm with a fused CPU path.
#pragma once

#include <torch/types.h>

namespace roundtable {

// weight * to_dtype(x / sqrt(mean(x^2) + eps)) over the last dimension, the quotient computed in fp32 and rounded to
// x's dtype before the product (transformers' LlamaRMSNorm). Differentiable in x; the weight is a constant.
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);

}  // namespace roundtable
