// Causal softmax attention, with a path of its own on the CPU.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace roundtable {

// On a CPU so many query rows go through attention together. Keys that none of them sees are left out.
inline constexpr std::int64_t kAttentionTileRows = 64;

// softmax(q k^T * scale) v, where position i sees the keys j <= i, and only those with j > i - window if window > 0.
// q [batch, heads, seqlen, head_dim]; k and v [batch, kv_heads, seqlen, head_dim]: key/value head h serves the query
// heads h * heads / kv_heads onwards (grouped-query attention, arXiv 2305.13245). Strided views are welcome; scale > 0.
// Returns [batch, heads, seqlen, head_dim] as a view of contiguous [batch, seqlen, heads, head_dim].
// soft_cap > 0: scaled scores x are replaced by soft_cap * tanh(x / soft_cap) (Gemma 2, arXiv 2408.00118, section 2);
// no fused kernel offers that, so it goes through plain operations.
// Differentiable in all three; softmax is in fp32 (scores too, without a cap), probabilities in q's dtype.
torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                               std::int64_t window, double soft_cap = 0);

// What causal_attention without a cap keeps on the CPU between forward and backward, in bytes, without its arguments
// and its result.
std::int64_t kept_attention_bytes(std::int64_t batch, std::int64_t heads, std::int64_t seqlen, std::int64_t window,
                                  std::int64_t element_bytes);

}  // namespace roundtable
