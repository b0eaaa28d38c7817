// What the logits of some positions say about the token that comes next: cross entropy, and how far the distribution of
// one model is from that of another.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace roundtable {

// Sums over positions. Cross entropies are natural logarithms.
struct TokenSums {
  double loss = 0;            // of the model
  double float_loss = 0;      // of the float model that it is compared with; 0 without one
  std::int64_t same_top = 0;  // positions where both find the same token most likely; 0 without one
};

// `logits` [n, vocab] against the tokens that come next, int64 [n]. All on one device; where that is the host, no other
// tensor of this size is made. Blocks until the sums are known.
TokenSums measure_tokens(const torch::Tensor& logits, const torch::Tensor& next);

// The same, and compares with `float_logits` [n, vocab] of the float model. Appends to `divergences`, for each position,
// KL(float || model) = sum over the whole vocabulary of p (ln p - ln q), where p and q are the softmax of the float
// model's logits and of the model's. Of tokens that are equally likely the first is the most likely one.
//
// Source: llama.cpp, tools/perplexity/perplexity.cpp, log_softmax() with a kl_divergence_result: the same sum, which
// leaves out tokens with p <= exp(-16) because its file of logits has 16 bits. Here it is those with p < exp(-87), which
// fp32 cannot hold.
TokenSums compare_tokens(const torch::Tensor& logits, const torch::Tensor& float_logits, const torch::Tensor& next,
                         std::vector<float>& divergences);

namespace detail {
// The same by LibTorch's operators, which is how it is done on a device. `float_logits` may be undefined.
TokenSums compare_by_operators(const torch::Tensor& logits, const torch::Tensor& float_logits,
                               const torch::Tensor& next, std::vector<float>& divergences);
}  // namespace detail

}  // namespace roundtable
