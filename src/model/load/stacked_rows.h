// Matrices that lie one below the other in memory, so that they are one matrix as well.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace roundtable {

// Puts matrices below each other as they come, so that none is in memory twice for longer than it takes.
class StackBuilder {
 public:
  // `matrix`, or a copy of it below the one before. `rows`: of it and of those to come that have as many columns.
  torch::Tensor add(const torch::Tensor& matrix, std::int64_t rows);

 private:
  torch::Tensor run_;  // [rows of neighbours, columns]
  std::int64_t row_ = 0;
};

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
