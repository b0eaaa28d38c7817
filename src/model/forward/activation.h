// The MLP's activation, gated or plain.
#pragma once

#include <torch/types.h>

#include "model/description/model_config.h"

namespace roundtable {

// act(x). Differentiable.
torch::Tensor activate(Activation activation, const torch::Tensor& x);

// act(gate) * up. Differentiable in both; silu has a fused path.
torch::Tensor activate_gated(Activation activation, const torch::Tensor& gate, const torch::Tensor& up);

}  // namespace roundtable
