// The MLP's activation, gated or plain, with fused CPU paths for the gated ones of the Llama and Gemma families.
#pragma once

#include <torch/types.h>

#include "model/description/model_config.h"

namespace roundtable {

// silu(gate) * up, elementwise; silu is rounded to the dtype before the product, as torch's two operations do.
// Differentiable in both.
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up);

// gelu(gate, "tanh") * up, in the same way. fp32 or bf16 on a CPU.
torch::Tensor geglu(const torch::Tensor& gate, const torch::Tensor& up);

// act(x). Differentiable.
torch::Tensor activate(Activation activation, const torch::Tensor& x);

// act(gate) * up. Differentiable in both; silu goes through swiglu().
torch::Tensor activate_gated(Activation activation, const torch::Tensor& gate, const torch::Tensor& up);

}  // namespace roundtable
