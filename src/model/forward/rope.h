// Rotary position embeddings (RoFormer, arXiv 2104.09864), in the half-split layout of Hugging Face checkpoints.
#pragma once

#include <torch/types.h>

namespace roundtable {

// The angles' cosines and sines for positions 0 .. seqlen - 1, [seqlen, rotary_dim].
struct RopeTable {
  torch::Tensor cos;
  torch::Tensor sin;
};

// x [batch, seqlen, heads, head_dim] -> x * cos + rotate_half(x) * sin, position by position; dimensions from
// rotary_dim on stay as they are. Differentiable.
torch::Tensor apply_rope(const torch::Tensor& x, const RopeTable& table);

}  // namespace roundtable
