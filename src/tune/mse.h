// Mean squared error between a block's output and its target, and the gradient, in one pass.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace roundtable {

// With y [n, ...] and the rows `rows` of target [m, ...], both in one dtype, `target` on y's device or on the host:
// loss = scale * sum((y - t)^2) in fp32, and gradient = 2 * scale * (y - t), rounded once to the dtype.
struct SquaredError {
  double loss = 0;
  torch::Tensor gradient;
};

SquaredError squared_error(const torch::Tensor& y, const torch::Tensor& target, const std::vector<std::int64_t>& rows,
                           double scale);

}  // namespace roundtable
