// Causal attention in bf16 on a CPU whose products take packed matrices (packed_product.h).
#pragma once

#include <torch/types.h>

namespace roundtable {

// Whether packed_attention() serves q: bf16, an even length, an even head dimension, and a CPU that has such products.
bool takes_packed_attention(const torch::Tensor& q);

// causal_attention of such a q, without a cap. Scores and their gradients stay in fp32 and in a core's cache: a head's
// tile is multiplied, goes through the softmax and is multiplied again before the next one.
torch::Tensor packed_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                               std::int64_t window);

}  // namespace roundtable
