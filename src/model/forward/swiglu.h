// The gated activation of the Llama family with a fused CPU path.
#pragma once

#include <torch/types.h>

namespace roundtable {

// silu(gate) * up, elementwise; silu is rounded to the dtype before the product, as torch's two operations do.
// Differentiable in both.
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up);

}  // namespace roundtable
