// A linear layer whose weight's gradient goes to a buffer of ours.
#pragma once

#include <torch/types.h>

#include <functional>
#include <string>

namespace roundtable {

struct Linear {
  std::string name;      // within the block: "self_attn.q_proj"
  torch::Tensor weight;  // [out, in]
  torch::Tensor bias;    // [out], or undefined

  // fp32 [out, in], or undefined. Where defined, the backward pass adds dL/dweight to it (over micro-batches: this
  // is the gradient accumulation) and computes no gradient of the bias.
  torch::Tensor weight_gradient;

  // Where set, called by the backward pass each time it has added to `weight_gradient`: once a forward pass that used
  // this layer. The layer stays where it is in between.
  std::function<void()> on_gradient;

  // x [..., in] -> [..., out]
  torch::Tensor forward(const torch::Tensor& x) const;
};

}  // namespace roundtable
