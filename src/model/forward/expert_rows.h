// Tokens to rows that are sorted by expert, and back, with fused paths for CPUs.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace roundtable {

// x [N, H], order [N * chosen] int64, a permutation -> [N * chosen, H]: row r is token order[r] / chosen. Differentiable
// in x; the gradients of a token's rows are summed in fp32 and rounded once.
torch::Tensor rows_of_tokens(const torch::Tensor& x, const torch::Tensor& order, std::int64_t chosen);

// rows [N * K, H], weights [N, K], order [N * K] as above -> [N, H]: the sum of a token's rows, each times its weight.
// Products are rounded to the dtype, as torch's two operations do. Differentiable in rows and weights.
torch::Tensor tokens_of_rows(const torch::Tensor& rows, const torch::Tensor& weights, const torch::Tensor& order);

}  // namespace roundtable
