// Runs of neighbours, and the tensors that they share.
#include "model/load/stacked_rows.h"

#include <torch/types.h>

#include <cstddef>
#include <cstdint>

#include "base/error.h"

namespace roundtable {
namespace {

bool may_share(const torch::Tensor& a, const torch::Tensor& b) {
  return a.defined() && b.defined() && a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(1) &&
         a.scalar_type() == b.scalar_type() && a.device() == b.device();
}

// The end of the run of neighbours that begins at `first`.
std::size_t end_of_run(const std::vector<torch::Tensor>& matrices, std::size_t first) {
  std::size_t end = first + 1;
  while (end < matrices.size() && may_share(matrices[first], matrices[end])) ++end;
  return end;
}

std::int64_t count_rows(const std::vector<torch::Tensor>& matrices, std::size_t first, std::size_t end) {
  std::int64_t rows = 0;
  for (std::size_t i = first; i < end; ++i) rows += matrices[i].size(0);
  return rows;
}

// Makes the matrices [first, end) the rows of one tensor on `device`.
void stack_run(std::vector<torch::Tensor>& matrices, std::size_t first, std::size_t end,
               const torch::TensorOptions& options) {
  const torch::Tensor all = torch::empty({count_rows(matrices, first, end), matrices[first].size(1)}, options);
  std::int64_t row = 0;
  for (std::size_t i = first; i < end; ++i) {
    const torch::Tensor place = all.narrow(0, row, matrices[i].size(0));
    place.copy_(matrices[i]);
    row += matrices[i].size(0);
    matrices[i] = place;
  }
}

bool lies_below(const torch::Tensor& upper, const torch::Tensor& lower) {
  return lower.storage().is_alias_of(upper.storage()) &&
         lower.storage_offset() == upper.storage_offset() + upper.numel();
}

}  // namespace

torch::Tensor StackBuilder::add(const torch::Tensor& matrix, std::int64_t rows) {
  const bool fits = run_.defined() && run_.size(1) == matrix.size(1) && run_.scalar_type() == matrix.scalar_type() &&
                    row_ + matrix.size(0) <= run_.size(0);
  if (!fits) {
    run_ = torch::Tensor();
    if (rows == matrix.size(0)) return matrix;
    run_ = torch::empty({rows, matrix.size(1)}, matrix.options());
    row_ = 0;
  }
  const torch::Tensor place = run_.narrow(0, row_, matrix.size(0));
  place.copy_(matrix);
  row_ += matrix.size(0);
  return place;
}

bool are_stacked(const std::vector<torch::Tensor>& matrices) {
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    if (!matrices[i].is_contiguous() || !may_share(matrices[0], matrices[i])) return false;
    if (i > 0 && !lies_below(matrices[i - 1], matrices[i])) return false;
  }
  return true;
}

torch::Tensor stacked(const std::vector<torch::Tensor>& matrices) {
  if (!are_stacked(matrices)) return torch::cat(matrices);
  const std::int64_t columns = matrices[0].size(1);
  return matrices[0].as_strided({count_rows(matrices, 0, matrices.size()), columns}, {columns, 1});
}

std::vector<torch::Tensor> stacked_copies(const std::vector<torch::Tensor>& matrices, torch::Device device,
                                          const std::vector<torch::ScalarType>& dtypes) {
  RT_CHECK(matrices.size() == dtypes.size());
  std::vector<torch::Tensor> copies = matrices;
  for (std::size_t first = 0; first < copies.size();) {
    const std::size_t neighbours = end_of_run(copies, first);
    std::size_t end = first + 1;
    while (end < neighbours && dtypes[end] == dtypes[first]) ++end;
    if (copies[first].defined()) stack_run(copies, first, end, torch::dtype(dtypes[first]).device(device));
    first = end;
  }
  return copies;
}

std::vector<torch::Tensor> on_device(const std::vector<torch::Tensor>& matrices, torch::Device device) {
  if (device.is_cpu()) return matrices;
  std::vector<torch::ScalarType> dtypes;
  for (const torch::Tensor& matrix : matrices) {
    dtypes.push_back(matrix.defined() ? matrix.scalar_type() : torch::kFloat32);
  }
  return stacked_copies(matrices, device, dtypes);
}

}  // namespace roundtable
