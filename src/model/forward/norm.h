// The normalization of a model, of whichever kind.
#pragma once

#include <torch/types.h>

#include "model/description/model_config.h"

namespace roundtable {

struct Norm {
  NormKind kind = NormKind::kRms;
  double eps = 1e-6;
  torch::Tensor weight;  // [n]; undefined: no norm here, forward() returns its input
  torch::Tensor bias;    // [n], LayerNorm's

  // Over the last dimension, in x's dtype. Differentiable in x.
  torch::Tensor forward(const torch::Tensor& x) const;
};

}  // namespace roundtable
