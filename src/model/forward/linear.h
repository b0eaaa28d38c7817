// A linear layer whose weight's gradient goes where we want it.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>

namespace roundtable {

struct Linear {
  std::string name;      // within the block: "self_attn.q_proj"
  torch::Tensor weight;  // [out, in]
  torch::Tensor bias;    // [out], or undefined
  std::int64_t expert = -1;  // that it belongs to; -1: every token passes it

  // Where set, the backward pass hands it dL/dweight [out, in] in the weight's dtype, once a forward pass that used
  // this layer, and computes no gradient of the bias. The layer stays where it is in between.
  // Layers of experts are handed theirs by several threads at once.
  std::function<void(const torch::Tensor& gradient)> take_gradient;
  // Where set, called after take_gradient by the thread that runs the backward pass.
  std::function<void()> gradient_taken;

  // x [..., in] -> [..., out]
  torch::Tensor forward(const torch::Tensor& x) const;
};

}  // namespace roundtable
