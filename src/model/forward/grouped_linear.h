// The linear layers of many experts in one product: rows that are sorted by expert, each with its expert's weight.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "model/forward/expert_layers.h"

namespace roundtable {

using LinearObserver = std::function<void(const Linear&, const torch::Tensor& x, const torch::Tensor& y)>;

// rows [R, in] -> [R, out]. Expert e has the rows [ends[e - 1], ends[e]); `ends` rises from 0 to R at most, and rows
// behind the last one become zeros. An expert without rows costs nothing, forward and backward. Differentiable in
// `rows` and in the weights as Linear::forward() is: by take_gradient where that is set. The layers stay where they are until
// the backward pass is over. `ends_there`, int32 where the rows are, is the same as `ends`; undefined: it is not known
// there. `observe`, where set, is called with each layer that has rows, expert after expert.
torch::Tensor grouped_linear(const torch::Tensor& rows, const std::vector<ExpertLayers>& experts,
                             const std::vector<std::int64_t>& ends, const torch::Tensor& ends_there = {},
                             const LinearObserver& observe = {});

}  // namespace roundtable
