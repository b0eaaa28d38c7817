// The MLP's activation, gated or plain, with a fused CPU path for the gated one of the Llama family.
#pragma once

#include <torch/types.h>

#include "model/description/model_config.h"

namespace roundtable {

// silu(gate) * up, elementwise; silu is rounded to the dtype before the product, as torch's two operations do.
// Differentiable in both.
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up);

// act(x). Differentiable.
torch::Tensor activate(Activation activation, const torch::Tensor& x);

// act(gate) * up. Differentiable in both; silu goes through swiglu().
torch::Tensor activate_gated(Activation activation, const torch::Tensor& gate, const torch::Tensor& up);

}  // namespace roundtable
