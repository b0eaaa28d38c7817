// The loss of a model with known hidden states behind its last block, and how it changes with them.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "graph/model_ends.h"

namespace roundtable {

// Adds the loss of one sample to `loss`: the cross entropy of each token that the sample gives after the first, in
// natural logarithms, added up and divided by `tokens`. Returns its gradient with respect to `hidden` [1, ...], in its
// type. `ids` [seqlen] int64 on the head's device. Logits are made for `at_once` positions at a time.
torch::Tensor next_token_gradient(const Head& head, const torch::Tensor& hidden, const torch::Tensor& ids,
                                  std::int64_t tokens, std::int64_t at_once, double& loss);

}  // namespace roundtable
