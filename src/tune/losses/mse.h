// Mean squared error between a block's output and its target, and the gradient, in one pass.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace roundtable {

// With y [n, ...] and the rows `rows` (int64 [n], where target is) of target [m, ...], both in one dtype, `target` on
// y's device or on the host: loss = scale * sum((y - t)^2) in fp32, and gradient = 2 * scale * (y - t), rounded once to
// the dtype. With all on one device nothing waits for it.
struct SquaredError {
  torch::Tensor loss;  // one number, on y's device
  torch::Tensor gradient;
};

// `outliers`: the share of each row's elements, those of the largest |y - t|, that are left out of loss and gradient:
// at least one, and of equal ones the first; 0: none.
SquaredError squared_error(const torch::Tensor& y, const torch::Tensor& target, const torch::Tensor& rows,
                           double scale, double outliers = 0);

// How many of n elements that share is.
std::int64_t outlier_count(std::int64_t n, double outliers);

}  // namespace roundtable
