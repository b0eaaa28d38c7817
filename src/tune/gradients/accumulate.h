// Adding a product to a sum of wider numbers.
#pragma once

#include <torch/types.h>

namespace roundtable {

// sum += product, element by element; fp32 and fp32 or bf16, contiguous and of one shape. On a CPU LibTorch's add_
// would first widen a bf16 `product` into a tensor of its own.
void accumulate(torch::Tensor sum, const torch::Tensor& product);

}  // namespace roundtable
