// Matrices that lie one below the other in memory, so that they are one matrix as well.
#pragma once

#include <torch/types.h>

#include <vector>

namespace roundtable {

// Puts neighbours that have the same number of columns and the same dtype below each other: each becomes some rows of
// one tensor [rows of all, columns], which lives as long as one of them. What a tensor was before is freed as soon as
// it is copied. Tensors that are no matrices stay as they are.
void stack_neighbours(std::vector<torch::Tensor>& matrices);

// Whether these contiguous matrices have one width, dtype and device and lie one below the other.
bool are_stacked(const std::vector<torch::Tensor>& matrices);

// Contiguous matrices of one width, dtype and device as one: a view where they lie below each other, else a copy.
torch::Tensor stacked(const std::vector<torch::Tensor>& matrices);

// Copies of matrices on `device` in these dtypes, one for each matrix; neighbours lie below each other. Undefined
// tensors stay so, in all of these functions, and are nobody's neighbours.
std::vector<torch::Tensor> stacked_copies(const std::vector<torch::Tensor>& matrices, torch::Device device,
                                          const std::vector<torch::ScalarType>& dtypes);

// The same in their own dtypes for matrices of the host; on the host, they themselves.
std::vector<torch::Tensor> on_device(const std::vector<torch::Tensor>& matrices, torch::Device device);

}  // namespace roundtable
