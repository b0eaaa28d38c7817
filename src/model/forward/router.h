// Which experts of a mixture see which tokens.
#pragma once

#include <torch/types.h>

#include <vector>

#include "model/description/model_config.h"

namespace roundtable {

// The tokens that one expert works on.
struct ExpertLoad {
  torch::Tensor tokens;   // [n] int64, rows of the hidden states; n may be 0
  torch::Tensor weights;  // [n, 1] fp32, what the expert's output counts for each
};

// hidden [tokens, hidden], router weight [experts, hidden] -> the load of each expert: softmax over all experts in
// fp32, the best `experts_per_token` of a token, their weights made to sum to 1 where the model does so. Differentiable
// in hidden through the weights. transformers 5.23, MixtralTopKRouter and Qwen3MoeTopKRouter.
std::vector<ExpertLoad> route(const torch::Tensor& hidden, const torch::Tensor& router, const ModelConfig& config);

}  // namespace roundtable
