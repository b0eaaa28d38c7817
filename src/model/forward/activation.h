// GELU and the gated activations of MLPs, with fused paths for CPUs.
#pragma once

#include <torch/types.h>

namespace roundtable {

// silu(gate) * up, elementwise; silu is rounded to the dtype before the product, as torch's two operations do.
// Differentiable in both.
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up);

// gelu(x, "tanh"). fp32 or bf16 on a CPU.
torch::Tensor gelu_tanh(const torch::Tensor& x);

// gelu(gate, "tanh") * up, in the same way. fp32 or bf16 on a CPU.
torch::Tensor geglu(const torch::Tensor& gate, const torch::Tensor& up);

// The same for joined [.., 2 W] = [gate, up] -> [.., W].
torch::Tensor swiglu_of_halves(const torch::Tensor& joined);
torch::Tensor geglu_of_halves(const torch::Tensor& joined);

}  // namespace roundtable
