// Causal softmax attention, with a path of its own on the CPU.
#pragma once

#include <torch/types.h>

namespace roundtable {

// softmax(q k^T * scale) v, where position i sees the keys j <= i, and only those with j > i - window if window > 0.
// q [batch, heads, seqlen, head_dim]; k and v [batch, kv_heads, seqlen, head_dim]: key/value head h serves the query
// heads h * heads / kv_heads onwards (grouped-query attention, arXiv 2305.13245). Strided views are welcome; scale > 0.
// Returns [batch, heads, seqlen, head_dim] as a view of contiguous [batch, seqlen, heads, head_dim].
// Differentiable in all three; scores and softmax are in fp32, probabilities and their gradients in q's dtype.
torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                               std::int64_t window);

// What causal_attention keeps on the CPU between forward and backward beside its arguments and result, in bytes.
std::int64_t kept_attention_bytes(std::int64_t batch, std::int64_t heads, std::int64_t seqlen, std::int64_t window,
                                  std::int64_t element_bytes);

}  // namespace roundtable
