// The normalizations of models, with a fused CPU path for RMSNorm.
#pragma once

#include <torch/types.h>

#include "model/description/model_config.h"

namespace roundtable {

enum class RmsWeight {
  kPlain,    // y = w * to_dtype(x / rms(x))          (transformers' LlamaRMSNorm)
  kPlusOne,  // y = to_dtype((1 + w) * x / rms(x))    (Gemma2RMSNorm: 1 + w and the product in fp32)
};

// rms(x) = sqrt(mean(x^2) + eps) over the last dimension, in fp32. Differentiable in x; the weight is a constant.
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps,
                       RmsWeight kind = RmsWeight::kPlain);

// The norm of a model, of whichever kind.
struct Norm {
  NormKind kind = NormKind::kRms;
  double eps = 1e-6;
  torch::Tensor weight;  // [n]; undefined: no norm here, forward() returns its input
  torch::Tensor bias;    // [n], LayerNorm's

  // Over the last dimension, in x's dtype. Differentiable in x.
  torch::Tensor forward(const torch::Tensor& x) const;
};

}  // namespace roundtable
