// Rotary position embeddings (RoFormer, arXiv 2104.09864), in the half-split layout of Hugging Face checkpoints.
#pragma once

#include <torch/types.h>

#include <vector>

#include "model/description/model_config.h"

namespace roundtable {

// The angles' cosines and sines for positions 0 .. seqlen - 1, [seqlen, rotary_dim], made once for all blocks.
// Undefined in a model that does not rotate.
struct RopeTable {
  torch::Tensor cos;
  torch::Tensor sin;
};

// The frequencies of the pairs (x[i], x[i + rotary_dim / 2]), rotary_dim / 2 of them. `seqlen` counts for dynamic.
std::vector<float> inverse_frequencies(const RopeConfig& config, std::int64_t head_dim, std::int64_t seqlen);

// Computed in fp32 and rounded to `dtype`, as transformers does.
RopeTable make_rope_table(const RopeConfig& config, std::int64_t head_dim, std::int64_t seqlen,
                          torch::ScalarType dtype, torch::Device device);

// x [batch, seqlen, heads, head_dim] -> x * cos + rotate_half(x) * sin, position by position; dimensions from
// rotary_dim on stay as they are. Differentiable.
torch::Tensor apply_rope(const torch::Tensor& x, const RopeTable& table);

}  // namespace roundtable
