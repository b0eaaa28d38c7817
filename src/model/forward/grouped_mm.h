// The linear layers of many experts by LibTorch's product of many matrices: one launch on a device for all of them.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "model/forward/expert_layers.h"

namespace roundtable {

// Whether at::_grouped_mm has a kernel for these rows: bf16 on a GPU of compute capability 9 or 10 (LibTorch 2.13,
// aten/src/ATen/native/cuda/GroupedBlas.cpp, _grouped_mm_cuda). Elsewhere it is a loop that waits for the device.
bool has_grouped_mm(const torch::Tensor& rows);

// grouped_linear() of grouped_linear.h, on any device; `ends_there` is `ends` as int32 where the rows are. Nothing if
// the layers do not fit: their weights do not lie one below the other, a row is no multiple of 16 bytes
// (check_valid_strides_and_return_transposed of GroupedMMUtils.h), they have biases or an order, or autograd shall have
// the gradient of a weight.
std::optional<torch::Tensor> grouped_mm_linear(const torch::Tensor& rows, const std::vector<ExpertLayers>& experts,
                                               const std::vector<std::int64_t>& ends, const torch::Tensor& ends_there);

}  // namespace roundtable
